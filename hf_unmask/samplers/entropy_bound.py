"""The entropy-bounded rule."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from hf_unmask.denoisers.values import require
from hf_unmask.generation.step import Needs, Noise, Selection, State, Step
from hf_unmask.generation.ties import descending
from hf_unmask.samplers.base import Sampler


@dataclass(frozen=True)
class EntropyBoundSampler(Sampler):
    """Open the k positions of lowest entropy, largest k with (sum of entropies) - (largest of them) <= gamma, k >= 1.

    The left side, in nats, bounds what the k tokens tell about each other: a small one allows opening them together.

    Source: EB-Sampler, https://arxiv.org/abs/2505.24857. The mask is that of ``EntropyBoundSampler.accept_canvas`` of
    transformers' DiffusionGemma on the masked positions; open tokens are never renoised here.
    """

    name: ClassVar[str] = "entropy_bound"
    gamma: float = 0.1

    def __post_init__(self) -> None:
        require("gamma", self.gamma, at_least=0.0)

    @property
    def needs(self) -> Needs:
        return Needs.of("entropy")

    def select(self, step: Step, state: State, noise: Noise) -> Selection:
        del noise
        entropy = step.entropy.masked_fill(~step.eligible, math.inf)
        order = descending(-entropy)
        ranked = entropy.gather(-1, order)
        # In ascending order the largest of the first k is the k-th, so the first always passes. Ineligible ones give
        # inf - inf, which never does.
        passed = ranked.cumsum(-1) - ranked <= self.gamma
        chosen = torch.zeros_like(step.eligible).scatter(-1, order, passed)
        return Selection(chosen, state)
