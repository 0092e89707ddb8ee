"""The tables and figures of a report as HTML."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import fields
from html import escape

from hf_unmask.report import html
from hf_unmask.report.frontier_plots import dark_png
from hf_unmask.report.html import Cell, Section
from hf_unmask.report.order_tables import ORDER_NOTE, order_tables
from hf_unmask.results.comparable import Group, regime
from hf_unmask.results.folder import AXES, Contents, seconds
from hf_unmask.results.frontier import aup_of, hypervolume_of, method_of, nfe_at_accuracy, plane
from hf_unmask.results.records import OperatingPoint, Setting
from hf_unmask.results.transfer_matrix import transfer_matrix

_FIGURES = 2_000_000  # characters of the page for plots; those that do not fit lie beside the page only


def sections(contents: Contents, pictures: Sequence[bytes]) -> Iterator[Section]:
    """All but the trajectories. ``pictures`` are the frontiers of the groups as PNG on a light ground."""
    yield Section("budgets", "Best sampler at each budget", _budgets(contents))
    yield Section("frontiers", "Accuracy against cost", _frontiers(contents, pictures))
    yield Section("points", "All operating points", _points(contents))
    yield Section("areas", "Areas", _areas(contents))
    transfer = _transfer(contents.points)
    if transfer:
        yield Section("transfer", "Transfer", transfer)
    orders = "".join(order_tables(group, contents.answers[group.identity]) for group in contents.groups)
    if orders:
        yield Section("orders", "Opening order", ORDER_NOTE + orders)


_BUDGET_NOTE = """<p>L is the number of positions to fill; a budget is a limit on the mean number of forward passes
(NFE) per answer. The second best is the best of the other methods: another dial of the same sampler is no rival.
Differences are paired on the same prompts, with a 95 % bootstrap interval; the verdict follows the p-value, corrected
by Holm's method over all comparisons of this table. Best and second are chosen on the prompts they are compared on, so
small leads flatter the best. The last column asks what a heuristic reaches with the same budget if its block length is
free.</p>"""


def _budgets(contents: Contents) -> str:
    rows = [html.budget_cells(row) for row in contents.budgets]
    return _BUDGET_NOTE + html.table("Best sampler at each budget", html.BUDGET_HEADS, rows, split=True)


def _frontiers(contents: Contents, pictures: Sequence[bytes]) -> str:
    parts = ["<p>Bars are 95 % intervals of accuracy over prompts; a line joins the dials of one method.</p>"]
    room = _FIGURES
    for group, light in zip(contents.groups, pictures, strict=True):
        alternative = f"{group.title}: accuracy against NFE and seconds; the table of all points has the numbers"
        figure = html.picture(light, dark_png(group, contents.fronts(group)), alternative)
        room -= len(figure)
        beside = f"<p>{escape(group.title)}: see <code>frontier-{escape(group.slug)}.png</code>.</p>"
        parts.append(figure if room >= 0 else beside)
    return "".join(parts)


_POINTS_NOTE = """<p>Click a heading to sort. Pareto: no other point is at least as accurate and as cheap, and better
in one; "regime" among points of the same block length, "task" among all of them.</p>"""


def _points(contents: Contents) -> str:
    rows = [
        html.point_cells(group.title, point, *(contents.pareto[axis].get(point.setting.key, "") for axis in AXES))
        for group in contents.groups
        for point in group.points
    ]
    return _POINTS_NOTE + html.table("All operating points", html.POINT_HEADS, rows, sortable=True)


# --------------------------------------------------------------------------------------------------------------- areas

_TARGET = 0.95  # of the best accuracy of the task
_NEVER = 1e300  # sorted above all numbers
_AREA_NOTE = f"""<p>Hypervolume: the area that a method's points dominate, up to the reference given with it (accuracy
0 and L forward passes, or the slowest point of the task in seconds); larger is better. AUP: accuracy under parallelism
by d3LLM's definition, over tokens per forward up to the end of the answer; it depends on the best rival of the task and
has no upper bound, which is why the hypervolume stands beside it. NFE to target: of the cheapest point measured that
reaches {_TARGET:.0%} of the task's best accuracy, which is given with it.</p>"""
_AREA_HEADS = (
    *("task", "regime", "method", "points", "hypervolume, NFE", "hypervolume, seconds", "AUP"),
    "NFE to target",
)


def _areas(contents: Contents) -> str:
    rows = [cells for group in contents.groups for cells in _area_rows(group)]
    return _AREA_NOTE + html.table("Areas by method", _AREA_HEADS, rows, sortable=True)


def _area_rows(group: Group) -> Iterator[list[Cell]]:
    curves: dict[tuple[str, str], list[OperatingPoint]] = defaultdict(list)
    for point in group.points:
        curves[_curve(point)].append(point)
    # one call for all regimes: the measure weights by the best accuracy of any rival on the task
    aup = aup_of(group.points, lambda point: "\n".join(_curve(point)))
    slowest = max((total for point in group.points if (total := seconds(point)) is not None), default=None)
    target = _TARGET * max(point.accuracy for point in group.points)
    for (name, method), points in curves.items():
        volumes = [hypervolume_of(points)]
        if slowest is not None and all(seconds(point) is not None for point in points):
            volumes.append(hypervolume_of(points, "seconds", (slowest, 0.0)))
        areas = [Cell(escape(str(volume)), volume.area, "number") for volume in volumes]
        yield [
            html.text(group.title),
            html.text(name),
            Cell(f"<code>{escape(method)}</code>"),
            html.number(len(points), "d"),
            *areas,
            *[html.number(None)] * (len(AXES) - len(areas)),
            html.number(aup[f"{name}\n{method}"], ".4g"),
            _to_target(nfe_at_accuracy(plane(points), target), target),
        ]


def _curve(point: OperatingPoint) -> tuple[str, str]:
    return regime(point.setting), method_of(point.setting.sampler)


def _to_target(nfe: float | None, target: float) -> Cell:
    if nfe is None:
        return Cell(f"does not reach {target:.1%}", _NEVER, "number")
    return Cell(f"{nfe:.1f} (target: {target:.1%})", nfe, "number")


# ------------------------------------------------------------------------------------------------------------ transfer

_TRANSFER_NOTE = """<p>Accuracy @ mean NFE of every sampler that was run, with the same dials, in more than one setting:
what a choice made in one of them is worth in the others.</p>"""


def _transfer(points: Sequence[OperatingPoint]) -> str:
    """Empty if no sampler was run in two settings."""
    runs: dict[str, list[OperatingPoint]] = defaultdict(list)
    for point in points:
        runs[point.setting.sampler].append(point)
    several = [point for found in runs.values() if len(found) > 1 for point in found]
    if not several:
        return ""
    matrix = transfer_matrix(several, columns=[field.name for field in fields(Setting) if field.name != "sampler"])
    rows = [[Cell(f"<code>{escape(row[0])}</code>"), *map(html.text, row[1:])] for row in matrix.body]
    return _TRANSFER_NOTE + html.table(matrix.caption, matrix.heads, rows)
