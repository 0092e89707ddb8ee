"""Random order, the training-time order of a masked diffusion model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from hf_unmask.samplers.base import Sampler, quota, require_budget, top
from hf_unmask.step import Needs, Noise, Selection, State, Step


@dataclass(frozen=True)
class RandomSampler(Sampler):
    """Open ``k`` eligible positions drawn uniformly without replacement.

    ``k`` positions per step, or with ``steps_per_block`` the row's share of its block: ceil(left / steps left).

    Source: LLaDA's ``random`` remasking, https://arxiv.org/abs/2502.09992. The draw comes from the row's own
    noise, so that its result does not depend on its batch.
    """

    name: ClassVar[str] = "random"
    k: int = 1
    steps_per_block: int | None = None

    def __post_init__(self) -> None:
        require_budget(self.k, self.steps_per_block)

    @property
    def needs(self) -> Needs:
        return Needs.of()

    @property
    def stochastic(self) -> bool:
        return True

    def select(self, step: Step, state: State, noise: Noise) -> Selection:
        count = quota(step, self.k, self.steps_per_block)
        return Selection(top(noise.action, step.eligible, count), state)
