"""Every field of transformers' ``GenerationConfig`` that is no option of ours, and what becomes of it.

A field is an option (`configuration.DEFAULTS`), or it stands here: with the values that ask for nothing, which are
accepted, and the reason why any other value is refused. One table for all doors; a test compares it with transformers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Foreign:
    """A field that a canvas has no use for."""

    why: str  # a value that asks for something is refused; or, if all are neutral, why none asks for anything
    neutral: tuple[Any, ...] | None = (None,)  # values that ask for nothing; None: every value
    draws: bool = False  # acts on a random draw only


def _each(
    names: str, why: str, neutral: tuple[Any, ...] | None = (None,), *, draws: bool = False
) -> dict[str, Foreign]:
    return dict.fromkeys(names.split(), Foreign(why, neutral, draws))


_BEAMS = "one canvas is filled, there are no beams to choose from"
_LENGTH = "the canvas is as long as `max_new_tokens` says"
_BACK = "it weighs a token by those before it, which need not be written yet"
_CUT = "a draw is cut by `top_k` and `top_p` alone"
_KEEP = "`suppress_tokens` alone decides which tokens are never written"
_DRAFT = "positions are opened by the sampler, not drafted and checked"
_CACHE = "keys and values are kept by `cache='prefix'` or `cache='dual'`"
_OUTPUT = "an `UnmaskOutput` does not hold it; `on_step=` sees every step"
_IDLE = "changes nothing without an option that is refused"
_ENCODER = "there is no encoder"

FOREIGN: dict[str, Foreign] = {
    **_each("max_length", "`max_new_tokens` must be given, and wins over it in transformers too", None),
    **_each("min_length min_new_tokens", _LENGTH, (None, 0)),
    **_each("exponential_decay_length_penalty forced_eos_token_id", _LENGTH),
    **_each("max_time", "a canvas is filled to its end; `stop_at_eos` ends rows early"),
    **_each("num_beams num_beam_groups", _BEAMS, (None, 1)),
    **_each("diversity_penalty", _BEAMS, (None, 0.0)),
    **_each("constraints force_words_ids", _BEAMS),
    **_each("early_stopping length_penalty", f"{_IDLE}: `num_beams`", None),
    **_each("repetition_penalty", _BACK, (None, 1.0)),
    **_each("no_repeat_ngram_size", _BACK, (None, 0)),
    **_each("penalty_alpha", _BACK, (None, 0.0)),
    **_each("dola_layers", "logits come from the last layer"),
    **_each("min_p epsilon_cutoff eta_cutoff", _CUT, (None, 0.0), draws=True),
    **_each("typical_p", _CUT, (None, 1.0), draws=True),
    **_each("top_h", _CUT, draws=True),
    **_each("bad_words_ids begin_suppress_tokens sequence_bias forced_bos_token_id watermarking_config", _KEEP),
    **_each("renormalize_logits", "probabilities are taken over the tokens that may be written", (None, False)),
    **_each("remove_invalid_values", "logits that are not finite are an error", (None, False)),
    **_each("token_healing", "the prompt is left as it is", (None, False)),
    **_each("use_cache low_memory disable_compile", "changes no token", None),
    **_each("cache_implementation cache_config max_cache_len prefill_chunk_size", _CACHE),
    **_each("compile_config", "compile the model's body yourself: model.base_model.compile()"),
    **_each("continuous_batching_config", "`generate_stream` fills prompts in slots"),
    **_each("output_attentions output_hidden_states output_scores output_logits", _OUTPUT, (None, False)),
    **_each("bos_token_id decoder_start_token_id", "a prompt is taken as it is", None),
    **_each("encoder_repetition_penalty", _ENCODER, (None, 1.0)),
    **_each("encoder_no_repeat_ngram_size", _ENCODER, (None, 0)),
    **_each("is_assistant use_mtp", _DRAFT, (None, False)),
    **_each("prompt_lookup_num_tokens assistant_early_exit speculation_type", _DRAFT),
    **_each(
        "num_assistant_tokens num_assistant_tokens_schedule assistant_confidence_threshold max_matching_ngram_size"
        " assistant_lookbehind target_lookbehind assistant_ensemble_weight",
        f"{_IDLE}: `assistant_model`",
        None,
    ),
}
#: What describes a config and asks for nothing.
METADATA = frozenset({"transformers_version"})


def asks(name: str, value: Any) -> bool:
    """Whether a value of a foreign field asks for something. Empty lists do not."""
    neutral = FOREIGN[name].neutral
    if neutral is None or getattr(value, "ndim", 0) > 0:  # numbers of an array are not one
        return neutral is not None
    return value not in neutral and value not in ([], ())


def asking(values: Mapping[str, Any]) -> dict[str, Any]:
    """The foreign fields among ``values`` that ask for something."""
    return {name: value for name, value in values.items() if name in FOREIGN and asks(name, value)}


def refuse_foreign_fields(values: Mapping[str, Any]) -> None:
    """Raise a ValueError for a setting that would be ignored."""
    for name, value in asking(values).items():
        raise ValueError(f"`{name}={value}` has no meaning for masked diffusion: {FOREIGN[name].why}; unset it")


def left_out(values: Mapping[str, Any], silenced: Iterable[str], drawing: bool) -> dict[str, Any]:
    """What a model's own config asks for in vain: nobody has said otherwise (``silenced``), and it would act."""
    gone = set(silenced)
    return {
        name: value
        for name, value in asking(values).items()
        if name not in gone and (drawing or not FOREIGN[name].draws)
    }
