"""Reports of an evaluation: a table for pandas, frontier plots, Markdown and one page that explains itself.

They read ``results.json`` and ``samples.jsonl`` and nothing else, so they can be made again, anywhere, at any time.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hf_unmask.report.frontier_plots import write_frontier
from hf_unmask.report.html import Head, page
from hf_unmask.report.sections import leads, sections
from hf_unmask.results.comparable import Group, regime
from hf_unmask.results.folder import AXES, Contents, read_contents
from hf_unmask.results.foreign_text import csv_cell
from hf_unmask.results.headline import headline
from hf_unmask.results.records import OperatingPoint
from hf_unmask.results.summary_tables import tables
from hf_unmask.results.trajectories import Chosen, Decode, choose, payload

MAX_BYTES = 5_000_000  # of report.html


def write_report(folder: str | Path, *, tokenizer: Any = None, decode: Decode | None = None) -> list[Path]:
    """Write ``results.csv``, ``tables.md``, ``frontier-*.png``, ``frontier-*.svg`` and ``report.html`` into a folder.

    Args:
        folder: of an evaluation; holds ``results.json`` and ``samples.jsonl``.
        tokenizer: of the evaluated model, for the texts of tokens; without it they are shown as ids.
        decode: ids to text, instead of the tokenizer's own ``decode``.

    Returns:
        The files written.

    Raises:
        ValueError: the folder holds no results.
    """
    folder = Path(folder)
    contents = read_contents(folder)
    if decode is None and tokenizer is not None:
        decode = tokenizer.decode
    written = [write_csv(contents, folder / "results.csv"), folder / "tables.md"]
    written[-1].write_text(tables(contents), "utf-8")
    pictures: list[bytes] = []
    for group in contents.groups:
        paths = write_frontier(group, folder, contents.fronts(group))
        pictures.append(paths[0].read_bytes())
        written += paths
    target = folder / "report.html"
    target.write_text(html(contents, pictures, decode, getattr(tokenizer, "all_special_ids", ())), "utf-8")
    return [*written, target]


# ----------------------------------------------------------------------------------------------------------------- csv


def write_csv(contents: Contents, path: Path) -> Path:
    """One line per operating point, nested values spread over columns."""
    import pandas  # type: ignore[import-untyped]

    frame = pandas.DataFrame([_flat(point, contents) for point in contents.points])
    frame = frame.rename(columns=csv_cell).map(csv_cell)
    frame.to_csv(path, index=False, quoting=csv.QUOTE_NONNUMERIC)  # else other separators would end a cell
    return path


def _flat(point: OperatingPoint, contents: Contents) -> dict[str, Any]:
    values = asdict(point)
    low, high = values.pop("accuracy_interval")
    row: dict[str, Any] = {**values.pop("setting"), "regime": regime(point.setting)}
    row |= {"accuracy": values.pop("accuracy"), "accuracy_low": low, "accuracy_high": high}
    for name, one in values.pop("further").items():
        low, high = one["accuracy_interval"]
        by = f"accuracy_by_{name}"
        row |= {by: one["accuracy"], f"{by}_low": low, f"{by}_high": high}
    row |= {f"pareto_{axis}": contents.pareto[axis].get(point.setting.key, "") for axis in AXES}
    row["seeds"] = " ".join(map(str, values.pop("seeds")))
    nested = {"accuracy_per_seed": "accuracy_seed", "seconds_per_sequence": "seconds", "pass_at_k": "pass_at"}
    for name, prefix in {**nested, "environment": "environment"}.items():
        row |= {f"{prefix}_{key}": value for key, value in values.pop(name).items()}
    return row | values


# ---------------------------------------------------------------------------------------------------------------- page


def html(contents: Contents, pictures: Sequence[bytes], decode: Decode | None, special: Sequence[int]) -> str:
    """The page, at most `MAX_BYTES` long: trajectories fill what the rest leaves.

    ``pictures`` are the frontiers of the groups as PNG on a light ground.
    """
    parts = list(sections(contents, pictures))
    head = Head(_title(contents), _about(contents), leads(contents))
    room = MAX_BYTES
    while True:
        chosen = _choose(contents, room)
        data = payload(chosen, decode, special)
        made = page(head, parts, _viewer_note(chosen, decode), _footer(contents), data)
        excess = len(made.encode()) - MAX_BYTES
        if excess <= 0 or not any(part.samples for part in chosen):
            return made
        room -= excess


def _choose(contents: Contents, room: int) -> list[Chosen]:
    share = room // len(contents.groups)
    return [
        choose(group, contents.answers[group.identity], contents.front(group) | _opens(group), share)
        for group in contents.groups
    ]


def _opens(group: Group) -> set[str]:
    """Keys of what the viewer shows at first."""
    return {point.setting.key for point in headline(group).pair}


def _title(contents: Contents) -> str:
    settings = [point.setting for point in contents.points]
    models, tasks = (
        ", ".join(dict.fromkeys(values)) for values in zip(*((s.model, s.task) for s in settings), strict=True)
    )
    return f"{models} on {tasks}: samplers compared"


def _about(contents: Contents) -> str:
    """Model, data, date and commit, and how much was measured."""
    settings = [point.setting for point in contents.points]
    facts = {
        "model": sorted({setting.model for setting in settings}),
        "data": sorted({setting.dataset for setting in settings}),
        "date": _known(contents, "date", 10),
        "commit": _known(contents, "commit", 40),
    }
    named = "; ".join(f"{name} {', '.join(values)}" for name, values in facts.items() if values)
    return f"{named}. {_amount(contents)}"


def _known(contents: Contents, name: str, longest: int) -> list[str]:
    """What the environments say, as far as they do; a commit of 40 digits in short."""
    found = {str(value)[:longest] for point in contents.points if (value := point.environment.get(name)) is not None}
    return sorted(re.sub(r"^([0-9a-f]{10})[0-9a-f]{30}$", r"\1", value) for value in found)


def _amount(contents: Contents) -> str:
    prompts = sorted({point.prompts for point in contents.points})
    counted = str(prompts[0]) if len(prompts) == 1 else f"{prompts[0]} to {prompts[-1]}"
    answers = sum(found.trajectories for found in contents.answers.values())
    return (
        f"{len(contents.points)} operating points in {len(contents.groups)} "
        f"{'comparison' if len(contents.groups) == 1 else 'comparisons'}, {counted} prompts each, {answers} answers."
    )


def _viewer_note(chosen: Sequence[Chosen], decode: Decode | None) -> str:
    shown = sum(len(part.samples) for part in chosen)
    every = sum(part.answers.trajectories for part in chosen)
    ids = "" if decode is not None else " No tokenizer was at hand: tokens are shown as ids."
    return (
        f"{shown} of {every} stored trajectories are in this page: prompts by number, those that all samplers answered "
        f"first, the first seed and draw of each sampler.{ids}"
    )


def _footer(contents: Contents) -> str:
    environments = [point.environment for point in contents.points]
    if not any(environments):
        return "The results name no environment."
    shared = {key: value for key, value in environments[0].items() if all(e.get(key) == value for e in environments)}
    varying = sorted({key for environment in environments for key in environment} - shared.keys())
    facts = "; ".join(f"{key}: {_plain(value)}" for key, value in shared.items())
    also = f" Differs between points (see results.csv): {', '.join(varying)}." if varying else ""
    return f"{facts}.{also}"


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {item}" for key, item in value.items())
    return str(value)
