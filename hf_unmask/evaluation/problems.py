"""Data sets as plain rows: a prompt, an answer, a task, and what a metric needs."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from hf_unmask.denoisers.values import require_int
from hf_unmask.results.foreign_text import is_text, read_text
from hf_unmask.tiny import TASKS, held_out

_TINY = "tiny"
_SILENT = 50  # level of logging
_READERS = {".json": "from_json", ".csv": "from_csv", ".parquet": "from_parquet"}


@dataclass(frozen=True)
class Problem:
    """One row of a data set."""

    prompt_id: int  # number of the row in the data set, whatever part of it is used
    task: str
    prompt: str
    answer: str
    columns: Mapping[str, Any]  # all columns, for metrics


def load_problems(
    dataset: Any, *, task: str | None = None, limit: int | None = None, columns: Mapping[str, str] | None = None
) -> list[Problem]:
    """The problems of a data set.

    Args:
        dataset: a ``datasets.Dataset``, a list of dicts, or text: ``tiny`` (all packaged validation problems),
            ``tiny:TASK`` or ``tiny:TASK:SPLIT``; a file (.jsonl, .json, .csv, .parquet) or a folder that
            ``save_to_disk`` wrote; or ``NAME:SPLIT`` or ``NAME:CONFIG:SPLIT`` of the Hub.
        task: name for rows without a column ``task``.
        limit: at most so many problems per task, the first ones.
        columns: names in the data set for ``prompt``, ``answer`` and ``task``, e.g. {"prompt": "question"}.

    Raises:
        ValueError: no rows, a column that is missing or not text, or a name that is not understood.
    """
    if limit is not None:
        require_int("limit", limit, at_least=1)
    rows = _rows(dataset)
    name = dataset if isinstance(dataset, str) else "default"
    problems = [_problem(number, row, task or Path(name).stem, columns or {}) for number, row in enumerate(rows)]
    if not problems:
        raise ValueError(f"the data set {name!r} has no rows")
    return _first(problems, limit)


def name_of(dataset: Any, problems: Iterable[Problem]) -> str:
    """What results call a data set: its name or path, or a fingerprint of rows that have neither."""
    return str(dataset) if isinstance(dataset, str | Path) else f"rows {fingerprint(problems)}"


def fingerprint(problems: Iterable[Problem]) -> str:
    """Hash of everything that is evaluated."""
    digest = hashlib.sha256()
    for problem in problems:
        row = (problem.prompt_id, problem.task, problem.prompt, problem.answer, dict(problem.columns))
        digest.update(json.dumps(row, sort_keys=True, default=str).encode())
    return digest.hexdigest()[:16]


def _problem(number: int, row: Mapping[str, Any], task: str, columns: Mapping[str, str]) -> Problem:
    if not isinstance(row, Mapping):
        raise ValueError(f"row {number} of the data set must be a dict, got {row!r}")
    missing = [source for source in columns.values() if source not in row]
    if missing:
        raise ValueError(f"row {number} of the data set has no column {missing[0]!r}; it has {', '.join(row)}")
    values = dict(row) | {name: row[source] for name, source in columns.items()}
    for name in ("prompt", "answer"):
        if not isinstance(values.get(name), str):
            have = f"it has {', '.join(map(str, row))}" if name not in values else f"got {values[name]!r}"
            raise ValueError(f"row {number} of the data set needs a text column {name!r}; {have}")
    named = str(values.get("task") or task)
    for name, text in (("prompt", values["prompt"]), ("answer", values["answer"]), ("task", named)):
        if not is_text(text):
            raise ValueError(f"row {number} of the data set holds half a character in {name!r}, no UTF-8: {text!r}")
    return Problem(number, named, values["prompt"], values["answer"], values)


def _first(problems: list[Problem], limit: int | None) -> list[Problem]:
    taken: dict[str, int] = {}
    kept = []
    for problem in problems:
        taken[problem.task] = taken.get(problem.task, 0) + 1
        if limit is None or taken[problem.task] <= limit:
            kept.append(problem)
    return kept


def _rows(dataset: Any) -> Iterable[Mapping[str, Any]]:
    if isinstance(dataset, Path):
        dataset = str(dataset)
    if not isinstance(dataset, str):
        return _one_split("`dataset`", dataset)
    if dataset.split(":")[0] == _TINY:
        return _packaged(dataset)
    path = Path(dataset)
    if path.suffix == ".jsonl" and path.is_file():
        return _json_lines(path)
    return _one_split(repr(dataset), _with_datasets(dataset))


def _json_lines(path: Path) -> list[Any]:
    rows = []
    for number, line in enumerate(read_text(path).split("\n"), 1):
        try:
            rows += [json.loads(line)] if line.strip() else []
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path}, line {number} is not JSON: {error}") from error
    return rows


def _one_split(name: str, rows: Any) -> Iterable[Mapping[str, Any]]:
    if isinstance(rows, Mapping):
        raise ValueError(f"{name} holds several splits ({', '.join(map(str, rows))}): choose one")
    if not isinstance(rows, Iterable):
        raise ValueError(f"{name} must be a datasets.Dataset, a list of dicts or a name, got {rows!r}")
    return rows


def _packaged(name: str) -> list[dict[str, Any]]:
    _, task, split = (name.split(":") + ["", ""])[:3]
    if (task and task not in TASKS) or split not in ("", "validation", "test"):
        raise ValueError(f"no packaged problems {name!r}: write tiny, tiny:TASK or tiny:TASK:SPLIT, TASK of {TASKS}")
    wanted = [task] if task else list(TASKS)
    found = [problem for one in wanted for problem in held_out(one, "test" if split == "test" else "validation")]
    return [{"task": p.task, "prompt": p.prompt, "answer": p.answer, **p.metadata} for p in found]


def _with_datasets(name: str) -> Any:
    import datasets  # type: ignore[import-untyped]

    path = Path(name)
    repository, *rest = name.split(":")
    if path.suffix in _READERS and path.is_file():
        if path.suffix != ".parquet":
            read_text(path)  # what the library says of another encoding names no file
        load = partial(getattr(datasets.Dataset, _READERS[path.suffix]), name)
    elif path.is_dir():
        load = partial(datasets.load_from_disk, name)
    elif len(rest) in (1, 2):
        load = partial(datasets.load_dataset, repository, rest[0] if len(rest) == 2 else None, split=rest[-1])
    else:
        forms = f"a file ({', '.join(['.jsonl', *_READERS])}), a folder, or of the Hub NAME:SPLIT or NAME:CONFIG:SPLIT"
        raise ValueError(f"no data set {name!r}; it can be {forms}")
    try:
        with _quiet():
            return load()
    except Exception as error:  # of whatever library reads that form
        raise ValueError(f"the data set {name!r} cannot be loaded: {error.__cause__ or error}") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """What goes wrong is said once, by the error; no bars where nobody watches."""
    from datasets import utils

    level, bars = utils.logging.get_verbosity(), not utils.are_progress_bars_disabled()
    utils.logging.set_verbosity(_SILENT)
    if bars and not sys.stderr.isatty():
        utils.disable_progress_bars()
    try:
        yield
    finally:
        utils.logging.set_verbosity(level)
        if bars:
            utils.enable_progress_bars()
