"""Data sets as plain rows: a prompt, an answer, a task, and what a metric needs."""

from __future__ import annotations

import hashlib
import json
import math
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from numbers import Real
from pathlib import Path
from typing import Any

from hf_unmask.denoisers.values import require_int
from hf_unmask.results.foreign_text import is_text, read_text
from hf_unmask.results.places import DATA, DATA_FILES, check_data_name, described, kinds
from hf_unmask.tiny import TASKS, held_out

_TINY = "tiny"
_SILENT = 50  # level of logging
_MOST_CONFIGS = 5  # of which an error names the splits
#: Names under which people keep what is called ``prompt`` and ``answer`` here.
_ELSEWHERE = {
    "prompt": ("question", "problem", "input", "instruction", "query", "text"),
    "answer": ("solution", "target", "output", "label", "response", "completion", "final_answer", "reference"),
}
_CONVERSATION = "messages"
_READERS = {".json": "from_json", ".csv": "from_csv", ".parquet": "from_parquet"}


@dataclass(frozen=True)
class Problem:
    """One row of a data set."""

    prompt_id: int  # number of the row in the data set, whatever part of it is used
    task: str
    prompt: str
    answer: str
    columns: Mapping[str, Any]  # all columns, for metrics
    turns: tuple[Mapping[str, str], ...] = ()  # of a conversation, before the prompt


def load_problems(
    dataset: Any, *, task: str | None = None, limit: int | None = None, columns: Mapping[str, str] | None = None
) -> list[Problem]:
    """The problems of a data set.

    Args:
        dataset: a ``datasets.Dataset``, a list of dicts, or text: ``tiny`` (all packaged validation problems),
            ``tiny:TASK`` or ``tiny:TASK:SPLIT``; a file (.jsonl, .json, .csv, .parquet); a folder, of such files or
            that ``save_to_disk`` wrote, or a repository of the Hub, with ``:SPLIT`` or ``:CONFIG:SPLIT`` behind it.
            A prompt may be a conversation, a list of ``{"role": ..., "content": ...}``, and so may a column
            ``messages`` in the place of prompt and answer, which is then the model's last turn. An answer may be a
            number.
        task: name for rows without a column ``task``.
        limit: at most so many problems per task, the first ones.
        columns: names in the data set for ``prompt``, ``answer`` and ``task``, e.g. {"prompt": "question"}.

    Raises:
        ValueError: no rows, a column that is missing or not text, or a name that is not understood.
    """
    if limit is not None:
        require_int("limit", limit, at_least=1)
    rows = _rows(dataset, columns or {})
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
        row: tuple[Any, ...] = (problem.prompt_id, problem.task, problem.prompt, problem.answer, dict(problem.columns))
        row += (list(problem.turns),) if problem.turns else ()
        digest.update(json.dumps(row, sort_keys=True, default=str).encode())
    return digest.hexdigest()[:16]


def _problem(number: int, row: Mapping[str, Any], task: str, columns: Mapping[str, str]) -> Problem:
    if not isinstance(row, Mapping):
        raise ValueError(f"row {number} of the data set must be a dict, got {row!r}")
    missing = [source for source in columns.values() if source not in row]
    if missing:
        raise ValueError(f"row {number} of the data set has no column {missing[0]!r}; it has {', '.join(row)}")
    values = dict(row) | {name: row[source] for name, source in columns.items()}
    turns = _take_conversation(values, number)
    if _is_number(values.get("answer")):
        values["answer"] = str(values["answer"])
    for name in ("prompt", "answer"):
        if not isinstance(values.get(name), str):
            raise ValueError(f"row {number} of the data set needs a text column {name!r}; {_instead(name, values)}")
    named = str(values.get("task") or task)
    for name, text in (("prompt", values["prompt"]), ("answer", values["answer"]), ("task", named)):
        if not is_text(text):
            raise ValueError(f"row {number} of the data set holds half a character in {name!r}, no UTF-8: {text!r}")
    return Problem(number, named, values["prompt"], values["answer"], values, turns)


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def _instead(name: str, values: Mapping[str, Any]) -> str:
    """What there is in the place of a column, and how to say that it is meant."""
    if name in values:
        return f"got {values[name]!r}"
    there = [str(one) for one in values]
    likely = next((one for one in _ELSEWHERE[name] if one in there), "COLUMN")
    return f"it has {', '.join(there)}: say which one it is with `columns`, e.g. {name}={likely}"


def _take_conversation(values: dict[str, Any], number: int) -> tuple[Mapping[str, str], ...]:
    """Put a conversation's last question in the place of the prompt, and the answer to it if it has one.

    Returns:
        The turns before.
    """
    source = "prompt" if "prompt" in values else _CONVERSATION
    turns = values.get(source)
    if not isinstance(turns, list):
        return ()
    said = [_turn(turn, f"row {number} of the data set", source) for turn in turns]
    if said and said[-1]["role"] == "assistant" and (source == _CONVERSATION or "answer" not in values):
        values.setdefault("answer", said.pop()["content"])
    if not said or said[-1]["role"] != "user":
        raise ValueError(f"row {number} of the data set: {source!r} must end in a turn of the user, got {turns[-1:]}")
    values["prompt"] = said.pop()["content"]
    return tuple(said)


def _turn(turn: Any, place: str, source: str) -> dict[str, str]:
    role, content = (turn.get(name) if isinstance(turn, Mapping) else None for name in ("role", "content"))
    if not isinstance(role, str) or not isinstance(content, str):
        raise ValueError(f"{place}: a turn in {source!r} must have a text role and content, got {turn!r}")
    return {"role": role, "content": content}


def _first(problems: list[Problem], limit: int | None) -> list[Problem]:
    taken: dict[str, int] = {}
    kept = []
    for problem in problems:
        taken[problem.task] = taken.get(problem.task, 0) + 1
        if limit is None or taken[problem.task] <= limit:
            kept.append(problem)
    return kept


def _rows(dataset: Any, columns: Mapping[str, str]) -> Iterable[Mapping[str, Any]]:
    if isinstance(dataset, Path):
        dataset = str(dataset)
    if not isinstance(dataset, str):
        return _one_split("`dataset`", dataset)
    if dataset.split(":")[0] == _TINY:
        return _packaged(dataset)
    check_data_name(dataset)
    path = Path(dataset)
    if path.suffix == ".jsonl" and path.is_file():
        return _json_lines(path)
    return _one_split(repr(dataset), _with_datasets(dataset, columns))


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
        raise ValueError(f"{name} holds several splits ({', '.join(map(str, rows))}): choose one, NAME:SPLIT")
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


def _with_datasets(name: str, columns: Mapping[str, str]) -> Any:
    import datasets  # type: ignore[import-untyped]

    path = Path(name)
    source, *rest = [name] if path.exists() else name.split(":")
    if path.suffix in _READERS and path.is_file():
        options: dict[str, Any] = {}
        if path.suffix != ".parquet":
            read_text(path)  # what the library says of another encoding names no file
        if path.suffix == ".csv":  # as they stand there: no 007 is 7, no answer None is missing
            options["converters"] = {columns.get(one, one): str for one in ("prompt", "answer", "task")}
            options |= {"keep_default_na": False, "na_values": [""]}
        load = partial(getattr(datasets.Dataset, _READERS[path.suffix]), name, **options)
    elif DATA in kinds(source):
        load = partial(_saved, source, rest)
    elif Path(source).is_file() or len(rest) > 2:
        forms = f"a file ({', '.join(DATA_FILES)}), or a folder or repository with :SPLIT or :CONFIG:SPLIT behind it"
        raise ValueError(f"no data set {name!r}; it can be {forms}")
    elif Path(source).is_dir() and not any(one.suffix in DATA_FILES for one in Path(source).rglob("*")):
        raise ValueError(f"the data set {name!r} cannot be loaded: the folder {described(source)}")
    elif not rest:
        raise ValueError(f"the data set {name!r} needs the split that is meant: {_choices(source)}")
    else:
        load = partial(datasets.load_dataset, source, rest[0] if len(rest) == 2 else None, split=rest[-1])
    try:
        with _quiet():
            return load()
    except Exception as error:  # of whatever library reads that form
        raise ValueError(f"the data set {name!r} cannot be loaded: {error.__cause__ or error}") from error


def _saved(folder: str, rest: list[str]) -> Any:
    """What ``save_to_disk`` wrote, of several splits the one that is named."""
    from datasets import load_from_disk

    rows = load_from_disk(folder)
    if not rest:
        return rows
    if not isinstance(rows, Mapping) or rest[-1] not in rows or len(rest) > 1:
        there = ", ".join(f"{folder}:{split}" for split in rows) if isinstance(rows, Mapping) else folder
        raise ValueError(f"no {':'.join(rest)!r} in it; there is {there}")
    return rows[rest[-1]]


def _choices(source: str) -> str:
    """What can be asked for of a folder or repository, as far as that can be found out."""
    import datasets

    try:
        with _quiet():
            configs = datasets.get_dataset_config_names(source)
            splits = {config: datasets.get_dataset_split_names(source, config) for config in configs[:_MOST_CONFIGS]}
    except Exception:  # of whatever library looks; the Hub may not answer
        return f"{source}:SPLIT or {source}:CONFIG:SPLIT"
    only = len(splits) == 1
    named = [
        f"{source}:{split}" if only else f"{source}:{config}:{split}" for config in splits for split in splits[config]
    ]
    return " or ".join(named) + (" and others" if len(configs) > len(splits) else "")


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
