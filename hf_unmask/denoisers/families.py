"""The adapter table: what each family of denoisers does differently, as data.

A checkpoint's own configs win over its row; the row is what is known where they are silent. Sources: the families'
published configs and modelling files.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

#: How a model takes its attention mask. "2d": padding mask [B, S]. "4d": bool [B, 1, S, S], all real positions.
#: "block": bool [B, 1, S, S], the position's own block and those before it. "block-additive": the same as numbers to
#: add, 0 or the dtype's lowest. "own": none is passed, the model makes its own; its rows cannot be padded.
Attention = Literal["2d", "4d", "block", "block-additive", "own"]
ATTENTIONS: tuple[str, ...] = get_args(Attention)
#: Those by which a position sees its own block and those before it, so that finished blocks do not change any more.
CAUSAL: tuple[str, ...] = ("block", "block-additive")

#: What a row's support rests on. "real weights": published or packaged weights run in the tests. "native class": the
#: class in transformers with tiny random weights. "double": a stand-in as strict as the family's own code, which was
#: run with tiny random weights. "expected": public descriptions alone; the family's own code was not run.
Support = Literal["real weights", "native class", "double", "expected"]


@dataclass(frozen=True)
class Family:
    """Conventions of a family of checkpoints."""

    name: str
    mask_token_id: int | None  # None: must come from the checkpoint or its tokenizer
    stop_token_ids: tuple[int, ...] = ()  # beside those that the checkpoint names
    shift: int = 0  # 1: the logits at position i - 1 predict position i
    attention: Attention = "2d"
    block_length: int | None = None  # positions per block of a model that decodes block by block, None: any
    block_length_key: str | None = None  # where its config says so
    whole_blocks: bool = False  # whether its last block is decoded whole and cut, as it was trained
    known: bool = True  # whether the output layer is where transformers keeps it
    maskless: bool = False  # whether no "2d" mask means that there is no padding
    cache_refusal: str | None = "its layers take no cache"  # why it takes no ``Cache``, None: it does
    cache_switches: tuple[str, ...] = ()  # arguments that must be True for a ``Cache`` to be used
    own_attention: bool = False  # whether its code attends in one way, whatever ``attn_implementation`` says
    hidden_states: bool = True  # whether its forward returns them
    model_types: tuple[str, ...] = ()  # `config.model_type`
    class_names: tuple[str, ...] = ()  # wins over the model type, which some families share
    auto_class: str = "AutoModelForCausalLM"
    support: Support = "expected"
    checkpoints: str = ""  # for readers
    note: str = ""


_LLADA2_CACHE = "its published forward refuses a mask that is wider than the tokens it computes"
NATIVE = Family(
    "native masked LM",
    mask_token_id=None,
    auto_class="AutoModelForMaskedLM",
    maskless=True,
    support="real weights",
    checkpoints="the embedded EuroBERT; ModernBERT, BERT, RoBERTa and others",
    note="the embedded model; other classes with tiny random weights",
)
FAMILIES: tuple[Family, ...] = (
    Family(
        "ModernBERT-chat",
        mask_token_id=None,
        auto_class="AutoModelForMaskedLM",
        support="native class",
        checkpoints="dllm-hub/ModernBERT-{base,large}-chat-v0.1",
        note="a native masked LM: no code of its own",
    ),
    Family(
        "LLaDA",
        mask_token_id=126336,
        stop_token_ids=(126081, 126348),
        model_types=("llada",),
        class_names=("LLaDAModelLM",),
        auto_class="AutoModel",
        maskless=True,
        cache_refusal="its forward asserts that there is no cache",
        support="double",
        checkpoints="GSAI-ML/LLaDA-8B-{Base,Instruct}, LLaDA-1.5",
    ),
    Family(
        "LLaDA-MoE",
        mask_token_id=156895,
        stop_token_ids=(156892,),
        model_types=("lladamoe", "llada_moe"),
        class_names=("LLaDAMoEModelLM",),
        auto_class="AutoModel",
        cache_refusal="its forward asserts that there is no cache",
        support="double",
        checkpoints="inclusionAI/LLaDA-MoE-7B-A1B-{Base,Instruct}",
    ),
    Family(
        "LLaDA2",
        mask_token_id=156895,
        stop_token_ids=(156892,),
        attention="block-additive",
        block_length=32,
        whole_blocks=True,
        model_types=("llada2_moe",),
        cache_refusal=_LLADA2_CACHE,
        support="double",
        checkpoints="inclusionAI/LLaDA2.0-{mini,flash}",
    ),
    Family(
        "LLaDA2.1/2.2",
        mask_token_id=156895,
        stop_token_ids=(156892,),
        attention="block-additive",
        block_length=32,
        whole_blocks=True,
        model_types=("llada21_moe",),
        cache_refusal=_LLADA2_CACHE,
        checkpoints="inclusionAI/LLaDA2.1-{mini,flash}, LLaDA2.2-flash",
        note="mask filling only: decided tokens are not edited (2.1), none is inserted or deleted (2.2); code that "
        "calls itself llada2_moe takes the row above, which is the same",
    ),
    Family(
        "Dream",
        mask_token_id=151666,
        stop_token_ids=(151643,),
        shift=1,
        attention="4d",
        model_types=("Dream",),
        class_names=("DreamModel",),
        auto_class="AutoModel",
        cache_refusal=None,
        support="double",
        checkpoints="Dream-org/Dream-v0-{Base,Instruct}-7B, Dream-Coder, apple/DiffuCoder-7B",
    ),
    Family(
        "DreamOn",
        mask_token_id=151666,
        stop_token_ids=(151643,),
        shift=1,
        attention="4d",
        auto_class="AutoModel",
        cache_refusal=None,
        checkpoints="Dream-org/DreamOn-v0-7B",
        note="Dream's code and row; canvases keep their length: pass suppress_tokens=[151667], its token for two masks",
    ),
    Family(
        "A2D",
        mask_token_id=None,
        hidden_states=False,
        model_types=("a2d-qwen2", "a2d-qwen3", "a2d-llama"),
        auto_class="AutoModelForMaskedLM",
        cache_refusal=None,
        support="double",
        checkpoints="dllm-hub/Qwen3-0.6B-diffusion-mdlm-v0.1, Qwen2.5-Coder-0.5B-Instruct-diffusion-mdlm-v0.1",
        note="causal classes run bidirectionally; bd3lm variants with attention='block' and their block_length, for "
        "prompts of whole blocks (dllm counts blocks from the end of the prompt, we from its first token)",
    ),
    Family(
        "Fast-dLLM v2",
        mask_token_id=151665,
        stop_token_ids=(151645,),
        shift=1,
        attention="own",
        block_length=32,
        block_length_key="bd_size",
        whole_blocks=True,
        hidden_states=False,
        model_types=("Fast_dLLM_Qwen",),
        class_names=("Fast_dLLM_QwenForCausalLM",),
        cache_refusal="its forward makes the mask itself and takes what it computes to lie behind all that is kept",
        support="double",
        checkpoints="Efficient-Large-Model/Fast_dLLM_v2_{1.5B,7B}",
        note="rows of equal length; a block's first token waits for the sampler, where the original commits it at once",
    ),
    Family(
        "SDAR",
        mask_token_id=151669,
        attention="block",
        block_length=4,
        block_length_key="block_size",
        whole_blocks=True,
        model_types=("sdar",),
        class_names=("SDARForCausalLM",),
        cache_refusal=None,
        cache_switches=("store_kv",),
        own_attention=True,
        support="double",
        checkpoints="JetLM/SDAR-*, Gen-Verse/TraDo-*",
    ),
    Family(
        "SDAR-MoE",
        mask_token_id=151669,
        attention="block",
        block_length=4,
        block_length_key="block_size",
        whole_blocks=True,
        model_types=("sdar_moe",),
        class_names=("SDARMoeForCausalLM",),
        cache_refusal=None,
        cache_switches=("store_kv",),
        own_attention=True,
        checkpoints="JetLM/SDAR-30B-A3B-*",
        note="as SDAR's dense models",
    ),
    Family(
        "Nemotron-Labs-Diffusion",
        mask_token_id=100,
        attention="own",
        block_length=32,
        block_length_key="block_size",
        model_types=("nemotron_labs_diffusion",),
        class_names=("NemotronLabsDiffusionModel",),
        auto_class="AutoModel",
        cache_refusal="it decodes through a cache of its own",
        checkpoints="nvidia/Nemotron-Labs-Diffusion-{3B,8B,14B}",
        note="not decoded yet: it reads what is decided causally; its end ids and hidden states are not known here",
    ),
    Family(
        "MDLM",
        mask_token_id=50257,
        attention="own",
        model_types=("mdlm",),
        class_names=("MDLM",),
        auto_class="AutoModelForMaskedLM",
        support="double",
        checkpoints="kuleshov-group/mdlm-owt, mdlm-no_flashattn-fp32-owt",
        note="rows of equal length; its time input is 0, as in models without time conditioning",
    ),
    Family(
        "DiffusionGemma",
        mask_token_id=None,
        attention="own",
        model_types=("diffusion_gemma",),
        class_names=("DiffusionGemmaForBlockDiffusion",),
        auto_class="AutoModelForImageTextToText",
        support="native class",
        checkpoints="google/diffusiongemma-26B-A4B-it",
        note="no mask token, canvases of random tokens: through attach alone, in its own loop; policies experimental",
    ),
)
#: Known families whose forward pass cannot be asked for logits of a canvas: `config.model_type` -> why.
REFUSED = {
    "bd3lm": "it decodes through caches of its own and takes no plain canvas",
    "nemotron_labs_diffusion": "it reads decided blocks causally, through a cache of its own, and takes no mask",
    "diffusion_gemma": "it has no mask token: its canvas starts from random tokens; use hf_unmask.attach(model)",
}
#: Native classes whose layers take a ``Cache``.
_NATIVE_CACHING = {"eurobert"}
#: Native classes whose position ids start behind the padding id.
OFFSET_POSITIONS = {
    *("camembert", "data2vec-text", "esm", "ibert", "longformer", "luke", "mpnet"),
    *("roberta", "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "xmod"),
}
#: Native classes whose padding leaks into the text (convolution, pooling, approximate attention, positions by column).
_NOT_PADDABLE = {"convbert", "fnet", "funnel", "mra", "nystromformer", "perceiver", "reformer", "yoso"}


def rows() -> tuple[Family, ...]:
    """The whole table, the native row first."""
    return (NATIVE, *FAMILIES)


def _mask_cell(family: Family) -> str:
    if family.mask_token_id is not None:
        return str(family.mask_token_id)
    return "none" if set(family.model_types) & set(REFUSED) else "from the checkpoint"


def _cache_cell(family: Family) -> str:
    if family is NATIVE:
        return f"{', '.join(sorted(_NATIVE_CACHING))}: approximate"
    if family.cache_refusal is not None:
        return "no"
    return "exact" if family.attention in CAUSAL else "approximate"


def _hidden_cell(family: Family) -> str:
    """Of a family that is not decoded nothing is promised."""
    return "yes" if family.hidden_states and not set(family.model_types) & set(REFUSED) else "no"


def table() -> list[dict[str, str]]:
    """The table as text, for the command line and the README: column -> cell, one dictionary per row."""
    return [
        {
            "family": family.name,
            "mask id": _mask_cell(family),
            "stop ids": ", ".join(map(str, family.stop_token_ids)) or "from the checkpoint",
            "shift": str(family.shift),
            "attention": family.attention,
            "block": "any" if family.block_length is None else str(family.block_length),
            "cache": _cache_cell(family),
            "hidden states": _hidden_cell(family),
            "loaded by": family.auto_class,
            "tested on": family.support,
            "checkpoints": family.checkpoints,
            "note": family.note,
        }
        for family in rows()
    ]


def known_family(model: Any) -> Family | None:
    """The row of a model: by the name of its class, then by its config; None if there is none.

    Raises:
        ValueError: a native class that cannot be used, or a family that is known not to work.
    """
    kind, name = getattr(getattr(model, "config", None), "model_type", None), type(model).__name__
    if kind in REFUSED:
        raise ValueError(f"{name} (model_type {kind!r}) cannot be used: {REFUSED[str(kind)]}")
    for family in FAMILIES:
        if name in family.class_names:
            return family
    for family in FAMILIES:
        if kind in family.model_types:
            return family
    if name in MODEL_FOR_MASKED_LM_MAPPING_NAMES.values() and type(model).__module__.startswith("transformers."):
        if kind in _NOT_PADDABLE or getattr(model.config, "is_encoder_decoder", False):
            raise ValueError(
                f"{name} (model_type {kind!r}) is an encoder-decoder or cannot be left-padded: "
                "use an encoder such as ModernBertForMaskedLM"
            )
        return replace(NATIVE, cache_refusal=None) if kind in _NATIVE_CACHING else NATIVE
    return None
