"""Tiny models from their real classes, with random weights large enough that their distributions are sharp."""

from __future__ import annotations

from typing import Any

import torch
from transformers import (
    BertConfig,
    BertForMaskedLM,
    EuroBertConfig,
    EuroBertForMaskedLM,
    ModernBertConfig,
    ModernBertForMaskedLM,
    PreTrainedModel,
)

VOCAB, PAD, EOS, MASK = 60, 0, 1, 59
_SIZES: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 128,
    "pad_token_id": PAD,
    "bos_token_id": 2,
    "eos_token_id": EOS,
}


def tiny_eurobert(
    dtype: torch.dtype = torch.float32, seed: int = 0, spread: float = 0.5, layers: int = 1
) -> PreTrainedModel:
    """One layer, which is what most tests need; they run thousands of its passes."""
    sizes = {**_SIZES, "num_hidden_layers": layers, "num_key_value_heads": 2}
    config = EuroBertConfig(**sizes, initializer_range=spread, mask_token_id=MASK)
    return _build(EuroBertForMaskedLM, config, dtype, seed)


def tiny_modernbert(dtype: torch.dtype = torch.float32, seed: int = 0, spread: float = 0.5) -> PreTrainedModel:
    """Its local layers see 8 positions, so that a wrong position or padding shows."""
    config = ModernBertConfig(
        **_SIZES,
        cls_token_id=2,
        sep_token_id=3,
        local_attention=8,
        global_attn_every_n_layers=2,
        initializer_range=spread,
        initializer_cutoff_factor=3.0,
        mask_token_id=MASK,
    )
    return _build(ModernBertForMaskedLM, config, dtype, seed)


def tiny_bert(dtype: torch.dtype = torch.float32, seed: int = 0, spread: float = 0.5) -> PreTrainedModel:
    """Absolute positions."""
    config = BertConfig(**_SIZES, initializer_range=spread, mask_token_id=MASK)
    return _build(BertForMaskedLM, config, dtype, seed)


BUILDERS = {"eurobert": tiny_eurobert, "modernbert": tiny_modernbert, "bert": tiny_bert}


def _build(kind: Any, config: Any, dtype: torch.dtype, seed: int) -> PreTrainedModel:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return kind(config).to(dtype).eval()
