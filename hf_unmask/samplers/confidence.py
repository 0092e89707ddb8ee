"""LLaDA's low-confidence remasking."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from hf_unmask.samplers.base import Sampler, quota, require_budget, top
from hf_unmask.step import Needs, Noise, Selection, State, Step


@dataclass(frozen=True)
class ConfidenceSampler(Sampler):
    """Open the ``k`` eligible positions whose proposal is most probable.

    ``k`` positions per step, or with ``steps_per_block`` the row's share of its block: ceil(left / steps left).

    Source: LLaDA's ``low_confidence`` remasking, https://arxiv.org/abs/2502.09992. Its table of tokens per step is
    met exactly for a block that starts fully masked. Rows that end early take no further steps.
    """

    name: ClassVar[str] = "confidence"
    k: int = 1
    steps_per_block: int | None = None

    def __post_init__(self) -> None:
        require_budget(self.k, self.steps_per_block)

    @property
    def needs(self) -> Needs:
        return Needs.of("confidence")

    def select(self, step: Step, state: State, noise: Noise) -> Selection:
        del noise
        count = quota(step, self.k, self.steps_per_block)
        return Selection(top(step.confidence, step.eligible, count), state)
