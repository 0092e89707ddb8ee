"""Imitation warm start: before any reward is chased, fit the policy to what heuristics did when they were right."""

from __future__ import annotations

import logging
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from hf_unmask.evaluation.pace import WORTH_SAYING, Pace, counted, to_go
from hf_unmask.policy.model import UnmaskingPolicy
from hf_unmask.samplers.base import Sampler

from .config import UnmaskingGRPOConfig
from .environment import Environment, Row
from .experts import Expert
from .rollouts import RecordingSampler, Rollouts, replay

_logger = logging.getLogger(__name__)
_PROMPTS_AT_ONCE = 64


class Learner(Protocol):
    """What the warm start asks of a trainer."""

    args: UnmaskingGRPOConfig
    policy: UnmaskingPolicy
    environment: Environment
    train_dataset: Any
    reward_weights: Tensor

    def run(
        self, rows: Sequence[Row], sampler: Sampler, number: Tensor, block_length: int | None, speeds: Tensor | None
    ) -> tuple[Rollouts, Tensor]: ...


def imitate(trainer: Learner, experts: Sequence[Expert]) -> list[float]:
    """Fit the trainer's policy to what experts did on ``args.warm_start_prompts`` training prompts.

    Every expert answers every prompt, at the price of a step that the prompt's group has drawn. For each task, and each
    third of the dial of a speed-conditioned policy, the expert with the largest mean reward is imitated where it was
    right: the largest reward of a single prompt would favour experts that were fast and lucky. Maximises the likelihood
    of whole steps: over everything that is masked, or over the block where the expert's blocks are the policy's.

    Returns:
        The mean negative log-likelihood per step (nats), one number per epoch.
    """
    args, policy, data = trainer.args, trainer.policy, trainer.train_dataset
    if not hasattr(data, "__len__"):
        raise ValueError(
            f"`warm_start_prompts={args.warm_start_prompts}` draws prompts from all of the data set, but a "
            f"{type(data).__name__} has no length: pass a data set that has one, or warm_start_prompts=0"
        )
    numbers = random.Random(args.seed).sample(range(len(data)), min(args.warm_start_prompts, len(data)))
    best = _collect(trainer, experts, numbers)
    if best is None:
        _logger.warning("warm start: no expert solved any of %d prompts, nothing to imitate", len(numbers))
        return []
    _logger.info("warm start: imitating %d rollouts, of %d prompts", len(best.steps), len(numbers))
    optimizer = torch.optim.AdamW(policy.parameters(), lr=args.warm_start_learning_rate, weight_decay=0.0)
    size = args.warm_start_batch_size
    batches = -(-len(best.steps) // size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, args.warm_start_learning_rate, total_steps=args.warm_start_epochs * batches
    )
    generator = torch.Generator().manual_seed(args.seed)
    losses = []
    pace = Pace(args.warm_start_epochs)
    for epoch in range(args.warm_start_epochs):
        order = torch.randperm(len(best.steps), generator=generator).to(best.steps.device)
        total = 0.0
        for rows in torch.split(order, size):
            part = {name: value[rows] for name, value in best.trajectory.items()}
            logps, _ = replay(policy, policy, part)
            loss = -logps.sum() / part["mask"].sum()
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            total += loss.item() * len(rows)
        losses.append(total / len(order))
        pace.add(1)
        place = f"epoch {epoch + 1} of {args.warm_start_epochs}"
        _logger.info("warm start: %s, %.3f nats per step%s", place, losses[-1], to_go(pace))
    return losses


def _collect(trainer: Learner, experts: Sequence[Expert], numbers: Sequence[int]) -> Rollouts | None:
    """What the best expert for each kind of prompt did where it was right; prompts by their number in the data set."""
    prompts = _Prompts.of(trainer, numbers)
    everything = torch.arange(len(numbers))
    _logger.info("warm start: %s answer %s", counted(len(experts), "expert"), counted(len(numbers), "prompt"))
    rewarded, pace = [], Pace(len(experts))
    for place, expert in enumerate(experts, 1):
        rewarded.append(prompts.run(trainer, expert, everything)[1])
        pace.add(1)
        if place == 1 and pace.left >= WORTH_SAYING:
            _logger.info("warm start: the first is done%s", to_go(pace))
    rewards = torch.stack(rewarded)  # [E, P]
    chosen = torch.zeros_like(everything)
    for kind in dict.fromkeys(prompts.kinds):
        members = torch.tensor([i for i, other in enumerate(prompts.kinds) if other == kind])
        chosen[members] = rewards[:, members].mean(-1).argmax()
    worth = rewards.gather(0, chosen[None])[0] > 0
    found = []
    for number, expert in enumerate(experts):
        mine = everything[worth & (chosen == number)]
        if len(mine):
            found.append(prompts.run(trainer, expert, mine, recorded=True)[0])
    return Rollouts.join(found) if found else None


@dataclass(frozen=True)
class _Prompts:
    """Rows of the training data with the price of a step that each has drawn."""

    numbers: Tensor  # [P] long
    rows: list[dict[str, Any]]
    speeds: Tensor | None  # [P]

    @classmethod
    def of(cls, trainer: Learner, numbers: Sequence[int]) -> _Prompts:
        chosen = torch.tensor(numbers)
        rows = [dict(trainer.train_dataset[i]) for i in numbers]
        return cls(chosen, rows, trainer.environment.speeds(0, chosen))

    @property
    def kinds(self) -> list[tuple[Any, int]]:
        """The task (the data set's column) of each prompt, and in which third of the dial its speed lies."""
        thirds = [0] * len(self.rows) if self.speeds is None else (3 * self.speeds).long().clamp(max=2).tolist()
        return [(row.get("task"), third) for row, third in zip(self.rows, thirds, strict=True)]

    def run(
        self, trainer: Learner, expert: Expert, chosen: Tensor, *, recorded: bool = False
    ) -> tuple[Rollouts, Tensor]:
        """Rollouts of an expert on prompts, by their place here, and rewards [len(chosen)]."""
        same_blocks = expert.block_length == trainer.args.block_length
        parts, rewards = [], []
        for some in torch.split(chosen, _PROMPTS_AT_ONCE):
            speeds = None if self.speeds is None else self.speeds[some]
            sampler = expert.sampler
            if recorded:
                sampler = RecordingSampler(trainer.policy, speeds, expert.sampler, same_blocks)
            rows = [self.rows[i] for i in some.tolist()]
            rollouts, each = trainer.run(rows, sampler, self.numbers[some], expert.block_length, speeds)
            parts.append(rollouts)
            rewards.append((each * trainer.reward_weights.to(each.device)).nansum(-1).cpu())
        return Rollouts.join(parts), torch.cat(rewards)
