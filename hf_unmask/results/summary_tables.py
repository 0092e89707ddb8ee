"""The tables of an evaluation as Markdown, for model cards and READMEs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import groupby

from hf_unmask.results.best_per_budget import BudgetRow
from hf_unmask.results.comparable import Group, label, regime
from hf_unmask.results.folder import Contents
from hf_unmask.results.frontier import best_under_budget, method_of, plane
from hf_unmask.results.markdown import code, plain, table
from hf_unmask.results.records import OperatingPoint
from hf_unmask.results.several_metrics import metric_names, percentages

_ANYWHERE = "best heuristic at any block length"
_NOTE = """Accuracy in %, in round brackets mean forward passes per answer (NFE), in square brackets the 95 % bootstrap
interval over prompts; it says nothing about other trainings. Accuracies by several metrics have a slash between them,
in the order of the title; the first one decides what is best, and the interval is its. A budget is a limit on the mean
NFE. Verdicts: paired on the same prompts, corrected by Holm's method."""


def tables(contents: Contents) -> str:
    """For each group `overview`, then one table per regime: every method's best dial within each budget."""
    parts = [_NOTE]
    for group in contents.groups:
        rows = [row for row in contents.budgets if row.group == group]
        parts += [f"## {plain(group.title)}", overview(group, rows)]
        parts += [_regime(group, name, list(own)) for name, own in groupby(rows, key=lambda row: row.regime)]
    # texts have no "<" left, code cannot do without; not every reader leaves HTML in code alone
    return ("\n\n".join(parts) + "\n").replace("<", "\\x3c")


def overview(group: Group, rows: Sequence[BudgetRow]) -> str:
    """The best sampler at each budget, regimes side by side and beside them the best heuristic of all.

    ``rows``: those of the group.
    """
    by_budget: dict[float, list[BudgetRow]] = defaultdict(list)
    for row in rows:
        by_budget[row.budget].append(row)
    lines = [
        [f"at most {budget:g} NFE", *(_named(row.best) for row in own), _named(own[0].heuristic, with_regime=True)]
        for budget, own in by_budget.items()
    ]
    return table([f"{_title(group)}: best of", *group.regimes, _ANYWHERE], lines)


def _regime(group: Group, name: str, rows: Sequence[BudgetRow]) -> str:
    dials: dict[str, list[OperatingPoint]] = defaultdict(list)
    for point in group.in_regime(name):
        dials[method_of(point.setting.sampler)].append(point)
    lines = []
    for method, points in dials.items():
        places = [best_under_budget(plane(points), row.budget) for row in rows]
        lines.append([code(method), *(_number(None if at is None else points[at]) for at in places)])
    lines += [
        ["**best in this regime**", *(_named(row.best) for row in rows)],
        [f"**{_ANYWHERE}**", *(_named(row.heuristic, with_regime=True) for row in rows)],
        ["the former is, against the latter", *map(_verdict, rows)],
    ]
    return table([f"{_title(group)}, {name}", *(f"at most {row.budget:g} NFE" for row in rows)], lines)


def _title(group: Group) -> str:
    names = metric_names(group.points)
    return plain(f"{group.title}, {names}" if names else group.title)


def _number(point: OperatingPoint | None) -> str:
    return "-" if point is None else f"{percentages(point)} ({point.nfe_mean:.1f})"


def _named(point: OperatingPoint | None, *, with_regime: bool = False) -> str:
    if point is None:
        return "-"
    low, high = point.accuracy_interval
    where = f", {regime(point.setting)}" if with_regime else ""
    return f"{_number(point)} [{100 * low:.1f}, {100 * high:.1f}] {code(label(point.setting))}{where}"


def _verdict(row: BudgetRow) -> str:
    if row.best is None:
        return "-"
    if row.heuristic is not None and row.best.setting == row.heuristic.setting:
        return "the same"
    return "not compared" if row.against_heuristic is None else row.against_heuristic.verdict
