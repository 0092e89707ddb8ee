"""What transformers' ``generate(custom_generate=...)`` has done to the options before it hands them over."""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor
from transformers import GenerationConfig

from hf_unmask.generation.configuration import UnmaskingGenerationConfig

#: What transformers prepares for left-to-right decoding; a canvas needs the attention mask only.
PREPARED = {"attention_mask", "cache_position", "logits_to_keep", "past_key_values", "position_ids", "use_cache"}
#: What transformers builds from options that this package carries out itself, and the option.
_BUILT_FROM = {
    "EosTokenCriteria": "eos_token_id",
    "MaxLengthCriteria": "max_length",
    "SuppressTokensLogitsProcessor": "suppress_tokens",
    "TemperatureLogitsWarper": "temperature",
    "TopKLogitsWarper": "top_k",
    "TopPLogitsWarper": "top_p",
    "UnbatchedClassifierFreeGuidanceLogitsProcessor": "guidance_scale",
}
#: What transformers fills in where neither the call nor the model sets a value.
_FILLED_IN = {"do_sample": False, "temperature": 1.0, "top_k": 50, "top_p": 1.0}


def refuse_foreign(name: str, given: Any, config: GenerationConfig) -> None:
    """Raise unless everything was built from an option: what somebody passed would be ignored."""
    foreign = [type(item).__name__ for item in given or () if not _is_built(item, config)]
    if foreign:
        raise ValueError(f"`{name}` {foreign} is made for left-to-right decoding and has no meaning here: drop it")


def _is_built(item: Any, config: GenerationConfig) -> bool:
    option = _BUILT_FROM.get(type(item).__name__)
    negative_prompt = getattr(item, "unconditional_context", {}).get("input_ids")
    if option is None or negative_prompt is not None:
        return False
    same: bool = _plain(getattr(item, option)) == _plain(getattr(config, option, None))
    return same


def _plain(value: Any) -> Any:
    value = value.tolist() if isinstance(value, Tensor) else value
    return value if isinstance(value, list) else [value]


def as_passed(own: GenerationConfig | None, merged: GenerationConfig) -> GenerationConfig:
    """The config without what transformers merged in: the loop merges the model's by its own rules."""
    passed = copy.copy(merged)
    names = ["mask_token_id", "eos_token_id", "pad_token_id"]
    if not isinstance(merged, UnmaskingGenerationConfig):
        names += _FILLED_IN
    for name in names:
        of_model = getattr(own, name, None)
        if getattr(merged, name, None) == (_FILLED_IN.get(name) if of_model is None else of_model):
            setattr(passed, name, None)
    return passed


def repeated(value: Any, repeats: int) -> Any:
    """One value per prompt -> one per row; transformers repeats prompts and masks only."""
    return value.repeat_interleave(repeats, dim=0) if isinstance(value, Tensor) else value
