"""The base of samplers that open a fixed number of positions per step: those of largest score."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, get_args

import torch
from torch import Tensor

from hf_unmask.denoisers.values import require_int
from hf_unmask.generation.step import Noise, Selection, State, Step
from hf_unmask.samplers.base import Sampler, top

Schedule = Literal["even", "late"]


@dataclass(frozen=True)
class RankedSampler(Sampler):
    """Open the eligible positions of largest ``score``; ties: leftmost first. A subclass defines ``score``.

    ``k`` positions per step, or with ``steps_per_block`` the row's share of its block. ``schedule="even"``:
    ceil(eligible left / steps left), which is LLaDA's table (masks // steps, the remainder on the first steps) without
    having to keep it. ``"late"``: the share of time that passes, rounded down, so that the remainder comes last, as in
    ``diffusion_generate``; steps whose share is 0 are not made. The share is the row's own, never a batch average.
    """

    k: int = 1
    steps_per_block: int | None = None
    schedule: Schedule = "even"

    def __post_init__(self) -> None:
        require_int("k", self.k, at_least=1)
        if self.steps_per_block is not None:
            require_int("steps_per_block", self.steps_per_block, at_least=1)
        if self.schedule not in get_args(Schedule):
            raise ValueError(f"`schedule` must be one of {', '.join(get_args(Schedule))}, got {self.schedule!r}")
        if self.steps_per_block is not None and self.k != 1:
            raise ValueError(
                f"give either `k` or `steps_per_block`, got k={self.k} and steps_per_block={self.steps_per_block}"
            )
        if self.steps_per_block is None and self.schedule != "even":
            raise ValueError(
                f"`schedule={self.schedule!r}` divides a block among steps: give `steps_per_block` as well"
            )

    def init(self, rows: int, length: int, device: torch.device) -> State:
        """With the late schedule, the positions that each row's block had to fill, [rows] long."""
        del length
        return torch.zeros(rows, dtype=torch.long, device=device) if self.schedule == "late" else None

    def score(self, step: Step, noise: Noise) -> Tensor:
        """[B, W] float, the largest open first."""
        del step, noise
        raise TypeError(f"{type(self).__name__} must define `score(step, noise) -> Tensor`")

    def select(self, step: Step, state: State, noise: Noise) -> Selection:
        count, state = self._count(step, state)
        return Selection(top(self.score(step, noise), step.eligible, count), state)

    def _count(self, step: Step, state: State) -> tuple[Tensor | int, State]:
        """Positions each row opens now, an int or [B] long, and the state."""
        if self.steps_per_block is None:
            return self.k, state
        left = step.eligible.sum(-1)
        if self.schedule == "late":
            state = torch.where(step.block_steps == 0, left, state)
            shares = _late_shares(step.eligible.shape[1], self.steps_per_block, left.device)
            return shares[state, step.block_steps.clamp(max=self.steps_per_block - 1)].clamp(min=1), state
        steps_left = (self.steps_per_block - step.block_steps).clamp(min=1)
        return ((left + steps_left - 1) // steps_left).clamp(min=1), state


@lru_cache(maxsize=16)
def _late_shares(width: int, steps: int, device: torch.device) -> Tensor:
    """[width + 1, steps] long, positions opened at each step by a block that has so many; empty steps left out."""
    times = torch.linspace(1, 1e-3, steps + 1)
    left, shares = torch.arange(width + 1), list[Tensor]()
    for now, then in zip(times[:-1], times[1:], strict=True):
        shares.append(left if len(shares) == steps - 1 else (left.float() * (1 - then / now)).long())
        left = left - shares[-1]
    table = torch.stack(shares, dim=1)
    order = (table == 0).int().argsort(dim=1, stable=True)
    return table.gather(1, order).to(device)
