"""Dials: which are tried, which are kept, and the cells that they are tried in."""

from __future__ import annotations

import pytest
from operating_points import operating_point

from hf_unmask.evaluation.tuning import Cell, heuristic_dials, kept_dials, ladders, policy_dials, spread
from hf_unmask.samplers.specs import parse_sampler
from hf_unmask.tiny import load_tiny


def points_of(measured, **setting):
    return [
        operating_point(nfe, accuracy, sampler=f"confidence:k={i}", **setting)
        for i, (nfe, accuracy) in enumerate(measured)
    ]


def test_the_best_dial_within_each_budget_is_kept():
    """Dials spread over the forward passes, of which none is the best one within a budget of the tables."""
    points = points_of([(1, 0.1), (2.1, 0.2), (3, 0.5), (4, 0.4), (9, 0.6), (33, 0.9)])  # budgets: 2, 4, 8, 16, 32
    assert kept_dials(points) == {"confidence:k=0": 1, "confidence:k=2": 3, "confidence:k=4": 9}


def test_every_family_brings_as_many_dials_for_each_range():
    """Many dials of one family between two budgets and few of another, or dials chosen by their accuracy."""
    fine = points_of([(i / 10, 1.0) for i in range(10, 100)])
    coarse = points_of([(i / 2, 0.0) for i in range(2, 20)])
    for points, step in ((fine, 0.1), (coarse, 0.5)):
        spent = [points[int(spec.partition("=")[2])].nfe_mean for spec in spread(points, [4, 8], 3)]
        wanted = [1.5, 2.5, 3.5, 4.7, 6.0, 7.3]
        assert len(spent) == 6 and all(abs(a - b) <= step for a, b in zip(spent, wanted, strict=True))
    few = points_of([(3, 0.1), (3, 0.2), (4, 0.3), (9, 0.4)])
    assert spread(few, [8, 4], 3) == ["confidence:k=0", "confidence:k=2"]
    assert spread(few, [2], 3) == ["confidence:k=0"]


def test_ladders_are_as_long_as_those_of_policies_and_hold_every_number_of_steps():
    """47 dials for a policy against 12 for the rule that it is compared with."""
    found = ladders(10)
    for rule in ("threshold", "eos_suppress(threshold)", "factor", "entropy_bound", "klass", "credit"):
        assert 36 <= len(set(found[rule])) == len(found[rule]) <= 47
    for name in ("tiny-speed", "tiny-full"):
        assert 36 <= len(policy_dials(f"builtin:{name}")) <= 47
    assert found["margin"] == ["margin", *(f"margin:k={k}" for k in (2, 3, 4, 5, 10))]
    assert {*found} == {*heuristic_dials(10)} and len(found["dilated"]) == 9


def test_more_tokens_per_step_than_a_block_has_are_no_other_dial():
    narrow, wide = heuristic_dials(3), heuristic_dials(40)
    assert narrow["margin"] == ["margin", "margin:k=2", "margin:k=3"] and narrow["dilated"] == wide["dilated"][:2]
    assert len(wide["margin"]) == 8 and narrow["factor"] == wide["factor"]
    assert heuristic_dials(3, stride=2)["margin"] == ["margin", "margin:k=3"]


def test_expected_forward_passes_are_exact_where_the_dial_fixes_them():
    assert Cell("chain_sum", 10).expected_forwards("confidence:k=3") == 4 * 4
    assert Cell("chain_sum", None).expected_forwards("confidence:k=3") == 14
    assert Cell("chain_sum", None).expected_forwards("threshold") == pytest.approx(12)


def test_a_cell_knows_its_budgets_and_its_name():
    blocks, full = Cell("chain_sum", 10), Cell("mini_sudoku", None)
    assert (blocks.key, blocks.width, blocks.budgets) == ("chain_sum/blocks-10", 10, (6, 8, 16))
    assert (full.key, full.width, full.budgets) == ("mini_sudoku/full", 24, (4, 3, 6))


@pytest.mark.parametrize(
    ("name", "speeds", "temperatures", "betas"),
    [("tiny-speed", 21, {1, 0.5}, 6), ("tiny-semi-ar", 21, {1, 0.5}, 1), ("tiny-full", 1, {0.5, 1, 2}, 13)],
)
def test_the_dials_of_a_policy_are_those_it_has(name, speeds, temperatures, betas):
    """A speed that it does not take, or beta tried in blocks, where speeds are all that is compared."""
    specs = policy_dials(f"builtin:{name}")
    assert len(set(specs)) == len(specs) and specs[::6] == policy_dials(f"builtin:{name}", stride=6)
    dials = [dict(part.split("=") for part in spec.split(";")[1:]) for spec in specs]
    assert len({dial.get("speed") for dial in dials}) == speeds
    assert {float(dial.get("policy_temperature", 1)) for dial in dials} == temperatures
    assert len({dial.get("beta", "1") for dial in dials}) == betas
    assert str(parse_sampler(specs[-1])) == specs[-1]


def test_a_cell_is_evaluated_on_its_problems():
    pytest.importorskip("evaluate")
    model, tokenizer = load_tiny()
    specs = ["random:k=10", "confidence:k=10"]
    for split, seeds in (("validation", [0]), ("test", [0, 1, 2])):
        points = Cell("chain_sum", 10).evaluate(model, tokenizer, split, specs, limit=1, progress=False)
        assert [point.seeds for point in points] == [seeds, [0]] and {point.prompts for point in points} == {1}
        assert {point.nfe_mean for point in points} == {4.0}
        assert {point.setting.dataset for point in points} == {f"tiny:chain_sum:{split}"}
        assert {(p.setting.model, p.setting.metric, p.setting.block_length) for p in points} == {
            ("tiny", "answer_match", 10)
        }
