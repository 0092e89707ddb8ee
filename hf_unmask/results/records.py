"""The files an evaluation writes, and nothing else reads or writes them.

``samples.jsonl``: one `Sample` per line, appended as units finish, so a stopped run loses nothing.
``results.json``: one `OperatingPoint` per sampler, task, template and block length, derived from the samples alone.

Whoever reads them may have got them from anybody: a field that is not what it must be, and a file that is not whole, is
a `ResultsError`.
"""

from __future__ import annotations

import json
import shlex
from codecs import BOM_UTF8
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, with_config

from hf_unmask.results.foreign_text import printable, shown

SCHEMA_VERSION = 2
_LONGEST = 400  # characters of what is said about a field
_NO_JSON = "Invalid JSON"  # begins pydantic's message

# What a file may hold: true is no number, "1" is no 1, numbers are finite, nobody else's fields.
_STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, defer_build=True)
Integer = Annotated[int, Field(ge=-(2**63), lt=2**63)]
Count = Annotated[int, Field(ge=0, lt=2**31)]
Positive = Annotated[int, Field(ge=1, lt=2**31)]
StepNumber = Annotated[int, Field(ge=-1, lt=2**31)]
Number = Annotated[float, Field(ge=-1e15, le=1e15)]
Amount = Annotated[float, Field(ge=0, le=1e15)]  # of seconds, forward passes, tokens
Fact = str | Integer | float | bool | None


class ResultsError(ValueError):
    """A file of an evaluation that is not what it must be. ``line`` counts from 1; None: the file as a whole."""

    def __init__(self, path: Path, line: int | None, reason: str) -> None:
        super().__init__(path, line, reason)  # kept in `args`, so that the error can be pickled
        self.path, self.line, self.reason = path, line, reason

    def __str__(self) -> str:
        if self.line is None:
            return f"{self.path} cannot be read as {self.path.stem}: {self.reason}"
        verb = "is damaged" if self.reason.startswith(_NO_JSON) else "cannot be read"
        return f"{self.path}, line {self.line} {verb}: {self.reason}"


@with_config(_STRICT)
@dataclass(frozen=True)
class Setting:
    """What is evaluated; everything that may change a result except prompt, seed and draw."""

    sampler: str  # spec
    model: str
    dataset: str  # name or path, or a fingerprint of rows that have neither
    task: str
    template: str
    metric: str  # the one that decides
    max_new_tokens: Positive
    block_length: Positive | None  # None: full diffusion
    temperature: Amount = 0.0
    stop_at_eos: bool = False  # rows end at their first stop token, which changes the number of forward passes

    @property
    def key(self) -> str:
        """Stable text that identifies the setting in files."""
        return json.dumps(asdict(self) | {"temperature": float(self.temperature)}, sort_keys=True)


@with_config(_STRICT)
@dataclass(frozen=True)
class Sample:
    """One generated answer."""

    setting: Setting
    prompt_id: Count  # row of the dataset
    seed: Integer
    draw: Count  # 0 .. draws - 1
    score: Number  # of the metric, 1.0 correct
    nfe: Count  # forward passes
    steps: Count
    answer_length: Count  # tokens before the first stop token
    tokens: list[Count]  # the canvas
    step_map: list[StepNumber]  # step at which each canvas position opened, -1 never
    text: str
    #: what the sampler read when a position opened, None where it did not open; None as a whole if it reads none
    confidence: list[Number | None] | None = None
    answer: str | None = None  # the answer in the text, in a common form, where the metric extracts one
    further: dict[str, Number] = field(default_factory=dict)  # scores of the metrics beside the first, by name


@with_config(_STRICT)
@dataclass(frozen=True)
class Timing:
    """Wall time of one unit (a batch of prompts), split; shared by its samples."""

    setting: Setting
    seed: Integer
    prompt_ids: list[Count]
    denoiser: Amount  # seconds inside the denoiser
    sampler: Amount  # seconds inside the sampler, its policy included
    rest: Amount  # seconds of the loop outside both


Line = TypeVar("Line", Sample, Timing)


@with_config(_STRICT)
@dataclass(frozen=True)
class Accuracy:
    """What `OperatingPoint` says of the metric that decides, of another one."""

    accuracy: Number
    accuracy_interval: tuple[Number, Number]  # bootstrap over prompts, 95 %


@with_config(_STRICT)
@dataclass(frozen=True)
class OperatingPoint:
    """Statistics of one setting over prompts, seeds and draws."""

    setting: Setting
    prompts: Positive
    seeds: list[Integer]
    draws: Positive
    accuracy: Number
    accuracy_interval: tuple[Number, Number]  # bootstrap over prompts, 95 %
    accuracy_per_seed: dict[str, Number]
    nfe_mean: Amount
    nfe_p50: Amount
    nfe_p95: Amount
    tokens_per_forward: Amount  # all positions opened / forward passes
    tokens_per_forward_to_eos: Amount  # answer tokens only
    seconds_per_sequence: dict[str, Amount]  # denoiser, sampler, rest, total
    tokens_per_second: Amount  # answer tokens
    pass_at_k: dict[str, Number] = field(default_factory=dict)  # "1", "2", ... where several answers were drawn
    majority: Number | None = None  # accuracy of the most frequent answer
    #: versions, hardware, threads, commit, date
    environment: dict[str, Fact | list[Fact] | dict[str, Fact]] = field(default_factory=dict)
    further: dict[str, Accuracy] = field(default_factory=dict)  # by the metrics beside the first, by name


@with_config(ConfigDict(defer_build=True))
@dataclass(frozen=True)
class _Version:
    """All that is read of a file of another version."""

    schema_version: Any


@with_config(_STRICT)
@dataclass(frozen=True)
class _Results:
    schema_version: Integer
    records: list[OperatingPoint]


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def read_results(path: Path) -> list[OperatingPoint]:
    """The records of a ``results.json``.

    Raises:
        ResultsError: it is not such a file, of another schema version, empty, or holds a setting twice.
        ValueError: there is none.
    """
    if not path.is_file():
        raise ValueError(f"no {path}; `hf-unmask evaluate --output {shlex.quote(str(path.parent))}` writes one")
    data = path.read_bytes().removeprefix(BOM_UTF8)
    try:
        version = _adapter(_Version).validate_json(data).schema_version
        if version != SCHEMA_VERSION:
            raise ValueError(
                f"it has schema version {printable(version, longest=40)}, this package reads {SCHEMA_VERSION}"
            )
        found: list[OperatingPoint] = _adapter(_Results).validate_json(data).records
        _check_settings(found)
    except ValueError as error:
        raise ResultsError(path, None, reason(error)) from error
    return found


def _check_settings(points: Sequence[OperatingPoint]) -> None:
    settings = [point.setting for point in points]
    if not settings:
        raise ValueError(f"it holds no operating points, records is {settings}")
    twice = next((one for place, one in enumerate(settings) if one in settings[:place]), None)
    if twice is not None:
        raise ValueError(f"it holds the setting {printable(twice.key, longest=_LONGEST)} twice")


def reason(error: ValueError) -> str:
    """Why a record was refused, on one line: of many reasons the first, with the field and what was found there."""
    if not isinstance(error, ValidationError):
        return str(error)
    errors = error.errors(include_url=False)
    first = errors[0]
    missing = [one["loc"] for one in errors if one["type"] == "missing" and one["loc"][:-1] == first["loc"][:-1]]
    if first["type"] == "missing":
        text = f"{_place(first['loc'][:-1])} lacks {', '.join(str(one[-1]) for one in missing)}"
    elif first["type"] == "json_invalid":
        text = first["msg"]
    else:
        text = f"{_place(first['loc'])}: {first['msg']}, got {shown(first['input'])}"
    return printable(text, longest=_LONGEST)


def _place(path: Sequence[str | int]) -> str:
    """Where something stands in a file: ``records[3].setting.task``."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).removeprefix(".") or "it"


def write_results(path: Path, points: Iterable[OperatingPoint]) -> None:
    """Write ``results.json`` whole or not at all."""
    content = {"schema_version": SCHEMA_VERSION, "records": [asdict(point) for point in points]}
    partial = path.with_suffix(".tmp")
    partial.write_text(json.dumps(content, indent=1) + "\n", "utf-8")
    partial.replace(path)


def comparable(point: OperatingPoint) -> dict[str, Any]:
    """A point without what the clock and the machine put into it: two runs of the same evaluation agree in the rest."""
    measured = ("seconds_per_sequence", "tokens_per_second", "environment")
    return {name: value for name, value in asdict(point).items() if name not in measured}


def sample_line(sample: Sample | Timing) -> str:
    """One line of ``samples.jsonl`` (or ``timings.jsonl``), newline included."""
    return json.dumps(asdict(sample)) + "\n"


def iter_samples(path: Path) -> Iterator[Sample]:
    """The samples of a file, one at a time, for files larger than memory; none if there is no file.

    A last line that was cut off by a crash is left out.

    Raises:
        ResultsError: a line that holds no sample of this schema version.
    """
    return (sample for _, _, sample in _iter_lines(path, Sample))


def read_samples(path: Path) -> list[Sample]:
    """As `iter_samples`, all of them."""
    return list(iter_samples(path))


def read_timings(path: Path) -> list[Timing]:
    """As `read_samples`, of timings."""
    return [timing for _, _, timing in _iter_lines(path, Timing)]


def whole_lines(path: Path, kind: type[Line]) -> Iterator[tuple[int, int, Line]]:
    """Number from 1, offset in bytes and content of every line that has an end; errors as in `iter_samples`."""
    return _iter_lines(path, kind, unfinished=False)


def _iter_lines(path: Path, kind: type[Line], unfinished: bool = True) -> Iterator[tuple[int, int, Line]]:
    """``unfinished``: a last line without an end counts if nothing else is missing."""
    if not path.exists():
        return
    if not path.is_file():
        raise ResultsError(path, None, "it is no file")
    key: Any = kind  # a dataclass, whose class can be hashed whatever its values can
    adapter: TypeAdapter[Line] = _adapter(key)
    offset = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n") and not (unfinished and _parses(line)):
                return  # a crash cut it off
            try:
                found = adapter.validate_json(line.removeprefix(BOM_UTF8))
                _check_lengths(found)
            except ValueError as error:
                raise ResultsError(path, number, reason(error)) from error
            yield number, offset, found
            offset += len(line)


def _parses(line: bytes) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def _check_lengths(row: Sample | Timing) -> None:
    """What one field says about another."""
    if isinstance(row, Timing):
        if not row.prompt_ids:
            raise ValueError(f"prompt_ids must name prompts, got {row.prompt_ids}")
        return
    lengths = {len(row.tokens), len(row.step_map), len(row.tokens if row.confidence is None else row.confidence)}
    if len(lengths) > 1 or not row.tokens:
        raise ValueError(f"tokens, step_map and confidence must have one length, got {sorted(lengths)}")
    if max(row.step_map) >= max(row.steps, 1):
        raise ValueError(f"step_map names step {max(row.step_map)}, but steps is {row.steps}")
