"""LLaDA's low-confidence remasking."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from hf_unmask.generation.step import Needs, Noise, Step
from hf_unmask.samplers.ranked import RankedSampler


@dataclass(frozen=True)
class ConfidenceSampler(RankedSampler):
    """Open the ``k`` eligible positions whose proposal is most probable.

    ``k`` positions per step, or with ``steps_per_block`` the row's share of its block: ceil(left / steps left).

    Source: LLaDA's ``low_confidence`` remasking, https://arxiv.org/abs/2502.09992. Its table of tokens per step is
    met exactly for a block that starts fully masked. Rows that end early take no further steps.
    """

    name: ClassVar[str] = "confidence"

    @property
    def needs(self) -> Needs:
        return Needs.of("confidence")

    def score(self, step: Step, noise: Noise) -> Tensor:
        del noise
        return step.confidence
