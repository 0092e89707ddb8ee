"""Fast-dLLM's factor rule."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from hf_unmask.denoisers.values import require
from hf_unmask.generation.step import Needs, Noise, Selection, State, Step
from hf_unmask.generation.ties import descending
from hf_unmask.samplers.base import Sampler, at_least_one


@dataclass(frozen=True)
class FactorSampler(Sampler):
    """Open the n most confident positions, n as large as the n-th confidence >= 1 - factor / (n + 1) allows, n >= 1.

    The more tokens open together, the surer the least sure of them has to be.

    Source: Fast-dLLM, https://arxiv.org/abs/2505.22618. Widespread copies open one position too many when every
    position passes up to the last but one; this is the rule as written.
    """

    name: ClassVar[str] = "factor"
    factor: float = 1.0

    def __post_init__(self) -> None:
        require("factor", self.factor, above=0.0)

    @property
    def needs(self) -> Needs:
        return Needs.of("confidence")

    def select(self, step: Step, state: State, noise: Noise) -> Selection:
        del noise
        confidence = step.confidence.masked_fill(~step.eligible, -math.inf)
        order = descending(confidence)
        rank = torch.arange(1, order.shape[-1] + 1, device=order.device)
        # The bound grows with the rank while confidence falls, so what passes is a prefix.
        passed = confidence.gather(-1, order) >= 1 - self.factor / (rank + 1).to(confidence.dtype)
        chosen = torch.zeros_like(step.eligible).scatter(-1, order, passed)
        return Selection(at_least_one(chosen, step.eligible, by=step.confidence), state)
