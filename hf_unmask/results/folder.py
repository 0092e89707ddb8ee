"""What an evaluation left in its folder, put in order for reports."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from hf_unmask.results.best_per_budget import BudgetRow, Scores, budget_rows
from hf_unmask.results.comparable import Group, Identity, groups
from hf_unmask.results.frontier import Axis, pareto_front, plane
from hf_unmask.results.records import OperatingPoint, read_results
from hf_unmask.results.trajectories import Answers, Reader

AXES: tuple[Axis, ...] = ("nfe", "seconds")
PROMPTS = 50  # whose answers are kept: order tables use all of them, the trajectory viewer the first ones


@dataclass(frozen=True)
class Contents:
    """Operating points in groups, scores for comparisons, and some answers."""

    points: list[OperatingPoint]
    groups: list[Group]
    answers: dict[Identity, Answers]
    scores: Scores
    pareto: dict[Axis, dict[str, str]]  # by setting key: "regime", or "task" if best across all regimes too

    @cached_property
    def budgets(self) -> list[BudgetRow]:
        """Who is best at which budget; takes a moment, all pairs are compared."""
        return budget_rows(self.groups, self.scores)

    def front(self, group: Group, axis: Axis = "nfe") -> set[str]:
        """Keys of the settings that are in the Pareto set of their regime."""
        return {point.setting.key for point in group.points} & self.pareto[axis].keys()

    def fronts(self, group: Group) -> dict[Axis, set[str]]:
        """The same for both axes."""
        return {axis: self.front(group, axis) for axis in AXES}


def read_contents(folder: Path) -> Contents:
    """What ``results.json`` and ``samples.jsonl`` of a folder hold.

    Raises:
        ValueError: there are no results, or they cannot be read.
    """
    points = read_results(folder / "results.json")
    found = groups(points)
    pareto = {axis: _pareto(found, axis) for axis in AXES}
    reader = Reader(folder / "samples.jsonl", found, limit=PROMPTS)
    answers = {group.identity: reader.answers(group) for group in found}
    return Contents(points, found, answers, reader.scores(), pareto)


def seconds(point: OperatingPoint) -> float | None:
    """Total seconds per answer; None where nothing was measured."""
    total = point.seconds_per_sequence.get("total")
    return total if total is not None and math.isfinite(total) else None


def _pareto(found: Sequence[Group], axis: Axis) -> dict[str, str]:
    members: dict[str, str] = {}
    for group in found:
        for name in group.regimes:
            members |= dict.fromkeys(_front_keys(group.in_regime(name), axis), "regime")
        members |= dict.fromkeys(_front_keys(group.points, axis), "task")
    return members


def _front_keys(points: Sequence[OperatingPoint], axis: Axis) -> list[str]:
    measured = [point for point in points if axis == "nfe" or seconds(point) is not None]
    return [measured[place].setting.key for place in pareto_front(plane(measured, axis))]
