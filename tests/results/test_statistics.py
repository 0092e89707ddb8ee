"""Statistics of the evaluation: known answers, properties, and what the paired test finds in simulation."""

import itertools
import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from operating_points import sample
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from hf_unmask.results.statistics import (
    bootstrap_interval,
    compare_all,
    majority,
    mean_interval,
    paired_comparison,
    paired_test,
    pass_at_k,
    scores_by_prompt,
)

RUNS = 400
PROMPTS = 2000
FAST = 50  # resamples of intervals that a simulation does not look at

BITS = st.lists(st.integers(0, 1), min_size=1, max_size=12)


def paired_scores(rng, only_a, only_b, both=0.6):
    """0/1 scores of two samplers, with the chances that only one of them is correct."""
    kind = rng.choice(4, PROMPTS, p=[only_a, only_b, both, 1 - both - only_a - only_b])
    return (kind == 0) | (kind == 2), (kind == 1) | (kind == 2)


# intervals


def test_bootstrap_interval_is_near_wilson_for_shares():
    scores = np.repeat([1.0, 0.0], [700, 300])
    assert bootstrap_interval(scores) == pytest.approx(proportion_confint(700, 1000, method="wilson"), abs=0.005)


def test_bootstrap_interval_of_averages_is_near_the_normal_one():
    scores = np.random.default_rng(0).choice([0, 1 / 3, 2 / 3, 1], 800)
    normal = stats.norm.interval(0.95, scores.mean(), stats.sem(scores))
    assert bootstrap_interval(scores) == pytest.approx(normal, abs=0.004)


@pytest.mark.parametrize("score", [0, 1])
@pytest.mark.parametrize("count", [1, 10, 500])
def test_interval_of_equal_scores_is_clopper_pearson(count, score):
    expected = proportion_confint(count * score, count, alpha=0.05, method="beta")
    assert bootstrap_interval([score] * count) == pytest.approx(expected)


def test_interval_of_equal_averages_keeps_a_width():
    u = 1 - 0.025 ** (1 / 20)  # share that may differ after 20 of 20 agreed
    assert bootstrap_interval([1 / 3] * 20) == pytest.approx((1 / 3 - u / 3, 1 / 3 + u * 2 / 3))
    assert mean_interval([0.0] * 20, (-1, 1)) == pytest.approx((-u, u))


def test_bootstrap_interval_covers():
    rng = np.random.default_rng(0)
    runs = [bootstrap_interval(rng.random(200) < 0.9, resamples=300) for _ in range(100)]
    covered = np.mean([low <= 0.9 <= high for low, high in runs])
    assert covered >= 0.95 - 2 * math.sqrt(0.95 * 0.05 / len(runs))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=30), st.integers(0, 5))
def test_interval_is_finite_ordered_within_limits_and_repeatable(scores, seed):
    low, high = bootstrap_interval(scores, resamples=200, seed=seed)
    assert 0 <= low + 1e-9 and low <= high <= 1 + 1e-9
    assert (low, high) == bootstrap_interval(scores, resamples=200, seed=seed)


def test_more_confidence_is_wider():
    scores = np.repeat([1.0, 0.0], [70, 30])
    assert bootstrap_interval(scores, 0.99)[0] < bootstrap_interval(scores, 0.8)[0]
    with pytest.raises(ValueError, match="confidence"):
        bootstrap_interval(scores, 95)


@pytest.mark.parametrize(
    ("scores", "message"), [([], "empty"), ([1.0, math.nan], "score 1"), ([[1.0], [0.0]], "one list")]
)
def test_scores_that_are_none_are_refused(scores, message):
    with pytest.raises(ValueError, match=message):
        bootstrap_interval(scores)


# several draws


def test_pass_at_k_by_hand():
    correct = np.array([[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0]], dtype=bool)
    assert pass_at_k(correct, 1) == pytest.approx((1 / 4 + 2 / 4 + 0) / 3)
    assert pass_at_k(correct, 2) == pytest.approx((3 / 6 + 5 / 6 + 0) / 3)
    assert pass_at_k(correct, 4) == pytest.approx(2 / 3)


@settings(max_examples=50, deadline=None)
@given(BITS, st.data())
def test_pass_at_k_is_the_mean_over_all_choices_of_k_draws(draws, data):
    k = data.draw(st.integers(1, len(draws)))
    chosen = [max(subset) for subset in itertools.combinations(draws, k)]
    assert pass_at_k([draws], k) == pytest.approx(np.mean(chosen), abs=1e-12)


def test_pass_at_k_refuses_what_it_cannot_count():
    with pytest.raises(ValueError, match="`k` must be 1 to 2"):
        pass_at_k([[1, 0]], 3)
    with pytest.raises(ValueError, match="one score is 0.5"):
        pass_at_k([[0.5, 1]], 1)
    with pytest.raises(ValueError, match="shape"):
        pass_at_k([1, 0], 1)


def test_majority_by_hand():
    answers = [["7", "8", "8"], ["1", "2", "2", "1"], [""]]
    scores = [[1, 0, 0], [1, 0, 0, 1], [0]]  # 8 wins and is wrong; the tie goes to 1, drawn first; one draw
    assert majority(answers, scores) == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("answers", "scores", "message"),
    [([], [], "no answers"), ([["a"]], [[1, 0]], "same prompts and draws"), ([["a"], []], [[1], []], "prompt 1")],
)
def test_majority_refuses_what_does_not_fit(answers, scores, message):
    with pytest.raises(ValueError, match=message):
        majority(answers, scores)


def test_scores_by_prompt_average_seeds_and_draws():
    samples = [sample(4, 1.0), sample(4, 0.0, seed=1), sample(2, 1.0), sample(4, 0.0, draw=1), sample(4, 1.0, draw=2)]
    assert scores_by_prompt(samples) == {2: 1.0, 4: 0.5}


# paired comparison


def test_mcnemar_by_hand():
    a, b = [1] * 5 + [0] + [1, 0], [0] * 5 + [1] + [1, 0]  # 5 against 1 discordant pairs
    result = paired_comparison(a, b)
    assert result.test == "McNemar exact"
    assert result.p_value == pytest.approx(2 * (1 + 6) / 2**6)
    assert result.difference == pytest.approx(4 / 8)
    assert (result.prompts, result.verdict) == (8, "not distinguishable")


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=40))
def test_mcnemar_is_a_binomial_test_of_the_discordant_pairs(pairs):
    a, b = zip(*pairs, strict=True)
    only_a, only_b = pairs.count((1, 0)), pairs.count((0, 1))
    expected = stats.binomtest(only_a, only_a + only_b).pvalue if only_a + only_b else 1.0
    assert paired_test(a, b)[0] == pytest.approx(expected)
    assert paired_test(b, a)[0] == pytest.approx(expected)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.sampled_from([-1, -2, 0, 1, 2, 3]), min_size=1, max_size=9))
def test_sign_flips_of_few_prompts_are_exact(thirds):
    differences = np.array(thirds) / 3
    sums = [np.dot(signs, thirds) for signs in itertools.product((-1, 1), repeat=len(thirds))]
    beyond = np.mean([abs(total) >= abs(sum(thirds)) for total in sums])
    p_value, test = paired_test(np.full(len(thirds), 1.5) + differences, np.full(len(thirds), 1.5))
    assert test == "paired permutation"
    assert p_value == pytest.approx(beyond)


def test_sign_flips_of_many_prompts_are_near_the_t_test():
    rng = np.random.default_rng(0)
    a, b = rng.binomial(3, 0.66, 300) / 3, rng.binomial(3, 0.58, 300) / 3
    assert paired_test(a, b)[0] == pytest.approx(stats.ttest_rel(a, b).pvalue, abs=0.02)


def test_verdicts():
    better, worse = [1.0] * 60 + [0.0] * 40, [0.0] * 30 + [1.0] * 30 + [0.0] * 40
    assert paired_comparison(better, worse).verdict == "better"
    assert paired_comparison(worse, better).verdict == "worse"
    low, high = paired_comparison(better, worse).interval
    assert 0.2 < low < 0.3 < high < 0.4


def test_the_same_scores_are_not_distinguishable_and_keep_an_interval():
    result = paired_comparison([0.5, 1.0, 0.0], [0.5, 1.0, 0.0])
    assert (result.p_value, result.difference, result.verdict) == (1.0, 0.0, "not distinguishable")
    assert result.interval[0] < 0 < result.interval[1]


def test_prompts_are_matched_by_id():
    a, b = {3: 1.0, 5: 0.0, 9: 1.0}, {9: 1.0, 5: 0.0, 3: 1.0}
    assert paired_comparison(a, b).difference == 0
    assert paired_comparison(a, b).p_value == 1


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        ({1: 1.0, 2: 0.0, 7: 0.0}, {1: 1.0, 4: 0.0}, "2, 7 only in the first; 4 only in the second"),
        ([1, 0], [1, 0, 1, 1], "2, 3 only in the second"),
        ({i: 1.0 for i in range(30)}, {0: 1.0}, "19, 20 and 9 more only in the first"),
        ({}, {}, "empty"),
    ],
)
def test_prompts_that_do_not_match_are_named(a, b, message):
    with pytest.raises(ValueError, match=message):
        paired_comparison(a, b)


def test_compare_all_corrects_by_holm():
    rng = np.random.default_rng(0)
    pairs = {name: paired_scores(rng, 0.05 + d, 0.05) for name, d in (("x", 0.0), ("y", 0.02), ("z", 0.04))}
    results = compare_all(pairs, resamples=FAST)
    raw = [results[name].p_value for name in pairs]
    assert raw == [paired_test(a, b)[0] for a, b in pairs.values()]
    assert [results[name].p_corrected for name in pairs] == pytest.approx(multipletests(raw, method="holm")[1])
    assert compare_all({}) == {}


def test_a_difference_can_be_lost_to_the_correction():
    pair = ([1] * 6 + [0] * 4, [0] * 10)  # p = 2 / 64
    assert paired_comparison(*pair).verdict == "better"
    assert {c.verdict for c in compare_all({"x": pair, "y": pair}).values()} == {"not distinguishable"}


def test_three_points_at_ten_percent_discordance_are_found():
    # 200 of 2,000 prompts discordant, 130 against 70: the exact test has a power above 0.98
    rng = np.random.default_rng(0)
    results = [paired_comparison(*paired_scores(rng, 0.065, 0.035), resamples=FAST) for _ in range(RUNS)]
    assert np.mean([result.verdict == "better" for result in results]) >= 0.95


def test_another_seed_of_the_same_sampler_is_not_called_different():
    # ten times as many runs: the share in 400 runs varies by more than the exact test keeps below 5 %
    rng = np.random.default_rng(0)
    p_values = [paired_test(*paired_scores(rng, 0.05, 0.05))[0] for _ in range(10 * RUNS)]
    assert np.mean([p_value <= 0.05 for p_value in p_values]) <= 0.05


def test_seed_averages_of_the_same_sampler_are_not_called_different():
    rng = np.random.default_rng(0)
    runs, prompts = 100, 40
    rate = rng.beta(2, 1, (runs, prompts))  # prompts differ in difficulty
    a, b = rng.binomial(3, rate) / 3, rng.binomial(3, rate) / 3
    wrong = np.mean([paired_test(x, y)[0] <= 0.05 for x, y in zip(a, b, strict=True)])
    assert wrong <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / runs)


def test_importing_the_statistics_is_light():
    code = (
        "import sys; import hf_unmask; before = set(sys.modules);"
        "import hf_unmask.results.statistics, hf_unmask.results.frontier, hf_unmask.results.opening_order;"
        "new = {name.partition('.')[0] for name in set(sys.modules) - before};"
        "print(new & {'torch', 'scipy', 'statsmodels', 'moocore', 'pandas'})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
