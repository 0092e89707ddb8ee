"""The frozen denoiser as an environment: prompts in, finished rows and what rewards read out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hf_unmask.denoisers.adapter import Denoiser
from hf_unmask.denoisers.texts import text_length
from hf_unmask.policy.model import UnmaskingPolicy
from hf_unmask.samplers.base import Sampler

from .config import UnmaskingGRPOConfig
from .experts import Expert
from .rollouts import RecordingSampler, Rollouts, mixed_with_expert, roll_out
from .speeds import group_speeds

Row = Mapping[str, Any]  # of a data set


@dataclass(frozen=True)
class Environment:
    """A denoiser with the settings of its rollouts, and the policy that is trained in it."""

    denoiser: Denoiser
    policy: UnmaskingPolicy
    args: UnmaskingGRPOConfig
    expert: Expert | None = None

    def groups(
        self, prompt_ids: Sequence[list[int]], rows: Sequence[Row], number: Tensor, rollout: int
    ) -> tuple[Rollouts, Tensor | None]:
        """Rollouts of prompt groups, the expert's last in each, and the speed of each row.

        Args:
            prompt_ids: token ids of each row's prompt.
            rows: the data set's row of each.
            number: [B] long, number of the row among all processes.
            rollout: number of this batch of rollouts; another one draws other actions.

        The trajectory's ``logps`` are those of the behaviour, and its ``expert`` [B] bool tells whose rows are whose.
        """
        is_expert = number % self.args.group_size >= self.args.num_generations
        speeds = self.speeds(rollout, number // self.args.group_size)
        seeds = row_seeds(self.args.seed, rollout, number)
        parts, order = [], []
        for chosen, expert in ((~is_expert).nonzero()[:, 0], None), (is_expert.nonzero()[:, 0], self.expert):
            if len(chosen):
                block_length = expert.block_length if expert else self.args.block_length
                sampler = RecordingSampler(
                    self.policy,
                    None if speeds is None else speeds[chosen],
                    expert.sampler if expert else None,
                    same_blocks=block_length == self.args.block_length,
                    fallback=self.args.rollout_fallback,
                )
                ids, data = [prompt_ids[i] for i in chosen.tolist()], [rows[i] for i in chosen.tolist()]
                parts.append(self.roll_out(sampler, ids, data, seeds[chosen], block_length))
                order.append(chosen)
        rollouts = Rollouts.join(parts, torch.cat(order).argsort())
        rollouts.trajectory["expert"] = is_expert
        rollouts.trajectory["logps"] = self.behaviour(rollouts.trajectory["logps"], is_expert)
        return rollouts, speeds

    def roll_out(
        self,
        sampler: Sampler,
        prompt_ids: Sequence[list[int]],
        rows: Sequence[Row],
        seeds: Tensor,
        block_length: int | None,
    ) -> Rollouts:
        """Answers of any sampler; seeds [B] long. At most a device's batch of rollouts is run at once."""
        last = -(self.args.max_prompt_length or 0)
        most = self.args.per_device_train_batch_size * self.args.steps_per_generation
        return roll_out(
            self.denoiser,
            sampler,
            [ids[last:] for ids in prompt_ids],
            [int(row.get("max_new_tokens") or self.args.max_completion_length) for row in rows],
            seeds,
            block_length=block_length,
            token_temperature=self.args.token_temperature,
            batch_size=self.args.rollout_batch_size or most,
        )

    def speeds(self, rollout: int, group: Tensor) -> Tensor | None:
        """Speeds [B] that a speed-conditioned policy gets in a batch of rollouts, None for another policy.

        group [B] long, number of each row's prompt group.
        """
        return group_speeds(rollout, group, self.args.seed) if self.policy.config.speed_conditioned else None

    def behaviour(self, logps: Tensor, is_expert: Tensor) -> Tensor:
        """Log-likelihoods [B, T] of the policy -> of what collected the rows, is_expert [B] bool."""
        if self.expert is None:
            return logps
        return mixed_with_expert(logps, is_expert, self.args.num_generations, self.args.num_expert_rollouts)

    def with_costs(self, rows: Sequence[Row], rollouts: Rollouts, speeds: Tensor | None) -> list[dict[str, Any]]:
        """The rows with the columns of a speed reward: ``steps``, ``positions``, ``alpha``.

        Copies, because the rows of a group may be one object.
        """
        alphas = [self.args.alpha] * len(rows)
        if speeds is not None:
            alphas = [math.exp(self.policy.config.log_alpha(speed)) for speed in speeds.tolist()]
        steps, positions = rollouts.steps.clamp(min=1).tolist(), rollouts.positions.tolist()
        return [
            {**row, "steps": n, "positions": most, "alpha": alpha}
            for row, n, most, alpha in zip(rows, steps, positions, alphas, strict=True)
        ]

    def completions(self, rollouts: Rollouts) -> list[list[int]]:
        """Ids before the first stop token; at least one, on which TRL relies."""
        stops = set(self.denoiser.stop_token_ids)
        return [row[: max(text_length(row, stops), 1)] for row in rollouts.tokens]


def row_seeds(seed: int, rollout: int, number: Tensor) -> Tensor:
    """Seeds of rows [B] long, different for every rollout and row, the same for any number of processes."""
    return ((seed * 1_000_003 + rollout) << 24) % (1 << 62) + number.long()
