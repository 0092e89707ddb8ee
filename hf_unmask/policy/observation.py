"""What a policy reads of a step, and what it remembers for that.

The paper's policy reads the largest token probabilities, the mask bit and time. `INPUTS` are what every denoiser has
besides, so that a policy which reads them is bound to none.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from hf_unmask.generation.step import Needs, Quantity, State, Step
from hf_unmask.generation.ties import descending
from hf_unmask.policy.config import CODE_SIZE, UnmaskingPolicyConfig

#: Quantities that an input is made of, besides the top probabilities.
_QUANTITIES: dict[str, Quantity] = {"entropy": "entropy", "margin": "margin"}
_REMEMBERED = frozenset({"change", "stability", "calibration"})
_MOST_ODDS = 8.0  # of log-odds, nats


def needs_of(config: UnmaskingPolicyConfig) -> Needs:
    """What a policy reads of a step."""
    further = [quantity for name, quantity in _QUANTITIES.items() if name in config.further_inputs]
    quantities: list[Quantity] = ["top_probs", *further]
    if config.hidden_input_size:
        quantities.append("hidden")
    return Needs.of(*quantities, where=config.observation, decided=config.reads_revealed, top_k=config.top_k)


def observe(config: UnmaskingPolicyConfig, step: Step, memory: State) -> tuple[dict[str, Any], State]:
    """The arguments of the network for a step (rows [R], window [R, W]), and the memory for the next one.

    ``memory``: what was returned at the step before; None, or zeros for a row that has just come, at the first.
    """
    seen = {"confidences": step.top_probs, "masked": step.masked, "time": step.time, "valid": step.valid}
    if config.hidden_input_size:
        seen["hidden"] = step.hidden
    names = config.further_inputs
    if _REMEMBERED.intersection(names):
        memory = _remember(config, step, memory)
    found = [_INPUTS[name](step, memory) for name in names if name in _INPUTS]
    if found:
        seen["further"] = torch.cat([one if one.ndim == 3 else one[..., None] for one in found], dim=-1)
    if "calibration" in names:
        seen["calibration"] = memory[-1]
    return seen, memory


def _remember(config: UnmaskingPolicyConfig, step: Step, memory: State) -> State:
    """(confidence now [R, W], how it changed [R, W], proposal [R, W] long, steps it has stood [R, W], code [R, 8])."""
    confidence = step.top_probs[..., 0]
    begun = step.steps if config.observation == "canvas" else step.block_steps  # of this window
    if memory is None:
        zero = torch.zeros_like(confidence)
        memory = (zero, zero, torch.zeros_like(step.proposal), zero, zero.new_zeros(len(zero), CODE_SIZE))
    before, _, proposal, age, code = memory
    fresh = (begun == 0)[:, None]
    age = torch.where((proposal == step.proposal) & ~fresh, age + 1, torch.zeros_like(age))
    code = torch.where((step.steps == 0)[:, None], calibration_code(confidence, step.masked), code)
    return confidence, (confidence - before).masked_fill(fresh, 0.0), step.proposal, age, code


def calibration_code(confidence: Tensor, masked: Tensor) -> Tensor:
    """The quantiles 1/16, 3/16 ... 15/16 of the confidences at masked positions: [R, W] -> [R, 8], 0 without any.

    Of a canvas of nothing but masks they say how sure this denoiser is of itself.
    """
    ordered = confidence.masked_fill(~masked, 2.0).sort(-1).values  # masked ones first
    count = masked.sum(-1, keepdim=True)
    share = (2 * torch.arange(CODE_SIZE, device=masked.device) + 1) / (2 * CODE_SIZE)
    place = (share * count).long().minimum(count - 1).clamp(min=0)
    return ordered.gather(-1, place).masked_fill(count == 0, 0.0)


def _log_odds(step: Step, memory: State) -> Tensor:
    """[R, W, K] in [-1, 1]: between 0.99 and 0.999 lies as much as between 0.9 and 0.99."""
    del memory
    return torch.logit(step.top_probs, eps=1 / (1 + math.exp(_MOST_ODDS))) / _MOST_ODDS


def _rank(step: Step, memory: State) -> Tensor:
    """[R, W] in [0, 1): share of the masked positions that are surer; of equal ones the first counts as surer."""
    del memory
    order = descending(step.top_probs[..., 0].masked_fill(~step.masked, -1.0))
    places = torch.arange(order.shape[-1], device=order.device).expand_as(order)
    rank = torch.zeros_like(order).scatter(-1, order, places).to(step.top_probs.dtype)
    return (rank / step.masked.sum(-1, keepdim=True).clamp(min=1)).masked_fill(~step.masked, 0.0)


def _repeat(step: Step, memory: State) -> Tensor:
    """[R, W] 0 or 1: the proposal is that of the neighbour on the left."""
    del memory
    same = torch.zeros_like(step.masked)
    same[:, 1:] = (step.proposal[:, 1:] == step.proposal[:, :-1]) & step.valid[:, :-1]
    return same.to(step.top_probs.dtype)


def _place(step: Step, memory: State) -> Tensor:
    """[R, W, 3]: place in the block, place in the canvas, both in [0, 1), and whether the position may open."""
    del memory
    dtype = step.top_probs.dtype
    canvas = step.index.to(dtype) / step.length.clamp(min=1)[:, None]
    return torch.stack([step.offset.to(dtype) / step.block_length, canvas, step.eligible.to(dtype)], dim=-1)


#: By name, of a step and the memory after it; [R, W], or [R, W, N] as the config says. All within [-1, 1].
_INPUTS = {
    "log_odds": _log_odds,
    "entropy": lambda step, _: step.entropy / (1 + step.entropy),
    "margin": lambda step, _: step.margin,
    "rank": _rank,
    "stop": lambda step, _: step.stop.to(step.top_probs.dtype),
    "change": lambda _, memory: memory[1],
    "stability": lambda _, memory: memory[3] / (1 + memory[3]),
    "repeat": _repeat,
    "place": _place,
}
