"""CreditDecoding: tokens that stay on top earn credit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from hf_unmask.denoisers.values import require
from hf_unmask.generation.step import Needs, Noise, Selection, State, Step
from hf_unmask.generation.ties import first_largest
from hf_unmask.samplers.base import Sampler, at_least_one


@dataclass(frozen=True)
class CreditSampler(Sampler):
    """Threshold rule on probabilities that are raised for tokens which led in earlier steps of the block.

    Per position and step: C <- beta * C; C[top token] += p_top ** gamma; fused = softmax(log p + alpha * log(C + 1)).
    Positions whose largest fused probability is >= threshold open, and always the largest of the row, with the fused
    argmax as their token. That choice is greedy even where the proposal is a random draw. Credit starts afresh in
    every block.

    State: credit [B, W, V].

    Source: CreditDecoding, https://arxiv.org/abs/2510.06133, defaults of its dInfer implementation.
    """

    name: ClassVar[str] = "credit"
    alpha: float = 0.7
    beta: float = 0.8
    gamma: float = 0.2
    threshold: float = 0.9

    def __post_init__(self) -> None:
        require("alpha", self.alpha, at_least=0.0)
        require("beta", self.beta, at_least=0.0, at_most=1.0)
        require("gamma", self.gamma, at_least=0.0)
        require("threshold", self.threshold, at_least=0.0, at_most=1.0)

    @property
    def needs(self) -> Needs:
        return Needs.of("probs")

    def select(self, step: Step, state: State, noise: Noise) -> Selection:
        del noise
        fresh = (step.block_steps == 0)[:, None, None]
        credit = torch.zeros_like(step.probs) if state is None else (self.beta * state).masked_fill(fresh, 0.0)
        leader = first_largest(step.probs)[..., None]
        credit = credit.scatter_add(-1, leader, step.probs.gather(-1, leader) ** self.gamma)
        raised = step.probs * (credit + 1) ** self.alpha  # softmax(log p + alpha log(C + 1)) before its normalisation
        best = first_largest(raised)
        confidence = raised.gather(-1, best[..., None])[..., 0] / raised.sum(-1)
        opened = at_least_one(confidence >= self.threshold, step.eligible, by=confidence)
        return Selection(opened, credit, tokens=best)
