"""The base of samplers that open a fixed number of positions per step: those of largest score."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from hf_unmask.generation.step import Noise, Selection, State, Step
from hf_unmask.samplers.base import Sampler, require_int, top


@dataclass(frozen=True)
class RankedSampler(Sampler):
    """Open the eligible positions of largest ``score``; ties: leftmost first. A subclass defines ``score``.

    ``k`` positions per step, or with ``steps_per_block`` the row's share of its block, ceil(eligible left / steps
    left). That is LLaDA's table (masks // steps, the remainder on the first steps) without having to keep it; the
    share is the row's own, never a batch average, and at least 1.
    """

    k: int = 1
    steps_per_block: int | None = None

    def __post_init__(self) -> None:
        for name, value in (("k", self.k), ("steps_per_block", self.steps_per_block)):
            if value is not None:
                require_int(name, value, at_least=1)
        if self.steps_per_block is not None and self.k != 1:
            raise ValueError(
                f"give either `k` or `steps_per_block`, got k={self.k} and steps_per_block={self.steps_per_block}"
            )

    def score(self, step: Step, noise: Noise) -> Tensor:
        """[B, W] float, the largest open first."""
        del step, noise
        raise TypeError(f"{type(self).__name__} must define `score(step, noise) -> Tensor`")

    def select(self, step: Step, state: State, noise: Noise) -> Selection:
        return Selection(top(self.score(step, noise), step.eligible, self._count(step)), state)

    def _count(self, step: Step) -> Tensor | int:
        """Positions each row opens now, an int or [B] long."""
        if self.steps_per_block is None:
            return self.k
        steps_left = (self.steps_per_block - step.block_steps).clamp(min=1)
        return ((step.eligible.sum(-1) + steps_left - 1) // steps_left).clamp(min=1)
