"""A policy against heuristics within budgets: who is compared with whom, at which dial."""

from __future__ import annotations

import pytest
from operating_points import operating_point

from hf_unmask.results.frontier import method_of
from hf_unmask.results.policy_against_heuristics import (
    AFTERWARDS,
    HEURISTIC,
    SEED,
    TWIN,
    Round,
    budgets_of,
    contest,
    contest_summary,
    contest_table,
    dials_within,
    to_be_tested,
)

POLICY = "learned:here"


@pytest.mark.parametrize(
    ("length", "block", "expected"),
    [
        (256, None, (16, 32, 64)),
        (40, None, (4, 5, 10)),
        (24, 24, (4, 3, 6)),
        (256, 32, (12, 16, 32)),
        (40, 8, (7.5, 10, 20)),
        (20, 8, (4.5, 6, 12)),
    ],
)
def test_budgets(length, block, expected):
    """A short answer whose smallest budget is no budget; a last short block that is not counted."""
    assert budgets_of(length, block) == expected


def test_each_method_brings_its_most_accurate_dial_within_the_budget():
    """A dial that spends more than the budget, or the fastest instead of the best one."""
    points = [
        operating_point(2, 0.5, sampler="threshold:threshold=0.3"),
        operating_point(4, 0.7, sampler="threshold:threshold=0.6"),
        operating_point(5, 0.9, sampler="threshold:threshold=0.9"),
        operating_point(6, 0.9, sampler="confidence"),
        operating_point(4, 0.9, sampler=POLICY),
        operating_point(4.01, 1.0, sampler=f"{POLICY};beta=2.0"),
    ]
    found = dials_within(points, 4.0)
    assert {name: p.accuracy for name, p in found.items()} == {"threshold": 0.7, POLICY: 0.9}


def test_dials_are_chosen_for_every_budget_in_blocks_of_any_length():
    """A dial that is best at the budget of another regime, at which its own regime was never asked; one in blocks that
    no policy is at home in; nothing to go back to if the first choice overspends on test problems."""
    points = [
        operating_point(9.9, 0.95, sampler="entropy_bound:gamma=0.8", block_length=10),
        operating_point(9.6, 0.94, sampler="entropy_bound:gamma=0.9", block_length=10),
        operating_point(6.6, 0.92, sampler="entropy_bound:gamma=1.6", block_length=None),
        operating_point(6.5, 0.91, sampler="entropy_bound:gamma=1.6", block_length=20),
        operating_point(6.4, 0.90, sampler="margin", block_length=None),
        operating_point(9.0, 0.50, sampler="entropy_bound:gamma=1.0", block_length=10),
        operating_point(12.0, 0.50, sampler="entropy_bound:gamma=0.4", block_length=10),
    ]
    kept = to_be_tested(points, [4, 10, 16])
    assert [(p.nfe_mean, p.setting.block_length) for p in kept] == [
        *((9.9, 10), (6.4, None), (6.6, None), (6.5, 20)),
        (9.6, 10),
    ]


def measured(nfe, accuracy, scores, spent=None, **setting):
    """A point on validation problems, the same on test problems, and what scored there."""
    tuning = operating_point(nfe, accuracy, dataset="validation", **setting)
    point = operating_point(spent or nfe, sum(scores) / len(scores), dataset="test", **setting)
    return tuning, point, {point.setting.key: dict(enumerate(scores))}


def named(spec):
    """`learned:twin` is the policy, trained with another seed."""
    name = method_of(spec)
    return f"{POLICY}{SEED}1" if name == "learned:twin" else name


@pytest.fixture
def rounds():
    """Twenty prompts; full diffusion of 32 positions, budgets 4, 4 and 8; and blocks of 8."""
    full = {"block_length": None}
    runs = [
        measured(3, 0.9, [1] * 18 + [0] * 2, sampler=POLICY, **full),
        measured(7, 0.6, [1] * 19 + [0], sampler=f"{POLICY};beta=0.5", **full),
        measured(4, 0.5, [1] * 10 + [0] * 10, sampler="threshold", **full),
        measured(4, 0.4, [1] * 12 + [0] * 8, sampler="margin", **full),
        measured(4, 0.8, [1] * 16 + [0] * 4, sampler="left_to_right:k=8", **full),
        measured(4, 0.7, [1] * 17 + [0] * 3, sampler="eos_suppress(threshold)", **full),
        measured(3, 0.8, [1] * 2 + [0] * 18, sampler="learned:other", **full),
        measured(3, 0.8, [1] * 15 + [0] * 5, sampler="learned:twin", **full),
        measured(3.9, 0.95, [1] * 20, spent=4.01, sampler="entropy_bound", **full),
        measured(4, 0.8, [1] * 19 + [0] * 1, sampler="threshold", block_length=8),
        measured(3.9, 0.85, [1] * 14 + [0] * 6, sampler="entropy_bound:gamma=0.9", block_length=8),
        measured(8, 0.5, [1] * 20, sampler="confidence", block_length=8),
    ]
    scores = {key: value for *_, each in runs for key, value in each.items()}
    return contest(POLICY, [run[0] for run in runs], [run[1] for run in runs], scores, method=named)


def test_rivals_by_role(rounds):
    """A rival that overspends on test problems (4.01 of 4), that is looked for in one regime only or chosen by what it
    scores on test problems; another policy that passes as a heuristic."""
    first = rounds[0]
    assert [one.budget for one in rounds] == [4, 4, 8] and first.point.accuracy == 0.9
    by_role = {rival.role: rival for rival in first.rivals}
    here, twin = f"{HEURISTIC} in full diffusion", f"{TWIN}: 1"
    rules = {"left_to_right", "eos_suppress(threshold)", "learned:other"}
    assert by_role.keys() == {HEURISTIC, here, AFTERWARDS, twin} | rules
    assert by_role[HEURISTIC].point.setting.sampler == "entropy_bound:gamma=0.9"
    assert by_role[HEURISTIC].point.setting.block_length == 8
    assert by_role[HEURISTIC].comparison.difference == pytest.approx(0.2)
    assert by_role[here].point.setting.sampler == "left_to_right:k=8"
    assert by_role[AFTERWARDS].point.accuracy == 0.95 and by_role[AFTERWARDS].point.setting.sampler == "threshold"
    assert by_role[twin].point.accuracy == 0.75
    assert all(rival.point.nfe_mean <= one.budget for one in rounds for rival in one.rivals)
    assert rounds[2].against(AFTERWARDS).point.accuracy == 1


def test_the_dial_is_chosen_on_validation_problems(rounds):
    """A dial that looks best on the test problems only: its 95 % there must not be reported."""
    assert rounds[2].point.setting.sampler == POLICY


def test_a_policy_without_points():
    """A misspelt policy whose table is empty."""
    with pytest.raises(ValueError, match="learned:nowhere"):
        contest("learned:nowhere", [operating_point(1, 0.5)], [], {})


def test_a_budget_that_no_dial_keeps(rounds):
    """A crash, or a row that silently shows a slower dial."""
    tuning, point, scores = measured(9, 0.9, [1] * 20, sampler=POLICY, block_length=None)
    found = contest(POLICY, [tuning], [point], scores)
    assert all(one.point is None and one.rivals == () for one in found)
    lines = contest_table("t", [*rounds, *found]).splitlines()
    assert lines[0].count("at most") == 6 and "| - |" in lines[2]
    assert any(
        line.startswith(f"| {HEURISTIC} | 70.0 (3.90) `entropy_bound:gamma=0.9`, blocks of 8, lead") for line in lines
    )


def test_the_summary_has_a_line_per_policy_task_and_budget(rounds):
    """Lines by policy, whatever order they come in; no number where no dial keeps to the budget; rules that write from
    the left and other trainings that are not shown."""
    nothing = Round(6, None)
    lines = contest_summary(
        [("b", "sums", "strict", rounds[0]), ("b", "grids", "exact", rounds[2]), ("a", "sums", "exact", nothing)]
    ).splitlines()
    heads = lines[0].strip("| ").split(" | ")
    assert heads == [
        *("policy", "task", "metric", "most NFE", "accuracy (NFE)", TWIN, HEURISTIC, "lead", AFTERWARDS),
        *("`left_to_right`", "`eos_suppress`"),
    ]
    assert lines[2] == "| `a` | sums | exact | 6 | - | - | - | - | - | - | - |"
    start = (
        "| `b` | sums | strict | 4 | 90.0 (3.00) | 75.0 (3.00) | 70.0 (3.90) `entropy_bound:gamma=0.9`, blocks of 8 | "
    )
    assert lines[3].startswith(f"{start}+20.0 [")
    assert lines[3].endswith("] | 95.0 (4.00) | 80.0 (4.00) | 85.0 (4.00) |")
    assert lines[4].startswith("| `b` | grids | exact | 8 | 90.0 (3.00) | ") and len(lines) == 5
