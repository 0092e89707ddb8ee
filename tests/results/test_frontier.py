"""Pareto set, areas and choices on the frontier, against hand and brute force; the transfer table."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from operating_points import operating_point

from hf_unmask.results.frontier import (
    Hypervolume,
    aup,
    aup_of,
    best_under_budget,
    dials_of,
    hypervolume,
    hypervolume_of,
    method_of,
    nfe_at_accuracy,
    pareto_front,
    plane,
)
from hf_unmask.results.transfer_matrix import transfer_matrix

POINTS = [(8, 0.5), (4, 0.3), (16, 0.8), (10, 0.4), (4, 0.2), (32, 0.8)]

SIDE = 8  # grid points lie at whole numbers, so whole cells are dominated or not
GRID = st.lists(st.tuples(st.integers(0, SIDE + 1), st.integers(0, SIDE)), max_size=9)
QUICK = settings(max_examples=60, deadline=None)


def dominates(p, q):
    return p[0] <= q[0] and p[1] >= q[1] and p != q


# Pareto set


def test_pareto_front_by_hand():
    assert pareto_front(POINTS) == [1, 0, 2]
    assert pareto_front([]) == []


def test_equal_points_are_all_kept():
    assert pareto_front([(4, 0.5), (2, 0.1), (4, 0.5), (5, 0.5)]) == [1, 0, 2]


@QUICK
@given(GRID)
def test_pareto_front_against_brute_force(points):
    expected = {i for i, q in enumerate(points) if not any(dominates(p, q) for p in points)}
    front = pareto_front(points)
    assert set(front) == expected and len(front) == len(expected)
    assert [points[i][0] for i in front] == sorted(points[i][0] for i in front)


@pytest.mark.parametrize("bad", [[(1, math.nan)], [(math.inf, 0.5)], [(1, 2, 3)]])
def test_points_that_are_not_finite_pairs_are_refused(bad):
    for function in (pareto_front, lambda points: hypervolume(points, (10, 0))):
        with pytest.raises(ValueError, match="finite pairs"):
            function(bad)


# hypervolume


def test_hypervolume_by_hand():
    # left of 32: width 16 at height 0.8, width 8 at 0.5, width 4 at 0.3
    assert hypervolume(POINTS, (32, 0)) == pytest.approx(16 * 0.8 + 8 * 0.5 + 4 * 0.3)
    assert hypervolume([(8, 0.5)], (32, 0.1)) == pytest.approx(24 * 0.4)
    assert hypervolume([], (32, 0)) == 0
    assert hypervolume([(40, 0.9), (32, 0.9), (3, 0.0)], (32, 0)) == 0
    with pytest.raises(ValueError, match="reference"):
        hypervolume(POINTS, (math.inf, 0))


@QUICK
@given(GRID, st.integers(1, SIDE), st.integers(0, SIDE - 1))
def test_hypervolume_against_counted_cells(points, cost, accuracy):
    cells = ((x, y) for x in range(cost) for y in range(accuracy, SIDE))  # lower left corners
    count = sum(any(p[0] <= x and p[1] >= y + 1 for p in points) for x, y in cells)
    assert hypervolume(points, (cost, accuracy)) == pytest.approx(count)


@QUICK
@given(GRID)
def test_only_the_front_has_area(points):
    front = [points[i] for i in pareto_front(points)]
    assert hypervolume(front, (SIDE, 0)) == pytest.approx(hypervolume(points, (SIDE, 0)))


# AUP


def test_aup_by_hand():
    curves = {"a": [(2.0, 78.0), (1.0, 80.0), (4.0, 70.0)], "b": [(1.0, 40.0), (3.0, 40.0)]}
    weight_a = math.exp(-3 * (1 - 78 / 80))
    weight_b = math.exp(-3 * (1 - 40 / 80))
    result = aup(curves)
    assert result["a"] == pytest.approx(80 + 0.5 * (78 * weight_a + 80))  # 70 is more than 5 below 80
    assert result["b"] == pytest.approx(40 + 1.0 * (40 + 40) * weight_b)


def test_aup_depends_on_the_best_rival_even_where_its_point_is_dropped():
    alone = aup({"a": [(1, 50), (2, 50)]})["a"]
    assert alone == pytest.approx(100)
    assert aup({"a": [(1, 50), (2, 50)], "b": [(1, 90)]})["a"] < alone


def test_aup_keeps_a_point_exactly_five_below_and_one_point_is_a_rectangle():
    assert aup({"a": [(1, 80), (2, 75)]})["a"] > 80
    assert aup({"a": [(2.5, 74)]}) == {"a": pytest.approx(185)}


def test_aup_of_published_points_is_a_little_more_than_the_rectangle():
    # one method at (2.77, 74.68) is reported at 205.8 with more points; the rectangle alone is 206.9
    assert aup({"x": [(2.77, 74.68)]})["x"] == pytest.approx(206.86, abs=0.01)


@QUICK
@given(st.permutations([(1.0, 80.0), (1.0, 79.0), (2.0, 78.0), (3.0, 76.0)]))
def test_aup_does_not_depend_on_the_order_of_points(points):
    assert aup({"a": points}) == aup({"a": sorted(points)})


def test_aup_at_the_edges():
    assert aup({}) == {}
    assert aup({"a": [(1, 0), (2, 0)]}) == {"a": 0}
    with pytest.raises(ValueError, match="'a' has no points"):
        aup({"a": []})
    with pytest.raises(ValueError, match="'a'.*101"):
        aup({"a": [(1, 101)]})


# choices


def test_best_under_budget():
    assert best_under_budget(POINTS, 9) == 0
    assert best_under_budget(POINTS, 100) == 2  # 0.8 at 16, not at 32
    assert best_under_budget(POINTS, 4) == 1
    assert best_under_budget(POINTS, 3.9) is None
    assert best_under_budget([(4, 0.5), (4, 0.5)], 4) == 0


def test_nfe_at_accuracy():
    assert nfe_at_accuracy(POINTS, 0.4) == 8
    assert nfe_at_accuracy(POINTS, 0.8) == 16
    assert nfe_at_accuracy(POINTS, 0.81) is None


@pytest.mark.parametrize(
    ("spec", "method", "dials"),
    [
        ("random", "random", ""),
        ("threshold:threshold=0.9", "threshold", "0.9"),
        ("threshold:threshold=0.9;minimum=2", "threshold", "0.9, minimum=2"),
        ("klass:confidence=0.6;kl=0.01", "klass", "confidence=0.6, kl=0.01"),
        ("learned:org/name;speed=2", "learned:org/name", "speed=2"),
        ("eos_suppress(margin:k=2)", "eos_suppress(margin)", "k=2"),
        ("eos_suppress(learned:builtin:x;speed=2)", "eos_suppress(learned:builtin:x)", "speed=2"),
    ],
)
def test_methods_and_dials(spec, method, dials):
    assert method_of(spec) == method and dials_of(spec) == dials


# records


def test_records_are_read_on_both_axes():
    records = [operating_point(8, 0.5, seconds=2.0), operating_point(16, 0.8, seconds=1.0)]
    assert plane(records) == [(8, 0.5), (16, 0.8)]
    assert plane(records, "seconds") == [(2.0, 0.5), (1.0, 0.8)]


def test_hypervolume_of_records_states_its_reference():
    records = [operating_point(8, 0.5), operating_point(16, 0.8)]
    result = hypervolume_of(records)
    assert result == Hypervolume(pytest.approx(16 * 0.8 + 8 * 0.5), (32.0, 0.0))
    assert str(result) == "16.8 (reference: 32 NFE, accuracy 0)"
    assert str(hypervolume_of(records, "seconds", (4, 0))) == "2.4 (reference: 4 s, accuracy 0)"


def test_hypervolume_of_records_needs_one_answer_length():
    records = [operating_point(8, 0.5), operating_point(16, 0.8, max_new_tokens=64)]
    with pytest.raises(ValueError, match=r"\[32, 64\]"):
        hypervolume_of(records)
    with pytest.raises(ValueError, match="cost is seconds"):
        hypervolume_of(records[:1], "seconds")


def test_aup_of_records_counts_in_percent_up_to_the_end_of_the_answer():
    records = [
        operating_point(8, 0.78, tokens_per_forward=2.0, sampler="threshold:threshold=0.5"),
        operating_point(16, 0.80, tokens_per_forward=1.0, sampler="threshold:threshold=0.9"),
        operating_point(8, 0.40, tokens_per_forward=1.5, sampler="random:k=2"),
    ]
    expected = aup({"threshold": [(1, 80), (2, 78)], "random": [(1.5, 40)]})
    assert aup_of(records) == pytest.approx(expected)
    assert set(aup_of(records, lambda record: record.setting.sampler)) == {r.setting.sampler for r in records}
    with pytest.raises(ValueError, match="chain_sum, sudoku"):
        aup_of([*records, operating_point(8, 0.4, task="sudoku")])


# transfer


def test_transfer_matrix_leaves_missing_cells_empty():
    points = [
        operating_point(8, 0.5, sampler="a|b", block_length=8),
        operating_point(9, 0.625, sampler="a|b"),
        operating_point(10, 0.75, sampler="c"),
    ]
    table = transfer_matrix(points)
    assert table.rows == ("a|b", "c")
    assert table.columns == (("chain_sum", "8", "32", "embedded"), ("chain_sum", "full", "32", "embedded"))
    assert ("c", table.columns[0]) not in table.cells
    assert table.to_markdown() == "\n".join(
        [
            "Accuracy @ mean NFE; task: chain_sum; max_new_tokens: 32; model: embedded.",
            "",
            "| sampler | block_length 8 | block_length full |",
            "|---|---|---|",
            r"| a\|b | 50.0 % @ 8.0 | 62.5 % @ 9.0 |",
            "| c |  | 75.0 % @ 10.0 |",
        ]
    )


def test_transfer_matrix_of_one_column_and_of_nothing():
    text = transfer_matrix([operating_point(8, 0.5)], columns=["task"]).to_markdown()
    assert "| sampler | accuracy @ NFE |" in text and "task: chain_sum" in text
    assert transfer_matrix([]).to_markdown().splitlines()[-1] == "|---|"


def test_transfer_matrix_names_what_collides():
    points = [operating_point(8, 0.5), operating_point(9, 0.5, template="short")]
    with pytest.raises(ValueError, match="differ in template"):
        transfer_matrix(points)
    assert len(transfer_matrix(points, columns=["template"]).columns) == 2
    with pytest.raises(ValueError, match="they are equal"):
        transfer_matrix([points[0], points[0]])
    with pytest.raises(ValueError, match="'length' is not a field"):
        transfer_matrix(points, columns=["length"])
