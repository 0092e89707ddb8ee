"""The sampler's window: the part of every row's canvas that it sees in a step."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hf_unmask.generation.canvas import Rows
from hf_unmask.generation.run import Run, window_width


@dataclass(frozen=True)
class Window:
    """All [R, W]."""

    slots: Tensor  # long, canvas positions (clamped)
    inside: Tensor  # bool, which of them exist in the row
    positions: Tensor  # long, where they lie in the sequence
    masked: Tensor  # bool, undecided


def window_of(rows: Rows, run: Run) -> Window:
    """The active block, or the whole canvas for who reads it."""
    canvas = rows.masked.shape[1]
    slots = torch.arange(window_width(run, canvas), device=rows.key.device)
    if run.needs.where == "canvas":
        return Window(slots.expand(len(rows.key), -1), rows.valid, rows.positions, rows.masked)
    if not run.overhang:
        slots = slots + rows.start[:, None]
        inside = slots < rows.length[:, None]
        return Window(slots, inside, rows.positions.gather(1, slots), rows.masked.gather(1, slots))
    start, end = block_bounds(rows, run)
    slots = slots + start[:, None]
    inside = slots < end[:, None]
    slots = slots.clamp(max=canvas - 1)
    return Window(slots, inside, rows.positions.gather(1, slots), rows.masked.gather(1, slots) & inside)


def block_bounds(rows: Rows, run: Run) -> tuple[Tensor, Tensor]:
    """First canvas position in each row's active block, and the first one behind it, both [R] long."""
    return rows.start.clamp(min=0), torch.minimum(rows.start + run.block_length, rows.length)


def in_block(slots: Tensor, rows: Rows, run: Run) -> Tensor:
    """[R, W] bool, which canvas positions [R, W] or [W] lie in the row's active block."""
    return (slots - rows.start[:, None]) // run.block_length == 0
