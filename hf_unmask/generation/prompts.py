"""What a user passes as prompts, checked before anything is allocated."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from hf_unmask.denoisers.adapter import Denoiser
from hf_unmask.denoisers.conventions import embeddings
from hf_unmask.denoisers.values import MOST, is_listed, is_whole, plain, require_int, shown, token_ids
from hf_unmask.generation.configuration import UnmaskingGenerationConfig

_WHOLE = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
#: Bytes that a position takes apart from the model: tokens, places, masks, the map of steps and what sorts them.
_BOOKS = 64


@dataclass(frozen=True)
class Prompts:
    """Token ids and what goes with each, as passed."""

    ids: Any  # [B, P]
    attention_mask: Any = None  # [B, P]; None: to be inferred
    types: Any = None  # [B, P]; None: all 0

    @classmethod
    def of_lists(cls, prompts: Any, types: Any = None) -> Prompts:
        """Prompts of their own lengths, without padding, as a left-padded batch; ``types`` likewise."""
        rows = _rows("prompts", prompts)
        if not rows:
            raise ValueError(f"`prompts` must be at least one list of token ids, got {shown(prompts)}")
        kinds = None if types is None else _rows("token_type_ids", types)
        if kinds is not None and [len(row) for row in kinds] != [len(row) for row in rows]:
            raise ValueError(f"`token_type_ids` must be lists as long as the prompts, got {shown(types)}")
        real = _padded([torch.ones_like(row) for row in rows])
        return cls(_padded(rows), real, None if kinds is None else _padded(kinds))

    def checked_ids(self) -> Tensor:
        """[B, P] of an integer dtype."""
        if not isinstance(self.ids, Tensor):
            cure = "generate(model, **encoding, ...)" if isinstance(self.ids, Mapping) else "return_tensors='pt'"
            raise ValueError(f"`input_ids` must be a tensor, got {type(self.ids).__name__}: use {cure}")
        if self.ids.ndim != 2 or self.ids.shape[0] == 0 or self.ids.dtype not in _WHOLE:
            raise ValueError(
                f"`input_ids` must be long of shape [rows, tokens] with at least one row, got {self.ids.dtype} "
                f"of shape {tuple(self.ids.shape)}"
            )
        return self.ids

    def checked_types(self, denoiser: Denoiser, ids: Tensor) -> Tensor:
        """[B, P] long. A model without types has one, 0."""
        if self.types is None:
            return torch.zeros_like(ids)
        types, name = like("token_type_ids", self.types, ids), type(denoiser.core).__name__
        if types.dtype not in _WHOLE:
            raise ValueError(f"`token_type_ids` must be long, got {types.dtype}")
        known = "token_type_ids" in denoiser.accepts
        count = getattr(getattr(denoiser.core, "config", None), "type_vocab_size", MOST) if known else 1
        wrong = types[(types < 0) | (types >= count)]
        if len(wrong):
            raise ValueError(
                f"`token_type_ids` holds {int(wrong[0])}, {name} has {count} type(s) of tokens: drop `token_type_ids`, "
                "or use the model's own tokenizer"
            )
        return types.long()


def extended(types: Tensor, attended: Tensor, total: int) -> Tensor:
    """[B, total], of types [B, P] and attended [B, P]: what follows a prompt is of the type of its last token."""
    rows, columns = types.shape
    place = torch.arange(columns, device=types.device) * attended
    last = types.gather(1, place.argmax(-1, keepdim=True)) if columns else types.new_zeros(rows, 1)
    return torch.cat([types, last.expand(-1, total - columns)], dim=1)


def seeds(seed: int | Tensor, rows: int, device: torch.device) -> Tensor:
    """[rows] long. One seed for all, or one per row."""
    if is_whole(seed):
        seed = require_int("seed", seed, at_least=-(2**63), at_most=2**63 - 1)
        return torch.full((rows,), seed, dtype=torch.long, device=device)
    if not isinstance(seed, Tensor):
        raise ValueError(f"`seed` must be an int or a long tensor with one per prompt, got {shown(seed)}")
    if seed.dtype != torch.long or seed.shape != (rows,):
        raise ValueError(f"`seed` must be long of shape ({rows},), got {seed.dtype} of shape {tuple(seed.shape)}")
    return seed.to(device)


def like(name: str, values: Any, ids: Tensor) -> Tensor:
    """A tensor of the shape of ``ids`` [B, P], on its device."""
    if not isinstance(values, Tensor) or values.shape != ids.shape:
        shape = tuple(values.shape) if isinstance(values, Tensor) else f"{type(values).__name__} {shown(values)}"
        raise ValueError(f"`{name}` must be a tensor of the shape of `input_ids` {tuple(ids.shape)}, got {shape}")
    return values.to(ids.device)


def refuse_size(denoiser: Denoiser, attended: Tensor, config: UnmaskingGenerationConfig) -> None:
    """Raise a ValueError if the model has no such positions, or the device cannot hold what is asked for."""
    new, rows, prompt = config.max_new_tokens or 0, len(attended) * config.num_return_sequences, attended.shape[1]
    longest = int(attended.sum(-1).max()) + new
    if denoiser.max_length is not None and longest > denoiser.max_length:
        raise ValueError(
            f"prompt and new tokens make {longest} positions, the model holds {denoiser.max_length}: shorten the "
            f"prompt or lower `max_new_tokens={new}`"
        )
    table = embeddings(denoiser.core)
    state = 0 if table is None else table.embedding_dim * table.weight.element_size()
    needed = (prompt + new) * (rows * _BOOKS + min(config.slots or rows, rows) * state)
    held = _memory(denoiser.device)
    if needed > held:
        raise ValueError(
            f"{rows} rows of {prompt + new} positions take at least {needed / 2**30:.1f} GiB, {denoiser.device} has "
            f"{held / 2**30:.1f}: lower `max_new_tokens={new}` or `num_return_sequences="
            f"{config.num_return_sequences}`, or pass fewer prompts at a time"
        )


def _memory(device: torch.device) -> int:
    """Bytes that a device has in all."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    if "SC_PHYS_PAGES" not in getattr(os, "sysconf_names", ()):  # Windows does not tell
        return sys.maxsize
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _rows(name: str, lists: Any) -> list[Tensor]:
    """Every list of ids [P] as a tensor on the CPU."""
    found = plain(lists)
    rows = [plain(row) for row in found] if is_listed(found) else [found]
    for row in rows:
        if not is_listed(row):
            raise ValueError(
                f"`{name}` must be lists of token ids, got {shown(row)} where a list should be: pass "
                "tokenizer(texts)['input_ids']"
            )
    return [torch.tensor(token_ids(name, row), dtype=torch.long) for row in rows]


def _padded(rows: list[Tensor]) -> Tensor:
    """[B, P] long, zeros on the left."""
    width = max(len(row) for row in rows)
    return torch.stack([pad(row, (width - len(row), 0)) for row in rows])
