"""What transformers' ``generate(custom_generate=...)`` has done to the options before it hands them over."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, GenerationConfig

from hf_unmask.generation.configuration import UnmaskingGenerationConfig
from hf_unmask.generation.fields import asking, asks

#: What transformers prepares for left-to-right decoding; a canvas needs what describes the prompt. What it
#: return stands in the config, too.
PREPARED = {
    *("attention_mask", "cache_position", "logits_to_keep", "past_key_values", "position_ids", "use_cache"),
    *("output_attentions", "output_hidden_states", "token_type_ids"),
}
#: What transformers builds from fields of its config, and the field.
_BUILT_FROM = {
    "ConfidenceCriteria": "is_assistant",
    "EncoderNoRepeatNGramLogitsProcessor": "encoder_no_repeat_ngram_size",
    "EncoderRepetitionPenaltyLogitsProcessor": "encoder_repetition_penalty",
    "EosTokenCriteria": "eos_token_id",
    "EpsilonLogitsWarper": "epsilon_cutoff",
    "EtaLogitsWarper": "eta_cutoff",
    "ExponentialDecayLengthPenalty": "exponential_decay_length_penalty",
    "ForcedBOSTokenLogitsProcessor": "forced_bos_token_id",
    "ForcedEOSTokenLogitsProcessor": "forced_eos_token_id",
    "InfNanRemoveLogitsProcessor": "remove_invalid_values",
    "LogitNormalization": "renormalize_logits",
    "MaxLengthCriteria": "max_length",
    "MaxTimeCriteria": "max_time",
    "MinLengthLogitsProcessor": "min_length",
    "MinNewTokensLengthLogitsProcessor": "min_new_tokens",
    "MinPLogitsWarper": "min_p",
    "NoBadWordsLogitsProcessor": "bad_words_ids",
    "NoRepeatNGramLogitsProcessor": "no_repeat_ngram_size",
    "RepetitionPenaltyLogitsProcessor": "repetition_penalty",
    "SequenceBiasLogitsProcessor": "sequence_bias",
    "SuppressTokensAtBeginLogitsProcessor": "begin_suppress_tokens",
    "SuppressTokensLogitsProcessor": "suppress_tokens",
    "SynthIDTextWatermarkLogitsProcessor": "watermarking_config",
    "TemperatureLogitsWarper": "temperature",
    "TopHLogitsWarper": "top_h",
    "TopKLogitsWarper": "top_k",
    "TopPLogitsWarper": "top_p",
    "TypicalLogitsWarper": "typical_p",
    "UnbatchedClassifierFreeGuidanceLogitsProcessor": "guidance_scale",
    "WatermarkLogitsProcessor": "watermarking_config",
}
#: Where they keep a value under another name than the field's.
_KEPT_AS = {"repetition_penalty": "penalty", "no_repeat_ngram_size": "ngram_size", "typical_p": "mass"}
_IDS = ("mask_token_id", "eos_token_id", "pad_token_id")
#: What transformers fills in where neither the call nor the model sets a value.
FILLED_IN = {"do_sample": False, "temperature": 1.0, "top_k": 50, "top_p": 1.0}


def refuse_foreign(name: str, given: Any, config: GenerationConfig) -> None:
    """Raise unless everything was built from the config: what somebody passed would be ignored."""
    foreign = [type(item).__name__ for item in given or () if not _is_built(item, config)]
    if foreign:
        raise ValueError(f"`{name}` {foreign} is made for left-to-right decoding and has no meaning here: drop it")


def _is_built(item: Any, config: GenerationConfig) -> bool:
    field = _BUILT_FROM.get(type(item).__name__)
    negative_prompt = getattr(item, "unconditional_context", {}).get("input_ids")
    if field is None or negative_prompt is not None:
        return False
    value, place = getattr(config, field, None), _KEPT_AS.get(field, field)
    if field == "sequence_bias" or not hasattr(item, place):  # kept in another form
        return asks(field, value)
    same: bool = _plain(getattr(item, place)) == _plain(value)
    return same


def _plain(value: Any) -> Any:
    value = value.tolist() if isinstance(value, Tensor) else value
    return value if isinstance(value, list) else [value]


def as_passed(own: GenerationConfig | None, merged: GenerationConfig) -> GenerationConfig:
    """The config without what transformers merged in: the loop merges the model's by its own rules."""
    passed, theirs = copy.copy(merged), {} if own is None else own.to_dict()
    inherited = {name: theirs.get(name) for name in _IDS}
    if isinstance(merged, UnmaskingGenerationConfig):
        # transformers' defaults stand where it does not take over what the model asks for
        inherited |= {name: getattr(merged, name) for name in asking(theirs)}
    else:
        inherited |= {
            name: default if theirs.get(name) is None else theirs[name] for name, default in FILLED_IN.items()
        }
    for name, value in inherited.items():
        if _plain(getattr(merged, name, None)) == _plain(value):
            setattr(passed, name, None)
    if merged.min_new_tokens is not None:
        passed.min_length = None  # made from it
    if merged.do_sample and any(getattr(passed, name) is not None for name in FILLED_IN):
        passed.do_sample = True  # the call says how to draw
    return passed


def own_mode(*handed: Any) -> Any:
    """What is asked of ours among the caches that are handed over; what transformers prepares has the name, too.

    Raises:
        ValueError: keys and values that the call brought along.
    """
    for cache in handed:
        if getattr(cache, "_is_user_defined", False):
            raise ValueError(f"a canvas starts from its prompt alone: drop the {type(cache).__name__} that was passed")
    return next((cache for cache in handed if cache is not None and not isinstance(cache, Cache)), None)


def asked_rows(config: GenerationConfig, input_ids: Tensor) -> Tensor:
    """[B] long. The rows of ``input_ids`` [B * R, P] that a call asks for, if others stand for the model's beams."""
    wanted, place = config.num_return_sequences or 1, torch.arange(len(input_ids), device=input_ids.device)
    repeats = max(config.num_beams or 1, wanted)
    repeated = torch.equal(input_ids, input_ids[place // repeats * repeats])
    return place[place % repeats < wanted] if repeated else place


def repeated(value: Any, repeats: int) -> Any:
    """One value per prompt -> one per row; transformers repeats prompts and masks only."""
    return value.repeat_interleave(repeats, dim=0) if isinstance(value, Tensor) else value
