"""Frontier plots: accuracy against forward passes and against seconds, one column per regime.

Points of the Pareto set carry their dials; of all of them the page knows where they are (`Picture.marks`).
"""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, PercentFormatter

from hf_unmask.report.labels import place_labels
from hf_unmask.report.styles import Style, styles
from hf_unmask.results.comparable import Group, label
from hf_unmask.results.foreign_text import printable
from hf_unmask.results.frontier import Axis, dials_of, method_of
from hf_unmask.results.records import OperatingPoint

_LIGHT = {"paper": "#ffffff", "ink": "#1c1c1e", "grid": "#d9d9de"}
_DARK = {"paper": "#1c1d22", "ink": "#ececf0", "grid": "#44454d"}
_DPI = 120
_PANEL = (4.1, 3.1)  # inches
_NARROWEST = 6.5  # inches, of a figure
_LEGEND_COLUMNS = (4, 3, 2, 1)
_LONGEST = 80  # characters of a name
_SETTINGS: Any = {  # matplotlib types each key on its own
    "svg.hashsalt": "hf_unmask",  # the same records give the same file
    "svg.fonttype": "none",
    "text.parse_math": False,  # a dollar sign in a task's name is a dollar sign
    "font.size": 9.0,
    "font.family": "DejaVu Sans",
    "axes.unicode_minus": False,
}


Fronts: TypeAlias = Mapping[Axis, Collection[str]]  # setting keys in the Pareto set of their regime


@dataclass(frozen=True)
class Horizontal:
    """What is on the horizontal axis."""

    axis: Axis
    title: str
    of: Callable[[OperatingPoint], float]


AXES = (
    Horizontal("nfe", "forward passes per answer (NFE)", lambda point: point.nfe_mean),
    Horizontal("seconds", "seconds per answer", lambda point: point.seconds_per_sequence.get("total", math.nan)),
)


@dataclass(frozen=True)
class Mark:
    """Where a point is, in pixels from the left and the top, and what it is."""

    left: float
    top: float
    text: str


@dataclass(frozen=True)
class Picture:
    """A PNG and its size in pixels."""

    png: bytes
    width: int
    height: int
    marks: tuple[Mark, ...]


def write_frontier(group: Group, folder: Path, fronts: Fronts) -> list[Path]:
    """``frontier-<task>.png`` and ``.svg``. ``fronts`` holds the keys of the settings to ring."""
    paths = [folder / f"frontier-{group.slug}.{kind}" for kind in ("png", "svg")]
    with _figure(group, fronts, dark=False) as figure:
        figure.savefig(paths[0], dpi=_DPI, metadata={"Software": None})
        figure.savefig(paths[1], metadata={"Date": None})
    return paths


def dark_picture(group: Group, fronts: Fronts) -> Picture:
    """The same picture on a dark ground, and where its points are; on a light ground they are there too."""
    buffer = io.BytesIO()
    with _figure(group, fronts, dark=True) as figure:
        figure.savefig(buffer, format="png", dpi=_DPI, metadata={"Software": None})
        width, height = figure.canvas.get_width_height()
        marks = tuple(mark for axis, name, panel in _panels(figure, group) for mark in _marks(axis, name, panel, group))
    placed = tuple(Mark(round(mark.left, 1), round(height - mark.top, 1), mark.text) for mark in marks)
    return Picture(buffer.getvalue(), width, height, placed)


def _panels(figure: Figure, group: Group) -> Iterator[tuple[Horizontal, str, Any]]:
    """Each panel with its axis and regime, as `_figure` laid them out."""
    names = [(axis, name) for axis in AXES for name in group.regimes]
    for (axis, name), panel in zip(names, figure.axes, strict=True):
        yield axis, name, panel


def _marks(axis: Horizontal, name: str, panel: Any, group: Group) -> Iterator[Mark]:
    """Heights from below, as matplotlib counts them."""
    for point in group.in_regime(name):
        if math.isfinite(axis.of(point)):
            left, top = panel.transData.transform((axis.of(point), point.accuracy))
            cost = f"{point.nfe_mean:.1f} forward passes"
            total = point.seconds_per_sequence.get("total")
            cost += "" if total is None else f", {total:.3g} s"
            yield Mark(float(left), float(top), f"{label(point.setting)}, {name}: {point.accuracy:.1%} at {cost}")


def _named(text: str) -> str:
    """A name that fits into a picture, and into XML."""
    return printable(text, longest=_LONGEST)


@contextmanager
def _figure(group: Group, fronts: Fronts, *, dark: bool) -> Iterator[Figure]:
    """The figure, without pyplot: nothing global, no window, no list of open figures. Saved in its own settings."""
    theme, regimes = _DARK if dark else _LIGHT, group.regimes
    look = styles(group.points)
    with matplotlib.rc_context(_SETTINGS), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph", UserWarning)  # a name in a script that the font lacks shows boxes
        figure = Figure(dpi=_DPI, facecolor=theme["paper"], layout="constrained")
        FigureCanvasAgg(figure)
        figure.set_size_inches(max(_PANEL[0] * len(regimes), _NARROWEST), 1.0)
        _make_room(figure, _legend(figure, look, theme))
        panels = figure.subplots(len(AXES), len(regimes), sharey=True, sharex="row", squeeze=False)
        for axis, row in zip(AXES, panels, strict=True):
            for name, panel in zip(regimes, row, strict=True):
                _draw(panel, axis, group.in_regime(name), look, fronts[axis.axis], theme)
                panel.set_title(name, color=theme["ink"])
            row[0].set_ylabel("accuracy", color=theme["ink"])
        figure.suptitle(_named(group.title), color=theme["ink"], fontweight="bold")
        figure.draw_without_rendering()
        figure.set_layout_engine("none")  # laid out once, not again for each file
        for axis, name, panel in _panels(figure, group):
            points = [point for point in group.in_regime(name) if math.isfinite(axis.of(point))]
            places = [(axis.of(point), point.accuracy) for point in points]
            texts = [_dials(point) if point.setting.key in fronts[axis.axis] else "" for point in points]
            place_labels(panel, places, texts, theme["ink"])
        yield figure


def _dials(point: OperatingPoint) -> str:
    return printable(dials_of(point.setting.sampler) or "default", longest=_LONGEST // 2)


def _make_room(figure: Figure, legend: Any) -> None:
    """For all panels and the whole legend, however long its names are."""
    box = legend.get_window_extent()
    width = max(figure.get_figwidth(), box.width / _DPI + 0.2)
    figure.set_size_inches(width, _PANEL[1] * len(AXES) + 0.7 + box.height / _DPI)


def _draw(
    panel: Any,
    axis: Horizontal,
    points: Sequence[OperatingPoint],
    look: dict[str, Style],
    front: Collection[str],
    theme: dict[str, str],
) -> None:
    for name, style in look.items():
        own = sorted((p for p in points if method_of(p.setting.sampler) == name), key=axis.of)
        own = [point for point in own if math.isfinite(axis.of(point))]
        if not own:
            continue
        x, y = [axis.of(point) for point in own], [point.accuracy for point in own]
        # a bootstrap interval may leave its estimate outside by a rounding error; bars cannot be negative
        low = [max(point.accuracy - point.accuracy_interval[0], 0.0) for point in own]
        high = [max(point.accuracy_interval[1] - point.accuracy, 0.0) for point in own]
        panel.errorbar(x, y, yerr=(low, high), elinewidth=0.8, capsize=2, **_line(style))
        ringed = [(a, b) for a, b, point in zip(x, y, own, strict=True) if point.setting.key in front]
        if ringed:
            panel.plot(*zip(*ringed, strict=True), "o", ms=11, mfc="none", mec=theme["ink"], mew=0.9, zorder=4)
    _dress(panel, axis, theme)


def _dress(panel: Any, axis: Horizontal, theme: dict[str, str]) -> None:
    panel.set_facecolor(theme["paper"])
    panel.set_xscale("log")
    panel.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    panel.xaxis.set_minor_formatter(NullFormatter())
    panel.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    panel.set_xlabel(axis.title, color=theme["ink"])
    panel.grid(True, color=theme["grid"], lw=0.6)
    panel.set_axisbelow(True)
    panel.tick_params(colors=theme["ink"], which="both", labelleft=True, labelbottom=True)
    for side in panel.spines.values():
        side.set_color(theme["grid"])


def _line(style: Style) -> dict[str, Any]:
    widths = {"lw": 1.8, "ms": 6, "zorder": 3} if style.front else {"lw": 1.1, "ms": 5, "zorder": 2}
    return {"color": style.colour, "marker": style.marker, "mew": 1.2, **widths}


def _legend(figure: Figure, look: dict[str, Style], theme: dict[str, str]) -> Any:
    """Below the panels, in as many columns as fit."""
    handles = [Line2D([], [], label=_named(name), **_line(style)) for name, style in look.items()]
    ring = Line2D([], [], ls="", marker="o", ms=10, mfc="none", mec=theme["ink"], label="Pareto set, with its dials")
    for columns in _LEGEND_COLUMNS:
        legend = figure.legend(
            handles=[*handles, ring],
            loc="outside lower center",
            ncols=columns,
            frameon=False,
            labelcolor=theme["ink"],
        )
        if columns == _LEGEND_COLUMNS[-1] or legend.get_window_extent().width <= figure.bbox.width:
            break
        legend.remove()
    return legend
