"""Validation: the policy as it will be used, with the fallback, one answer per prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from accelerate import Accelerator  # type: ignore[import-untyped]
from torch import Tensor

from hf_unmask.policy.model import UnmaskingPolicy
from hf_unmask.samplers.base import Sampler
from hf_unmask.samplers.learned import LearnedUnmaskingSampler

from .config import UnmaskingGRPOConfig
from .environment import Row
from .rollouts import Rollouts


class Validated(Protocol):
    """What validation asks of a trainer."""

    args: UnmaskingGRPOConfig
    policy: UnmaskingPolicy
    accelerator: Accelerator
    reward_weights: Tensor
    reward_func_names: list[str]

    def run(
        self, rows: Sequence[Row], sampler: Sampler, number: Tensor, block_length: int | None, speeds: Tensor | None
    ) -> tuple[Rollouts, Tensor]: ...


def validate(trainer: Validated, rows: Sequence[Row]) -> dict[str, float]:
    """Mean reward, forward passes and reward of each function; of a speed-conditioned policy also at each speed."""
    conditioned = trainer.policy.config.speed_conditioned
    speeds: Sequence[float | None] = trainer.args.eval_speeds if conditioned else [None]
    found = {speed: _at(trainer, rows, speed) for speed in speeds}
    names = next(iter(found.values()))
    metrics = {name: sum(one[name] for one in found.values()) / len(found) for name in names}
    for speed, one in found.items():
        if speed is not None:
            metrics |= {f"{name}_at_speed_{speed:g}": value for name, value in one.items()}
    return metrics


def _at(trainer: Validated, rows: Sequence[Row], speed: float | None) -> dict[str, Any]:
    """Each process takes an equal share of the rows; the last ones repeat some, which are not counted."""
    gather, args = trainer.accelerator.gather, trainer.args
    share = -(-len(rows) // trainer.accelerator.num_processes)
    number = (trainer.accelerator.process_index * share + torch.arange(share)) % len(rows)
    sampler = LearnedUnmaskingSampler(trainer.policy, args.eval_policy_temperature, speed=speed)
    speeds = None if speed is None else torch.full((share,), speed)
    mine = [rows[i] for i in number.tolist()]
    rollouts, rewards = trainer.run(mine, sampler, number, args.block_length, speeds)
    means = gather(rewards)[: len(rows)].nanmean(0)
    nfe = gather(rollouts.steps.float())[: len(rows)].mean()
    return {
        "reward": (means * trainer.reward_weights.to(means.device)).nansum().item(),
        "nfe": nfe.item(),
        **{f"rewards/{name}": value for name, value in zip(trainer.reward_func_names, means.tolist(), strict=True)},
    }
