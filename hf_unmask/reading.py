"""From logits to what a sampler reads: proposals and the declared quantities, nothing else."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from hf_unmask.step import Needs, Quantity


@dataclass(frozen=True)
class Reading:
    """Outcome of one forward pass inside the window."""

    proposal: Tensor  # [B, W] long
    quantities: dict[Quantity, Tensor]
    finite: Tensor  # [B, W] bool, False where the logits hold NaN or +inf, or nothing may be written


@dataclass(frozen=True)
class TokenDraw:
    """How a token is drawn at an opened position; temperature 0 takes the most probable one."""

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None

    def __call__(self, logits: Tensor, noise: Tensor | None) -> Tensor:
        """logits [B, W, V] float, noise [B, W] uniform -> [B, W] long, by inverting the cumulative distribution.

        Without noise the most probable tokens.
        """
        if self.temperature == 0.0 or noise is None:
            return logits.argmax(-1)
        logits = logits / self.temperature
        if self.top_k is not None and self.top_k < logits.shape[-1]:
            logits = logits.masked_fill(logits < logits.topk(self.top_k, dim=-1).values[..., -1:], -math.inf)
        if self.top_p is None or self.top_p >= 1.0:
            return _invert(logits.softmax(-1), noise)
        probs, order = logits.softmax(-1).sort(dim=-1, descending=True, stable=True)
        # a token stays while the mass before it is below top_p, so the first always stays
        probs = probs.masked_fill(probs.cumsum(-1) - probs >= self.top_p, 0.0)
        return order.gather(-1, _invert(probs, noise)[..., None])[..., 0]


def _invert(weights: Tensor, noise: Tensor) -> Tensor:
    """Index whose slice of the cumulative weights contains ``noise`` times their sum; never one of weight 0."""
    cumulative = weights.cumsum(-1)
    target = noise.to(weights.dtype) * cumulative[..., -1]
    drawn = torch.searchsorted(cumulative, target[..., None].contiguous(), right=True)[..., 0]
    last = weights.shape[-1] - 1 - (weights > 0).flip(-1).int().argmax(-1)  # rounding may step past the end
    return torch.minimum(drawn, last)


def read(logits: Tensor, needs: Needs, draw: TokenDraw, noise: Tensor | None, banned: tuple[int, ...]) -> Reading:
    """Draw proposals and compute the declared quantities.

    logits [B, W, V] in any float dtype (computed in float32, or float64 if they are), noise [B, W]. ``banned`` tokens
    (the mask token, and what the user suppresses) take part in nothing: their logits are removed before the softmax.
    """
    if logits.dtype not in (torch.float32, torch.float64):
        logits = logits.float()
    logits = logits.index_fill(-1, _indices(banned, logits.device), -math.inf)
    log_sum = logits.logsumexp(-1)
    proposal = draw(logits, noise)
    quantities: dict[Quantity, Tensor] = {}
    if "confidence" in needs.quantities:
        quantities["confidence"] = (logits.gather(-1, proposal[..., None])[..., 0] - log_sum).exp()
    if needs.quantities & {"margin", "top_probs"}:
        count = max(needs.top_k, 2 if "margin" in needs.quantities else 1)
        largest = (logits.topk(count, dim=-1).values - log_sum[..., None]).exp()
        if "margin" in needs.quantities:
            quantities["margin"] = largest[..., 0] - largest[..., 1]
        if "top_probs" in needs.quantities:
            quantities["top_probs"] = largest[..., : needs.top_k]
    if needs.quantities & {"entropy", "probs"}:
        probs = (logits - log_sum[..., None]).exp()
        if "entropy" in needs.quantities:
            quantities["entropy"] = torch.special.entr(probs).sum(-1)
        if "probs" in needs.quantities:
            quantities["probs"] = probs
    return Reading(proposal, quantities, log_sum.isfinite())


@lru_cache(maxsize=16)
def _indices(tokens: tuple[int, ...], device: torch.device) -> Tensor:
    return torch.tensor(tokens, dtype=torch.long, device=device)
