"""Logits where they are read, and nowhere else.

The output layer of a model with a large vocabulary costs as much as several transformer layers, and its logits more
memory than everything else together. Here it runs on the positions asked for alone, in pieces of bounded size.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

#: Numbers in a piece of logits: 64 MiB in float32.
PIECE = 1 << 24
#: Up to so many logits it costs more to choose among them than to compute them all.
FEW = 1 << 16


@dataclass(frozen=True)
class Prediction:
    """What one forward pass says at [B, W] positions, with logits that are made when they are read."""

    source: Tensor  # [B * Q, D] inputs of the output layer, or [B * Q, V] logits if there is no ``project``
    cells: Tensor  # [B, W] long, rows of the source
    vocab_size: int
    project: Callable[[Tensor], Tensor] | None
    hidden: Tensor | None = None  # [B, W, D], last hidden states, if asked for

    def pieces(self) -> Iterator[Tensor]:
        """New tensors [n, V] in the model's dtype, which the caller may overwrite; together all positions in order."""
        cells = self.cells.flatten().to(self.source.device)
        step = max(PIECE // self.vocab_size, 1)
        for start in range(0, len(cells), step):
            taken = self.source[cells[start : start + step]]
            yield (taken if self.project is None else self.project(taken)).to(self.cells.device)

    def logits(self) -> Tensor:
        """[B, W, V], all at once."""
        return torch.cat([*self.pieces()]).reshape(*self.cells.shape, -1)


@dataclass
class HeldBack:
    """What an output layer was called with while it was held back; None if it was not called, or otherwise."""

    states: Tensor | None = None  # [B, Q, D]
    answer: Tensor | None = field(default=None, repr=False)  # [B, 0, V]
    version: int = 0

    def is_answer(self, logits: Tensor) -> bool:
        """Whether the model returned what its output layer returned, and did not compute with it."""
        return logits is self.answer and logits._version == self.version


@contextmanager
def held_back(layer: nn.Module | None, shape: torch.Size) -> Iterator[HeldBack]:
    """While open, ``layer`` runs on no position, so that its weights are not read, and what it was called with is kept.

    Only a call with [*shape, D] from this thread counts; any other is left as it is.
    """
    held, thread = HeldBack(), threading.get_ident()

    def keep(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Tensor] | None:
        del module
        states = inputs[0] if len(inputs) == 1 else None
        if thread != threading.get_ident() or not isinstance(states, Tensor) or states.ndim != 3:
            return None
        if states.shape[:2] != shape:
            return None
        held.states = states
        return (states[:, :0],)

    def answered(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        del module, inputs
        if thread == threading.get_ident() and isinstance(output, Tensor) and held.states is not None:
            held.answer, held.version = output, output._version

    if layer is None:
        yield held
        return
    hooks = [layer.register_forward_pre_hook(keep), layer.register_forward_hook(answered)]
    try:
        yield held
    finally:
        for hook in hooks:
            hook.remove()
