"""From logits to what a sampler reads: proposals and the declared quantities, nothing else."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from hf_unmask.generation.step import Needs, Quantity
from hf_unmask.generation.ties import descending, first_largest, slack

#: From this vocabulary on, maxima are searched in two stages: the CPU's search with indices is not vectorised.
_WIDE = 4096
_SEGMENT = 128
#: Numbers that stay in a core's cache between the passes over them.
_CACHED = 1 << 18


@dataclass(frozen=True)
class Reading:
    """Outcome of one forward pass; leading shape [N] positions as read, or [B, W] in the window."""

    proposal: Tensor  # [N] long
    quantities: dict[Quantity, Tensor]
    spoilt: Tensor  # [N] bool, the logits hold NaN or +inf, or nothing may be written

    @classmethod
    def join(cls, parts: Iterable[Reading]) -> Reading:
        """Positions of all parts, one part after another."""
        parts = list(parts)
        if len(parts) == 1:
            return parts[0]
        names = parts[0].quantities
        return cls(
            torch.cat([part.proposal for part in parts]),
            {name: torch.cat([part.quantities[name] for part in parts]) for name in names},
            torch.cat([part.spoilt for part in parts]),
        )

    def in_window(self, places: Tensor, wanted: Tensor, standing: Tensor) -> Reading:
        """Put positions [B, n] at their ``places`` [B, n] of a window [B, W], those that are ``wanted`` [B, n] bool.

        Elsewhere quantities are 0 and the proposal is what is ``standing`` there, [B, W] long.
        """

        def placed(values: Tensor, background: Tensor) -> Tensor:
            cell = (*places.shape, *(1 for _ in values.shape[2:]))
            index = places.reshape(cell).expand(*places.shape, *values.shape[2:])
            values = torch.where(wanted.reshape(cell), values, background.gather(1, index))
            return background.scatter(1, index, values)

        return Reading(
            placed(self.proposal, standing),
            {
                name: placed(values, values.new_zeros(*standing.shape, *values.shape[2:]))
                for name, values in self.quantities.items()
            },
            placed(self.spoilt, torch.zeros_like(standing, dtype=torch.bool)),
        )

    def only(self, wanted: Tensor, standing: Tensor) -> Reading:
        """What ``in_window`` gives, for positions that were all read, in their places; both [B, W]."""
        out = ~wanted
        return Reading(
            torch.where(wanted, self.proposal, standing),
            {
                name: values.masked_fill(out.reshape(*out.shape, *(1 for _ in values.shape[2:])), 0)
                for name, values in self.quantities.items()
            },
            self.spoilt & wanted,
        )

    def take(self, rows: Tensor) -> Reading:
        """The rows at ``rows`` [R] long of [B, n]."""
        return Reading(
            self.proposal[rows], {name: values[rows] for name, values in self.quantities.items()}, self.spoilt[rows]
        )

    def by_row(self, rows: int) -> Reading:
        """[rows * n] -> [rows, n]."""
        return Reading(
            self.proposal.reshape(rows, -1),
            {name: values.reshape(rows, -1, *values.shape[1:]) for name, values in self.quantities.items()},
            self.spoilt.reshape(rows, -1),
        )


@dataclass(frozen=True)
class TokenDraw:
    """How a token is drawn at an opened position; temperature 0 takes the most probable one."""

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None

    def __call__(self, logits: Tensor, noise: Tensor) -> Tensor:
        """logits [n, V] float, noise [n] uniform -> [n] long, by inverting the cumulative distribution."""
        logits = logits / self.temperature
        if self.top_k is not None and self.top_k < logits.shape[-1]:
            least = logits.topk(self.top_k, dim=-1).values[..., -1:] - slack(logits.dtype)
            logits = logits.masked_fill(logits < least, -math.inf)
        if self.top_p is None or self.top_p >= 1.0:
            return _invert(logits.softmax(-1), noise)
        probs = logits.softmax(-1)
        order = descending(probs)
        probs = probs.gather(-1, order)
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


def guided(conditional: Tensor, plain: Tensor, scale: float) -> Tensor:
    """Logits under classifier-free guidance, all [n, V].

    -inf says that a token must not be written. What either pass says stands: the formula would make NaN of it, or an
    infinite preference for what only the unconditional pass forbids. NaN stays NaN.
    """
    forbidden = torch.minimum(conditional, plain) == -math.inf
    return (plain + scale * (conditional - plain)).masked_fill_(forbidden, -math.inf)


def read(
    pieces: Iterable[Tensor], needs: Needs, draw: TokenDraw, noise: Tensor | None, banned: tuple[int, ...]
) -> Reading:
    """Draw proposals and compute the declared quantities, piece by piece.

    pieces of logits [n, V] in any float dtype (computed in float32, or float64 if they are; overwritten), noise [N]
    for the draw (None: the most probable tokens).
    ``banned`` tokens (the mask token, and what the user suppresses) take part in nothing: their logits are removed
    before the softmax.
    """
    parts, start = [], 0
    for logits in pieces:
        end = start + len(logits)
        parts.append(_read(logits, needs, draw, None if noise is None else noise[start:end], banned))
        start = end
    return Reading.join(parts)


def _read(logits: Tensor, needs: Needs, draw: TokenDraw, noise: Tensor | None, banned: tuple[int, ...]) -> Reading:
    """The same for one piece [n, V]."""
    if logits.dtype not in (torch.float32, torch.float64):
        logits = logits.float()
    logits.index_fill_(-1, _indices(banned, logits.device), -math.inf)
    best, leader = _largest(logits)
    log_sum = _log_sum(logits, best)
    proposal = leader if noise is None else draw(logits, noise)
    quantities: dict[Quantity, Tensor] = {}
    if "confidence" in needs.quantities:
        proposed = best if noise is None else logits.gather(-1, proposal[..., None])[..., 0]
        quantities["confidence"] = (proposed - log_sum).exp()
    if needs.quantities & {"margin", "top_probs"}:
        count = max(needs.top_k, 2 if "margin" in needs.quantities else 1)
        values = best[..., None] if count == 1 else logits.topk(count, dim=-1).values
        largest = (values - log_sum[..., None]).exp()
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
    return Reading(proposal, quantities, log_sum - log_sum != 0)  # as ~isfinite(), in two operations


def _largest(logits: Tensor) -> tuple[Tensor, Tensor]:
    """The largest logit and its first index, both [n]; NaN where there is one."""
    size = logits.shape[-1]
    if logits.dtype == torch.float64:
        leader = first_largest(logits)
        return logits.gather(-1, leader[:, None])[:, 0], leader
    if logits.device.type != "cpu" or size < _WIDE:
        found = logits.max(-1)
        return found.values, found.indices
    whole = size - size % _SEGMENT
    tops = logits[:, :whole].reshape(len(logits), -1, _SEGMENT).amax(-1)
    if whole < size:
        tops = torch.cat([tops, logits[:, whole:].amax(-1, keepdim=True)], dim=-1)
    place = tops.argmax(-1, keepdim=True) * _SEGMENT + torch.arange(_SEGMENT)
    place = place.clamp(max=size - 1)  # repeats the last one, and the first of equals counts
    inner = logits.gather(-1, place).argmax(-1, keepdim=True)
    leader = place.gather(-1, inner)
    return logits.gather(-1, leader)[:, 0], leader[:, 0]


def _log_sum(logits: Tensor, best: Tensor) -> Tensor:
    """log(sum(exp(logits))) [n], given the largest logits [n]."""
    if logits.device.type != "cpu" or logits.numel() <= _CACHED:
        return (logits - best[:, None]).exp_().sum(-1).log_().add_(best)
    step = max(_CACHED // logits.shape[-1], 1)
    starts = range(0, len(logits), step)
    sums = [(logits[at : at + step] - best[at : at + step, None]).exp_().sum(-1) for at in starts]
    return torch.cat(sums).log_().add_(best)


@lru_cache(maxsize=16)
def _indices(tokens: tuple[int, ...], device: torch.device) -> Tensor:
    return torch.tensor(tokens, dtype=torch.long, device=device)
