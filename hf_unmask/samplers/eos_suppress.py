"""A wrapper that keeps stop tokens from opening ahead of the text before them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

from hf_unmask.generation.step import Needs, Noise, Selection, State, Step
from hf_unmask.samplers.base import Sampler, at_least_one
from hf_unmask.samplers.threshold import ThresholdSampler


@dataclass(frozen=True)
class EosSuppressSampler(Sampler):
    """Let ``inner`` choose, but not a stop token while an earlier masked position of the row proposes another token.

    A run of stop proposals directly behind a fully open prefix may therefore open in one step. The first masked
    position is never held back, so a row always goes on. Spec: ``eos_suppress(threshold:threshold=0.9)``.

    Whether a token is a stop token is judged by the proposal, at any temperature; tokens that the inner sampler
    writes instead (credit) are not looked at. Shares of a block (``steps_per_block``) count what may open, so held-back
    positions can make a block take more steps.

    Source: the idea of EOSER, https://github.com/yjyddq/EOSER-ASS-RL, which lowers the confidence of early stop
    tokens by degrees; here they wait.
    """

    name: ClassVar[str] = "eos_suppress"
    inner: Sampler = ThresholdSampler()

    def __post_init__(self) -> None:
        if not isinstance(self.inner, Sampler):
            raise ValueError(f"`inner` must be a sampler, got {self.inner!r}")

    @property
    def needs(self) -> Needs:
        return self.inner.needs

    @property
    def stochastic(self) -> bool:
        return self.inner.stochastic

    def init(self, rows: int, length: int, device: Any) -> State:
        return self.inner.init(rows, length, device)

    def check(self, denoiser: Any, block_length: int | None, canvas: int) -> None:
        self.inner.check(denoiser, block_length, canvas)

    def select(self, step: Step, state: State, noise: Noise) -> Selection:
        text = step.masked & step.valid & ~step.stop
        text_before = text.cumsum(-1) > 0
        allowed = at_least_one(~(step.stop & text_before), step.eligible, by=-step.index.float())
        return self.inner.select(replace(step, eligible=allowed), state, noise)

    def __str__(self) -> str:
        return f"{self.name}({self.inner})"
