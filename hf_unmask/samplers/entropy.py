"""Entropy order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from hf_unmask.samplers.base import Sampler, quota, require_budget, top
from hf_unmask.step import Needs, Noise, Selection, State, Step


@dataclass(frozen=True)
class EntropySampler(Sampler):
    """Open the ``k`` eligible positions of lowest entropy (nats).

    ``k`` positions per step, or with ``steps_per_block`` the row's share of its block: ceil(left / steps left).

    Source: ``alg="entropy"`` in https://github.com/DreamLM/Dream. Differences: the quota belongs to the row instead of
    being a batch average, it is never 0, and there is no ``alg_temp`` noise on the order.
    """

    name: ClassVar[str] = "entropy"
    k: int = 1
    steps_per_block: int | None = None

    def __post_init__(self) -> None:
        require_budget(self.k, self.steps_per_block)

    @property
    def needs(self) -> Needs:
        return Needs.of("entropy")

    def select(self, step: Step, state: State, noise: Noise) -> Selection:
        del noise
        count = quota(step, self.k, self.steps_per_block)
        return Selection(top(-step.entropy, step.eligible, count), state)
