"""Stand-ins for families that come as remote code, made from their row of the adapter table and nothing else.

Each wraps the tiny EuroBERT and insists on its family's conventions: what the adapter gets wrong either raises here or
changes the tokens.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from models import EOS, MASK, PAD, VOCAB, tiny_eurobert
from torch import Tensor
from transformers import GenerationMixin, PreTrainedConfig, PreTrainedModel, Qwen3Config, Qwen3ForCausalLM, Qwen3Model
from transformers.modeling_outputs import BaseModelOutputWithPast, MaskedLMOutput
from transformers.models.eurobert.modeling_eurobert import EuroBertDecoderLayer

if TYPE_CHECKING:  # somebody without the package uses some of these
    from hf_unmask.denoisers import compat

#: What native layers call it: the code of a family that comes with its checkpoint says past_key_values as ever.
CACHE = "cache" if "cache" in inspect.signature(EuroBertDecoderLayer.forward).parameters else "past_key_values"


def backbone(dtype: torch.dtype = torch.float32, seed: int = 0, layers: int = 2) -> PreTrainedModel:
    """The network inside every double, on its own a native model. Its tokens vary along a sequence."""
    return tiny_eurobert(dtype, seed, 0.15, layers)


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
        self.backbone = backbone(seed=config.seed, layers=config.num_hidden_layers)
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
            output_hidden_states=hidden,
            **{CACHE: past_key_values},
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


@dataclass(frozen=True)
class Row:
    """What the families' own files say, written down a second time, so that an edit of the package's table shows."""

    mask: int | None
    stops: tuple[int, ...]
    shift: int
    attention: str
    block: int | None = None
    caches: bool = False
    hidden: bool = True


ROWS = {
    "llada": Row(126336, (126081, 126348), 0, "2d"),
    "lladamoe": Row(156895, (156892,), 0, "2d"),
    "llada2_moe": Row(156895, (156892,), 0, "block-additive", 32),
    "llada21_moe": Row(156895, (156892,), 0, "block-additive", 32),
    "Dream": Row(151666, (151643,), 1, "4d", caches=True),
    "a2d-qwen3": Row(None, (), 0, "2d", caches=True, hidden=False),
    "Fast_dLLM_Qwen": Row(151665, (151645,), 1, "own", 32, hidden=False),
    "sdar": Row(151669, (), 0, "block", 4, caches=True),
    "sdar_moe": Row(151669, (), 0, "block", 4, caches=True),
    "mdlm": Row(50257, (), 0, "own"),
}


class RowDoubleConfig(LladaDoubleConfig):
    """Of any family: ``model_type`` is set on the instance."""

    block_size: int | None = None
    bd_size: int | None = None
    square: bool = True


def block_causal(places: Tensor, block_length: int) -> Tensor:
    """places [B, S] -> [B, 1, S, S] bool, restated."""
    block = places.div(block_length, rounding_mode="floor")
    return (block[:, None, :] <= block[:, :, None])[:, None]


class BlockDouble(Double):
    """Block-causal: the caller's mask decides what is seen, and it must have the family's form.

    With a cache SDAR's mask may be wider than its tokens, LLaDA2's published code refuses that (a copy of it, made here
    with ``square=False``, does not). SDAR's configs name an attention that its code does not look at.
    """

    config_class = RowDoubleConfig
    _supports_flex_attn = True

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        position_ids: Tensor,
        past_key_values: Any = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        **kwargs: Any,
    ) -> MaskedLMOutput:
        rows, length = input_ids.shape
        adds = ROWS[self.config.model_type].attention == "block-additive"
        square = past_key_values is None or (adds and self.config.square)
        form = (rows, 1, length, length if square else attention_mask.shape[-1])
        dtype = self.dtype if adds else torch.bool
        if attention_mask.dtype != dtype or attention_mask.shape != form:
            raise ValueError(f"attention_mask must be {dtype} {form}, got {tuple(attention_mask.shape)}")
        if kwargs.keys() - ({"store_kv"} if not adds else set()):
            raise TypeError(f"unexpected arguments {sorted(kwargs)}")
        if past_key_values is not None and not adds and not kwargs.get("store_kv"):
            raise ValueError("nothing is stored without store_kv=True")
        return self.backbone(
            input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            output_hidden_states=bool(output_hidden_states),
            **{CACHE: past_key_values},
        )


class OwnBlocksDouble(Double):
    """Logits at i - 1 predict i; the block mask is made inside, from columns; an attention mask is ignored.

    No hidden states, whatever is asked for.
    """

    config_class = RowDoubleConfig

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        block_size: int = 32,
        output_hidden_states: bool | None = None,
    ) -> MaskedLMOutput:
        columns = torch.arange(input_ids.shape[1])[None]
        mask = block_causal(columns, block_size).expand(len(input_ids), -1, -1, -1)
        output = self.backbone(input_ids, attention_mask=mask)
        output.logits = output.logits.roll(-1, dims=1)
        return output


class TimedDouble(Double):
    """No attention mask at all, and a time per row."""

    config_class = RowDoubleConfig

    def forward(self, input_ids: Tensor, timesteps: Tensor, output_hidden_states: bool | None = None) -> MaskedLMOutput:
        if timesteps.shape != input_ids.shape[:1]:
            raise ValueError(f"timesteps must be [B], got {tuple(timesteps.shape)}")
        return self.backbone(input_ids, output_hidden_states=bool(output_hidden_states))


class BidirectionalQwen3Body(Qwen3Model):
    """Padding masks [B, S] become numbers to add; [B, 1, Q, S] are passed on as they are. No hidden states.

    What a layer attends to is asked of the layer, as in transformers 4.
    """

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        use_cache: bool | None = None,
        **options: Any,
    ) -> BaseModelOutputWithPast:
        states = self.embed_tokens(input_ids)
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        if mask.ndim == 2:
            hole = 1 - mask[:, None, None, :].expand(-1, 1, mask.shape[1], -1).to(states.dtype)
            mask = hole * torch.finfo(states.dtype).min
        seen = {"full_attention": mask, "sliding_attention": mask}
        places = torch.arange(input_ids.shape[1])[None] if position_ids is None else position_ids
        angles = self.rotary_emb(states, places)
        for layer in self.layers:
            states = layer(
                states,
                attention_mask=seen[layer.attention_type],
                position_embeddings=angles,
                use_cache=use_cache,
                **{CACHE: past_key_values},
            )
        return BaseModelOutputWithPast(last_hidden_state=self.norm(states))


class BidirectionalQwen3(Qwen3ForCausalLM):
    """A causal class of transformers run bidirectionally."""

    def __init__(self, config: Qwen3Config):
        super().__init__(config)
        self.model = BidirectionalQwen3Body(config)
        self.post_init()


def a2d_double(
    dtype: torch.dtype = torch.float32, layers: int = 2, shims: tuple[compat.Shim, ...] | None = None
) -> BidirectionalQwen3:
    """With what `load_denoiser` mends, which it cannot run without; or with some of it."""
    from hf_unmask.denoisers import compat

    sizes = {"hidden_size": 32, "num_hidden_layers": layers, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = Qwen3Config(
        **sizes, vocab_size=VOCAB, intermediate_size=48, head_dim=8, max_position_embeddings=128,
        pad_token_id=PAD, eos_token_id=EOS, initializer_range=0.3, tie_word_embeddings=False,
    )  # fmt: skip
    config.model_type, config.mask_token_id = "a2d-qwen3", MASK
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = BidirectionalQwen3(config).to(dtype).eval()
    compat.mend_model(model, compat.SHIMS if shims is None else shims)
    return model


_KINDS = {"block": BlockDouble, "block-additive": BlockDouble, "2d": LladaDouble, "4d": DreamDouble}


def row_double(model_type: str, dtype: torch.dtype = torch.float32, **config: Any) -> Double:
    """The double of a row of the table, by its conventions alone."""
    row = ROWS[model_type]
    kind = _KINDS.get(row.attention) or (OwnBlocksDouble if row.block else TimedDouble)
    settings = RowDoubleConfig(
        **({"attn_implementation": "flex_attention"} if row.attention == "block" else {}), **config
    )
    settings.model_type = model_type
    return kind(settings).to(dtype).eval()


def llada_double(dtype: torch.dtype = torch.float32, **config: Any) -> LladaDouble:
    return LladaDouble(LladaDoubleConfig(**config)).to(dtype).eval()


def dream_double(dtype: torch.dtype = torch.float32, **config: Any) -> DreamDouble:
    return DreamDouble(DreamDoubleConfig(**config)).to(dtype).eval()
