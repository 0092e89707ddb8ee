"""Top-2 probability margin."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from hf_unmask.samplers.base import Sampler, quota, require_budget, top
from hf_unmask.step import Needs, Noise, Selection, State, Step


@dataclass(frozen=True)
class MarginSampler(Sampler):
    """Open the ``k`` eligible positions with the largest gap between the two most probable tokens.

    ``k`` positions per step, or with ``steps_per_block`` the row's share of its block: ceil(left / steps left).

    Source: https://arxiv.org/abs/2502.06768 (top-k probability margin); ``topk_margin`` in
    https://github.com/DreamLM/Dream, whose quota is an average over the batch. Here it belongs to the row.
    """

    name: ClassVar[str] = "margin"
    k: int = 1
    steps_per_block: int | None = None

    def __post_init__(self) -> None:
        require_budget(self.k, self.steps_per_block)

    @property
    def needs(self) -> Needs:
        return Needs.of("margin")

    def select(self, step: Step, state: State, noise: Noise) -> Selection:
        del noise
        count = quota(step, self.k, self.steps_per_block)
        return Selection(top(step.margin, step.eligible, count), state)
