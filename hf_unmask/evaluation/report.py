"""Reports of an evaluation: a table for pandas, frontier plots and one page that explains itself.

They read ``results.json`` and ``samples.jsonl`` and nothing else, so they can be made again, anywhere, at any time.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path
from typing import Any

from hf_unmask.evaluation import order, page
from hf_unmask.evaluation.budgets import Scores, budget_rows
from hf_unmask.evaluation.frontier import Axis, aup_of, hypervolume_of, method_of, pareto_front, plane
from hf_unmask.evaluation.groups import FULL_DIFFUSION, Group, Identity, groups, regime
from hf_unmask.evaluation.page import Cell, Section
from hf_unmask.evaluation.plots import dark_png, write_frontier
from hf_unmask.evaluation.records import OperatingPoint, Sample, read_results
from hf_unmask.evaluation.viewer import MAX_PROMPTS, Answers, Chosen, Decode, Reader, choose, payload

MAX_BYTES = 5_000_000  # of report.html
_FIGURES = 2_000_000  # characters of MAX_BYTES for plots; those that do not fit lie beside the page only
_ORDER_PROMPTS, _ORDER_METHODS, _ORDER_BLOCKS = 50, 8, 4
_AXES: tuple[Axis, ...] = ("nfe", "seconds")


@dataclass(frozen=True)
class Records:
    """What an evaluation left in its folder."""

    points: list[OperatingPoint]
    groups: list[Group]
    answers: dict[Identity, Answers]
    scores: Scores
    pareto: dict[Axis, dict[str, str]]  # by setting key: "regime", or "task" if best across all regimes too

    def front(self, group: Group, axis: Axis = "nfe") -> set[str]:
        """Keys of the settings that are in the Pareto set of their regime."""
        return {point.setting.key for point in group.points} & self.pareto[axis].keys()

    def fronts(self, group: Group) -> dict[Axis, set[str]]:
        """The same for both axes."""
        return {axis: self.front(group, axis) for axis in _AXES}


def write_report(folder: str | Path, *, tokenizer: Any = None, decode: Decode | None = None) -> list[Path]:
    """Write ``results.csv``, ``frontier-*.png``, ``frontier-*.svg`` and ``report.html`` into an evaluation's folder.

    Args:
        folder: holds ``results.json`` and ``samples.jsonl``.
        tokenizer: of the evaluated model, for the texts of tokens; without it they are shown as ids.
        decode: ids to text, instead of the tokenizer's own ``decode``.

    Returns:
        The files written.

    Raises:
        ValueError: the folder holds no results.
    """
    folder = Path(folder)
    records = read_records(folder)
    if decode is None and tokenizer is not None:
        decode = tokenizer.decode
    written = [write_csv(records, folder / "results.csv")]
    pictures: list[bytes] = []
    for group in records.groups:
        paths = write_frontier(group, folder, records.fronts(group))
        pictures.append(paths[0].read_bytes())
        written += paths
    target = folder / "report.html"
    target.write_text(html(records, pictures, decode, getattr(tokenizer, "all_special_ids", ())), "utf-8")
    return [*written, target]


def read_records(folder: Path) -> Records:
    """The records of a folder.

    Raises:
        ValueError: there are none.
    """
    path = folder / "results.json"
    if not path.is_file():
        raise ValueError(f"{folder} holds no results.json; `hf-unmask evaluate --out {folder}` writes one")
    points = read_results(path)
    if not points:
        raise ValueError(f"{path} holds no operating points")
    found = groups(points)
    pareto = {axis: _pareto(found, axis) for axis in _AXES}
    reader = Reader(folder / "samples.jsonl", found, limit=max(_ORDER_PROMPTS, MAX_PROMPTS))
    answers = {group.identity: reader.answers(group) for group in found}
    return Records(points, found, answers, reader.scores(), pareto)


def _pareto(found: Sequence[Group], axis: Axis) -> dict[str, str]:
    members: dict[str, str] = {}
    for group in found:
        for name in group.regimes:
            members |= dict.fromkeys(_front_keys(group.in_regime(name), axis), "regime")
        members |= dict.fromkeys(_front_keys(group.points, axis), "task")
    return members


def _front_keys(points: Sequence[OperatingPoint], axis: Axis) -> list[str]:
    measured = [point for point in points if axis == "nfe" or _seconds(point) is not None]
    return [measured[place].setting.key for place in pareto_front(plane(measured, axis))]


def _seconds(point: OperatingPoint) -> float | None:
    """Total seconds per answer; None where nothing was measured."""
    total = point.seconds_per_sequence.get("total")
    return total if total is not None and math.isfinite(total) else None


# ----------------------------------------------------------------------------------------------------------------- csv


def write_csv(records: Records, path: Path) -> Path:
    """One line per operating point, nested values spread over columns."""
    import pandas  # type: ignore[import-untyped]

    frame = pandas.DataFrame([_flat(point, records) for point in records.points])
    frame.to_csv(path, index=False)
    return path


def _flat(point: OperatingPoint, records: Records) -> dict[str, Any]:
    values = asdict(point)
    low, high = values.pop("accuracy_interval")
    row: dict[str, Any] = {**values.pop("setting"), "regime": regime(point.setting)}
    row |= {"accuracy": values.pop("accuracy"), "accuracy_low": low, "accuracy_high": high}
    row |= {f"pareto_{axis}": records.pareto[axis].get(point.setting.key, "") for axis in _AXES}
    row["seeds"] = " ".join(map(str, values.pop("seeds")))
    nested = {"accuracy_per_seed": "accuracy_seed", "seconds_per_sequence": "seconds", "pass_at_k": "pass_at"}
    for name, prefix in {**nested, "environment": "environment"}.items():
        row |= {f"{prefix}_{key}": value for key, value in values.pop(name).items()}
    return row | values


# ---------------------------------------------------------------------------------------------------------------- page


def html(records: Records, pictures: Sequence[bytes], decode: Decode | None, special: Sequence[int]) -> str:
    """The page, at most `MAX_BYTES` long: trajectories fill what the rest leaves.

    ``pictures`` are the frontiers of the groups as PNG on a light ground.
    """
    sections = list(_sections(records, pictures))
    room = MAX_BYTES
    while True:
        chosen = _choose(records, room)
        data = payload(chosen, decode, special)
        made = page.page(_summary(records), sections, _viewer_note(chosen, decode), _footer(records), data)
        excess = len(made.encode()) - MAX_BYTES
        if excess <= 0 or not any(part.samples for part in chosen):
            return made
        room -= excess


def _choose(records: Records, room: int) -> list[Chosen]:
    share = room // len(records.groups)
    return [choose(group, records.answers[group.identity], records.front(group), share) for group in records.groups]


def _sections(records: Records, pictures: Sequence[bytes]) -> Iterator[Section]:
    yield Section("budgets", "Best sampler at each budget", _budgets(records))
    yield Section("frontiers", "Accuracy against cost", _frontiers(records, pictures))
    yield Section("points", "All operating points", _points(records))
    yield Section("areas", "Areas", _areas(records))
    orders = "".join(_orders(group, records.answers[group.identity]) for group in records.groups)
    if orders:
        yield Section("orders", "Opening order", _ORDER_NOTE + orders)


_BUDGET_NOTE = """<p>L is the number of positions to fill; a budget is a limit on the mean number of forward passes
(NFE) per answer. The second best is the best of the other methods: another dial of the same sampler is no rival.
Differences are paired on the same prompts, with a 95 % bootstrap interval; the verdict follows the p-value, corrected
by Holm's method over all comparisons of this table. Best and second are chosen on the prompts they are compared on, so
small leads flatter the best. The last column asks what a heuristic reaches with the same budget if its block length is
free.</p>"""


def _budgets(records: Records) -> str:
    rows = [page.budget_cells(row) for row in budget_rows(records.groups, records.scores)]
    return _BUDGET_NOTE + page.table("Best sampler at each budget", page.BUDGET_HEADS, rows, split=True)


def _frontiers(records: Records, pictures: Sequence[bytes]) -> str:
    parts = ["<p>Bars are 95 % intervals of accuracy over prompts; a line joins the dials of one method.</p>"]
    room = _FIGURES
    for group, light in zip(records.groups, pictures, strict=True):
        alternative = f"{group.title}: accuracy against NFE and seconds; the table of all points has the numbers"
        figure = page.picture(light, dark_png(group, records.fronts(group)), alternative)
        room -= len(figure)
        beside = f"<p>{escape(group.title)}: see <code>frontier-{escape(group.slug)}.png</code>.</p>"
        parts.append(figure if room >= 0 else beside)
    return "".join(parts)


_POINTS_NOTE = """<p>Click a heading to sort. Pareto: no other point is at least as accurate and as cheap, and better
in one; "regime" among points of the same block length, "task" among all of them.</p>"""


def _points(records: Records) -> str:
    rows = [
        page.point_cells(group.title, point, *(records.pareto[axis].get(point.setting.key, "") for axis in _AXES))
        for group in records.groups
        for point in group.points
    ]
    return _POINTS_NOTE + page.table("All operating points", page.POINT_HEADS, rows, sortable=True)


# --------------------------------------------------------------------------------------------------------------- areas

_AREA_NOTE = """<p>Hypervolume: the area that a method's points dominate, up to the reference given with it (accuracy
0 and L forward passes, or the slowest point of the task in seconds); larger is better. AUP: accuracy under parallelism
by d3LLM's definition, over tokens per forward up to the end of the answer; it depends on the best rival of the task and
has no upper bound, which is why the hypervolume stands beside it.</p>"""
_AREA_HEADS = ("task", "regime", "method", "points", "hypervolume, NFE", "hypervolume, seconds", "AUP")


def _areas(records: Records) -> str:
    rows = [cells for group in records.groups for cells in _area_rows(group)]
    return _AREA_NOTE + page.table("Areas by method", _AREA_HEADS, rows, sortable=True)


def _area_rows(group: Group) -> Iterator[list[Cell]]:
    curves: dict[tuple[str, str], list[OperatingPoint]] = defaultdict(list)
    for point in group.points:
        curves[_curve(point)].append(point)
    # one call for all regimes: the measure weights by the best accuracy of any rival on the task
    aup = aup_of(group.points, lambda point: "\n".join(_curve(point)))
    slowest = max((seconds for point in group.points if (seconds := _seconds(point)) is not None), default=None)
    for (name, method), points in curves.items():
        volumes = [hypervolume_of(points)]
        if slowest is not None and all(_seconds(point) is not None for point in points):
            volumes.append(hypervolume_of(points, "seconds", (slowest, 0.0)))
        areas = [Cell(escape(str(volume)), volume.area, "number") for volume in volumes]
        yield [
            page.text(group.title),
            page.text(name),
            Cell(f"<code>{escape(method)}</code>"),
            page.number(len(points), "d"),
            *areas,
            *[page.number(None)] * (len(_AXES) - len(areas)),
            page.number(aup[f"{name}\n{method}"], ".4g"),
        ]


def _curve(point: OperatingPoint) -> tuple[str, str]:
    return regime(point.setting), method_of(point.setting.sampler)


# -------------------------------------------------------------------------------------------------------------- orders

_ORDER_NOTE = f"""<p>From the step maps of at most {_ORDER_PROMPTS} prompts, the first that all samplers answered, one
answer each; per regime the most accurate dial of each method, at most {_ORDER_METHODS} methods. Correlation:
Spearman's, of the steps at which positions open, mean over the prompts in which it is defined.</p>"""


def _orders(group: Group, answers: Answers) -> str:
    by_setting: dict[str, list[Sample]] = defaultdict(list)
    for samples in answers.kept.values():
        for sample in samples:
            by_setting[sample.setting.key].append(sample)
    return "".join(_order_table(group, name, by_setting) for name in group.regimes)


def _order_table(group: Group, name: str, by_setting: Mapping[str, Sequence[Sample]]) -> str:
    """Empty if nothing can be compared: no common prompts, or answers of unequal length."""
    points = _most_accurate(group.in_regime(name))
    maps = [order.step_maps_by_prompt(by_setting.get(point.setting.key, ())) for point in points]
    common = sorted(set.intersection(*(set(found) for found in maps)))
    if not common or len({len(found[prompt]) for found in maps for prompt in common}) != 1:
        return ""
    maps = [{prompt: found[prompt] for prompt in common} for found in maps]
    block = points[0].setting.block_length
    if block is None or name == FULL_DIFFUSION:
        block = max(1, group.length // _ORDER_BLOCKS)
    heads = [f"sampler ({len(common)} prompts)", "with right neighbour", f"steps per {block} positions"]
    heads += [f"correlation with {number}" for number in range(1, len(points) + 1)]
    rows = [_order_cells(number, points, maps, block) for number in range(len(points))]
    title = f"{group.title}, {name}"
    return f"<h3>{escape(title)}</h3>" + page.table(f"Opening order: {title}", heads, rows)


def _most_accurate(points: Sequence[OperatingPoint]) -> list[OperatingPoint]:
    best: dict[str, OperatingPoint] = {}
    for point in sorted(points, key=lambda point: (-point.accuracy, point.nfe_mean)):
        best.setdefault(method_of(point.setting.sampler), point)
    return list(best.values())[:_ORDER_METHODS]


def _order_cells(
    place: int, points: Sequence[OperatingPoint], maps: Sequence[Mapping[int, list[int]]], block: int
) -> list[Cell]:
    rows = list(maps[place].values())
    together = order.opened_with_right_neighbour(rows)
    steps = ", ".join(f"{count:.1f}" for count in order.nfe_per_block(rows, block))
    shown = Cell("-", look="number") if together is None else Cell(f"{together:.1%}", together, "number")
    correlations = [_correlation(maps[place], other) if i < place else Cell("") for i, other in enumerate(maps)]
    return [Cell(f"{place + 1}. {page.sampler(points[place])}"), shown, page.text(steps), *correlations]


def _correlation(first: Mapping[int, list[int]], second: Mapping[int, list[int]]) -> Cell:
    found = order.rank_correlation(first, second).whole
    if found is None:
        return page.number(None)
    low, high = found.interval
    return Cell(f"{found.mean:.2f} [{low:.2f}, {high:.2f}]", found.mean, "number")


# --------------------------------------------------------------------------------------------------------------- texts


def _summary(records: Records) -> str:
    models = sorted({point.setting.model for point in records.points})
    prompts = sorted({point.prompts for point in records.points})
    counted = str(prompts[0]) if len(prompts) == 1 else f"{prompts[0]} to {prompts[-1]}"
    answers = sum(found.trajectories for found in records.answers.values())
    return (
        f"{len(records.points)} operating points of {escape(', '.join(models))} on {len(records.groups)} "
        f"{'task' if len(records.groups) == 1 else 'tasks'}, {counted} prompts each, {answers} answers."
    )


def _viewer_note(chosen: Sequence[Chosen], decode: Decode | None) -> str:
    shown = sum(len(part.samples) for part in chosen)
    every = sum(part.answers.trajectories for part in chosen)
    ids = "" if decode is not None else " No tokenizer was at hand: tokens are shown as ids."
    return (
        f"{shown} of {every} stored trajectories are in this page: prompts by number, those that all samplers answered "
        f"first, the first seed and draw of each sampler.{ids}"
    )


def _footer(records: Records) -> str:
    environments = [point.environment for point in records.points]
    if not any(environments):
        return "The results name no environment."
    shared = {key: value for key, value in environments[0].items() if all(e.get(key) == value for e in environments)}
    varying = sorted({key for environment in environments for key in environment} - shared.keys())
    facts = "; ".join(f"{key}: {_plain(value)}" for key, value in shared.items())
    also = f" Differs between points (see results.csv): {', '.join(varying)}." if varying else ""
    return escape(f"{facts}.{also}")


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {item}" for key, item in value.items())
    return str(value)
