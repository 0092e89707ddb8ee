"""The decision of a learned policy as a pure function of tensors.

Shapes are static, no value is read back to the host and no branch depends on data, so that the function can be
compiled, captured in a graph, and called from an inference engine as well as from this package's own loop.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hf_unmask.generation.step import Noise
from hf_unmask.generation.ties import first_largest
from hf_unmask.policy.distribution import BernoulliUnmask, PlackettLuceUnmask, UnmaskDistribution
from hf_unmask.policy.model import UnmaskingPolicy

#: What a speed-conditioned policy gets when no speed is asked for: the middle of the range it was trained on.
DEFAULT_SPEED = 0.5


def distribution(
    policy: UnmaskingPolicy,
    confidences: Tensor,
    masked: Tensor,
    eligible: Tensor,
    time: Tensor,
    *,
    policy_temperature: float = 1.0,
    beta: float = 1.0,
    speed: float | Tensor | None = None,
    **seen: Tensor | None,
) -> UnmaskDistribution:
    """The policy's distribution over actions; arguments as in ``decide``. Keeps the gradient; training draws from it
    and records what was drawn, because a forced action has no likelihood."""
    if speed is None and policy.config.speed_conditioned:
        speed = DEFAULT_SPEED
    if isinstance(speed, float | int):
        speed = torch.full_like(time, speed)
    logits = policy(confidences, masked, time, speed=speed, **seen)
    return from_logits(policy, logits, eligible, policy_temperature=policy_temperature, beta=beta)


def from_logits(
    policy: UnmaskingPolicy, logits: Tensor, eligible: Tensor, *, policy_temperature: float = 1.0, beta: float = 1.0
) -> UnmaskDistribution:
    """The distribution that the policy's config puts on given logits, [..., W].

    The temperature divides all logits, STOP's included. ``beta`` scales the opening probability of a Bernoulli action;
    of a Plackett-Luce action it scales the odds of every further item against STOP.
    """
    if policy.config.action == "bernoulli":
        return BernoulliUnmask(logits / policy_temperature, eligible, beta)
    stop = policy.config.stop_logit / policy_temperature - math.log(beta)
    return PlackettLuceUnmask(logits / policy_temperature, eligible, stop)


def open_one_if_none(chosen: Tensor, eligible: Tensor, logits: Tensor) -> Tensor:
    """``chosen`` and, in rows that chose nothing, the eligible position of largest logit (leftmost if tied).

    All [B, W]. Rows without an eligible position stay empty.
    """
    # The clamp keeps an eligible -inf above every ineligible position.
    score = logits.clamp(min=torch.finfo(logits.dtype).min).masked_fill(~eligible, -math.inf)
    best = torch.zeros_like(eligible).scatter(-1, first_largest(score)[..., None], True)
    return (chosen & eligible) | (best & eligible & ~(chosen & eligible).any(-1, keepdim=True))


def decide(  # noqa: PLR0913  (one flat signature, so that an engine can pass its tensors as they are)
    policy: UnmaskingPolicy,
    confidences: Tensor,
    masked: Tensor,
    eligible: Tensor,
    time: Tensor,
    noise: Noise,
    *,
    policy_temperature: float = 1.0,
    beta: float = 1.0,
    greedy: bool = False,
    speed: float | Tensor | None = None,
    valid: Tensor | None = None,
    hidden: Tensor | None = None,
    further: Tensor | None = None,
    calibration: Tensor | None = None,
) -> Tensor:
    """Which positions to open now: a subset of ``eligible``, at least one in every row that has one.

    Args:
        policy: the network; its config says which distribution its logits describe.
        confidences: [B, W, K] float, the K largest token probabilities per position, descending.
        masked: [B, W] bool, still undecided.
        eligible: [B, W] bool, what may be opened.
        time: [B] float in [0, 1), steps made / positions to fill.
        noise: uniform numbers, ``action`` [B, W] and ``row`` [B]; not read when greedy.
        policy_temperature: divides the logits.
        beta: reveal scale, min(1, beta * s).
        greedy: open where the opening probability is at least one half, instead of drawing.
        speed: in [0, 1], one number or [B]; for speed-conditioned policies, where None means 0.5.
        valid: [B, W] bool, positions that exist.
        hidden: [B, W, D] float, for policies that read hidden states.
        further, calibration: [B, W, N] and [B, 8] float, for policies with ``further_inputs``; made by `observe`.

    Returns:
        [B, W] bool.
    """
    found = distribution(
        policy,
        confidences,
        masked,
        eligible,
        time,
        policy_temperature=policy_temperature,
        beta=beta,
        speed=speed,
        valid=valid,
        hidden=hidden,
        further=further,
        calibration=calibration,
    )
    chosen = found.probability >= 0.5 if greedy else found.sample(noise) > 0
    return open_one_if_none(chosen, eligible, found.logits)
