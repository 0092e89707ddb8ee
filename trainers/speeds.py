"""One policy for the whole trade-off: the price of a step is drawn per group and shown to the policy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from accelerate import Accelerator  # type: ignore[import-untyped]
from torch import Tensor

from hf_unmask.generation.randomness import ROW, uniform
from hf_unmask.policy.model import UnmaskingPolicy

from .rollouts import Trajectory

_GOLDEN = 0.6180339887498949
_BINS = {"slow": (0.0, 1 / 3), "middle": (1 / 3, 2 / 3), "fast": (2 / 3, 1.0)}


def group_speeds(rollout: int, group: Tensor, seed: int) -> Tensor:
    """Speeds in [0, 1] of prompt groups: a new random start per batch of rollouts, spread evenly over its groups.

    group [B] long, the group's number among all processes -> [B] float32, equal within a group.
    """
    key = torch.tensor([seed], device=group.device)
    start = uniform(key, torch.full_like(key, rollout), torch.zeros_like(key)[:, None], ROW)
    return ((start[0] + group * _GOLDEN) % 1.0).float()


def price_scales(rows: Sequence[Mapping[str, Any]], group_size: int, accelerator: Accelerator) -> Tensor:
    """What the rollouts of each group would earn on average if all were right: the scale of its rewards.

    Args:
        rows: those of this process (B), with the columns of a speed reward: ``steps``, ``positions``, ``alpha``.
        group_size: rollouts of a group. Groups lie side by side, some on two processes.
        accelerator: knows the other processes.

    Returns:
        [B] float32, equal within a group.
    """
    costs = [[float(row[name]) for name in ("steps", "positions", "alpha")] for row in rows]
    everywhere: Tensor = accelerator.gather(torch.tensor(costs, device=accelerator.device))
    steps, positions, alpha = everywhere.unbind(-1)
    factors = (1 - (steps - 1) / positions) ** alpha
    first = accelerator.process_index * len(rows)
    return factors.view(-1, group_size).mean(-1).repeat_interleave(group_size)[first : first + len(rows)]


def gradient_norms(
    policy: UnmaskingPolicy, trajectory: Trajectory, advantages: Tensor, old_logps: Tensor
) -> dict[str, float]:
    """Norm of the policy gradient that slow, middle and fast groups contribute, per row of theirs, where there are any.

    Without scaling, groups with a high price of a step have tiny rewards and so tiny gradients: this shows it.
    """
    mask, logps, speed = trajectory["mask"], trajectory["replayed"], trajectory["speed"][:, 0]
    per_row = ((logps - old_logps).exp() * mask).sum(-1) / mask.sum(-1).clamp(min=1) * advantages
    parameters = [p for p in policy.parameters() if p.requires_grad]
    norms = {}
    for name, (low, high) in _BINS.items():
        rows = (speed >= low) & (speed <= high)
        if not rows.any():
            continue
        share = torch.where(rows, per_row, 0.0).sum() / rows.sum()
        gradients = torch.autograd.grad(share, parameters, retain_graph=True, allow_unused=True)
        norms[f"grad_norm/{name}"] = float(sum(g.square().sum() for g in gradients if g is not None) ** 0.5)
    return norms
