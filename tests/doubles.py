"""Stand-ins for families that come as remote code, made from their row of the adapter table and nothing else.

Each wraps the tiny EuroBERT and insists on its family's conventions: what the adapter gets wrong either raises here or
changes the tokens.
"""

from __future__ import annotations

from typing import Any

import torch
from models import EOS, MASK, PAD, VOCAB, tiny_eurobert
from torch import Tensor
from transformers import GenerationMixin, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import MaskedLMOutput


def backbone(dtype: torch.dtype = torch.float32, seed: int = 0) -> PreTrainedModel:
    """The network inside every double, on its own a native model. Its tokens vary along a sequence."""
    return tiny_eurobert(dtype, seed, spread=0.15)


class LladaDoubleConfig(PreTrainedConfig):
    model_type = "llada"
    seed: int = 0
    mask_token_id: int | None = MASK
    pad_token_id: int | None = PAD
    eos_token_id: int | None = EOS
    vocab_size: int = VOCAB
    hidden_size: int = 32
    num_hidden_layers: int = 2
    num_attention_heads: int = 4


class DreamDoubleConfig(LladaDoubleConfig):
    model_type = "Dream"


class Double(PreTrainedModel):
    """What the doubles have in common: the backbone, and that it comes with its weights."""

    base_model_prefix = "backbone"

    def __init__(self, config: LladaDoubleConfig):
        super().__init__(config)
        self.backbone = backbone(seed=config.seed)
        self.post_init()

    def _init_weights(self, module: torch.nn.Module) -> None:
        """The backbone comes with its weights."""

    def get_input_embeddings(self) -> torch.nn.Module:
        return self.backbone.get_input_embeddings()


class LladaDouble(Double, GenerationMixin):
    """No shift, a padding mask [B, S], no position ids; transformers gives it an autoregressive ``generate``."""

    config_class = LladaDoubleConfig

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        past_key_values: Any = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> MaskedLMOutput:
        if attention_mask is not None and attention_mask.ndim != 2:
            raise ValueError(f"attention_mask must be [B, S], got {tuple(attention_mask.shape)}")
        hidden = bool(output_hidden_states)
        return self.backbone(input_ids, attention_mask=attention_mask, output_hidden_states=hidden)


class DreamDouble(Double):
    """Logits at i - 1 predict i; a boolean mask [B, 1, S, S] with position ids, or the string "full".

    Its own ``generate`` accepts anything, as the original does.
    """

    config_class = DreamDoubleConfig

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | str = "full",
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
    ) -> MaskedLMOutput:
        if isinstance(attention_mask, str):
            if attention_mask != "full":
                raise ValueError(f"attention_mask must be 'full' or a tensor, got {attention_mask!r}")
            mask = None
        else:
            rows, length = input_ids.shape
            total = attention_mask.shape[-1] if use_cache else length
            if attention_mask.dtype != torch.bool or attention_mask.shape != (rows, 1, length, total):
                raise ValueError(f"attention_mask must be bool [B, 1, S, S], got {tuple(attention_mask.shape)}")
            if position_ids is None:
                raise ValueError(f"a mask of shape {tuple(attention_mask.shape)} needs position_ids")
            mask = attention_mask
        hidden = bool(output_hidden_states)
        output = self.backbone(
            input_ids,
            attention_mask=mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            output_hidden_states=hidden,
        )
        output.logits = output.logits.roll(-1, dims=1)
        return output

    def diffusion_generate(self, inputs: Tensor, max_new_tokens: int = 4, **kwargs: Any) -> Tensor:
        """All new tokens at once."""
        blank = inputs.new_full((len(inputs), max_new_tokens), self.config.mask_token_id)
        logits = self(torch.cat([inputs, blank], dim=1)).logits
        return torch.cat([inputs, logits[:, inputs.shape[1] - 1 : -1].argmax(-1)], dim=1)

    def generate(self, inputs: Tensor, **kwargs: Any) -> Tensor:
        """Swallows whatever it does not know, ``sampler`` included."""
        return self.diffusion_generate(inputs, kwargs.get("max_new_tokens", 4))


def llada_double(dtype: torch.dtype = torch.float32, **config: Any) -> LladaDouble:
    return LladaDouble(LladaDoubleConfig(**config)).to(dtype).eval()


def dream_double(dtype: torch.dtype = torch.float32, **config: Any) -> DreamDouble:
    return DreamDouble(DreamDoubleConfig(**config)).to(dtype).eval()
