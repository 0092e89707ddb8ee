"""Who is best at which budget of forward passes, and whether the lead is more than chance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from hf_unmask.results.comparable import Group, is_learned
from hf_unmask.results.frontier import best_under_budget, method_of, plane
from hf_unmask.results.records import OperatingPoint
from hf_unmask.results.statistics import Comparison, compare_all

#: Budgets as shares of the answer length.
SHARES = tuple(Fraction(1, parts) for parts in (16, 8, 4, 2, 1))

Scores = Mapping[str, Mapping[int, float]]  # by the key of a setting: score by prompt
_Pair = tuple[str, str]


@dataclass(frozen=True)
class BudgetRow:
    """One regime at one budget. Nothing affordable: no best. Comparisons are those of ``best`` against the other."""

    group: Group
    regime: str
    share: Fraction  # of the answer length
    best: OperatingPoint | None
    second: OperatingPoint | None  # best of the other methods
    heuristic: OperatingPoint | None  # best heuristic at any block length
    against_second: Comparison | None = None
    against_heuristic: Comparison | None = None

    @property
    def budget(self) -> float:
        """Forward passes."""
        return float(self.share * self.group.length)


def budget_rows(groups: Sequence[Group], scores: Scores) -> list[BudgetRow]:
    """All rows of a report. The p-values of all their comparisons are corrected together."""
    rows = [_row(group, regime, share) for group in groups for regime in group.regimes for share in SHARES]
    pairs: dict[_Pair, tuple[Mapping[int, float], Mapping[int, float]]] = {}
    for row in rows:
        for pair in (_pair(row.best, row.second), _pair(row.best, row.heuristic)):
            common = _common(scores, pair)
            if pair is not None and common is not None:
                pairs[pair] = common
    found: dict[_Pair | None, Comparison] = dict(compare_all(pairs).items())
    return [
        replace(
            row,
            against_second=found.get(_pair(row.best, row.second)),
            against_heuristic=found.get(_pair(row.best, row.heuristic)),
        )
        for row in rows
    ]


def _row(group: Group, regime: str, share: Fraction) -> BudgetRow:
    budget = float(share * group.length)
    points = group.in_regime(regime)
    best = _best(points, budget)
    # another dial of the same sampler is not a rival
    others = [p for p in points if best is not None and _method(p) != _method(best)]
    heuristics = [point for point in group.points if not is_learned(point.setting.sampler)]
    return BudgetRow(group, regime, share, best, _best(others, budget), _best(heuristics, budget))


def _best(points: Sequence[OperatingPoint], budget: float) -> OperatingPoint | None:
    place = best_under_budget(plane(points), budget)
    return None if place is None else points[place]


def _method(point: OperatingPoint) -> str:
    return method_of(point.setting.sampler)


def _pair(a: OperatingPoint | None, b: OperatingPoint | None) -> _Pair | None:
    if a is None or b is None or a.setting == b.setting:
        return None
    return a.setting.key, b.setting.key


def _common(scores: Scores, pair: _Pair | None) -> tuple[Mapping[int, float], Mapping[int, float]] | None:
    """Both score lists on the prompts that both answered: a run that was stopped has more of one than of the other."""
    if pair is None:
        return None
    first, second = (scores.get(key, {}) for key in pair)
    both = [prompt for prompt in first if prompt in second]
    if not both:
        return None
    return {prompt: first[prompt] for prompt in both}, {prompt: second[prompt] for prompt in both}
