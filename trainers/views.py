"""One step for several samplers: each is shown the window and the quantities that it would get alone."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hf_unmask.generation.step import Needs, Noise, Step

#: Where each row's active block begins in the canvas, and how many positions of it the row has, both [R] long.
Block = tuple[Tensor, Tensor]
_WINDOWS = ("eligible", "block", "canvas")  # each holds those before it


def union(first: Needs, second: Needs) -> Needs:
    """What must be read so that both can be shown a step."""
    reading = [needs.top_k for needs in (first, second) if "top_probs" in needs.quantities]
    return Needs(
        first.quantities | second.quantities,
        max(first.where, second.where, key=_WINDOWS.index),
        max(reading, default=1),
        decided=not (first.only_masked and second.only_masked),
    )


def in_block(needs: Needs, whole: Needs) -> bool:
    """Whether a sampler sees one block of the canvas that is read for another."""
    return whole.where == "canvas" and needs.where != "canvas"


def active_block(step: Step, before: Block) -> Block:
    """The active block of a step over the whole canvas; ``before``: that of the step before.

    A block is entered with all its positions undecided, and keeps its place while they open.
    """
    entered = step.block_steps == 0
    first = torch.where(entered, step.eligible.int().argmax(-1), before[0])
    return first, torch.where(entered, step.eligible.sum(-1), before[1])


@dataclass(frozen=True)
class View:
    """What one sampler sees of a step over a window [R, W], and where: a window [R, w] of its own."""

    step: Step
    noise: Noise
    places: Tensor | None  # [R, w] long, in the whole window; None: that is its own
    inside: Tensor  # [R, w] bool, which of them exist

    @classmethod
    def of(cls, step: Step, noise: Noise, needs: Needs, whole: Needs, block: Block) -> View:
        """For a sampler that ``needs`` a part of what was read for the ``whole``."""
        view = cls(step, noise, None, step.valid)
        if in_block(needs, whole):
            width = step.masked.shape[1]
            column = torch.arange(min(step.block_length, width), device=step.masked.device)
            places = (block[0][:, None] + column).clamp(max=width - 1)
            view = cls(step, noise, places, column < block[1][:, None])
        mine = replace(
            step,
            proposal=view.cut(step.proposal),
            masked=view.cut(step.masked) & view.inside,
            eligible=view.cut(step.eligible) & view.inside,
            valid=view.inside,
            index=view.cut(step.index),
            read={name: view.cut(step.read[name]) for name in needs.quantities},
        )
        if "top_probs" in mine.read:
            mine = replace(mine, read={**mine.read, "top_probs": mine.top_probs[..., : needs.top_k]})
        if needs.only_masked and not whole.only_masked:
            mine = replace(mine, read={name: _zeroed(values, mine.masked) for name, values in mine.read.items()})
        return replace(view, step=mine, noise=Noise(lambda: view.cut(noise.action), lambda: noise.row))

    def cut(self, values: Tensor) -> Tensor:
        """[R, W, ...] -> [R, w, ...]."""
        if self.places is None:
            return values
        index = self.places.reshape(*self.places.shape, *(1 for _ in values.shape[2:]))
        return values.gather(1, index.expand(*self.places.shape, *values.shape[2:]))

    def put(self, values: Tensor, opened: Tensor, whole: Tensor) -> Tensor:
        """``whole`` [R, W] long with ``values`` [R, w] long where the window is ``opened`` [R, w] bool."""
        if self.places is None:
            return torch.where(opened, values, whole)
        # adding differences keeps places that do not exist (they add 0) from overwriting real ones
        return whole.scatter_add(1, self.places, (values - self.cut(whole)) * opened)


def _zeroed(values: Tensor, kept: Tensor) -> Tensor:
    """[R, w, ...] with 0 where it is not ``kept`` [R, w] bool."""
    return values.masked_fill(~kept.reshape(*kept.shape, *(1 for _ in values.shape[2:])), 0)
