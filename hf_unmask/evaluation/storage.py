"""The folder of an evaluation: what makes it survive a crash at any moment.

``manifest.json``: what is evaluated. A folder belongs to one evaluation; another one is refused.
``samples.jsonl``, ``timings.jsonl``: lines are appended and flushed to disk as a unit finishes, samples first, so
that a unit whose timing is there is complete. Several processes write parts (``samples.part3.jsonl``) that are merged.
At start and end the files are brought into their canonical form: units that are not complete are dropped, lines
sorted by setting, seed, prompt and draw, duplicates removed. Every rewrite replaces a file whole or not at all.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from hf_unmask.evaluation.planning import Task, Unit
from hf_unmask.results.records import Sample, Timing, sample_line

SAMPLES, TIMINGS, RESULTS, MANIFEST = "samples", "timings", "results.json", "manifest.json"
Batch = tuple[int, int, int]  # number of the setting, seed, prompt id
Line = tuple[tuple[int, ...], Path, int]  # what to sort by, file, offset


class Store:
    """Reads and writes the folder for one process."""

    def __init__(self, folder: Path, tasks: Sequence[Task], part: int | None = None):
        self.folder = folder
        self.order = {task.setting.key: number for number, task in enumerate(tasks)}
        self.draws = [task.draws for task in tasks]
        self.suffix = "" if part is None else f".part{part}"

    def path(self, name: str) -> Path:
        """The merged file."""
        return self.folder / f"{name}.jsonl"

    def append(self, samples: Iterable[Sample], timing: Timing) -> None:
        """Put a finished unit on disk."""
        _append(self.folder / f"{SAMPLES}{self.suffix}.jsonl", "".join(map(sample_line, samples)))
        _append(self.folder / f"{TIMINGS}{self.suffix}.jsonl", sample_line(timing))

    def pending(self, units: Sequence[Unit]) -> list[Unit]:
        """The units that the merged files do not hold."""
        done = {key for key, _ in self._timings(self.path(TIMINGS))}
        return [unit for unit in units if self._key(unit) not in done]

    def merge(self) -> None:
        """Bring the files into their canonical form. One process at a time."""
        parts = sorted(self.folder.glob("*.part*.jsonl"))
        samples = [line for path in self._files(SAMPLES) for line in self._samples(path)]
        there = Counter(key[:3] for key in {key for key, _, _ in samples})
        finished: set[tuple[int, ...]] = set()
        timings: list[Line] = []
        for path in self._files(TIMINGS):
            for key, (offset, prompts) in self._timings(path):
                batch = {(key[0], key[1], prompt) for prompt in prompts}
                if all(there[one] == self.draws[key[0]] for one in batch):
                    finished |= batch
                    timings.append((key, path, offset))
        _rewrite(self.path(SAMPLES), [line for line in samples if line[0][:3] in finished])
        _rewrite(self.path(TIMINGS), timings)
        for path in parts:
            path.unlink()

    def _key(self, unit: Unit) -> Batch:
        return self.order[unit.task.setting.key], unit.seed, unit.problems[0].prompt_id

    def _files(self, name: str) -> list[Path]:
        return [path for path in (self.path(name), *sorted(self.folder.glob(f"{name}.part*.jsonl"))) if path.exists()]

    def _samples(self, path: Path) -> Iterator[Line]:
        for offset, row in _lines(path):
            key = (self._setting(row, path), row["seed"], row["prompt_id"], row["draw"])
            yield key, path, offset

    def _timings(self, path: Path) -> Iterator[tuple[Batch, tuple[int, list[int]]]]:
        for offset, row in _lines(path) if path.exists() else ():
            prompts = row["prompt_ids"]
            yield (self._setting(row, path), row["seed"], prompts[0]), (offset, prompts)

    def _setting(self, row: Mapping[str, Any], path: Path) -> int:
        key = json.dumps(row["setting"], sort_keys=True)
        if key not in self.order:
            raise ValueError(f"{path} holds a setting that its manifest does not: {key}")
        return self.order[key]


def check_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Write the manifest, or compare it with the one that is there.

    Raises:
        ValueError: the folder holds another evaluation, or results of none; the message says what differs.
    """
    path = folder / MANIFEST
    if not path.exists():
        if any(folder.glob("*.jsonl")):
            raise ValueError(f"{folder} holds .jsonl files but no {MANIFEST}: give a new folder")
        _replace(path, (json.dumps(manifest, indent=1, sort_keys=True) + "\n").encode())
        return
    try:
        there = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not a manifest ({error}): give a new folder") from error
    wanted = json.loads(json.dumps(manifest))
    different = [name for name in sorted(there.keys() | wanted.keys()) if there.get(name) != wanted.get(name)]
    if different:
        said = "; ".join(_difference(name, there.get(name), wanted.get(name)) for name in different)
        raise ValueError(f"{folder} holds another evaluation, give a new folder. What differs: {said}")


def _difference(name: str, there: Any, wanted: Any) -> str:
    """``name was A, is B``; of tables only the entries that differ, of settings only the fields."""
    if isinstance(there, dict) and isinstance(wanted, dict):
        keys = [key for key in sorted(there.keys() | wanted.keys()) if there.get(key) != wanted.get(key)]
        return "; ".join(_difference(f"{name} of {key}", there.get(key), wanted.get(key)) for key in keys)
    if name == "settings":
        return _difference(name, _values(there), _values(wanted)) or "settings combine the same values otherwise"
    return f"{name} was {there!r}, is {wanted!r}"


def _values(settings: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """What occurs in each field."""
    return {field: list(dict.fromkeys(one[field] for one in settings)) for field in settings[0]}


def _append(path: Path, text: str) -> None:
    with path.open("ab") as file:
        file.write(text.encode())
        file.flush()
        os.fsync(file.fileno())


def _lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Offset and content of every whole line; a last line that was cut off is left out."""
    offset = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                return
            try:
                yield offset, json.loads(line)
            except ValueError as error:
                raise ValueError(f"{path}, line {number} is damaged ({error})") from error
            offset += len(line)


def _rewrite(target: Path, lines: list[Line]) -> None:
    """Replace a file by these lines, sorted, one of each key. Holds one line in memory at a time."""
    first = {key: (path, offset) for key, path, offset in reversed(lines)}
    partial = target.with_suffix(".tmp")
    with ExitStack() as opened, partial.open("wb") as out:
        files = {path: opened.enter_context(path.open("rb")) for path in {path for path, _ in first.values()}}
        for key in sorted(first):
            path, offset = first[key]
            files[path].seek(offset)
            out.write(files[path].readline())
        out.flush()
        os.fsync(out.fileno())
    partial.replace(target)


def _replace(path: Path, content: bytes) -> None:
    partial = path.with_suffix(".tmp")
    with partial.open("wb") as out:
        out.write(content)
        out.flush()
        os.fsync(out.fileno())
    partial.replace(path)
