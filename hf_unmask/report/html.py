"""The tables and figures of a report as HTML.

Pages are put together by templates that escape every value (``assets/*.jinja``); there is no markup in this code. What
a template made is a part, and can stand in another one.
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from jinja2.utils import htmlsafe_json_dumps

from hf_unmask.report.frontier_plots import Picture
from hf_unmask.results.best_per_budget import BudgetRow
from hf_unmask.results.comparable import label, regime
from hf_unmask.results.foreign_text import printable
from hf_unmask.results.headline import KEPT, Headline
from hf_unmask.results.records import Accuracy, OperatingPoint
from hf_unmask.results.statistics import Comparison

_POINTS = 100  # of accuracy
_NONE = "-"
_KEPT = f"{_POINTS * KEPT:g} %"
_DIGITS, _PLACES = 3, 6  # of a number, and at most behind its point
_ASSETS = ("report.css", "report.js")


def _shown(value: Any) -> Any:
    """A part as it is, any other value as one printable line."""
    return value if hasattr(value, "__html__") else printable(value)


_TEMPLATES = Environment(
    loader=PackageLoader("hf_unmask.report", "assets"),
    autoescape=True,
    finalize=_shown,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_TEMPLATES.policies["json.dumps_kwargs"] = {"separators": (",", ":")}
_PARTS: Any = _TEMPLATES.get_template("parts.html.jinja").module


@dataclass(frozen=True)
class Cell:
    """One cell of a table: a text or a part, and what it is sorted by."""

    content: Any
    value: float | None = None
    look: str = ""


def text(value: object) -> Cell:
    """A cell of plain text."""
    return Cell(str(value))


def name(value: str) -> Cell:
    """A cell of a short text that stays on one line."""
    return Cell(value, look="name")


def number(value: float | None, form: str | None = None) -> Cell:
    """A cell of one number, see `digits`; None: nothing to show, sorted below all numbers."""
    if value is None:
        return Cell(_NONE, -1e300, "number")
    return Cell(digits(value) if form is None else format(value, form), value, "number")


def digits(value: float) -> str:
    """Three digits that say something and never an exponent: 0.00123, 0.457, 12.3, 12,345."""
    if value == 0:
        return "0"
    places = _DIGITS - 1 - math.floor(math.log10(abs(value)))
    return f"{value:,.{min(max(places, 0), _PLACES)}f}"


def joined(*parts: Any) -> Any:
    """Texts and parts, one after the other, as one part."""
    return _PARTS.joined(parts)


def lines(*parts: Any) -> Any:
    """Texts and parts, one below the other, as one part."""
    return _PARTS.lines(parts)


def code(value: str) -> Any:
    """A text in the letters of code."""
    return _PARTS.code(value)


def note(value: Any) -> Any:
    """A paragraph; a text may be broken into lines anywhere."""
    return _PARTS.note(" ".join(value.split()) if isinstance(value, str) else value)


def heading(value: str) -> Any:
    """A heading within a section."""
    return _PARTS.heading(value)


def table(
    caption: str, heads: Sequence[str], rows: Iterable[Sequence[Cell]], *, sortable: bool = False, split: bool = False
) -> Any:
    """A table. ``split`` draws a line where the first cell changes."""
    return _PARTS.table(caption, heads, list(rows), sortable, split)


def percent(point: OperatingPoint) -> Cell:
    """Accuracy with its interval."""
    return _share(Accuracy(point.accuracy, point.accuracy_interval))


def further(point: OperatingPoint, metrics: Sequence[str]) -> list[Cell]:
    """The same by each of these metrics, as far as they have scored it."""
    return [_share(point.further[name]) if name in point.further else number(None) for name in metrics]


def _share(one: Accuracy) -> Cell:
    low, high = one.accuracy_interval
    shown = f"{one.accuracy:.1%} [{low * _POINTS:.1f}, {high * _POINTS:.1f}]"
    return Cell(shown, one.accuracy, "number")


def sampler(point: OperatingPoint) -> Any:
    """The sampler as a part."""
    return code(label(point.setting))


# ------------------------------------------------------------------------------------------------------------- budgets

_BUDGET_HEADS = ("task", "regime", "NFE budget", "best sampler")
_BESIDE = ("NFE", "against the second best", "best heuristic at any block length")
_ACCURACY = "accuracy [95 %]"


def budget_heads(metrics: Sequence[str]) -> list[str]:
    """Of the first table. ``metrics`` are those beside the one that decides."""
    return [*_BUDGET_HEADS, _ACCURACY, *(f"{name} [95 %]" for name in metrics), *_BESIDE]


def budget_cells(row: BudgetRow, metrics: Sequence[str]) -> list[Cell]:
    """One line of the first table."""
    share = f"L/{row.share.denominator}" if row.share.denominator > 1 else "L"
    budget = Cell(f"{row.budget:g} ({share})", row.budget, "number")
    start = [Cell(row.group.title, None, "first"), name(row.regime), budget]
    if row.best is None:
        empty = [number(None)] * (2 + len(metrics))
        return [*start, Cell("none that cheap", look="sampler"), *empty, Cell(_NONE), _heuristic(row)]
    second = _NONE if row.second is None else verdict(row.against_second, sampler(row.second))
    best = [
        Cell(sampler(row.best), look="sampler"),
        percent(row.best),
        *further(row.best, metrics),
        number(row.best.nfe_mean, ".1f"),
    ]
    return [*start, *best, Cell(second), _heuristic(row)]


def _heuristic(row: BudgetRow) -> Cell:
    if row.heuristic is None:
        return Cell("no heuristic that cheap")
    if row.best is not None and row.best.setting == row.heuristic.setting:
        return Cell("the best sampler itself")
    point = row.heuristic
    where = f", {regime(point.setting)}: {percent(point).content} at {point.nfe_mean:.1f} NFE"
    shown = joined(sampler(point), where)
    if row.best is None:
        return Cell(shown)
    return Cell(lines(shown, joined("best sampler is ", verdict(row.against_heuristic, "it"))))


def verdict(comparison: Comparison | None, other: Any) -> Any:
    """ "better than X: +3.2 points [1.0, 5.4], p = 0.012"; ``other`` is a text or a part."""
    if comparison is None:
        return joined("not compared with ", other, ": no common prompts")
    low, high = (bound * _POINTS for bound in comparison.interval)
    numbers = f"{comparison.difference * _POINTS:+.1f} points [{low:+.1f}, {high:+.1f}]"
    chance = "p < 0.001" if comparison.p_corrected < 1e-3 else f"p = {comparison.p_corrected:.3f}"
    look = {"better": "good", "worse": "bad"}.get(comparison.verdict, "")
    words = _PARTS.span(comparison.verdict, look)
    than = " than " if look else " from "
    return joined(words, than, other, f": {numbers}, {chance}, n = {comparison.prompts}")


# ---------------------------------------------------------------------------------------------------------- full table

_POINT_HEADS = (
    "NFE, mean",
    "median, 95 % below",
    "tokens/NFE to EOS, raw",
    "s/answer",
    "denoiser, sampler, rest in %",
    "tokens/s",
    "Pareto by NFE",
    "by seconds",
)
_DRAWN_HEADS = ("majority", "pass@k")
_SECONDS = ("denoiser", "sampler", "rest")


def point_heads(metrics: Sequence[str], *, drawn: bool) -> list[str]:
    """Of the full table. ``metrics`` are those beside the one that decides; ``drawn``: several answers were drawn."""
    heads = ["task", "regime", "sampler", _ACCURACY, *(f"{name} [95 %]" for name in metrics), *_POINT_HEADS]
    return [*heads, *_DRAWN_HEADS] if drawn else heads


def point_cells(
    title: str, point: OperatingPoint, metrics: Sequence[str], pareto: Sequence[str], *, drawn: bool
) -> list[Cell]:
    """One line of the full table. ``pareto`` says for each axis what Pareto set the point is in."""
    seconds = point.seconds_per_sequence
    cells = [
        text(title),
        name(regime(point.setting)),
        Cell(sampler(point), look="sampler"),
        percent(point),
        *further(point, metrics),
        number(point.nfe_mean, ".1f"),
        _two(point.nfe_p50, point.nfe_p95, "g"),
        _two(point.tokens_per_forward_to_eos, point.tokens_per_forward, ".2f"),
        number(seconds.get("total")),
        _split(seconds),
        number(point.tokens_per_second),
        *map(text, pareto),
    ]
    if drawn:
        shares = ", ".join(f"@{k} {share:.1%}" for k, share in point.pass_at_k.items())
        majority = number(None) if point.majority is None else Cell(f"{point.majority:.1%}", point.majority, "number")
        cells += [majority, text(shares or _NONE)]
    return cells


def _two(first: float, second: float, form: str) -> Cell:
    """Two numbers, sorted by the first."""
    return Cell(f"{first:{form}}, {second:{form}}", first, "number")


def _split(seconds: Mapping[str, float]) -> Cell:
    """Where the time of an answer goes."""
    total = seconds.get("total")
    if not total or not all(part in seconds for part in _SECONDS):
        return number(None)
    shares = [seconds[part] / total for part in _SECONDS]
    return Cell(", ".join(f"{100 * share:.0f}" for share in shares), shares[0], "number")


# ------------------------------------------------------------------------------------------------------------ the page


@dataclass(frozen=True)
class Section:
    """One section of the page; ``body`` is a part."""

    name: str  # in the address, after #
    title: str
    body: Any


def picture(light: bytes, dark: Picture, alternative: str) -> Any:
    """A PNG figure inside the page, in the colours that the reader prefers; its points say what they are."""
    day, night = (base64.b64encode(image).decode() for image in (light, dark.png))
    return _PARTS.picture(day, night, dark, alternative)


def headline(found: Headline) -> Any:
    """The sentence that a report begins with: "X keeps 95 % at 9 forward passes; one token per step needs 40"."""
    group, slow, keeps = found.group, found.slow, found.keeps
    whose = "accuracy of one token per step" if slow is not None else "best accuracy measured"
    if keeps is None:
        said = [
            "no sampler measured keeps ",
            f"{_KEPT} of the {whose} with fewer than {group.length} forward passes",
        ]
    else:
        where = f", {regime(keeps.setting)}, keeps {_KEPT} of the {whose} at {keeps.nfe_mean:.1f} forward passes"
        said = [sampler(keeps), where, f" ({keeps.accuracy:.1%})"]
    said.append(f"; one token per step needs {group.length}")
    if slow is not None:
        said += [" (", sampler(slow), f", {regime(slow.setting)}: {slow.accuracy:.1%})"]
    return _PARTS.lead(group.title, joined(*said, "."))


@dataclass(frozen=True)
class Head:
    """What stands above everything else."""

    title: str
    about: str
    leads: Any  # a part


def page(head: Head, sections: Sequence[Section], viewer_note: str, footer: str, data: dict[str, Any]) -> str:
    """The whole page, with the viewer behind the first section. ``data`` is what its script reads."""
    style, script = ((files("hf_unmask.report") / "assets" / file).read_text("utf-8") for file in _ASSETS)
    return _TEMPLATES.get_template("report.html.jinja").render(
        style=style,
        script=script,
        style_hash=_hash(style),
        script_hash=_hash(script),
        head=head,
        first=sections[0],
        others=sections[1:],
        viewer_note=viewer_note,
        footer=footer,
        data=data,
    )


def inert_json(data: dict[str, Any]) -> str:
    """JSON that cannot end the script element it stands in, as the page's template writes it."""
    return str(htmlsafe_json_dumps(data, **_TEMPLATES.policies["json.dumps_kwargs"]))


def _hash(source: str) -> str:
    """What lets exactly this script or style run under the page's content security policy."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()}'"
