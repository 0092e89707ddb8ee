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
from hf_unmask.results.foreign_text import printable, read_text, shown
from hf_unmask.results.records import ResultsError, Sample, Setting, Timing, sample_line, whole_lines

SAMPLES, TIMINGS, RESULTS, MANIFEST = "samples", "timings", "results.json", "manifest.json"
Batch = tuple[int, int, int]  # number of the setting, seed, prompt id
Line = tuple[tuple[int, ...], Path, int]  # what to sort by, file, offset


class Store:
    """Reads and writes the folder for one process. ``units`` are all that the evaluation consists of."""

    def __init__(self, folder: Path, tasks: Sequence[Task], units: Sequence[Unit], part: int | None = None):
        self.folder = folder
        self.order = {task.setting.key: number for number, task in enumerate(tasks)}
        self.draws = [task.draws for task in tasks]
        self.prompts = {self._key(unit): [problem.prompt_id for problem in unit.problems] for unit in units}
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
        for number, offset, sample in whole_lines(path, Sample):
            setting = self._setting(sample.setting, path, number)
            if sample.draw >= self.draws[setting]:
                raise ResultsError(path, number, f"draw is {sample.draw} of {self.draws[setting]}")
            yield (setting, sample.seed, sample.prompt_id, sample.draw), path, offset

    def _timings(self, path: Path) -> Iterator[tuple[Batch, tuple[int, list[int]]]]:
        for number, offset, timing in whole_lines(path, Timing):
            prompts = timing.prompt_ids
            key = self._setting(timing.setting, path, number), timing.seed, prompts[0]
            if self.prompts.get(key) != prompts:
                raise ResultsError(
                    path, number, f"seed {timing.seed} and prompt_ids {shown(prompts)} are no batch here"
                )
            yield key, (offset, prompts)

    def _setting(self, setting: Setting, path: Path, number: int) -> int:
        if setting.key not in self.order:
            raise ResultsError(path, number, f"its setting is none of the manifest: {printable(setting.key)}")
        return self.order[setting.key]


def check_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Write the manifest, or compare it with the one that is there.

    Raises:
        ResultsError: the manifest is damaged.
        ValueError: the folder holds another evaluation, or results of none; the message says what differs.
    """
    path = folder / MANIFEST
    if not path.exists():
        if any(folder.glob("*.jsonl")):
            raise ValueError(f"{folder} holds .jsonl files but no {MANIFEST}: give a new folder")
        _replace(path, (json.dumps(manifest, indent=1, sort_keys=True) + "\n").encode())
        return
    there = _read(path)
    wanted = json.loads(json.dumps(manifest))
    different = [name for name in sorted(there.keys() | wanted.keys()) if there.get(name) != wanted.get(name)]
    if different:
        said = "; ".join(_difference(name, there.get(name), wanted.get(name)) for name in different)
        raise ValueError(f"{folder} holds another evaluation, give a new folder. What differs in {MANIFEST}: {said}")


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise ResultsError(path, getattr(error, "lineno", None), f"{error}: give a new folder") from error
    if not isinstance(content, dict):
        raise ResultsError(path, None, f"it must hold an object, got {shown(content)}: give a new folder")
    return content


def _difference(name: str, there: Any, wanted: Any) -> str:
    """``name was A, is B``; of tables only the entries that differ, of settings only the fields."""
    if isinstance(there, dict) and isinstance(wanted, dict):
        keys = [key for key in sorted(there.keys() | wanted.keys()) if there.get(key) != wanted.get(key)]
        return "; ".join(_difference(f"{name} of {key}", there.get(key), wanted.get(key)) for key in keys)
    if name == "settings" and _are_settings(there):
        return _difference(name, _values(there), _values(wanted)) or "settings combine the same values otherwise"
    return f"{name} was {there!r}, is {wanted!r}"


def _are_settings(found: Any) -> bool:
    """Whether they can be compared field by field: a manifest may be damaged, or of another version."""
    if not isinstance(found, list) or not found or not all(isinstance(one, dict) for one in found):
        return False
    return all(one.keys() == found[0].keys() for one in found)


def _values(settings: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """What occurs in each field."""
    return {field: _different([one[field] for one in settings]) for field in settings[0]}


def _different(values: list[Any]) -> list[Any]:
    return [value for place, value in enumerate(values) if value not in values[:place]]


def _append(path: Path, text: str) -> None:
    with path.open("ab") as file:
        file.write(text.encode())
        file.flush()
        os.fsync(file.fileno())


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
