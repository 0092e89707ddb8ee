"""Statistics over prompts: intervals, several draws per prompt, samplers compared on the same prompts.

Prompts are the unit of everything here. Seeds and draws of one prompt are averaged first (`scores_by_prompt`), because
they share its difficulty and count as one observation. Scores are shares, 1.0 correct.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hf_unmask.results.records import Sample

Array: TypeAlias = NDArray[np.float64]
Interval: TypeAlias = tuple[float, float]
Verdict: TypeAlias = Literal["better", "worse", "not distinguishable"]
Row = TypeVar("Row")
Key = TypeVar("Key", bound=Hashable)

_EQUAL = 1e-12  # averages of the same scores differ by rounding only
_BATCH = 500_000  # numbers resampled at once, bounds memory
_SIGN_FLIPS = 9_999  # smallest p-value 2e-4; up to 13 differing prompts are enumerated
_NAMED = 20  # prompts an error names


@dataclass(frozen=True)
class Comparison:
    """Two samplers, ``a`` against ``b``, on the same prompts."""

    difference: float  # mean score of a minus that of b
    interval: Interval  # of the difference, 1 - alpha, not corrected for other comparisons
    p_value: float  # two-sided
    test: str  # "McNemar exact" or "paired permutation"
    prompts: int
    alpha: float
    p_corrected: float  # Holm over the comparisons made together; equals `p_value` where there is one

    @property
    def verdict(self) -> Verdict:
        """Of ``a``. Decided by the corrected p-value, so an interval may exclude 0 without a verdict."""
        if self.p_corrected > self.alpha:
            return "not distinguishable"
        return "better" if self.difference > 0 else "worse"


def scores_by_prompt(samples: Iterable[Sample]) -> dict[int, float]:
    """Mean score of each prompt over its seeds and draws."""
    scores: dict[int, list[float]] = defaultdict(list)
    for sample in samples:
        scores[sample.prompt_id].append(sample.score)
    return {prompt: float(np.mean(values)) for prompt, values in sorted(scores.items())}


def bootstrap_interval(
    scores: ArrayLike, confidence: float = 0.95, resamples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Interval of the mean of ``scores`` [prompts], each in 0..1.

    The BCa bootstrap (`scipy.stats.bootstrap`), which leans away from 0 and 1 as it should. Where all scores are
    equal it would have no width; there the interval is the one of `mean_interval`, for 0/1 scores Clopper-Pearson's.
    """
    return mean_interval(scores, (0.0, 1.0), confidence=confidence, resamples=resamples, seed=seed, method="BCa")


def mean_interval(
    values: ArrayLike,
    limits: Interval,
    *,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
    method: Literal["BCa", "percentile"] = "percentile",
) -> tuple[float, float]:
    """Bootstrap interval of the mean of ``values`` [n], which can lie anywhere within ``limits``.

    Where all values are equal, resampling says nothing. But when n of n agree, at most a share u of the population
    differs, with u from the Clopper-Pearson interval of n successes in n, and what differs lies within ``limits``.
    """
    observed = _finite(values)
    if not 0 < confidence < 1:
        raise ValueError(f"`confidence` must lie between 0 and 1, got {confidence}")
    if np.ptp(observed) < _EQUAL:
        return _interval_of_equal(float(observed[0]), observed.size, limits, confidence)
    from scipy import stats  # type: ignore[import-untyped]

    low, high = stats.bootstrap(
        (observed,),
        np.mean,
        confidence_level=confidence,
        n_resamples=resamples,
        method=method,
        batch=max(1, _BATCH // observed.size),
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(low), float(high)


def pass_at_k(correct: ArrayLike, k: int) -> float:
    """Chance that one of k draws is correct, unbiased, mean over prompts.

    ``correct`` [prompts, draws] bool. With c of n draws correct, a prompt has 1 - C(n - c, k) / C(n, k)
    (Chen et al. 2021, arXiv 2107.03374): the hypergeometric chance of at least one success.
    """
    drawn = np.asarray(correct)
    if drawn.ndim != 2 or not drawn.size:
        raise ValueError(f"`correct` must be [prompts, draws] and not empty, its shape is {drawn.shape}")
    if not np.isin(drawn, (0, 1)).all():
        between = drawn[~np.isin(drawn, (0, 1))][0]
        raise ValueError(f"pass@k needs answers that are correct or not, 1 or 0; one score is {between}")
    draws = drawn.shape[1]
    if not 1 <= k <= draws:
        raise ValueError(f"`k` must be 1 to {draws}, the draws per prompt, got {k}")
    from scipy import stats

    return float(stats.hypergeom.sf(0, draws, drawn.sum(1).astype(int), k).mean())


def majority(answers: Sequence[Sequence[str]], scores: Sequence[Sequence[float]]) -> float:
    """Mean score of the most frequent answer of each prompt; ties go to the answer drawn first.

    ``answers`` and ``scores`` [prompts][draws]. Answers are compared as they are given: bring them into a common form
    before. An empty answer counts as an answer. Where equal answers have unequal scores, the first drawn counts.
    """
    if not answers:
        raise ValueError(f"there are no answers to vote on: {answers!r}")
    draws, scored = [len(row) for row in answers], [len(row) for row in scores]
    if draws != scored:
        raise ValueError(f"answers and scores need the same prompts and draws, draws per prompt: {draws} and {scored}")
    if not all(answers):
        raise ValueError(f"prompt {draws.index(0)} has no answers")
    won = (row.index(Counter(row).most_common(1)[0][0]) for row in map(list, answers))
    return float(np.mean([values[first] for values, first in zip(scores, won, strict=True)]))


def paired_comparison(
    a: Mapping[Any, float] | ArrayLike,
    b: Mapping[Any, float] | ArrayLike,
    *,
    alpha: float = 0.05,
    resamples: int = 2000,
    seed: int = 0,
) -> Comparison:
    """Whether ``a`` scores differently from ``b`` on the same prompts.

    Scores by prompt id, or [prompts] in the same order. The test is `paired_test`, the interval the percentile
    bootstrap of the differences.

    Raises:
        ValueError: the prompts differ; the message names them.
    """
    first, second = (_finite(scores) for scores in aligned(_rows(a), _rows(b)))
    p_value, test = paired_test(first, second, seed=seed)
    return Comparison(
        difference=float((first - second).mean()),
        interval=mean_interval(first - second, (-1.0, 1.0), confidence=1 - alpha, resamples=resamples, seed=seed),
        p_value=p_value,
        test=test,
        prompts=first.size,
        alpha=alpha,
        p_corrected=p_value,
    )


def paired_test(a: ArrayLike, b: ArrayLike, *, seed: int = 0) -> tuple[float, str]:
    """Two-sided p-value and the test's name, for scores [prompts] of the same prompts in the same order.

    McNemar's exact test where all scores are 0 or 1. Otherwise (averages over seeds) the signs of the differences are
    flipped at random, which needs no assumption but that ``a`` and ``b`` are exchangeable when they are equally good;
    few differing prompts are enumerated, so that the p-value is exact.
    """
    first, second = _finite(a), _finite(b)
    if first.shape != second.shape:
        raise ValueError(f"paired scores have {first.size} and {second.size} prompts")
    if np.isin(first, (0, 1)).all() and np.isin(second, (0, 1)).all():
        return _mcnemar(first > 0, second > 0), "McNemar exact"
    return _sign_flips(first - second, seed), "paired permutation"


def compare_all(
    pairs: Mapping[Key, tuple[Mapping[Any, float] | ArrayLike, Mapping[Any, float] | ArrayLike]],
    *,
    alpha: float = 0.05,
    resamples: int = 2000,
    seed: int = 0,
) -> dict[Key, Comparison]:
    """`paired_comparison` of every pair of score lists, the p-values corrected together by Holm's method.

    The chance of any wrong verdict among all pairs is then at most ``alpha``, however the pairs depend on each other.
    """
    if not pairs:
        return {}
    from statsmodels.stats.multitest import multipletests  # type: ignore[import-untyped]

    single = [paired_comparison(a, b, alpha=alpha, resamples=resamples, seed=seed) for a, b in pairs.values()]
    corrected = multipletests([comparison.p_value for comparison in single], alpha=alpha, method="holm")[1]
    return {
        key: replace(comparison, p_corrected=float(p_value))
        for key, comparison, p_value in zip(pairs, single, corrected, strict=True)
    }


def aligned(a: Mapping[Any, Row], b: Mapping[Any, Row]) -> tuple[list[Row], list[Row]]:
    """The values of both, in the order of the prompt ids of ``a``.

    Raises:
        ValueError: a prompt is missing in one; the message names it.
    """
    missing = [
        f"{_named(absent)} only in the {place}"
        for place, absent in (("first", [i for i in a if i not in b]), ("second", [i for i in b if i not in a]))
        if absent
    ]
    if missing:
        raise ValueError(f"a paired comparison needs the same prompts: {'; '.join(missing)}")
    return list(a.values()), [b[prompt] for prompt in a]


def _named(prompts: list[Any]) -> str:
    more = f" and {len(prompts) - _NAMED} more" if len(prompts) > _NAMED else ""
    return f"{', '.join(map(str, prompts[:_NAMED]))}{more}"


def _rows(scores: Mapping[Any, float] | ArrayLike) -> Mapping[Any, float]:
    return scores if isinstance(scores, Mapping) else dict(enumerate(_finite(scores).tolist()))


def _finite(values: ArrayLike) -> Array:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or not array.size:
        raise ValueError(f"scores must be one list that is not empty, their shape is {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"score {int(np.argmin(np.isfinite(array)))} is not a finite number")
    return array


def _interval_of_equal(value: float, count: int, limits: Interval, confidence: float) -> Interval:
    from statsmodels.stats.proportion import proportion_confint  # type: ignore[import-untyped]

    agree, _ = proportion_confint(count, count, alpha=1 - confidence, method="beta")
    other = 1 - float(agree)  # largest share that differs
    low, high = min(limits[0], value), max(limits[1], value)
    return value - other * (value - low), value + other * (high - value)


def _mcnemar(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
    from statsmodels.stats.contingency_tables import mcnemar  # type: ignore[import-untyped]

    table = [[(first & second).sum(), (first & ~second).sum()], [(~first & second).sum(), (~first & ~second).sum()]]
    return float(mcnemar(table, exact=True).pvalue)


def _sign_flips(differences: Array, seed: int) -> float:
    moved = differences[np.abs(differences) > _EQUAL]  # a zero has no sign to flip
    if moved.size < 2:  # one sign says nothing
        return 1.0
    from scipy import stats

    result = stats.permutation_test(
        (moved,),
        _sum,
        permutation_type="samples",  # of one sample: its signs
        vectorized=True,
        n_resamples=_SIGN_FLIPS,
        batch=max(1, _BATCH // moved.size),
        rng=np.random.default_rng(seed),
    )
    return float(result.pvalue)


def _sum(values: Array, axis: int) -> Array:
    total: Array = np.round(values.sum(axis), 9)  # equal sums of thirds stay equal, whatever the order
    return total
