"""What a model's forward gets in one pass: tokens, positions and masks, for all columns or for some."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from hf_unmask.denoisers.caching import RowCache
from hf_unmask.denoisers.conventions import Conventions
from hf_unmask.denoisers.families import Attention


def forward_inputs(
    settled: Conventions,
    model: nn.Module,
    tokens: Tensor,
    attended: Tensor | None,
    cache: RowCache | None,
    types: Tensor | None = None,
) -> dict[str, Any]:
    """Arguments of the model's forward for all columns, or for those that ``cache`` says.

    tokens [B, S] long, left-padded; attended [B, S] bool, not padding (None: there is none); types [B, S] long, their
    segments (None: all 0).
    """
    columns = None if cache is None else cache.columns
    if attended is not None:
        places = (attended.cumsum(-1) - 1).clamp(min=0)
    else:
        places = torch.arange(tokens.shape[1], device=tokens.device).expand(tokens.shape)
        if not settled.maskless or (columns is not None and _adds_mask(settled, model)):
            attended = tokens.new_ones(1, dtype=torch.bool).expand(tokens.shape)
    keys = places
    if columns is not None:
        tokens, places = tokens.gather(1, columns), places.gather(1, columns)
        types = None if types is None else types.gather(1, columns)
    if attended is None:
        masks: dict[str, Any] = {"attention_mask": None}
    elif columns is None or settled.causal_block is not None:
        masks = _masks(settled, model, attended, keys, places)
    else:
        masks = {"attention_mask": _rectangle(settled, model, attended, columns.shape[1])}
    if settled.position_offset:
        places = places + settled.position_offset
    extras = {"position_ids": places, "use_cache": False, "return_dict": True}
    inputs = {"input_ids": tokens, **masks, **{name: extras[name] for name in extras if name in settled.accepts}}
    if types is not None:
        inputs["token_type_ids"] = types
    if cache is not None:
        inputs |= {settled.cache_argument: cache, "use_cache": True, **dict.fromkeys(settled.cache_switches, True)}
    return inputs


def _masks(settled: Conventions, model: nn.Module, attended: Tensor, keys: Tensor, queries: Tensor) -> dict[str, Any]:
    """What goes beside tokens and positions; places [B, S] of the keys, [B, Q] of the queries."""
    dtype = getattr(model, "dtype", torch.float32)
    mask = _attention_mask(settled.attention, attended, keys, queries, settled.block_length, dtype)
    if mask is not None:
        return {"attention_mask": mask}
    extras = {"block_size": settled.block_length, "timesteps": torch.zeros(len(attended), device=attended.device)}
    return {name: value for name, value in extras.items() if name in settled.accepts and value is not None}


def _attention_mask(
    attention: Attention,
    attended: Tensor,
    places: Tensor,
    queries: Tensor,
    block_length: int | None,
    dtype: torch.dtype,
) -> Tensor | None:
    """The mask as a model wants it, None if it takes none.

    attended [B, S] bool; places [B, S] long, each token's position without padding; queries [B, Q] long, those of the
    computed ones (all, or some with "block" and "block-additive"); dtype of the additive form.
    Padded queries see real keys too: a fully masked row would be NaN in some kernels.
    """
    if attention == "own":
        return None
    if attention == "2d":
        return attended.long()
    keys = attended[:, None, None, :].expand(-1, 1, queries.shape[1], -1)
    if attention == "4d":
        return keys
    if block_length is None:
        raise ValueError(f"attention {attention!r} needs the model's block_length, got None")
    seen = keys & ((places // block_length)[:, None, None, :] <= (queries // block_length)[:, None, :, None])
    if attention == "block":
        return seen
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill(~seen, torch.finfo(dtype).min)


def _rectangle(settled: Conventions, model: nn.Module, attended: Tensor, queries: int) -> Tensor:
    """[B, 1, Q, S], the mask of a pass over some columns that see all."""
    mask = attended[:, None, None, :].expand(-1, 1, queries, -1)
    if _adds_mask(settled, model):
        dtype = next(model.parameters()).dtype
        return torch.zeros_like(mask, dtype=dtype).masked_fill(~mask, torch.finfo(dtype).min)
    return mask


def _adds_mask(settled: Conventions, model: nn.Module) -> bool:
    """Whether a mask [B, 1, Q, S] holds numbers to add, as a native class wants it."""
    kernel = getattr(getattr(model, "config", None), "_attn_implementation", None)
    return settled.attention == "2d" and bool(kernel == "eager")
