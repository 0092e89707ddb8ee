"""HTML tables of opening orders for a report; what they show is computed in `order`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hf_unmask.report import html
from hf_unmask.report.html import Cell
from hf_unmask.results import opening_order
from hf_unmask.results.comparable import FULL_DIFFUSION, Group
from hf_unmask.results.folder import PROMPTS
from hf_unmask.results.frontier import method_of
from hf_unmask.results.records import OperatingPoint, Sample
from hf_unmask.results.trajectories import Answers

_METHODS, _BLOCKS = 8, 4

ORDER_NOTE = f"""From the step maps of at most {PROMPTS} prompts, the first that all samplers answered, one
answer each; per regime the most accurate dial of each method, at most {_METHODS} methods. Correlation:
Spearman's, of the steps at which positions open, mean over the prompts in which it is defined."""


def order_tables(group: Group, answers: Answers) -> Iterator[Any]:
    """One table per regime in which something can be compared, each with its heading."""
    by_setting: dict[str, list[Sample]] = defaultdict(list)
    for samples in answers.kept.values():
        for sample in samples:
            by_setting[sample.setting.key].append(sample)
    for name in group.regimes:
        yield from _order_table(group, name, by_setting)


def _order_table(group: Group, name: str, by_setting: Mapping[str, Sequence[Sample]]) -> Iterator[Any]:
    """Nothing if nothing can be compared: no common prompts, or answers of unequal length."""
    points = _most_accurate(group.in_regime(name))
    maps = [opening_order.step_maps_by_prompt(by_setting.get(point.setting.key, ())) for point in points]
    common = sorted(set.intersection(*(set(found) for found in maps)))
    if not common or len({len(found[prompt]) for found in maps for prompt in common}) != 1:
        return
    maps = [{prompt: found[prompt] for prompt in common} for found in maps]
    block = points[0].setting.block_length
    if block is None or name == FULL_DIFFUSION:
        block = max(1, group.length // _BLOCKS)
    heads = [f"sampler ({len(common)} prompts)", "with right neighbour", f"steps per {block} positions"]
    heads += [f"correlation with {number}" for number in range(1, len(points))]
    rows = [_order_cells(number, points, maps, block) for number in range(len(points))]
    title = f"{group.title}, {name}"
    yield html.heading(title)
    yield html.table(f"Opening order: {title}", heads, rows)


def _most_accurate(points: Sequence[OperatingPoint]) -> list[OperatingPoint]:
    best: dict[str, OperatingPoint] = {}
    for point in sorted(points, key=lambda point: (-point.accuracy, point.nfe_mean)):
        best.setdefault(method_of(point.setting.sampler), point)
    return list(best.values())[:_METHODS]


def _order_cells(
    place: int, points: Sequence[OperatingPoint], maps: Sequence[Mapping[int, list[int]]], block: int
) -> list[Cell]:
    rows = list(maps[place].values())
    together = opening_order.opened_with_right_neighbour(rows)
    steps = ", ".join(f"{count:.1f}" for count in opening_order.nfe_per_block(rows, block))
    shown = Cell("-", look="number") if together is None else Cell(f"{together:.1%}", together, "number")
    correlations = [_correlation(maps[place], other) if i < place else Cell("") for i, other in enumerate(maps[:-1])]
    return [
        Cell(html.joined(f"{place + 1}. ", html.sampler(points[place])), look="sampler"),
        shown,
        html.text(steps),
        *correlations,
    ]


def _correlation(first: Mapping[int, list[int]], second: Mapping[int, list[int]]) -> Cell:
    found = opening_order.rank_correlation(first, second).whole
    if found is None:
        return html.number(None)
    low, high = found.interval
    return Cell(html.lines(f"{found.mean:.2f}", f"[{low:.2f}, {high:.2f}]"), found.mean, "number")
