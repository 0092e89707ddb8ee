"""Entropy order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from hf_unmask.generation.step import Needs, Noise, Step
from hf_unmask.samplers.ranked import RankedSampler


@dataclass(frozen=True)
class EntropySampler(RankedSampler):
    """Open the ``k`` eligible positions of lowest entropy (nats).

    ``k`` positions per step, or with ``steps_per_block`` the row's share of its block: ceil(left / steps left).

    Source: ``alg="entropy"`` in https://github.com/DreamLM/Dream. Differences: the quota belongs to the row instead of
    being a batch average, it is never 0, and there is no ``alg_temp`` noise on the order.
    """

    name: ClassVar[str] = "entropy"

    @property
    def needs(self) -> Needs:
        return Needs.of("entropy")

    def score(self, step: Step, noise: Noise) -> Tensor:
        del noise
        return -step.entropy
