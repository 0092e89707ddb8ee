"""What a policy's logits mean: distributions over actions, drawn from given uniform numbers.

An action is a [..., W] long tensor: 0 keeps a position masked, r > 0 opens it as the r-th of its step (Bernoulli
openings are unordered and all 1). Ineligible positions are never opened and contribute nothing to a likelihood.
Source of both distributions: https://arxiv.org/abs/2512.09106.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from hf_unmask.generation.step import Noise

EPS = torch.finfo(torch.float32).eps


class UnmaskDistribution(Protocol):
    """Drawing and scoring belong together: what drew an action also knows its probability."""

    @property
    def logits(self) -> Tensor: ...

    @property
    def probability(self) -> Tensor: ...

    def sample(self, noise: Noise) -> Tensor: ...

    def log_prob(self, action: Tensor) -> Tensor: ...

    def entropy(self) -> Tensor: ...


@dataclass(frozen=True)
class BernoulliUnmask:
    """Independent choices: position k opens with probability min(1, beta * sigmoid(logit_k)).

    logits [..., W] float (already divided by the policy temperature), eligible [..., W] bool, beta > 0.
    """

    logits: Tensor
    eligible: Tensor
    beta: float = 1.0

    @property
    def probability(self) -> Tensor:
        """[..., W] float, probability that a position opens; 0 where ineligible."""
        scaled = (self.beta * self.logits.sigmoid()).clamp(max=1.0)
        return scaled.masked_fill(~self.eligible, 0.0)

    def sample(self, noise: Noise) -> Tensor:
        """Draw with one uniform per position, [..., W]; the row's number is not needed. -> [..., W] long, 0 or 1.

        Not clamped, unlike the likelihood, so that a probability of exactly 1 always opens.
        """
        return (noise.action < self.probability).long()

    def log_prob(self, action: Tensor) -> Tensor:
        """Joint log-likelihood of a step's action, nats: [..., W] -> [...]. Probabilities are clamped by ``EPS``."""
        s = self._clamped
        terms = torch.where(action > 0, s.log(), (-s).log1p())
        return terms.masked_fill(~self.eligible, 0.0).sum(-1)

    def entropy(self) -> Tensor:
        """Exact joint entropy, nats: [...]."""
        s = self._clamped
        terms = -(s * s.log() + (1 - s) * (-s).log1p())
        return terms.masked_fill(~self.eligible, 0.0).sum(-1)

    @property
    def _clamped(self) -> Tensor:
        return (self.beta * self.logits.sigmoid()).clamp(EPS, 1 - EPS)


@dataclass(frozen=True)
class PlackettLuceUnmask:
    """An ordered list of one or more positions: the first by softmax over the eligible logits, each further one by
    softmax over the remaining eligible logits and STOP, until STOP is drawn.

    logits [..., W] float, eligible [..., W] bool, stop_logit: logit of STOP.
    """

    logits: Tensor
    eligible: Tensor
    stop_logit: float = 0.0

    @property
    def probability(self) -> Tensor:
        """[..., W] float, probability to be drawn before STOP; 0 where ineligible.

        That of a position given that another one came first; being first can only add to it.
        """
        return (self.logits - self.stop_logit).sigmoid().masked_fill(~self.eligible, 0.0)

    def sample(self, noise: Noise) -> Tensor:
        """Draw with one uniform per position, [..., W], and one per row, [...]. -> [..., W] long, ranks from 1.

        Every item rings after an exponential time with rate exp(logit). The first ring is the first item; STOP's clock
        starts there (exponential clocks have no memory, so the others may run on), and all that ring before it are
        opened in their order. Times are kept as logarithms: exp(logit) overflows, its logarithm does not.
        """
        ring = _log_exponential(noise.action, self.logits) - self.logits
        ring = ring.masked_fill(~self.eligible, math.inf)
        first = ring.amin(-1, keepdim=True)
        wait = _log_exponential(noise.row, self.logits) - self.stop_logit
        opened = self.eligible & (ring <= torch.logaddexp(first, wait[..., None]))
        order = ring.argsort(dim=-1, stable=True)
        ranks = torch.arange(1, ring.shape[-1] + 1, device=ring.device).expand_as(order)
        return torch.zeros_like(order).scatter(-1, order, ranks) * opened

    def log_prob(self, action: Tensor) -> Tensor:
        """Log-likelihood of the ordered list, nats: [..., W] -> [...].

        -inf for an empty list where something was eligible, which this distribution never draws.
        """
        action = action.masked_fill(~self.eligible, 0)
        count = (action > 0).sum(-1, keepdim=True)
        width = action.shape[-1]
        # Ineligible items get a weight of zero, but a finite logit: -inf would make the gradient NaN.
        nothing = torch.finfo(self.logits.dtype).min / 4
        logits = self.logits.masked_fill(~self.eligible, nothing)
        order = action.masked_fill(action == 0, width + 1).argsort(dim=-1, stable=True)
        logits = logits.gather(-1, order)
        # left[r]: log total weight of what is still there before draw r (from 0); after the last item, nothing.
        left = logits.flip(-1).logcumsumexp(-1).flip(-1)
        left = torch.cat([left, torch.full_like(left[..., :1], nothing)], dim=-1)
        stop = torch.full_like(left, self.stop_logit)
        with_stop = torch.logaddexp(left, stop)
        place = torch.arange(width, device=action.device)
        total = torch.where(place == 0, left[..., :-1], with_stop[..., :-1])
        drawn = torch.where(place < count, logits - total, 0.0).sum(-1)
        ended = self.stop_logit - with_stop.gather(-1, count).squeeze(-1)
        empty = torch.where(self.eligible.any(-1), -math.inf, 0.0).to(drawn.dtype)
        return torch.where(count.squeeze(-1) > 0, drawn + ended, empty)

    def entropy(self, draws: int = 64) -> Tensor:
        """An estimate of the entropy, nats: [...], without gradient; for monitoring.

        The exact value sums over all ordered lists, more than W! of them. This is the mean of -log_prob over ``draws``
        actions, made from fixed uniform numbers, so it is deterministic; its standard error falls with sqrt(draws).
        """
        width, rng = self.logits.shape[-1], random.Random(0)
        total = torch.zeros_like(self.logits[..., 0])
        with torch.no_grad():
            for _ in range(draws):
                uniform = torch.tensor([rng.random() for _ in range(width + 1)]).to(self.logits)
                action = self.sample(Noise(uniform[:width].expand_as(self.logits), uniform[width].expand_as(total)))
                total = total - self.log_prob(action)
        return total / draws


def _log_exponential(uniform: Tensor, like: Tensor) -> Tensor:
    """log(-log u): the logarithm of a unit exponential time, finite even for a u that was rounded to 0 or 1."""
    tiny = torch.finfo(torch.float32).tiny
    return (-uniform.to(like.dtype).clamp(tiny, 1 - EPS / 2).log()).log()
