"""KLASS: stable and confident positions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hf_unmask.denoisers.values import require, require_int
from hf_unmask.generation.step import Needs, Noise, Selection, State, Step
from hf_unmask.samplers.base import Sampler, at_least_one


@dataclass(frozen=True)
class KLASSSampler(Sampler):
    """Open positions with confidence > tau whose KL(p_t || p_(t-1)) was < eps in each of the last n steps.

    A row in which none is open to that opens its most confident position. KL is in nats. The first step of a block
    has no step before it, hence no KL: a row starts afresh there, and nothing is stable before its step n + 1.

    State: (previous distributions [B, W, V], consecutive stable steps [B, W]).

    Source: KLASS, https://arxiv.org/abs/2511.05664, whose code forces a position in one row of a batch only; here
    every row has its own fallback, which opens one position.
    """

    name: ClassVar[str] = "klass"
    tau: float = 0.9
    eps: float = 0.01
    n: int = 2

    def __post_init__(self) -> None:
        require("tau", self.tau, at_least=0.0, at_most=1.0)
        require("eps", self.eps, above=0.0)
        require_int("n", self.n, at_least=1)

    @property
    def needs(self) -> Needs:
        return Needs.of("confidence", "probs")

    def select(self, step: Step, state: State, noise: Noise) -> Selection:
        del noise
        stable = self._stable_steps(step, state)
        chosen = (stable >= self.n) & (step.confidence > self.tau)
        opened = at_least_one(chosen, step.eligible, by=step.confidence)
        return Selection(opened, (step.probs, stable))

    def _stable_steps(self, step: Step, state: State) -> Tensor:
        """[B, W] long, how many of the latest steps in a row left the distribution (nearly) unchanged."""
        if state is None:
            return torch.zeros_like(step.proposal)
        previous, stable = state
        now = step.probs
        # xlogy makes 0 log 0 = 0, and a token that was impossible before an infinite divergence.
        divergence = (torch.xlogy(now, now) - torch.xlogy(now, previous)).sum(-1)
        known = (divergence < self.eps) & (step.block_steps > 0)[:, None]
        return torch.where(known, stable + 1, torch.zeros_like(stable))
