"""Where the time of a generation goes: denoiser, sampler, rest.

Two thin wrappers read the clock around the calls. On a CPU that is two clock readings per call, next to nothing. On
CUDA the device is synchronised at every reading, because kernels run on after a call has returned; that keeps kernels
of different parts from overlapping, so a timed run can be a little slower than an untimed one.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor

from hf_unmask.denoisers.adapter import Denoiser
from hf_unmask.denoisers.head import Prediction
from hf_unmask.generation.step import Needs, Noise, SamplerProtocol, Selection, State, Step


@dataclass
class Clock:
    """Seconds by part."""

    device: torch.device
    seconds: dict[str, float] = field(default_factory=lambda: {"denoiser": 0.0, "sampler": 0.0, "recording": 0.0})

    def now(self) -> float:
        """Seconds from an arbitrary start, once the device has nothing left to do."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def since(self, start: float) -> float:
        """Seconds since `now` said ``start``; none at all if the clock was set back meanwhile."""
        return max(self.now() - start, 0.0)

    @contextmanager
    def measure(self, part: str) -> Iterator[None]:
        """Add the time of the block to a part."""
        start = self.now()
        yield
        self.seconds[part] += self.since(start)

    def split(self, total: float) -> dict[str, float]:
        """Seconds of ``denoiser``, ``sampler`` and ``rest`` of a total that included the recording."""
        denoiser, sampler = self.seconds["denoiser"], self.seconds["sampler"]
        rest = max(total - denoiser - sampler - self.seconds["recording"], 0.0)
        return {"denoiser": denoiser, "sampler": sampler, "rest": rest}


@dataclass(frozen=True, eq=False)
class TimedDenoiser(Denoiser):
    """A denoiser whose forward passes are timed."""

    clock: Clock

    @classmethod
    def of(cls, denoiser: Denoiser, clock: Clock) -> TimedDenoiser:
        """The same adapter with a clock."""
        return cls(**{f.name: getattr(denoiser, f.name) for f in fields(Denoiser)}, clock=clock)

    def __call__(self, tokens: Tensor, attended: Tensor | None, positions: Tensor, **options: Any) -> Prediction:
        """As `Denoiser.__call__`."""
        with self.clock.measure("denoiser"):
            return super().__call__(tokens, attended, positions, **options)

    def project(self, states: Tensor) -> Tensor:
        """As `Denoiser.project`."""
        with self.clock.measure("denoiser"):
            return super().project(states)


class TimedSampler:
    """A sampler whose decisions are timed, and noted: which confidence it read where it opened.

    The notes are taken outside of the time that is reported.
    """

    def __init__(self, inner: SamplerProtocol, clock: Clock, rows: int, canvas: int):
        self.inner, self.clock = inner, clock
        reads = {"confidence", "top_probs"} & inner.needs.quantities
        #: [rows, canvas] float32, 0 where nothing opened; None if the sampler reads no confidence
        self.confidence = torch.zeros(rows, canvas, device=clock.device) if reads else None

    @property
    def needs(self) -> Needs:
        return self.inner.needs

    @property
    def may_stall(self) -> bool:
        return self.inner.may_stall

    def init(self, rows: int, length: int, device: Any) -> State:
        """The inner memory, and each row's number, which tells rows apart after others have left the batch."""
        with self.clock.measure("sampler"):
            return torch.arange(rows, device=device), self.inner.init(rows, length, device)

    def select(self, step: Step, state: State, noise: Noise) -> Selection:
        number, memory = state
        with self.clock.measure("sampler"):
            selection = self.inner.select(step, memory, noise)
        with self.clock.measure("recording"):
            self._note(number, step, selection)
        return replace(selection, state=(number, selection.state))

    def _note(self, number: Tensor, step: Step, selection: Selection) -> None:
        if self.confidence is None:
            return
        read = step.confidence if "confidence" in step.read else step.top_probs[..., 0]
        opened = torch.where(selection.open & step.valid, read, 0).float()
        # window positions beyond a row's end share an index with a real one; they add 0
        rows = torch.zeros_like(self.confidence[number]).scatter_add(1, step.index, opened)
        self.confidence.index_add_(0, number, rows)

    def __str__(self) -> str:
        return str(self.inner)
