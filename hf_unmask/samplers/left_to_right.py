"""The order of an autoregressive model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from hf_unmask.generation.step import Needs, Noise, Step
from hf_unmask.samplers.ranked import RankedSampler


@dataclass(frozen=True)
class LeftToRightSampler(RankedSampler):
    """Open the ``k`` leftmost eligible positions.

    ``k`` positions per step, or with ``steps_per_block`` the row's share of its block: ceil(left / steps left).

    Source: the autoregressive order, a baseline in https://arxiv.org/abs/2502.06768.
    """

    name: ClassVar[str] = "left_to_right"

    @property
    def needs(self) -> Needs:
        return Needs.of()

    def score(self, step: Step, noise: Noise) -> Tensor:
        del noise
        return -step.index.float()
