"""Imitation warm start: before any reward is chased, fit the policy to what heuristics did when they were right."""

from __future__ import annotations

import logging
import random
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

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
    """Fit the trainer's policy to the best expert rollout of each of ``args.warm_start_prompts`` training prompts.

    Every expert answers every prompt; the rollout with the largest reward, at the price of a step that the prompt's
    group has drawn, is imitated if it is worth anything. So a speed-conditioned policy sees slow experts at low speeds
    and fast ones at high speeds. Maximises the likelihood of whole steps, over everything that is masked.

    Returns:
        The mean negative log-likelihood per step (nats), one number per epoch.
    """
    args, policy = trainer.args, trainer.policy
    numbers = random.Random(args.seed).sample(
        range(len(trainer.train_dataset)), min(args.warm_start_prompts, len(trainer.train_dataset))
    )
    best = _collect(trainer, experts, numbers)
    if best is None:
        _logger.warning("warm start: no expert solved any of %d prompts, nothing to imitate", len(numbers))
        return []
    optimizer = torch.optim.AdamW(policy.parameters(), lr=args.warm_start_learning_rate, weight_decay=0.0)
    size = args.per_device_train_batch_size
    batches = -(-len(best.steps) // size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, args.warm_start_learning_rate, total_steps=args.warm_start_epochs * batches
    )
    generator = torch.Generator().manual_seed(args.seed)
    losses = []
    for _ in range(args.warm_start_epochs):
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
    _logger.info(
        "warm start: %d of %d prompts solved, %.3f -> %.3f nats per step",
        *(len(best.steps), len(numbers), losses[0], losses[-1]),
    )
    return losses


def _collect(trainer: Learner, experts: Sequence[Expert], numbers: Sequence[int]) -> Rollouts | None:
    """The best rollout of each prompt (by its number in the data set) that any expert solved."""
    found = []
    for start in range(0, len(numbers), _PROMPTS_AT_ONCE):
        chosen = torch.tensor(numbers[start : start + _PROMPTS_AT_ONCE])
        rows = [dict(trainer.train_dataset[i]) for i in chosen.tolist()]
        speeds = trainer.environment.speeds(0, chosen)
        tried = [_try(trainer, expert, rows, chosen, speeds) for expert in experts]
        rewards = torch.stack([reward for _, reward in tried])  # [E, P]
        value, which = rewards.max(0)
        worth = (value > 0).nonzero()[:, 0]
        if len(worth):
            everything = Rollouts.join([rollouts for rollouts, _ in tried])
            found.append(Rollouts.join([everything], (which * len(rows) + torch.arange(len(rows)))[worth]))
    return Rollouts.join(found) if found else None


def _try(
    trainer: Learner, expert: Expert, rows: list[dict[str, Any]], number: Tensor, speeds: Tensor | None
) -> tuple[Rollouts, Tensor]:
    sampler = RecordingSampler(trainer.policy, speeds, expert.sampler)
    rollouts, rewards = trainer.run(rows, sampler, number, expert.block_length, speeds)
    return rollouts, (rewards * trainer.reward_weights.to(rewards.device)).nansum(-1).cpu()
