"""Frontier plots: accuracy against forward passes and against seconds, one column per regime."""

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

from hf_unmask.results.comparable import Group
from hf_unmask.results.foreign_text import printable
from hf_unmask.results.frontier import Axis, method_of
from hf_unmask.results.records import OperatingPoint

#: Okabe and Ito's palette, which stays distinct under the common colour blindnesses, without its yellow and black.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#999999")
#: Methods beyond the seventh repeat a colour, never a marker with that colour: their numbers have no common factor.
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*", "h", "p", "d")
_LIGHT = {"paper": "#ffffff", "ink": "#1c1c1e", "grid": "#d9d9de"}
_DARK = {"paper": "#1c1d22", "ink": "#ececf0", "grid": "#44454d"}
_DPI = 120
_PANEL = (4.1, 3.1)  # inches
_LEGEND_COLUMNS = 4
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


def styles(points: Sequence[OperatingPoint]) -> dict[str, tuple[str, str]]:
    """Colour and marker of each method, by order of appearance."""
    methods = dict.fromkeys(method_of(point.setting.sampler) for point in points)
    return {name: (COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]) for i, name in enumerate(methods)}


def write_frontier(group: Group, folder: Path, fronts: Fronts) -> list[Path]:
    """``frontier-<task>.png`` and ``.svg``. ``fronts`` holds the keys of the settings to ring."""
    paths = [folder / f"frontier-{group.slug}.{kind}" for kind in ("png", "svg")]
    with _figure(group, fronts, dark=False) as figure:
        figure.savefig(paths[0], dpi=_DPI, metadata={"Software": None})
        figure.savefig(paths[1], metadata={"Date": None})
    return paths


def dark_png(group: Group, fronts: Fronts) -> bytes:
    """The same picture on a dark ground."""
    buffer = io.BytesIO()
    with _figure(group, fronts, dark=True) as figure:
        figure.savefig(buffer, format="png", dpi=_DPI, metadata={"Software": None})
    return buffer.getvalue()


def _named(text: str) -> str:
    """A name that fits into a picture, and into XML."""
    return printable(text, longest=_LONGEST)


@contextmanager
def _figure(group: Group, fronts: Fronts, *, dark: bool) -> Iterator[Figure]:
    """The figure, without pyplot: nothing global, no window, no list of open figures. Saved in its own settings."""
    theme, regimes = _DARK if dark else _LIGHT, group.regimes
    look = styles(group.points)
    legend_rows = math.ceil((len(look) + 1) / _LEGEND_COLUMNS)
    size = (max(_PANEL[0] * len(regimes), 6.5), _PANEL[1] * len(AXES) + 0.7 + 0.22 * legend_rows)
    with matplotlib.rc_context(_SETTINGS), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph", UserWarning)  # a name in a script that the font lacks shows boxes
        figure = Figure(figsize=size, facecolor=theme["paper"], layout="constrained")
        FigureCanvasAgg(figure)
        panels = figure.subplots(len(AXES), len(regimes), sharey=True, sharex="row", squeeze=False)
        for axis, row in zip(AXES, panels, strict=True):
            for name, panel in zip(regimes, row, strict=True):
                _draw(panel, axis, group.in_regime(name), look, fronts[axis.axis], theme)
                panel.set_title(name, color=theme["ink"])
            row[0].set_ylabel("accuracy", color=theme["ink"])
        figure.suptitle(_named(group.title), color=theme["ink"], fontweight="bold")
        _legend(figure, look, theme)
        figure.draw_without_rendering()
        figure.set_layout_engine("none")  # laid out once, not again for each file
        yield figure


def _draw(
    panel: Any,
    axis: Horizontal,
    points: Sequence[OperatingPoint],
    look: dict[str, tuple[str, str]],
    front: Collection[str],
    theme: dict[str, str],
) -> None:
    for name, (colour, marker) in look.items():
        own = sorted((p for p in points if method_of(p.setting.sampler) == name), key=axis.of)
        own = [point for point in own if math.isfinite(axis.of(point))]
        if not own:
            continue
        x, y = [axis.of(point) for point in own], [point.accuracy for point in own]
        # a bootstrap interval may leave its estimate outside by a rounding error; bars cannot be negative
        low = [max(point.accuracy - point.accuracy_interval[0], 0.0) for point in own]
        high = [max(point.accuracy_interval[1] - point.accuracy, 0.0) for point in own]
        panel.errorbar(x, y, yerr=(low, high), color=colour, marker=marker, ms=5, lw=1.2, elinewidth=0.8, capsize=2)
        ringed = [(a, b) for a, b, point in zip(x, y, own, strict=True) if point.setting.key in front]
        if ringed:
            panel.plot(*zip(*ringed, strict=True), "o", ms=11, mfc="none", mec=theme["ink"], mew=0.9)
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


def _legend(figure: Figure, look: dict[str, tuple[str, str]], theme: dict[str, str]) -> None:
    handles = [Line2D([], [], color=c, marker=m, ms=5, lw=1.2, label=_named(name)) for name, (c, m) in look.items()]
    ring = Line2D([], [], ls="", marker="o", ms=10, mfc="none", mec=theme["ink"], label="Pareto set of the panel")
    figure.legend(
        handles=[*handles, ring],
        loc="outside lower center",
        ncols=_LEGEND_COLUMNS,
        frameon=False,
        labelcolor=theme["ink"],
    )
