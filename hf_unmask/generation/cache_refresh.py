"""What a pass computes anew when keys and values are kept: which columns of a row, and when all of them.

See ``hf_unmask.denoisers.caching`` for what this means. Without a cache nothing here is called.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hf_unmask.generation.canvas import NEVER, Rows
from hf_unmask.generation.run import Run


def stale_after(rows: Rows, run: Run, opening: Tensor, done: Tensor) -> Tensor:
    """``Rows.stale`` after a step that opened ``opening`` [R, W] bool; done [R] bool, the active block is."""
    before = rows.stale.masked_fill(rows.stale >= run.cache_refresh, 0)
    stale = before + opening.sum(-1)
    return stale if run.denoiser.causal_block is not None else stale.masked_fill(done, NEVER)


def part_of(rows: Rows, run: Run) -> Tensor:
    """[R] long, which part of the row a pass between two whole ones computes: the number of columns up to
    `_seen_end` (block-causal models), the first column (``cache="prefix"``), or 0 for the window (``"dual"``)."""
    if run.denoiser.causal_block is not None:
        return _width(rows, run, run.denoiser.causal_block)
    if run.cache == "dual":
        return torch.zeros_like(rows.start)
    first = torch.zeros_like(rows.start) if run.needs.where == "canvas" else rows.start
    first = first.clamp(min=0, max=rows.masked.shape[1] - 1)
    return run.denoiser.sources(rows.positions.gather(1, first[:, None]), rows.attended)[:, 0]


def columns_of(rows: Rows, run: Run, part: int | None, window: Tensor) -> Tensor | None:
    """What a pass between two whole ones computes, [R, Q] long; None for a whole one.

    part: what `part_of` said of these rows, None for a whole pass; window [R, W] long, the window's positions.
    """
    if part is None:
        return None
    if run.denoiser.causal_block is not None:
        first = (_seen_end(rows, run, run.denoiser.causal_block) - part).clamp(min=0)
        return first[:, None] + torch.arange(part, device=first.device)
    if run.cache == "prefix":
        return torch.arange(part, rows.tokens.shape[1], device=window.device).expand(len(window), -1)
    sources = run.denoiser.sources(window, rows.attended)
    if sources is window:
        return window
    return torch.cat([sources[:, :1] if run.gapless else sources, window], dim=1)


def _width(rows: Rows, run: Run, block: int) -> Tensor:
    """[R] long, columns to compute of a model with causal blocks of ``block`` positions: the active one, and the one
    before if it has just been finished; all from the first that holds a canvas position for who reads the canvas."""
    prompt = rows.attended.sum(-1) - rows.length
    if run.needs.where == "canvas":
        width = rows.length + prompt % block
    else:
        enters = (rows.block_steps == 0) & ((prompt + rows.start) % block == 0)
        width = block + block * enters
    return (width + run.denoiser.shift).clamp(max=rows.tokens.shape[1])


def _seen_end(rows: Rows, run: Run, block: int) -> Tensor:
    """[R] long, first column behind what the sampler sees: the model's active block, or the canvas."""
    total = rows.tokens.shape[1]
    if run.needs.where == "canvas":
        return torch.full_like(rows.start, total)
    before = total - rows.length + rows.start  # columns before the sampler's active block
    padding = total - rows.attended.sum(-1)
    return (before - (before - padding) % block + block).clamp(max=total)
