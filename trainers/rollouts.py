"""Rollouts: the denoising loop run by a sampler that writes down what a policy saw and did."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from hf_unmask.denoisers.adapter import Denoiser
from hf_unmask.generation.loop import generate
from hf_unmask.generation.output import UnmaskOutput
from hf_unmask.generation.step import Needs, Noise, Selection, State, Step
from hf_unmask.generation.ties import descending
from hf_unmask.policy.decision import distribution, from_logits, open_one_if_none
from hf_unmask.policy.model import UnmaskingPolicy, require_finite
from hf_unmask.policy.observation import needs_of, observe
from hf_unmask.samplers.base import Sampler

from .views import View, active_block, in_block, union

#: What a policy read and did at one step. Shapes as rows of a step: [R, ...], as a trajectory: [B, T, ...].
Trajectory = dict[str, Tensor]
#: Draws of the entropy estimate of Plackett-Luce actions, which is only logged.
_ENTROPY_DRAWS = 4


@dataclass(frozen=True)
class RecordingSampler(Sampler):
    """Draws from a policy and keeps every step in ``records``.

    All-zero actions are legal in training: they cost a forward pass and have their ordinary likelihood. With
    ``fallback`` the environment answers one by opening the likeliest position, as in use; without, it opens nothing.
    With ``expert`` that sampler decides and the policy only watches; its action is then judged over everything that is
    masked, so that positions the expert left for later blocks count as deliberately kept: unless its blocks are the
    policy's (``same_blocks``), which never had the choice.
    """

    name: ClassVar[str] = "recording"
    may_stall: ClassVar[bool] = True
    policy: UnmaskingPolicy
    speed: Tensor | None = None  # [B] float, of a speed-conditioned policy
    expert: Sampler | None = None
    same_blocks: bool = False
    fallback: bool = False
    block_length: int | None = None  # of the rollouts, None: full diffusion
    records: list[Trajectory] = field(default_factory=list, compare=False)

    @property
    def needs(self) -> Needs:
        mine = needs_of(self.policy.config)
        return mine if self.expert is None else union(mine, self.expert.needs)

    @property
    def stochastic(self) -> bool:
        return True

    def init(self, rows: int, length: int, device: torch.device) -> State:
        block = torch.zeros(2, rows, dtype=torch.long, device=device)
        inner = None
        if self.expert is not None:
            alone = in_block(self.expert.needs, self.needs)
            inner = self.expert.init(rows, min(self.block_length or length, length) if alone else length, device)
        return torch.arange(rows, device=device), (block[0], block[1]), inner, None

    def check(self, denoiser: Denoiser, block_length: int | None, canvas: int) -> None:
        require_finite(self.policy)
        if self.expert is not None:
            self.expert.check(denoiser, block_length, canvas)

    @torch.no_grad()
    def select(self, step: Step, state: State, noise: Noise) -> Selection:
        number, before, inner, memory = state
        block = active_block(step, before)
        view = View.of(step, noise, needs_of(self.policy.config), self.needs, block)
        judged = view.step.eligible if self.expert is None or self.same_blocks else view.step.masked
        seen, memory = observe(self.policy.config, view.step, memory)
        seen["eligible"] = judged
        if self.speed is not None:
            seen["speed"] = self.speed.to(number.device)[number]
        found = distribution(self.policy, **seen)
        tokens = None
        if self.expert is None:
            action = found.sample(view.noise)
            opened = action > 0
            if self.fallback:
                opened = open_one_if_none(opened, step.eligible, found.logits)
        else:
            theirs = View.of(step, noise, self.expert.needs, self.needs, block)
            chosen = self.expert.select(theirs.step, inner, theirs.noise)
            inner, opened = (
                chosen.state,
                theirs.put(chosen.open.long(), chosen.open, torch.zeros_like(step.proposal)) > 0,
            )
            tokens = chosen.tokens if chosen.tokens is None else theirs.put(chosen.tokens, chosen.open, step.proposal)
            action = _ranked(view.cut(opened) & view.inside, view.step.top_probs[..., 0])
        self.records.append(
            {"row": number, "step": step.steps, "action": action, "logps": found.log_prob(action), **seen}
        )
        return Selection(opened, (number, block, inner, memory), tokens=tokens)


def _ranked(opened: Tensor, confidence: Tensor) -> Tensor:
    """An unordered opening as an action: the most confident first. Both [R, W] -> [R, W] long."""
    order = descending(confidence.masked_fill(~opened, -1.0))
    ranks = torch.arange(1, opened.shape[-1] + 1, device=opened.device).expand_as(order)
    return torch.zeros_like(order).scatter(-1, order, ranks) * opened


@dataclass(frozen=True)
class Rollouts:
    """Finished rows, and what a policy did in them if it was recorded."""

    tokens: list[list[int]]  # what was written, per row; masks that are left are mask tokens
    steps: Tensor  # [B] long, denoising steps
    positions: Tensor  # [B] long, positions to fill
    unresolved: Tensor  # [B] long, masks that are left
    trajectory: Trajectory = field(default_factory=dict)  # [B, T, ...]; "mask" [B, T] bool tells the steps there were

    def statistics(self, rows: Tensor) -> dict[str, float]:
        """Means over ``rows`` [B] bool, for logs; none where there are no such rows."""
        if not rows.any():  # a process may hold nothing but an expert's rows
            return {}
        forwards, unresolved = self.steps[rows].float(), self.unresolved[rows].float()
        opened = self.positions[rows] - unresolved
        return {
            "nfe": forwards.mean().item(),
            "tokens_per_forward": (opened / forwards.clamp(min=1)).mean().item(),
            "unresolved_masks": unresolved.mean().item(),
        }

    @classmethod
    def join(cls, parts: Sequence[Rollouts], order: Tensor | None = None) -> Rollouts:
        """Rows of all parts, one part after another; ``order`` [B] long then picks rows."""
        names = parts[0].trajectory
        trajectory = {name: _cat_padded([part.trajectory[name] for part in parts]) for name in names}
        steps, positions, unresolved = (
            torch.cat([getattr(part, name) for part in parts]) for name in ("steps", "positions", "unresolved")
        )
        tokens = [row for part in parts for row in part.tokens]
        if order is None:
            return cls(tokens, steps, positions, unresolved, trajectory)
        picked = {name: value[order] for name, value in trajectory.items()}
        return cls([tokens[i] for i in order.tolist()], steps[order], positions[order], unresolved[order], picked)


def _cat_padded(parts: Sequence[Tensor]) -> Tensor:
    """Concatenate rows of unequal numbers of steps and positions, with zeros behind the shorter ones."""
    shape = [max(sizes) for sizes in zip(*(part.shape[1:] for part in parts), strict=True)]

    def filled(part: Tensor) -> Tensor:
        missing = [most - size for most, size in zip(shape, part.shape[1:], strict=True)]
        return pad(part, [side for more in reversed(missing) for side in (0, more)])

    return torch.cat([filled(part) for part in parts])


def roll_out(
    denoiser: Denoiser,
    sampler: Sampler,
    prompts: Sequence[Sequence[int]],
    positions: Sequence[int],
    seeds: Tensor,
    *,
    block_length: int | None,
    token_temperature: float = 0.0,
    batch_size: int | None = None,
) -> Rollouts:
    """Fill ``positions[i]`` masks behind each prompt (token ids), at most ``batch_size`` rows at once.

    seeds [B] long. A `RecordingSampler` yields trajectories. Rows differ in length by ``fill_mask``, so one call serves
    prompts with answers of any length; a row that is done makes room for the next.
    """
    if isinstance(sampler, RecordingSampler):
        sampler = replace(sampler, records=[], block_length=block_length or denoiser.block_length)
    width, most = max(map(len, prompts)), max(positions)
    pad_id, mask_id, device = denoiser.filler_token_id, denoiser.mask_token_id, denoiser.device
    ids = [
        [pad_id] * (width - len(prompt)) + list(prompt) + [mask_id] * length + [pad_id] * (most - length)
        for prompt, length in zip(prompts, positions, strict=True)
    ]
    left = torch.tensor([width - len(prompt) for prompt in prompts], device=device)[:, None]
    length = torch.tensor(positions, device=device)
    column = torch.arange(width + most, device=device)
    end = width + length[:, None]
    output = generate(
        denoiser,
        torch.tensor(ids, device=device),
        attention_mask=((column >= left) & (column < end)).long(),
        fill_mask=(column >= width) & (column < end),
        max_new_tokens=0,
        sampler=sampler,
        block_length="full" if block_length is None else block_length,
        temperature=token_temperature,
        seed=seeds.to(device),
        slots=batch_size,
        return_dict_in_generate=True,
    )
    if not isinstance(output, UnmaskOutput):
        raise TypeError(f"generate returned {type(output).__name__}, not an UnmaskOutput")
    opened = output.step_map[:, width:] >= 0
    written = output.sequences[:, width:].tolist()
    return Rollouts(
        tokens=[row[:count] for row, count in zip(written, positions, strict=True)],
        steps=output.steps,
        positions=length,
        unresolved=length - opened.sum(-1),
        trajectory=_assemble(sampler.records, len(prompts)) if isinstance(sampler, RecordingSampler) else {},
    )


def _assemble(records: Sequence[Trajectory], rows: int) -> Trajectory:
    """Records of steps, each with the rows that were left [R, ...] -> trajectories [B, T, ...], zero where none was."""
    row, step = (torch.cat([record[name] for record in records]) for name in ("row", "step"))
    shape = (rows, int(step.max()) + 1)

    def scattered(values: Tensor) -> Tensor:
        return values.new_zeros(*shape, *values.shape[1:]).index_put((row, step), values)

    names = [name for name in records[0] if name not in ("row", "step")]
    trajectory = {name: scattered(torch.cat([record[name] for record in records])) for name in names}
    trajectory["mask"] = scattered(torch.ones_like(row, dtype=torch.bool))
    return trajectory


def replay(
    model: nn.Module, policy: UnmaskingPolicy, trajectory: Trajectory, *, compute_entropy: bool = False
) -> tuple[Tensor, Tensor | None]:
    """Log-likelihood of every recorded step under the policy as it is now; the denoiser is not run.

    Args:
        model: what is called, ``policy`` itself or its distributed wrapper.
        policy: says what the logits mean.
        trajectory: [B, T, ...].
        compute_entropy: also the entropy of each step's action distribution.

    Returns:
        [B, T] float, one number per step (joint over positions), 0 where there was no step; and the entropies.
    """
    mask = trajectory["mask"]
    read = {
        name: trajectory[name][mask]
        for name in ("confidences", "masked", "time", "valid", "hidden", "speed", "further", "calibration")
        if name in trajectory
    }
    found = from_logits(policy, model(**read), trajectory["eligible"][mask])
    action = trajectory["action"][mask]

    def per_step(values: Tensor) -> Tensor:
        return values.new_zeros(mask.shape).masked_scatter(mask, values)

    entropy = None
    if compute_entropy:
        options: dict[str, Any] = {} if policy.config.action == "bernoulli" else {"draws": _ENTROPY_DRAWS}
        entropy = per_step(found.entropy(**options))
    return per_step(found.log_prob(action)), entropy


def mixed_with_expert(logps: Tensor, expert: Tensor, group: int, experts: int) -> Tensor:
    """Log-likelihood of steps under the behaviour that collected them: policy steps keep the policy's, expert steps
    get that of a mixture, (G * pi + 1) / (G + E), each expert being a point mass on what it did.

    logps [B, T] float, expert [B] bool (which rows are an expert's), ``group`` policy rollouts and ``experts`` expert
    rollouts per prompt -> [B, T]. The ratio of an expert step is thereby bounded by [1 / (G + 1), G + 1].
    """
    both = float(group + experts)
    point = torch.full_like(logps, 1.0 / both).log()
    return torch.where(expert[:, None], torch.logaddexp(logps + torch.tensor(group / both).log(), point), logps)
