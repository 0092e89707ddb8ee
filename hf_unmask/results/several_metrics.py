"""Operating points that several metrics have scored: the first one decides, the others stand beside it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from hf_unmask.results.records import Accuracy, OperatingPoint


def accuracies(point: OperatingPoint) -> dict[str, Accuracy]:
    """By metric, the one that decides first."""
    return {point.setting.metric: Accuracy(point.accuracy, point.accuracy_interval), **point.further}


def metrics_of(points: Iterable[OperatingPoint]) -> list[str]:
    """The metrics that have scored any of the points, those that decide before those beside them."""
    points = list(points)
    names = [point.setting.metric for point in points] + [name for point in points for name in point.further]
    return list(dict.fromkeys(names))


def under(point: OperatingPoint, metric: str) -> OperatingPoint:
    """The point as if another of its metrics decided, and the one that does stood beside it.

    What is recorded of the deciding metric alone is left out: accuracies per seed, pass@k, the vote.

    Raises:
        ValueError: the metric has not scored the point.
    """
    known = accuracies(point)
    if metric not in known:
        raise ValueError(f"{point.setting.sampler} was scored by {', '.join(known)}, not by {metric!r}")
    if metric == point.setting.metric:
        return point
    own = known.pop(metric)
    return replace(
        point,
        setting=replace(point.setting, metric=metric),
        accuracy=own.accuracy,
        accuracy_interval=own.accuracy_interval,
        accuracy_per_seed={},
        pass_at_k={},
        majority=None,
        further=known,
    )


def percentages(point: OperatingPoint) -> str:
    """``91.0``, or ``91.0 / 49.0`` by several metrics, in the order of `metric_names`."""
    return " / ".join(f"{100 * one.accuracy:.1f}" for one in accuracies(point).values())


def metric_names(points: Iterable[OperatingPoint]) -> str:
    """What the `percentages` of the points are by, to stand in a title; "" if it is one metric alone."""
    points = list(points)
    return " / ".join(metrics_of(points)) if any(point.further for point in points) else ""
