"""Random order, the training-time order of a masked diffusion model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from hf_unmask.generation.step import Needs, Noise, Step
from hf_unmask.samplers.ranked import RankedSampler


@dataclass(frozen=True)
class RandomSampler(RankedSampler):
    """Open ``k`` eligible positions drawn uniformly without replacement.

    ``k`` positions per step, or with ``steps_per_block`` the row's share of its block: ceil(left / steps left).

    Source: LLaDA's ``random`` remasking, https://arxiv.org/abs/2502.09992. The draw comes from the row's own
    noise, so that its result does not depend on its batch.
    """

    name: ClassVar[str] = "random"

    @property
    def needs(self) -> Needs:
        return Needs.of()

    @property
    def stochastic(self) -> bool:
        return True

    def score(self, step: Step, noise: Noise) -> Tensor:
        del step
        return noise.action
