"""Top-2 probability margin."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from hf_unmask.generation.step import Needs, Noise, Step
from hf_unmask.samplers.ranked import RankedSampler


@dataclass(frozen=True)
class MarginSampler(RankedSampler):
    """Open the ``k`` eligible positions with the largest gap between the two most probable tokens.

    ``k`` positions per step, or with ``steps_per_block`` the row's share of its block: ceil(left / steps left).

    Source: https://arxiv.org/abs/2502.06768 (top-k probability margin); ``topk_margin`` in
    https://github.com/DreamLM/Dream, whose quota is an average over the batch. Here it belongs to the row.
    """

    name: ClassVar[str] = "margin"

    @property
    def needs(self) -> Needs:
        return Needs.of("margin")

    def score(self, step: Step, noise: Noise) -> Tensor:
        del noise
        return step.margin
