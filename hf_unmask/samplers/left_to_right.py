"""The order of an autoregressive model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from hf_unmask.samplers.base import Sampler, quota, require_budget, top
from hf_unmask.step import Needs, Noise, Selection, State, Step


@dataclass(frozen=True)
class LeftToRightSampler(Sampler):
    """Open the ``k`` leftmost eligible positions.

    ``k`` positions per step, or with ``steps_per_block`` the row's share of its block: ceil(left / steps left).

    Source: the autoregressive order, a baseline in https://arxiv.org/abs/2502.06768.
    """

    name: ClassVar[str] = "left_to_right"
    k: int = 1
    steps_per_block: int | None = None

    def __post_init__(self) -> None:
        require_budget(self.k, self.steps_per_block)

    @property
    def needs(self) -> Needs:
        return Needs.of()

    def select(self, step: Step, state: State, noise: Noise) -> Selection:
        del noise
        count = quota(step, self.k, self.steps_per_block)
        return Selection(top(-step.index.double(), step.eligible, count), state)
