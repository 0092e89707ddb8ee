"""What a report says first of a task: who is as good as one token per step for less, and what it is shown beside."""

from __future__ import annotations

from dataclasses import dataclass

from hf_unmask.results.comparable import Group, is_learned, regime
from hf_unmask.results.records import OperatingPoint

#: Share of the reference's accuracy that counts as keeping it.
KEPT = 0.95


@dataclass(frozen=True)
class Headline:
    """Of one group. ``keeps`` is chosen on the prompts it is measured on, as everything in a report."""

    group: Group
    slow: OperatingPoint | None  # most accurate point with at least one forward pass per position; None: not measured
    target: float  # accuracy: `KEPT` of that of ``slow``, of the best point where it was not measured
    keeps: OperatingPoint | None  # cheapest point that reaches the target with fewer passes; None: there is none
    pair: tuple[OperatingPoint, ...]  # to look at side by side: the best and, of its regime, the baseline


def headline(group: Group) -> Headline:
    """The best of a group: ``keeps``, else the most accurate point. Its baseline is the slowest heuristic there."""
    slow = max((p for p in group.points if p.nfe_mean >= group.length), key=_accuracy, default=None)
    most = max(group.points, key=_accuracy)
    target = KEPT * (slow or most).accuracy
    able = [p for p in group.points if p.nfe_mean < group.length and p.accuracy >= target > 0]
    keeps = min(able, key=lambda point: (point.nfe_mean, -point.accuracy), default=None)
    best = keeps or most
    beside = [p for p in group.in_regime(regime(best.setting)) if p.setting != best.setting]
    beside = [p for p in beside if not is_learned(p.setting.sampler)] or beside
    baseline = max(beside, key=lambda point: (point.nfe_mean, point.accuracy), default=None)
    return Headline(group, slow, target, keeps, (best,) if baseline is None else (best, baseline))


def _accuracy(point: OperatingPoint) -> tuple[float, float]:
    """The cheaper of equals first."""
    return point.accuracy, -point.nfe_mean
