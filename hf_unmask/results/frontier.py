"""Speed against accuracy: Pareto set, areas, and what a budget or a target asks for.

A point is ``(cost, accuracy)``: the cost (forward passes or seconds) is to be small, the accuracy large. Functions take
plain sequences, the last ones `OperatingPoint` records. Nothing is interpolated: between two dials nobody measured.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from hf_unmask.results.records import OperatingPoint
from hf_unmask.results.spec_text import POLICY, pieces

Points: TypeAlias = Sequence[tuple[float, float]]
Axis: TypeAlias = Literal["nfe", "seconds"]

_DROP = 5.0  # accuracy points below the slowest point that AUP still counts
_PENALTY = 3.0  # of accuracy below the best method in AUP
_PERCENT = 100.0
_SENSE = (False, True)  # of cost and accuracy: which to maximise


@dataclass(frozen=True)
class Hypervolume:
    """An area with the reference point it depends on; printed together."""

    area: float
    reference: tuple[float, float]
    axis: Axis = "nfe"

    def __str__(self) -> str:
        cost, accuracy = self.reference
        shown = f"{cost:g} NFE" if self.axis == "nfe" else f"{cost:.3g} s"
        return f"{self.area:.4g} (reference: {shown}, accuracy {accuracy:g})"


def pareto_front(points: Points) -> list[int]:
    """Indices of the points that no other point dominates, by rising cost.

    A point is dominated if another is at least as good in both and better in one. So equal points do not dominate each
    other: all copies are kept, in the order given.
    """
    if not points:
        return []
    import moocore  # type: ignore[import-untyped]

    plane = _plane(points)
    kept = np.flatnonzero(moocore.is_nondominated(plane, maximise=_SENSE, keep_weakly=True))
    return sorted(kept.tolist(), key=lambda index: (points[index][0], index))


def hypervolume(points: Points, reference: tuple[float, float]) -> float:
    """Area that the points dominate, up to ``reference``, e.g. ``(L, 0)``: L forward passes, accuracy 0.

    In units of cost times accuracy, larger is better. Points that are not better than the reference in both count
    nothing. The number means nothing without its reference: print both (`Hypervolume` does).
    """
    if not np.isfinite(reference).all():
        raise ValueError(f"the reference point {reference} is not finite")
    if not points:
        return 0.0
    import moocore

    return float(moocore.hypervolume(_plane(points), ref=list(reference), maximise=_SENSE))


def aup(points: Mapping[str, Points]) -> dict[str, float]:
    """Accuracy under parallelism of each method, by d3LLM's definition (arXiv 2601.07568).

    ``points`` by method: (tokens per forward, accuracy in percent points 0..100). Points more than 5 below the accuracy
    at the fewest tokens per forward are dropped; the rest is a trapezoidal area over tokens per forward, weighted by
    min(exp(-3 (1 - y / y_max)), 1), y_max being the best accuracy of any method given, dropped points included. The
    first rectangle is not weighted. Depends on the rivals and grows without bound with tokens per forward: print the
    hypervolume beside it. At equal tokens per forward the better accuracy comes first.
    """
    for name, curve in points.items():
        _check_curve(name, curve)
    best = max((accuracy for curve in points.values() for _, accuracy in curve), default=0.0)
    return {name: _aup(curve, best) for name, curve in points.items()}


def best_under_budget(points: Points, budget: float) -> int | None:
    """Index of the most accurate point that costs at most ``budget``; None if all cost more.

    Ties go to the cheaper point, then to the first.
    """
    affordable = [index for index, (cost, _) in enumerate(points) if cost <= budget]
    return min(affordable, key=lambda index: (-points[index][1], points[index][0]), default=None)


def nfe_at_accuracy(points: Points, target: float) -> float | None:
    """Smallest measured cost whose accuracy reaches ``target``; None if none does. No interpolation."""
    return min((cost for cost, accuracy in points if accuracy >= target), default=None)


def method_of(spec: str) -> str:
    """The method of a sampler spec, its dial left out: what one curve of a plot shows.

    ``threshold:threshold=0.9`` -> ``threshold``; ``learned:NAME;speed=2`` -> ``learned:NAME``;
    ``eos_suppress(margin:k=2)`` -> ``eos_suppress(margin)``.
    """
    name, bracket, inner = spec.strip().partition("(")
    if bracket and ":" not in name:
        return f"{name}({method_of(inner.removesuffix(')'))})"
    name = pieces(spec.strip())[0]
    return name if name.startswith(POLICY) else name.partition(":")[0]


def dials_of(spec: str) -> str:
    """What `method_of` leaves out, in short; "" for a spec without dials.

    ``threshold:threshold=0.9`` -> ``0.9``; ``learned:NAME;speed=2`` -> ``speed=2``; ``eos_suppress(margin:k=2)`` ->
    ``k=2``.
    """
    name, bracket, inner = spec.strip().partition("(")
    if bracket and ":" not in name:
        return dials_of(inner.removesuffix(")"))
    head, *dials = pieces(spec.strip())
    if not head.startswith(POLICY):
        name, colon, first = head.partition(":")
        dials = [first, *dials] if colon else dials
    return ", ".join(dial.removeprefix(f"{name}=") for dial in dials)


def plane(records: Sequence[OperatingPoint], axis: Axis = "nfe") -> list[tuple[float, float]]:
    """``(cost, accuracy)`` of each record: mean forward passes, or total seconds per sequence; accuracy 0..1."""
    if axis == "nfe":
        return [(record.nfe_mean, record.accuracy) for record in records]
    return [(record.seconds_per_sequence["total"], record.accuracy) for record in records]


def hypervolume_of(
    records: Sequence[OperatingPoint], axis: Axis = "nfe", reference: tuple[float, float] | None = None
) -> Hypervolume:
    """Hypervolume of records of one answer length; the reference is ``(max_new_tokens, 0)`` unless given.

    Seconds have no natural bound: there the reference must be given.
    """
    if reference is None:
        lengths = sorted({record.setting.max_new_tokens for record in records})
        if axis != "nfe" or len(lengths) != 1:
            raise ValueError(f"give the reference point: the cost is {axis}, the answer lengths are {lengths}")
        reference = (float(lengths[0]), 0.0)
    return Hypervolume(hypervolume(plane(records, axis), reference), reference, axis)


def aup_of(
    records: Sequence[OperatingPoint], method: Callable[[OperatingPoint], str] = lambda r: method_of(r.setting.sampler)
) -> dict[str, float]:
    """`aup` of the records of one task, grouped by ``method``; tokens are counted up to the end of the answer only."""
    tasks = sorted({record.setting.task for record in records})
    if len(tasks) > 1:
        raise ValueError(f"AUP weights by the best accuracy of a task, got several: {', '.join(tasks)}")
    curves: dict[str, list[tuple[float, float]]] = {}
    for record in records:
        point = (record.tokens_per_forward_to_eos, _PERCENT * record.accuracy)
        curves.setdefault(method(record), []).append(point)
    return aup(curves)


def _aup(curve: Points, best: float) -> float:
    ordered = sorted(curve, key=lambda point: (point[0], -point[1]))
    kept = [(rho, y) for rho, y in ordered if y >= ordered[0][1] - _DROP]
    if best == 0:
        return 0.0
    rho = [point[0] for point in kept]
    weighted = [y * min(math.exp(-_PENALTY * (1 - y / best)), 1.0) for _, y in kept]
    return rho[0] * kept[0][1] + float(np.trapezoid(weighted, rho))


def _check_curve(name: str, curve: Points) -> None:
    if not curve:
        raise ValueError(f"method {name!r} has no points")
    for rho, accuracy in curve:
        if not (0 <= rho < math.inf and 0 <= accuracy <= _PERCENT):
            raise ValueError(f"method {name!r}: ({rho}, {accuracy}) is not (tokens per forward, accuracy in 0..100)")


def _plane(points: Points) -> NDArray[np.float64]:
    array = np.asarray(points, dtype=np.float64)
    if array.ndim != 2 or array.shape[1] != 2 or not np.isfinite(array).all():
        raise ValueError(f"points must be finite pairs (cost, accuracy), got {list(points)}")
    return array
