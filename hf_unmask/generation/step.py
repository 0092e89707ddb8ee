"""What a sampler may look at and what it answers. Shape letters used across the package:

``B`` rows, ``S`` sequence (prompt and canvas), ``L`` canvas (positions to fill), ``W`` window (the part of the canvas
a sampler asked for: the active block, or all of it), ``V`` vocabulary, ``K`` top probabilities, ``D`` hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

Quantity = Literal["confidence", "entropy", "margin", "top_probs", "probs", "hidden"]
Where = Literal["eligible", "block", "canvas"]
#: A sampler's own memory: a tensor or (nested) tuple of tensors whose first dimension is rows, or None.
State = Any


@dataclass(frozen=True)
class Needs:
    """The quantities a sampler reads, and where. Nothing else is computed."""

    quantities: frozenset[Quantity] = frozenset()
    #: "eligible": the window is the active block, and nothing is computed at its decided positions: quantities are 0
    #: and the proposal is the token that stands there. "block": the active block, decided positions included.
    #: "canvas": the whole canvas, decided positions included.
    where: Where = "eligible"
    #: How many of the largest probabilities ``Step.top_probs`` holds.
    top_k: int = 1
    #: False: a "block" or "canvas" without its decided positions, at which nothing is computed either.
    decided: bool = True

    @classmethod
    def of(cls, *quantities: Quantity, where: Where = "eligible", top_k: int = 1, decided: bool = True) -> Needs:
        return cls(frozenset(quantities), where, top_k, decided)

    @property
    def only_masked(self) -> bool:
        """Whether nothing is read at decided positions."""
        return self.where == "eligible" or not self.decided


class Noise:
    """Uniform numbers in (0, 1), a pure function of row key, step and canvas position, never of the batch.

    Given as tensors, or as functions that are called when (and only if) a sampler asks.
    """

    def __init__(self, action: Tensor | Callable[[], Tensor], row: Tensor | Callable[[], Tensor]):
        self._action, self._row = action, row

    @cached_property
    def action(self) -> Tensor:
        """[B, W] float32, one per position, for choosing positions."""
        return self._action if isinstance(self._action, Tensor) else self._action()

    @cached_property
    def row(self) -> Tensor:
        """[B] float32, one per row and step."""
        return self._row if isinstance(self._row, Tensor) else self._row()


@dataclass(frozen=True)
class Step:
    """One denoising step of every active row, cut to the sampler's window.

    Reading a quantity that the sampler did not declare in ``needs`` raises. All are float32 (float64 for a float64
    denoiser), from the softmax at temperature 1 over the tokens that may be written (the mask token is not one).
    They are meaningful where ``valid`` is True, and if the sampler needs ``only_masked`` where ``masked`` is.
    """

    proposal: Tensor  # [B, W] long, the token a position takes if it is opened now
    masked: Tensor  # [B, W] bool, still undecided
    eligible: Tensor  # [B, W] bool, undecided and inside the row's active block: what may be opened
    valid: Tensor  # [B, W] bool, a position of this row's canvas (False: beyond a shorter row's end)
    index: Tensor  # [B, W] long, place in the row's canvas, 0 .. length - 1
    length: Tensor  # [B] long, positions this row has to fill
    steps: Tensor  # [B] long, denoising steps this row has made before this one
    block_steps: Tensor  # [B] long, of these, in the active block
    block_length: int  # positions of a full block
    stop_token_ids: tuple[int, ...] = ()  # EOS and its like
    read: Mapping[Quantity, Tensor] = field(default_factory=dict)  # the declared quantities; use the properties below

    def _quantity(self, name: Quantity) -> Tensor:
        if name not in self.read:
            raise ValueError(f"the sampler reads {name!r} but declares only {sorted(self.read)}: add it to `needs`")
        return self.read[name]

    @property
    def confidence(self) -> Tensor:
        """[B, W] float, probability of the proposal."""
        return self._quantity("confidence")

    @property
    def entropy(self) -> Tensor:
        """[B, W] float, nats."""
        return self._quantity("entropy")

    @property
    def margin(self) -> Tensor:
        """[B, W] float, largest minus second largest probability."""
        return self._quantity("margin")

    @property
    def top_probs(self) -> Tensor:
        """[B, W, K] float, the K largest probabilities, descending."""
        return self._quantity("top_probs")

    @property
    def probs(self) -> Tensor:
        """[B, W, V] float, the full distribution."""
        return self._quantity("probs")

    @property
    def hidden(self) -> Tensor:
        """[B, W, D] float, last hidden state."""
        return self._quantity("hidden")

    @property
    def offset(self) -> Tensor:
        """[B, W] long, place in its own block."""
        return self.index % self.block_length

    @property
    def stop(self) -> Tensor:
        """[B, W] bool, the proposal is a stop token."""
        stop = torch.zeros_like(self.masked)
        for token in self.stop_token_ids:
            stop |= self.proposal == token
        return stop

    @property
    def time(self) -> Tensor:
        """[B] float32 in [0, 1): steps made / positions to fill."""
        return self.steps.float() / self.length.clamp(min=1)


@dataclass(frozen=True)
class Selection:
    """A sampler's answer."""

    open: Tensor  # [B, W] bool, a subset of ``Step.eligible``
    state: State = None
    tokens: Tensor | None = None  # [B, W] long, tokens to write instead of the proposal
    reopen: Tensor | None = field(default=None)  # reserved for remasking; the loop raises if it is used


@runtime_checkable
class SamplerProtocol(Protocol):
    """What the loop asks of a sampler: an immutable value with these members."""

    @property
    def needs(self) -> Needs: ...

    @property
    def may_stall(self) -> bool:
        """True for a training recorder only: such a sampler may open nothing in a step."""
        ...

    def init(self, rows: int, length: int, device: Any) -> State: ...

    def select(self, step: Step, state: State, noise: Noise) -> Selection: ...


@runtime_checkable
class ChecksUse(Protocol):
    """A sampler that looks at what it is used on before the first step. It may warn, or refuse by raising."""

    def check(self, denoiser: Any, block_length: int | None, canvas: int) -> None: ...
