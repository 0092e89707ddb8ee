"""HTML of a report's tables. Every text that comes from files passes through `html.escape`."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

from hf_unmask.results.best_per_budget import BudgetRow
from hf_unmask.results.comparable import label, regime
from hf_unmask.results.records import OperatingPoint
from hf_unmask.results.statistics import Comparison

_POINTS = 100  # of accuracy
_NONE = "-"


@dataclass(frozen=True)
class Cell:
    """One cell of a table; ``value`` is what it is sorted by."""

    html: str
    value: float | None = None
    look: str = ""

    def __str__(self) -> str:
        value = "" if self.value is None else f' data-value="{self.value:.9g}"'
        look = f' class="{self.look}"' if self.look else ""
        return f"<td{look}{value}>{self.html}</td>"


def text(value: object) -> Cell:
    """A cell of plain text."""
    return Cell(escape(str(value)))


def name(value: str) -> Cell:
    """A cell of a short text that stays on one line."""
    return Cell(escape(value), look="name")


def number(value: float | None, form: str = ".3g") -> Cell:
    """A cell of one number; None: nothing to show, sorted below all numbers."""
    return Cell(_NONE if value is None else format(value, form), -1e300 if value is None else value, "number")


def table(
    caption: str, heads: Sequence[str], rows: Iterable[Sequence[Cell]], *, sortable: bool = False, split: bool = False
) -> str:
    """A table. ``split`` draws a line where the first cell changes."""
    lines, before = [], None
    for row in rows:
        opening = '<tr class="section">' if split and before not in (None, row[0].html) else "<tr>"
        before = row[0].html
        lines.append(f"{opening}{''.join(map(str, row))}</tr>")
    head = "".join(f'<th scope="col">{escape(title)}</th>' for title in heads)
    # a focusable box, so that the keyboard can scroll it
    box = f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(caption)}">'
    start = '<table class="sortable">' if sortable else "<table>"
    return (
        f"{box}{start}<caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead>"
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def percent(point: OperatingPoint) -> Cell:
    """Accuracy with its interval."""
    low, high = point.accuracy_interval
    shown = f"{point.accuracy:.1%} [{low * _POINTS:.1f}, {high * _POINTS:.1f}]"
    return Cell(shown, point.accuracy, "number")


def sampler(point: OperatingPoint) -> str:
    """The sampler as HTML."""
    return f"<code>{escape(label(point.setting))}</code>"


# ------------------------------------------------------------------------------------------------------------- budgets

BUDGET_HEADS = (
    "task",
    "regime",
    "NFE budget",
    "best sampler",
    "accuracy [95 %]",
    "NFE",
    "against the second best",
    "best heuristic at any block length",
)


def budget_cells(row: BudgetRow) -> list[Cell]:
    """One line of the first table."""
    share = f"L/{row.share.denominator}" if row.share.denominator > 1 else "L"
    budget = Cell(f"{row.budget:g} ({share})", row.budget, "number")
    start = [Cell(escape(row.group.title), None, "first"), name(row.regime), budget]
    if row.best is None:
        return [*start, Cell("none that cheap"), number(None), number(None), Cell(_NONE), _heuristic(row)]
    second = _NONE if row.second is None else verdict(row.against_second, sampler(row.second))
    best = [Cell(sampler(row.best)), percent(row.best), number(row.best.nfe_mean, ".1f")]
    return [*start, *best, Cell(second), _heuristic(row)]


def _heuristic(row: BudgetRow) -> Cell:
    if row.heuristic is None:
        return Cell("no heuristic that cheap")
    if row.best is not None and row.best.setting == row.heuristic.setting:
        return Cell("the best sampler itself")
    point = row.heuristic
    shown = f"{sampler(point)}, {escape(regime(point.setting))}: {percent(point).html} at {point.nfe_mean:.1f} NFE"
    if row.best is None:
        return Cell(shown)
    return Cell(f"{shown}<br>best sampler is {verdict(row.against_heuristic, 'it')}")


def verdict(comparison: Comparison | None, other: str) -> str:
    """ "better than X: +3.2 points [1.0, 5.4], p = 0.012"; ``other`` is HTML."""
    if comparison is None:
        return f"not compared with {other}: no common prompts"
    low, high = (bound * _POINTS for bound in comparison.interval)
    numbers = f"{comparison.difference * _POINTS:+.1f} points [{low:+.1f}, {high:+.1f}]"
    chance = "p &lt; 0.001" if comparison.p_corrected < 1e-3 else f"p = {comparison.p_corrected:.3f}"
    known = {"better": "than", "worse": "than"}
    look = {"better": "good", "worse": "bad"}.get(comparison.verdict, "")
    words = f'<span class="{look}">{comparison.verdict}</span>'
    return f"{words} {known.get(comparison.verdict, 'from')} {other}: {numbers}, {chance}, n = {comparison.prompts}"


# ---------------------------------------------------------------------------------------------------------- full table

POINT_HEADS = (
    "task",
    "regime",
    "sampler",
    "accuracy [95 %]",
    "NFE mean",
    "p50",
    "p95",
    "tokens/NFE to EOS",
    "tokens/NFE raw",
    "s/answer",
    "denoiser s",
    "sampler s",
    "rest s",
    "tokens/s",
    "Pareto, NFE",
    "Pareto, seconds",
    "majority",
    "pass@k",
)


def point_cells(title: str, point: OperatingPoint, pareto_nfe: str, pareto_seconds: str) -> list[Cell]:
    """One line of the full table."""
    seconds = point.seconds_per_sequence
    split = [number(seconds.get(part), ".4g") for part in ("total", "denoiser", "sampler", "rest")]
    majority = number(None) if point.majority is None else Cell(f"{point.majority:.1%}", point.majority, "number")
    drawn = ", ".join(f"@{k} {share:.1%}" for k, share in point.pass_at_k.items())
    return [
        name(title),
        name(regime(point.setting)),
        Cell(sampler(point)),
        percent(point),
        number(point.nfe_mean, ".2f"),
        number(point.nfe_p50, ".4g"),
        number(point.nfe_p95, ".4g"),
        number(point.tokens_per_forward_to_eos, ".2f"),
        number(point.tokens_per_forward, ".2f"),
        *split,
        number(point.tokens_per_second, ".4g"),
        text(pareto_nfe),
        text(pareto_seconds),
        majority,
        text(drawn or _NONE),
    ]


# ------------------------------------------------------------------------------------------------------------ the page


@dataclass(frozen=True)
class Section:
    """One part of the page; ``body`` is HTML."""

    name: str  # in the address, after #
    title: str
    body: str

    def __str__(self) -> str:
        return (
            f'<section id="{self.name}" aria-labelledby="{self.name}-title">'
            f'<h2 id="{self.name}-title">{escape(self.title)}</h2>{self.body}</section>'
        )


def picture(light: bytes, dark: bytes, alternative: str) -> str:
    """A PNG figure inside the page, in the colours that the reader prefers."""
    day, night = (f"data:image/png;base64,{base64.b64encode(image).decode()}" for image in (light, dark))
    return (
        f'<figure><picture><source media="(prefers-color-scheme: dark)" srcset="{night}">'
        f'<img src="{day}" alt="{escape(alternative)}"></picture></figure>'
    )


def page(summary: str, sections: Sequence[Section], viewer_note: str, footer: str, data: dict[str, Any]) -> str:
    """The whole page; all texts but ``data`` are HTML."""
    style, script = (_asset(file) for file in ("report.css", "report.js"))
    contents = [(section.name, section.title) for section in sections] + [("viewer", "Trajectories")]
    return Template(_asset("report.html.tmpl")).substitute(
        style=style,
        script=script,
        style_hash=_hash(style),
        script_hash=_hash(script),
        summary=summary,
        contents=" ".join(f'<a href="#{place}">{escape(title)}</a>' for place, title in contents),
        sections="\n".join(map(str, sections)),
        viewer_note=viewer_note,
        footer=footer,
        data=inert_json(data),
    )


def inert_json(data: dict[str, Any]) -> str:
    """JSON that cannot end the script element it stands in."""
    plain = json.dumps(data, separators=(",", ":"))
    return plain.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _asset(file: str) -> str:
    return (files("hf_unmask.report") / "assets" / file).read_text("utf-8")


def _hash(source: str) -> str:
    """What lets exactly this script or style run under the page's content security policy."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()}'"
