"""Options of ``generate``, as a ``GenerationConfig`` that can live beside a model."""

from __future__ import annotations

import math
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from transformers import GenerationConfig

CacheMode = Literal["prefix", "dual"]
#: Options and their defaults. ``None`` means "take it from the model, or do without".
DEFAULTS: dict[str, Any] = {
    "max_new_tokens": None,
    "block_length": None,
    "do_sample": None,
    "temperature": 0.0,
    "top_k": None,
    "top_p": None,
    "guidance_scale": None,
    "suppress_tokens": None,
    "stop_at_eos": False,
    "stop_strings": None,
    "num_return_sequences": 1,
    "seed": 0,
    "fill_mask": None,
    "mask_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
    "output_trajectory": False,
    "return_dict_in_generate": False,
    "slots": None,
    "whole_blocks": None,
    "check_every": 1,
    "cache": None,
    "cache_refresh": None,
}
_GREEDY = {name: DEFAULTS[name] for name in ("do_sample", "temperature", "top_k", "top_p")}
#: Whole numbers and their least value.
_LEAST = {
    **{"max_new_tokens": 0, "block_length": 1, "num_return_sequences": 1, "top_k": 1},
    **{"slots": 1, "check_every": 1, "cache_refresh": 1},
}
_TENSORS = ("seed", "fill_mask")
_IDS = ("mask_token_id", "eos_token_id", "pad_token_id")
#: What a ``GenerationConfig`` can ask for that a canvas cannot do, with the values that ask for nothing.
_UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "num_beams": (None, 1),
    "repetition_penalty": (None, 1.0),
    "encoder_repetition_penalty": (None, 1.0),
    "no_repeat_ngram_size": (None, 0),
    "encoder_no_repeat_ngram_size": (None, 0),
    "min_length": (None, 0),
    "min_new_tokens": (None, 0),
    "typical_p": (None, 1.0),
    "epsilon_cutoff": (None, 0.0),
    "eta_cutoff": (None, 0.0),
    "diversity_penalty": (None, 0.0),
    "num_beam_groups": (None, 1),
    "token_healing": (None, False),
    **dict.fromkeys(
        (
            "max_time",
            "min_p",
            "top_h",
            "bad_words_ids",
            "begin_suppress_tokens",
            "sequence_bias",
            "forced_bos_token_id",
            "forced_eos_token_id",
            "exponential_decay_length_penalty",
            "watermarking_config",
            "penalty_alpha",
            "dola_layers",
            "prompt_lookup_num_tokens",
        ),
        (None,),
    ),
}


class UnmaskingGenerationConfig(GenerationConfig):
    """How a masked diffusion language model fills its canvas.

    Args:
        max_new_tokens: positions appended to the prompt. 0 fills only what ``fill_mask`` (or the mask tokens of the
            prompt) names.
        block_length: positions of a block; blocks are filled left to right. None: one block (full diffusion). The
            last block is shorter if it does not divide the canvas.
        temperature: of the token draw at an opened position; 0 takes the most probable token. ``top_k`` and
            ``top_p`` cut the distribution before the draw. ``do_sample=False`` insists on temperature 0,
            ``do_sample=True`` without a temperature means 1.
        guidance_scale: classifier-free guidance, ``scale * (conditional - unconditional) + unconditional`` with the
            prompt masked in the unconditional pass; two forward passes a step. None or 1: off. LLaDA's ``cfg_scale``
            is this minus one.
        suppress_tokens: token ids that are never written, besides the mask token.
        stop_at_eos: finish a row once a stop token is committed and everything before it is open; what lies behind
            becomes padding.
        stop_strings: the same for strings (one or a list; pass ``tokenizer=`` to ``generate``).
        num_return_sequences: continuations per prompt, each with its own randomness.
        seed: an int, or a long tensor with one per prompt.
        fill_mask: bool tensor of the prompt's shape, True where a position is to be filled.
        mask_token_id, eos_token_id, pad_token_id: override what the model says.
        output_trajectory: record the canvas after every step (`UnmaskOutput.trajectory`).
        return_dict_in_generate: return an `UnmaskOutput` instead of the sequences.
        whole_blocks: of a model that decodes in blocks of its own, fill a row's last block to its end, as it was
            trained, and cut what was not asked for. None: as its family's own loop does. Positions that are cut cost
            passes like any other; only outputs and listeners do not see them.
        slots: rows that are filled at once; the others wait and take the place of finished ones. None: all. No row's
            result depends on it.
        check_every: steps between two looks at whether a row has finished or failed, the only times a step waits for
            the device. Rows that have finished meanwhile are run on without being charged (``forwards_run``).
        cache: keep keys and values between the forward passes of a block, an approximation that changes results:
            ``"prefix"`` those of everything before the block, ``"dual"`` also of everything behind it. None: off.
            Exact, and both the same, in models whose positions see their own block and those before it.
        cache_refresh: with a cache, positions written after which a row is computed as a whole again inside a block.
            None: half a block, or 1 (no cache) in blocks shorter than 16. It is computed as a whole when it enters a
            block, too. Where a cache is exact, None means never.
    """

    block_length: int | None
    seed: int | Tensor
    fill_mask: Tensor | None
    mask_token_id: int | None
    stop_at_eos: bool
    output_trajectory: bool
    slots: int | None
    whole_blocks: bool | None
    check_every: int
    cache: CacheMode | None
    cache_refresh: int | None

    def __init__(self, **kwargs: Any):
        own = {name: kwargs.pop(name, default) for name, default in DEFAULTS.items()}
        unknown = sorted(set(kwargs) - set(vars(GenerationConfig())) - {"_commit_hash"})
        if unknown:
            raise ValueError(_unknown(unknown))
        super().__init__(**kwargs)  # type: ignore[no-untyped-call]
        for name, value in own.items():
            setattr(self, name, value)
        self.validate()

    def validate(self, strict: bool = False, user_set_attributes: set[str] | None = None) -> None:
        """Check the options against each other; raise a ValueError that names the offending one."""
        del strict, user_set_attributes
        if "output_trajectory" not in self.__dict__:
            return  # called by the parent's constructor, before our options are set
        refuse_unsupported(self)
        for name, bound in _LEAST.items():
            _int_at_least(name, getattr(self, name), bound)
        if self.cache not in (None, *get_args(CacheMode)):
            raise ValueError(f"`cache` must be 'prefix', 'dual' or None, got {self.cache!r}")
        if self.cache_refresh is not None and self.cache is None:
            raise ValueError(f"`cache_refresh={self.cache_refresh}` needs a cache: pass cache='prefix' or 'dual'")
        _check_draw(self.temperature, self.top_p)
        if self.do_sample is False and self.temperature:
            raise ValueError(f"`do_sample=False` contradicts `temperature={self.temperature}`: drop one of them")
        if self.do_sample is not True and not self.temperature and (self.top_k or self.top_p):
            raise ValueError(
                f"`top_k={self.top_k}` and `top_p={self.top_p}` cut a random draw, but `temperature` is 0: "
                "pass a temperature above 0 or drop them"
            )

    def update(self, defaults_only: bool = False, allow_custom_entries: bool = False, **kwargs: Any) -> dict[str, Any]:
        """As in transformers, but its defaults for sampling (``top_k=50`` and so on) do not apply to this config."""
        if defaults_only:
            kwargs = {name: value for name, value in kwargs.items() if name not in _GREEDY}
        unused: dict[str, Any] = super().update(defaults_only, allow_custom_entries, **kwargs)  # type: ignore[no-untyped-call]
        return unused

    def to_dict(self) -> dict[str, Any]:
        """Serialisable options: per-call tensors (``fill_mask``, a ``seed`` per row) are left out."""
        tensors = {name: getattr(self, name) for name in _TENSORS if isinstance(getattr(self, name), Tensor)}
        for name in tensors:
            setattr(self, name, DEFAULTS[name])
        try:
            return dict(super().to_dict())
        finally:
            for name, value in tensors.items():
                setattr(self, name, value)

    @property
    def token_temperature(self) -> float:
        """The temperature in force: ``do_sample=True`` alone means 1."""
        return 1.0 if self.do_sample and not self.temperature else float(self.temperature)


def _int_at_least(name: str, value: Any, bound: int) -> None:
    if value is not None and not (isinstance(value, int) and not isinstance(value, bool) and value >= bound):
        raise ValueError(f"`{name}` must be an int of at least {bound}, got {value!r}")


def _check_draw(temperature: Any, top_p: Any) -> None:
    # below 1e-6 logits / temperature may overflow, which would draw nonsense
    if not isinstance(temperature, int | float) or not (temperature == 0 or 1e-6 <= temperature < math.inf):
        raise ValueError(f"`temperature` must be 0 or a finite number of at least 1e-6, got {temperature!r}")
    if top_p is not None and not (isinstance(top_p, int | float) and 0 < top_p <= 1):
        raise ValueError(f"`top_p` must be in (0, 1], got {top_p!r}")


def refuse_unsupported(config: GenerationConfig) -> None:
    """Raise a ValueError for a setting that would be ignored."""
    for name, neutral in _UNSUPPORTED.items():
        value = getattr(config, name, None)
        if value not in neutral:
            raise ValueError(f"`{name}={value}` has no meaning for masked diffusion: unset it")


def _unknown(names: list[str]) -> str:
    return f"unknown option {', '.join(names)} of generate(); options are {', '.join(DEFAULTS)}"


def resolve_config(
    model_config: GenerationConfig | None, generation_config: GenerationConfig | None, options: dict[str, Any]
) -> UnmaskingGenerationConfig:
    """Merge, later ones winning: defaults, the model's ``generation_config``, the call's, the call's options.

    Sampling settings of a plain ``GenerationConfig`` count only where it says ``do_sample=True``, as in transformers.
    """
    unknown = sorted(set(options) - set(DEFAULTS))
    if unknown:
        raise ValueError(_unknown(unknown))
    if generation_config is not None:
        refuse_unsupported(generation_config)
    values = dict(DEFAULTS)
    # the model's ids were settled with its adapter, where explicit ones win over its generation_config
    values |= {name: value for name, value in _set_values(model_config).items() if name not in _IDS}
    values |= _set_values(generation_config)
    given = {name: value for name, value in options.items() if value is not None}
    if not given.get("do_sample", given.get("temperature", 1.0)):
        values |= _GREEDY  # the call wants greedy tokens
    return UnmaskingGenerationConfig(**(values | given))


def _set_values(config: GenerationConfig | None) -> dict[str, Any]:
    if config is None:
        return {}
    values = {name: getattr(config, name, None) for name in DEFAULTS}
    values = {name: value for name, value in values.items() if value is not None}
    do_sample = getattr(config, "do_sample", None)  # configs of remote code may lack it
    if do_sample is True and not isinstance(config, UnmaskingGenerationConfig):
        return values
    others = {name: value for name, value in values.items() if name not in _GREEDY}
    if do_sample is False:
        return others | _GREEDY
    # how to draw is taken over as a whole, so that an own config's temperature 0 leaves no foreign ``top_k`` behind
    return _GREEDY | values if isinstance(config, UnmaskingGenerationConfig) else others


def seeds(seed: int | Tensor, rows: int, device: torch.device) -> Tensor:
    """[rows] long. One seed for all, or one per row."""
    if isinstance(seed, bool) or not isinstance(seed, int | Tensor):
        raise ValueError(f"`seed` must be an int or a long tensor with one per prompt, got {seed!r}")
    if isinstance(seed, int):
        if not -(2**63) <= seed < 2**63:
            raise ValueError(f"`seed` must fit 64 bits, got {seed}")
        return torch.full((rows,), seed, dtype=torch.long, device=device)
    if seed.dtype != torch.long or seed.shape != (rows,):
        raise ValueError(f"`seed` must be long of shape ({rows},), got {seed.dtype} of shape {tuple(seed.shape)}")
    return seed.to(device)
