"""Which of nearly equal values counts as the largest, so that rounding does not decide.

Masks with nothing but masks around them are alike to a model that knows positions only relative to each other
(ModernBERT): it predicts the same at all of them, and which of the equal numbers comes out largest is how the shape of
the batch rounds. Hence in float64, in which a row's result is promised not to depend on its batch, values closer than
`TIE` count as equal, and the first of them wins. That moves the gap at which rounding could decide from 0, where
symmetry puts it, to `TIE`, where nothing does. A grid would not do: equal values may lie at the edge of two cells.

Narrower dtypes round too coarsely for this and are compared as they are.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

#: Of probabilities, nats and logits in float64: far above what rounding does to them, far below what a model means.
TIE = 1e-10


def slack(dtype: torch.dtype) -> float:
    """How much less than the largest value counts as equal to it."""
    return TIE if dtype == torch.float64 else 0.0


def first_largest(values: Tensor) -> Tensor:
    """[..., N] float -> [...] long, the first index of those that count as largest; NaN does, as in torch."""
    bound = slack(values.dtype)
    if not bound:
        return values.argmax(-1)
    equal = values >= values.amax(-1, keepdim=True) - bound
    return (equal | values.isnan()).int().argmax(-1)


def descending(values: Tensor) -> Tensor:
    """[..., N] float -> [..., N] long, indices from the largest to the smallest; ties: first index first.

    A run of values each closer than `TIE` to the next is one tie.
    """
    ordered, order = values.sort(dim=-1, descending=True, stable=True)
    bound = slack(values.dtype)
    if not bound:
        return order
    group = pad((ordered[..., :-1] - ordered[..., 1:] > bound).cumsum(-1), (1, 0))
    return torch.empty_like(order).scatter(-1, order, group).argsort(dim=-1, stable=True)
