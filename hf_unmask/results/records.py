"""The files an evaluation writes, and nothing else reads or writes them.

``samples.jsonl``: one `Sample` per line, appended as units finish, so a stopped run loses nothing.
``results.json``: one `OperatingPoint` per sampler, task, template and block length, derived from the samples alone.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

SCHEMA_VERSION = 2


@dataclass(frozen=True)
class Setting:
    """What is evaluated; everything that may change a result except prompt, seed and draw."""

    sampler: str  # spec
    model: str
    dataset: str  # name or path, or a fingerprint of rows that have neither
    task: str
    template: str
    metric: str
    max_new_tokens: int
    block_length: int | None  # None: full diffusion
    temperature: float = 0.0
    stop_at_eos: bool = False  # rows end at their first stop token, which changes the number of forward passes

    @property
    def key(self) -> str:
        """Stable text that identifies the setting in files."""
        return json.dumps(asdict(self), sort_keys=True)


@dataclass(frozen=True)
class Sample:
    """One generated answer."""

    setting: Setting
    prompt_id: int  # row of the dataset
    seed: int
    draw: int  # 0 .. draws - 1
    score: float  # of the metric, 1.0 correct
    nfe: int  # forward passes
    steps: int
    answer_length: int  # tokens before the first stop token
    tokens: list[int]  # the canvas
    step_map: list[int]  # step at which each canvas position opened, -1 never
    text: str
    #: what the sampler read when a position opened, None where it did not open; None as a whole if it reads none
    confidence: list[float | None] | None = None
    answer: str | None = None  # the answer in the text, in a common form, where the metric extracts one


@dataclass(frozen=True)
class Timing:
    """Wall time of one unit (a batch of prompts), split; shared by its samples."""

    setting: Setting
    seed: int
    prompt_ids: list[int]
    denoiser: float  # seconds inside the denoiser
    sampler: float  # seconds inside the sampler, its policy included
    rest: float  # seconds of the loop outside both


Line = TypeVar("Line", Sample, Timing)


@dataclass(frozen=True)
class OperatingPoint:
    """Statistics of one setting over prompts, seeds and draws."""

    setting: Setting
    prompts: int
    seeds: list[int]
    draws: int
    accuracy: float
    accuracy_interval: tuple[float, float]  # bootstrap over prompts, 95 %
    accuracy_per_seed: dict[str, float]
    nfe_mean: float
    nfe_p50: float
    nfe_p95: float
    tokens_per_forward: float  # all positions opened / forward passes
    tokens_per_forward_to_eos: float  # answer tokens only
    seconds_per_sequence: dict[str, float]  # denoiser, sampler, rest, total
    tokens_per_second: float  # answer tokens
    pass_at_k: dict[str, float] = field(default_factory=dict)  # "1", "2", ... where several answers were drawn
    majority: float | None = None  # accuracy of the most frequent answer
    environment: dict[str, Any] = field(default_factory=dict)  # versions, hardware, threads, commit, date


def read_results(path: Path) -> list[OperatingPoint]:
    """The records of a ``results.json``.

    Raises:
        ValueError: there is none, it is not such a file, of another schema version, or empty.
    """
    if not path.is_file():
        raise ValueError(f"no {path}; `hf-unmask evaluate --out {shlex.quote(str(path.parent))}` writes one")
    try:
        content = json.loads(path.read_text("utf-8"))
        if content["schema_version"] != SCHEMA_VERSION:
            raise ValueError(f"schema version {content['schema_version']}, this package reads {SCHEMA_VERSION}")
        found = [_point(record) for record in content["records"]]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} cannot be read as results: {error!r}") from error
    if not found:
        raise ValueError(f"{path} holds no operating points")
    return found


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
        ValueError: a line that holds no sample of this schema version.
    """
    return _iter_lines(path, Sample)


def read_samples(path: Path) -> list[Sample]:
    """As `iter_samples`, all of them."""
    return list(iter_samples(path))


def read_timings(path: Path) -> list[Timing]:
    """As `read_samples`, of timings."""
    return list(_iter_lines(path, Timing))


def _iter_lines(path: Path, kind: type[Line]) -> Iterator[Line]:
    if not path.exists():
        return
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith("\n") and not _parses(line):
                return
            try:
                row = json.loads(line)
                found = kind(**{**row, "setting": Setting(**row["setting"])})
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(f"{path}, line {number} cannot be read: {error!r}") from error
            yield found


def _parses(line: str) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


def _point(record: dict[str, Any]) -> OperatingPoint:
    low, high = record["accuracy_interval"]
    return OperatingPoint(**{**record, "setting": Setting(**record["setting"]), "accuracy_interval": (low, high)})
