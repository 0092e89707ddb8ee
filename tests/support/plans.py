"""Every sequence of actions of a small policy."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hf_unmask.generation.step import Needs, Selection
from hf_unmask.samplers import Sampler
from hf_unmask.trainers.rollouts import RecordingSampler, Rollouts, roll_out

PROMPTS = [[5, 6, 7], [8], [9, 10, 11, 12], [5, 6], [13, 14]]


POSITIONS = [7, 4, 1, 6, 7]


def recorded(denoiser, policy, expert=None, block_length=3, batch_size=None, prompts=PROMPTS, positions=POSITIONS):
    speed = torch.linspace(0, 1, len(prompts)) if policy.config.speed_conditioned else None
    sampler = RecordingSampler(policy, speed, expert)
    seeds = torch.arange(len(prompts))
    return roll_out(denoiser, sampler, prompts, positions, seeds, block_length=block_length, batch_size=batch_size)


@dataclass(frozen=True)
class Planned(Sampler):
    """Opens position k of row i at step plan[i, k], which may be never."""

    name: ClassVar[str] = "planned"
    may_stall: ClassVar[bool] = True
    plan: Tensor

    @property
    def needs(self) -> Needs:
        return Needs()

    def init(self, rows, length, device):
        return torch.arange(rows, device=device)

    def select(self, step, state, noise):
        now = self.plan[state].gather(1, step.index) == step.steps[:, None]
        return Selection(now & step.eligible, state)


#: All there is to do with three positions in at most three steps: when each of them opens (3: never).
PLANS = torch.tensor(list(itertools.product(range(4), repeat=3)))


def all_sequences(denoiser, policy) -> Rollouts:
    """Every sequence of Bernoulli actions on three positions, judged by the policy. 64 rows."""
    prompts, positions = [PROMPTS[0]] * len(PLANS), [3] * len(PLANS)
    return recorded(denoiser, policy, Planned(PLANS), block_length=None, prompts=prompts, positions=positions)
