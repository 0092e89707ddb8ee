"""Fast-dLLM's threshold rule."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from hf_unmask.samplers.base import Sampler, at_least_one, require
from hf_unmask.step import Needs, Noise, Selection, State, Step


@dataclass(frozen=True)
class ThresholdSampler(Sampler):
    """Open every position whose confidence is at least ``threshold``, and always the most confident one.

    Source: Fast-dLLM, https://arxiv.org/abs/2505.22618, whose comparison is ``>=`` (others use ``>``).
    """

    name: ClassVar[str] = "threshold"
    threshold: float = 0.9

    def __post_init__(self) -> None:
        require("threshold", self.threshold, at_least=0.0, at_most=1.0)

    @property
    def needs(self) -> Needs:
        return Needs.of("confidence")

    def select(self, step: Step, state: State, noise: Noise) -> Selection:
        del noise
        passed = step.confidence >= self.threshold
        return Selection(at_least_one(passed, step.eligible, by=step.confidence), state)
