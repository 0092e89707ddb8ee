"""The tables and figures of a report as HTML."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import fields
from typing import Any

from hf_unmask.metrics import METRICS
from hf_unmask.report import html
from hf_unmask.report.frontier_plots import dark_picture
from hf_unmask.report.html import Cell, Section
from hf_unmask.report.order_tables import ORDER_NOTE, order_tables
from hf_unmask.results.comparable import Group, regime
from hf_unmask.results.folder import AXES, Contents, seconds
from hf_unmask.results.frontier import aup_of, hypervolume_of, method_of, nfe_at_accuracy, plane
from hf_unmask.results.headline import headline
from hf_unmask.results.records import OperatingPoint, Setting
from hf_unmask.results.several_metrics import metrics_of
from hf_unmask.results.transfer_matrix import transfer_matrix

_FIGURES = 2_000_000  # characters of the page for plots; those that do not fit lie beside the page only


def sections(contents: Contents, pictures: Sequence[bytes]) -> Iterator[Section]:
    """All but the trajectories. ``pictures`` are the frontiers of the groups as PNG on a light ground."""
    yield Section("frontiers", "Accuracy against cost", _frontiers(contents, pictures))
    yield Section("budgets", "Best sampler at each budget", _budgets(contents))
    yield Section("points", "All operating points", _points(contents))
    yield Section("areas", "Areas", _areas(contents))
    transfer = _transfer(contents.points)
    if transfer is not None:
        yield Section("transfer", "Transfer", transfer)
    orders = [part for group in contents.groups for part in order_tables(group, contents.answers[group.identity])]
    if orders:
        yield Section("orders", "Opening order", html.joined(html.note(ORDER_NOTE), *orders))


_BUDGET_NOTE = """L is the number of positions to fill; a budget is a limit on the mean number of forward passes
(NFE) per answer. The second best is the best of the other methods: another dial of the same sampler is no rival.
Differences are paired on the same prompts, with a 95 % bootstrap interval over them; the verdict follows the p-value,
corrected by Holm's method over all comparisons of this table. Best and second are chosen on the prompts they are
compared on, so small leads flatter the best. The last column asks what a heuristic reaches with the same budget if its
block length is free."""


def leads(contents: Contents) -> Any:
    """What the page says first, one sentence per task."""
    return html.joined(*(html.headline(headline(group)) for group in contents.groups))


def _budgets(contents: Contents) -> Any:
    metrics = _beside(contents.points)
    rows = [html.budget_cells(row, metrics) for row in contents.budgets]
    made = html.table("Best sampler at each budget", html.budget_heads(metrics), rows, split=True)
    return html.joined(html.note(_BUDGET_NOTE), html.note(_counted(contents.points)), made)


def _beside(points: Sequence[OperatingPoint]) -> list[str]:
    """Metrics that decide nothing."""
    return list(dict.fromkeys(name for point in points for name in point.further))


def _counted(points: Sequence[OperatingPoint]) -> str:
    """What the accuracies count."""
    known = [f"{name}: {METRICS[name]}" for name in metrics_of(points) if name in METRICS]
    deciding = ", ".join(dict.fromkeys(point.setting.metric for point in points))
    return ". ".join([f"Accuracy is by {deciding}", *known]) + "."


_FRONTIERS_NOTE = """Bars are 95 % intervals of accuracy over prompts; a line joins the dials of one method. Point at a
mark to read what it is. Rings, with their dials, are the Pareto set of the panel: no point there is at least as
accurate and as cheap, and better in one."""


def _frontiers(contents: Contents, pictures: Sequence[bytes]) -> Any:
    parts = [html.note(_FRONTIERS_NOTE)]
    room = _FIGURES
    for group, light in zip(contents.groups, pictures, strict=True):
        alternative = f"{group.title}: accuracy against NFE and seconds; the table of all points has the numbers"
        figure = html.picture(light, dark_picture(group, contents.fronts(group)), alternative)
        room -= len(figure)
        beside = html.note(html.joined(group.title, ": see ", html.code(f"frontier-{group.slug}.png"), "."))
        parts.append(figure if room >= 0 else beside)
    return html.joined(*parts)


_POINTS_NOTE = """Click a heading to sort. Pareto: no other point is at least as accurate and as cheap, and better
in one; "regime" among points of the same block length, "task" among all of them."""


def _points(contents: Contents) -> Any:
    metrics = _beside(contents.points)
    drawn = any(point.pass_at_k or point.majority is not None for point in contents.points)
    rows = [
        html.point_cells(
            group.title,
            point,
            metrics,
            [contents.pareto[axis].get(point.setting.key, "") for axis in AXES],
            drawn=drawn,
        )
        for group in contents.groups
        for point in group.points
    ]
    made = html.table("All operating points", html.point_heads(metrics, drawn=drawn), rows, sortable=True)
    return html.joined(html.note(_POINTS_NOTE), made)


# --------------------------------------------------------------------------------------------------------------- areas

_TARGET = 0.95  # of the best accuracy of the task
_NEVER = 1e300  # sorted above all numbers
_AREA_NOTE = f"""Hypervolume: the area that a method's points dominate, up to the reference given with it (accuracy
0 and L forward passes, or the slowest point of the task in seconds); larger is better. AUP: accuracy under parallelism
by d3LLM's definition, over tokens per forward up to the end of the answer; it depends on the best rival of the task and
has no upper bound, which is why the hypervolume stands beside it. NFE to target: of the cheapest point measured that
reaches {_TARGET:.0%} of the task's best accuracy, which is given with it."""
_AREA_HEADS = (
    *("task", "regime", "method", "points", "hypervolume, NFE", "hypervolume, seconds", "AUP"),
    "NFE to target",
)


def _areas(contents: Contents) -> Any:
    rows = [cells for group in contents.groups for cells in _area_rows(group)]
    return html.joined(html.note(_AREA_NOTE), html.table("Areas by method", _AREA_HEADS, rows, sortable=True))


def _area_rows(group: Group) -> Iterator[list[Cell]]:
    curves: dict[tuple[str, str], list[OperatingPoint]] = defaultdict(list)
    for point in group.points:
        curves[_curve(point)].append(point)
    # one call for all regimes: the measure weights by the best accuracy of any rival on the task
    shares = all(0 <= point.accuracy <= 1 for point in group.points)  # a foreign metric may give other scores
    aup = aup_of(group.points, lambda point: "\n".join(_curve(point))) if shares else {}
    slowest = max((total for point in group.points if (total := seconds(point)) is not None), default=None)
    target = _TARGET * max(point.accuracy for point in group.points)
    for (name, method), points in curves.items():
        volumes = [hypervolume_of(points)]
        if slowest is not None and all(seconds(point) is not None for point in points):
            volumes.append(hypervolume_of(points, "seconds", (slowest, 0.0)))
        areas = [Cell(str(volume), volume.area, "number") for volume in volumes]
        yield [
            html.text(group.title),
            html.text(name),
            Cell(html.code(method), look="sampler"),
            html.number(len(points), "d"),
            *areas,
            *[html.number(None)] * (len(AXES) - len(areas)),
            html.number(aup.get(f"{name}\n{method}")),
            _to_target(nfe_at_accuracy(plane(points), target), target),
        ]


def _curve(point: OperatingPoint) -> tuple[str, str]:
    return regime(point.setting), method_of(point.setting.sampler)


def _to_target(nfe: float | None, target: float) -> Cell:
    if nfe is None:
        return Cell(f"does not reach {target:.1%}", _NEVER, "number")
    return Cell(f"{nfe:.1f} (target: {target:.1%})", nfe, "number")


# ------------------------------------------------------------------------------------------------------------ transfer

_TRANSFER_NOTE = """Accuracy @ mean NFE of every sampler that was run, with the same dials, in more than one setting:
what a choice made in one of them is worth in the others."""


def _transfer(points: Sequence[OperatingPoint]) -> Any:
    """None if no sampler was run in two settings."""
    runs: dict[str, list[OperatingPoint]] = defaultdict(list)
    for point in points:
        runs[point.setting.sampler].append(point)
    several = [point for found in runs.values() if len(found) > 1 for point in found]
    if not several:
        return None
    matrix = transfer_matrix(several, columns=[field.name for field in fields(Setting) if field.name != "sampler"])
    rows = [[Cell(html.code(row[0])), *map(html.text, row[1:])] for row in matrix.body]
    return html.joined(html.note(_TRANSFER_NOTE), html.table(matrix.caption, matrix.heads, rows))
