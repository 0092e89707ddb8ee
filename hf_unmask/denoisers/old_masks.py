"""Names of ``transformers.modeling_attn_mask_utils``, which transformers 5.24 dropped: additive masks of older code.

`hf_unmask.denoisers.compat` puts this module in its place while a checkpoint's code is imported. Masks are 0 where a
position is seen and the dtype's lowest number elsewhere.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def _additive(seen: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill(~seen, torch.finfo(dtype).min)


class AttentionMaskConverter:
    """A padding mask [B, S] as numbers to add [B, 1, Q, S]; with ``is_causal`` a position sees none behind it."""

    def __init__(self, is_causal: bool, sliding_window: int | None = None):
        self.is_causal, self.sliding_window = is_causal, sliding_window

    def to_4d(
        self, attention_mask_2d: Tensor, query_length: int, dtype: torch.dtype, key_value_length: int | None = None
    ) -> Tensor:
        """The last ``query_length`` of the positions ask; those kept from before lie in front of them."""
        rows, width = attention_mask_2d.shape
        seen = attention_mask_2d[:, None, None, :].bool().expand(rows, 1, query_length, width)
        if self.is_causal:
            length = key_value_length or width
            keys = torch.arange(length, device=seen.device)
            behind = keys[-query_length:, None] - keys
            seen = seen & (behind >= 0)
            if self.sliding_window is not None:
                seen = seen & (behind <= self.sliding_window)
        return _additive(seen, dtype)


def _prepare_4d_attention_mask(mask: Tensor, dtype: torch.dtype, tgt_len: int | None = None) -> Tensor:
    return AttentionMaskConverter(is_causal=False).to_4d(mask, tgt_len or mask.shape[1], dtype)


def _prepare_4d_causal_attention_mask(
    attention_mask: Tensor | None,
    input_shape: Any,
    inputs_embeds: Tensor,
    past_key_values_length: int,
    sliding_window: int | None = None,
) -> Tensor:
    """A mask [B, 1, Q, S] holds 1 where a position is seen; None is no padding."""
    if attention_mask is not None and attention_mask.ndim == 4:
        return _additive(attention_mask == 1, inputs_embeds.dtype)
    length = input_shape[-1] + past_key_values_length
    if attention_mask is None:
        attention_mask = torch.ones(input_shape[0], length, device=inputs_embeds.device)
    converter = AttentionMaskConverter(is_causal=True, sliding_window=sliding_window)
    return converter.to_4d(attention_mask, input_shape[-1], inputs_embeds.dtype, length)


def _prepare_4d_causal_attention_mask_for_sdpa(attention_mask: Tensor | None, *args: Any, **kwargs: Any) -> Tensor:
    """A mask [B, 1, Q, S] is taken as it is."""
    if attention_mask is not None and attention_mask.ndim == 4:
        return attention_mask
    return _prepare_4d_causal_attention_mask(attention_mask, *args, **kwargs)
