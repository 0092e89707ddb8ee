"""Counter-based randomness: every number is a pure function of a row's key, the step and the position.

No generator is advanced, so a row draws the same numbers alone, in a batch, in another order and padded otherwise.
The mixing function is SplitMix64's finaliser (Steele, Lea and Flood 2014, https://doi.org/10.1145/2714064.2660195).
"""

from __future__ import annotations

import torch
from torch import Tensor


def _signed(constant: int) -> int:
    return constant - (1 << 64) if constant >= 1 << 63 else constant


_GAMMA = _signed(0x9E3779B97F4A7C15)
_MIX_1 = _signed(0xBF58476D1CE4E5B9)
_MIX_2 = _signed(0x94D049BB133111EB)
_STEP = _signed(0xDB4F0B9175AE2165)
#: Independent streams of one row and step, told apart by what they add.
ACTION, TOKEN, ROW = 0, _signed(0xD1B54A32D192ED03), _signed(0xABC98388FB8FAC03)


def _shift_right(x: Tensor, bits: int) -> Tensor:
    return (x >> bits) & ((1 << (64 - bits)) - 1)  # logical, torch's is arithmetic


def _stir(x: Tensor) -> Tensor:
    """The finaliser without its last line, which leaves the upper 31 bits as they are."""
    x = (x ^ _shift_right(x, 30)) * _MIX_1
    return (x ^ _shift_right(x, 27)) * _MIX_2


def _mix(x: Tensor) -> Tensor:
    x = _stir(x)
    return x ^ _shift_right(x, 31)


def row_keys(seed: Tensor, tokens: Tensor, attended: Tensor, fill: Tensor) -> Tensor:
    """Keys of rows: a hash of (seed, unpadded prompt, occurrence among equal prompts of the call).

    seed [B] long, tokens [B, P] long, attended and fill [B, P] bool (which positions are real, which are to be
    filled) -> [B] long. Equal prompts of one call differ by their occurrence, so their rows draw differently.
    """
    place = attended.long().cumsum(-1)
    words = _mix(_mix(tokens * 2 + fill + _GAMMA) + place * _GAMMA)
    prompt = _mix((words * attended).sum(-1) + attended.sum(-1))
    content = _mix(prompt + _mix(seed + _GAMMA))
    return _mix(content + _occurrence(content) * _GAMMA)


def _occurrence(values: Tensor) -> Tensor:
    """How many equal values come before each. [B] -> [B] long."""
    ordered, order = values.sort(stable=True)
    rank = torch.arange(len(values), device=values.device)
    first = torch.where(ordered == ordered.roll(1), 0, rank).cummax(0).values  # where its run of equals begins
    return torch.empty_like(rank).scatter(0, order, rank - first)


def uniform(key: Tensor, step: Tensor, index: Tensor, stream: int) -> Tensor:
    """Uniform numbers strictly inside (0, 1). key [B], step [B], index [B, W], all long -> [B, W] float32.

    One mix of the sum of multiples that are odd and unrelated, so that no two small (step, index) of a key meet.
    """
    x = _stir((key + step * _STEP + stream)[:, None] + index * _GAMMA)
    return (_shift_right(x, 41).float() + 0.5) * 2.0**-23  # 23 bits and a half: exact in float32, never 0 or 1
