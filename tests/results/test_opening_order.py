"""Opening orders from step maps, by hand and against scipy."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from operating_points import sample
from scipy import stats

from hf_unmask.results.opening_order import (
    nfe_per_block,
    opened_with_right_neighbour,
    rank_correlation,
    step_maps_by_prompt,
)

MAPS = st.lists(st.lists(st.integers(-1, 5), min_size=7, max_size=7), min_size=1, max_size=4)


def test_nfe_per_block_by_hand():
    assert nfe_per_block([0, 0, 1, 2, 3, 3, 3, 3], 4) == [3, 1]
    assert nfe_per_block([[0, 0, 1, 2, 3, 3, 3, 3], [0, 0, 0, 0, 2, 1, -1, -1]], 4) == [2, 1.5]
    assert nfe_per_block([5, 4, 3, 2, 1], 2) == [2, 2, 1]  # the last block is shorter
    assert nfe_per_block([0, 1, -1, -1], 2) == [2, 0]


@settings(max_examples=50, deadline=None)
@given(MAPS, st.integers(1, 9))
def test_nfe_per_block_against_sets(maps, block_length):
    each = [[len(set(row[i : i + block_length]) - {-1}) for i in range(0, 7, block_length)] for row in maps]
    assert nfe_per_block(maps, block_length) == pytest.approx(np.mean(each, axis=0))


def test_opened_with_right_neighbour_by_hand():
    assert opened_with_right_neighbour([0, 0, 1, 1, 1]) == 3 / 4
    assert opened_with_right_neighbour([0, 1, 0, 1]) == 0
    assert opened_with_right_neighbour([3, 3, -1, -1]) == 1  # two that never opened are no pair
    assert opened_with_right_neighbour([[0, 0, 0], [0, 1, -1]]) == 2 / 3  # over all tokens, not a mean of means
    assert opened_with_right_neighbour([0, -1, 0]) is None
    assert opened_with_right_neighbour([4]) is None


@settings(max_examples=50, deadline=None)
@given(MAPS)
def test_opened_with_right_neighbour_against_a_loop(maps):
    pairs = [(x, y) for row in maps for x, y in zip(row, row[1:], strict=False) if x >= 0 and y >= 0]
    expected = pytest.approx(np.mean([x == y for x, y in pairs])) if pairs else None
    assert opened_with_right_neighbour(maps) == expected


def test_rank_correlation_of_equal_and_reversed_orders():
    a, b = [0, 1, 2, 3, 0, 1, 2, 3], [0, 1, 2, 3, 3, 2, 1, 0]
    result = rank_correlation(a, b, block_length=4)
    assert [block.mean for block in result.blocks] == pytest.approx([1, -1])
    assert result.whole.mean == pytest.approx(0)
    assert result.whole.prompts == 1


def test_rank_correlation_ignores_scale_and_uses_mean_ranks():
    a, b = [0, 0, 1, 2], [0, 4, 4, 9]  # ranks 1.5 1.5 3 4 and 1 2.5 2.5 4: 3.75 / 4.5
    assert rank_correlation(a, b).whole.mean == pytest.approx(3.75 / 4.5)


def test_rank_correlation_against_scipy_over_prompts():
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 12, (40, 16)), rng.integers(0, 12, (40, 16))
    b[:, :8] = a[:, :8]
    a[::3, 14:] = -1
    result = rank_correlation(a, b, block_length=8)
    each = [stats.spearmanr(x[x >= 0], y[x >= 0]).statistic for x, y in zip(a, b, strict=True)]
    assert result.whole.mean == pytest.approx(np.mean(each))
    low, high = result.whole.interval
    assert (low, high) == pytest.approx(stats.norm.interval(0.95, np.mean(each), stats.sem(each)), abs=0.02)
    assert [round(block.mean, 6) for block in result.blocks][0] == 1
    assert result.blocks[0].interval[0] < 1  # all prompts agree, yet the interval has a width


def test_rank_correlation_leaves_out_prompts_where_it_is_undefined():
    a = [[0, 1, 2, 3], [0, 0, 0, 0], [0, 1, -1, -1]]  # the second in one step, the third too short
    b = [[0, 1, 2, 3], [0, 1, 2, 3], [0, 1, 2, 3]]
    assert rank_correlation(a, b).whole.prompts == 1
    assert rank_correlation(a[1:], b[1:]).whole is None
    assert rank_correlation(a, b, block_length=2).blocks == (None, None)


def test_rank_correlation_matches_prompts_by_id():
    a, b = {1: [0, 1, 2], 2: [2, 1, 0]}, {2: [2, 1, 0], 1: [0, 1, 2]}
    assert rank_correlation(a, b).whole.mean == pytest.approx(1)
    with pytest.raises(ValueError, match="2 only in the first"):
        rank_correlation(a, {1: [0, 1, 2]})


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: nfe_per_block([0, 1], 0), "block_length"),
        (lambda: nfe_per_block([], 4), "empty"),
        (lambda: nfe_per_block([[0, 1], [0]], 4), "length of the canvas"),
        (lambda: rank_correlation([0, 1, 2], [0, 1]), "3 and 2 positions"),
        (lambda: rank_correlation([[0, 1, 2]] * 2, [[0, 1, 2]]), "1 only in the first"),
    ],
)
def test_step_maps_that_do_not_fit_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_step_maps_by_prompt_take_the_first_seed_and_draw():
    samples = [
        sample(2, seed=1, step_map=(9, 9)),
        sample(2, seed=0, draw=1, step_map=(8, 8)),
        sample(2, seed=0, draw=0, step_map=(0, 1)),
        sample(1, seed=3, step_map=(1, 0)),
    ]
    assert step_maps_by_prompt(samples) == {1: [1, 0], 2: [0, 1]}
