"""Fast-dLLM's threshold rule."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from hf_unmask.denoisers.values import require, require_int
from hf_unmask.generation.step import Needs, Noise, Selection, State, Step
from hf_unmask.samplers.base import Sampler, at_least_one, top


@dataclass(frozen=True)
class ThresholdSampler(Sampler):
    """Open every position whose confidence is at least ``threshold``, and always the ``minimum`` most confident ones.

    Source: Fast-dLLM, https://arxiv.org/abs/2505.22618, whose comparison is ``>=`` (others use ``>``) and whose minimum
    is 1. Block diffusion models (LLaDA2, SDAR) take block length / steps per block instead.
    """

    name: ClassVar[str] = "threshold"
    threshold: float = 0.9
    minimum: int = 1

    def __post_init__(self) -> None:
        require("threshold", self.threshold, at_least=0.0, at_most=1.0)
        require_int("minimum", self.minimum, at_least=1)

    @property
    def needs(self) -> Needs:
        return Needs.of("confidence")

    def select(self, step: Step, state: State, noise: Noise) -> Selection:
        del noise
        passed = step.confidence >= self.threshold
        if self.minimum == 1:
            return Selection(at_least_one(passed, step.eligible, by=step.confidence), state)
        return Selection(passed & step.eligible | top(step.confidence, step.eligible, self.minimum), state)
