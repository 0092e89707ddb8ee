"""Dilated unmasking schedule (DUS)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from hf_unmask.denoisers.values import require_int
from hf_unmask.generation.step import Needs, Noise, Selection, State, Step
from hf_unmask.samplers.base import Sampler


@dataclass(frozen=True)
class DilatedSampler(Sampler):
    """Round t = 1, 2, ... opens the offsets of a block that are multiples of max(1, floor(B / base ** t)).

    B is the row's own block width (the last block may be shorter) and offsets count from 0, so that a fully masked
    block takes at most ceil(log_base B) steps and tokens that open together lie far apart. The model's
    probabilities play no part. The round is read off from what is still masked: rounds with nothing left to open
    (infilling) are passed over.

    Source: DUS, https://arxiv.org/abs/2506.19037, without its optional skipping of uncertain positions.
    """

    name: ClassVar[str] = "dilated"
    base: int = 2

    def __post_init__(self) -> None:
        require_int("base", self.base, at_least=2)

    @property
    def needs(self) -> Needs:
        return Needs.of()

    def select(self, step: Step, state: State, noise: Noise) -> Selection:
        del noise
        start = step.index - step.offset
        width = (step.length[:, None] - start).clamp(min=1, max=step.block_length)
        rounds = max(1, step.block_length).bit_length()  # enough for the last stride to be 1 with any base >= 2
        powers = [min(self.base**t, step.block_length + 1) for t in range(1, rounds + 1)]
        stride = (width[..., None] // torch.tensor(powers, device=width.device)).clamp(min=1)  # [B, W, rounds]
        hit = step.offset[..., None] % stride == 0
        due = hit.byte().argmax(-1).masked_fill(~step.eligible, rounds)  # [B, W], the first round that opens a position
        opened = step.eligible & (due == due.amin(-1, keepdim=True))
        return Selection(opened, state)
