"""Keys and values kept between forward passes, behind transformers' own ``Cache`` interface.

A bidirectional model's keys and values change with every token that is written, so keeping them is an approximation
(Fast-dLLM, https://arxiv.org/abs/2505.22618): they are made by a pass over the whole row when it enters a block, and
until the next such pass only some columns are computed anew: the active block and all behind it (``"prefix"``), or the
active block alone (``"dual"``).

Where a position sees its own block and those before it (block-causal), keys and values of finished blocks do not change
any more and keeping them is exact. Only a row's first pass is whole; then the active block is computed, and when a row
enters it also the one before, which was written to since its last pass.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection
from itertools import chain
from typing import Any

from torch import Tensor, nn
from torch.nn.functional import pad
from transformers import Cache

#: What models call the argument that takes a ``Cache``: since transformers 5.24, and before.
NAMES = ("cache", "past_key_values")


def cache_argument(model: nn.Module, accepts: Collection[str] = ()) -> str:
    """The argument of a model's forward that takes a ``Cache``.

    A forward may hand on what it does not name, so the first module that names it tells, from the outside inwards.

    accepts: what is known to reach the outermost.
    """
    for named in chain([accepts], (inspect.signature(module.forward).parameters for module in model.modules())):
        for name in NAMES:
            if name in named:
                return name
    return NAMES[-1]


class RowCache(Cache):
    """Keys and values [R, heads, S, D] per layer, of whole rows.

    ``at`` says what the next pass computes. What the attention gets are the keys and values of whole rows, those
    columns replaced that the pass computes.
    """

    def __init__(self) -> None:
        super().__init__(layers=[])
        self.stores: list[list[Tensor]] = []
        self.rows: Tensor | None = None
        self.columns: Tensor | None = None

    def at(self, rows: Tensor | None, columns: Tensor | None) -> RowCache:
        """Set the rows [r] long (None: all) and their columns [r, Q] long (None: all) of the next pass."""
        self.rows, self.columns = rows, columns
        return self

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """[r, heads, Q, D] each, as the pass computed them -> [r, heads, S, D]."""
        del args, kwargs
        if layer_idx == len(self.stores):
            self.stores.append([key_states, value_states])
        store = self.stores[layer_idx]
        keys, values = (self._merge(store, place, new) for place, new in enumerate((key_states, value_states)))
        return keys, values

    def _merge(self, store: list[Tensor], place: int, new: Tensor) -> Tensor:
        if self.columns is None:
            if self.rows is None:
                store[place] = new
            else:
                store[place].index_copy_(0, self.rows, new)
            return new
        if self.rows is None:
            return store[place].scatter_(2, self.columns[:, None, :, None].expand(new.shape), new)
        store[place][self.rows[:, None], :, self.columns] = new.transpose(1, 2)
        return store[place][self.rows]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """0: places are always passed explicitly."""
        del layer_idx
        return 0

    def rearrange(self, kept: Tensor, new: int, columns: int) -> None:
        """Keep rows ``kept`` [R'] long, append ``new`` empty ones, drop ``columns`` from the left (add if negative)."""
        for store in self.stores:
            store[:] = [pad(values[kept], (0, 0, -columns, 0, 0, 0, 0, new)) for values in store]

    def numbers(self) -> int:
        """How many numbers are held."""
        return sum(values.numel() for store in self.stores for values in store)
