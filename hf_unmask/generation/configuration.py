"""Options of ``generate``, as a ``GenerationConfig`` that can live beside a model."""

from __future__ import annotations

import math
import warnings
from typing import Any, Literal, get_args

from torch import Tensor
from transformers import GenerationConfig

from hf_unmask.denoisers.values import is_number, is_whole, require_bool, require_int, shown, token_id, token_ids
from hf_unmask.generation.fields import FOREIGN, METADATA, asking, left_out, refuse_foreign_fields

CacheMode = Literal["prefix", "dual"]
StopEnds = Literal["gap", "row"]
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
    "stop_ends": "gap",
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
_DRAW = ("do_sample", "temperature", "top_k", "top_p")
_GREEDY = {name: DEFAULTS[name] for name in _DRAW}
#: Values that turn off what a config with less say has turned on; None only means that nothing is said.
_OFF = {"block_length": "full", "cache": "off", "top_k": 0, "top_p": 1.0}
#: Whole numbers and their least value.
_LEAST = {
    **{"max_new_tokens": 0, "block_length": 1, "num_return_sequences": 1, "top_k": 1},
    **{"slots": 1, "check_every": 1, "cache_refresh": 1},
}
_TENSORS = ("seed", "fill_mask")
_IDS = ("mask_token_id", "eos_token_id", "pad_token_id")
_FLAGS = ("do_sample", "stop_at_eos", "output_trajectory", "return_dict_in_generate", "whole_blocks")


class UnmaskingGenerationConfig(GenerationConfig):
    """How a masked diffusion language model fills its canvas.

    Args:
        max_new_tokens: positions appended to the prompt. 0 fills only what ``fill_mask`` (or the mask tokens of the
            prompt) names.
        block_length: positions of a block; blocks are filled left to right. "full": one block (full diffusion), or the
            model's own where it decodes in blocks. None: what the model's config says, else "full". The last block is
            shorter if it does not divide the canvas.
        temperature: of the token draw at an opened position; 0 takes the most probable token. ``top_k`` and
            ``top_p`` cut the distribution before the draw; 0 and 1.0 do not. ``do_sample=False`` insists on
            temperature 0, ``do_sample=True`` without a temperature means 1.
        guidance_scale: classifier-free guidance, ``scale * (conditional - unconditional) + unconditional`` with the
            prompt masked in the unconditional pass; two forward passes a step. None or 1: off. LLaDA's ``cfg_scale``
            is this minus one.
        suppress_tokens: token ids that are never written, besides the mask token.
        stop_at_eos: end a gap once a stop token is committed and everything before it there is open; what lies behind
            becomes padding. New tokens are one gap, with positions to fill right before them; a row whose gaps have
            ended or are full has finished.
        stop_strings: the same for strings (one or a list; pass ``tokenizer=`` to ``generate``). They are looked for in
            what is written into one gap.
        stop_ends: what a stop token or string ends, its ``"gap"`` or the whole ``"row"``: then everything before it in
            the row must be open, and all later gaps and new tokens become padding.
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
            the device; fewer where fewer positions are masked, so that no pass is made that none can need. Rows that
            have finished meanwhile are run on without being charged (``forwards_run``); nothing else depends on it.
        cache: keep keys and values between the forward passes of a block, an approximation that changes results:
            ``"prefix"`` those of everything before the block, ``"dual"`` also of everything behind it, ``"off"``
            none. None: what the model's config says, else "off". Exact, and both the same, in models whose positions
            see their own block and those before it.
        cache_refresh: with a cache, positions written after which a row is computed as a whole again inside a block.
            None: half a block, or 1 (no cache) in blocks shorter than 16. It is computed as a whole when it enters a
            block, too. Where a cache is exact, None means never.

    Options of a call win over its ``generation_config``, and that over the model's own. None says nothing; what is to
    be off is said: ``block_length="full"``, ``cache="off"``, ``top_k=0``, ``top_p=1.0``, ``guidance_scale=1``, empty
    lists. ``do_sample=False`` or ``temperature=0`` turns drawing off, and all that goes with it.

    Fields of transformers that are no option here (`hf_unmask.generation.fields`) are accepted with values that ask for
    nothing, such as ``num_beams=1``. Any other value is an error in a call. In the model's own config, which is written
    for its own decoding, it is left out with a warning.

    Saved, it is a plain ``generation_config.json``: it says the same when ``GenerationConfig`` reads it.
    """

    block_length: int | None
    seed: int | Tensor
    fill_mask: Tensor | None
    mask_token_id: int | None
    stop_at_eos: bool
    stop_ends: StopEnds
    output_trajectory: bool
    slots: int | None
    whole_blocks: bool | None
    check_every: int
    cache: CacheMode | None
    cache_refresh: int | None

    def __init__(self, **kwargs: Any):
        given = {name: kwargs.pop(name, None) for name in DEFAULTS}
        unknown = sorted(name for name in kwargs.keys() - FOREIGN.keys() - METADATA if not name.startswith("_"))
        if unknown:
            raise ValueError(_unknown(unknown))
        super().__init__(**kwargs)  # type: ignore[no-untyped-call]
        for name, value in given.items():
            nothing = value is None or (name in ("top_k", "top_p") and _is_off(name, value))
            setattr(self, name, DEFAULTS[name] if nothing else value)
        self.validate()

    def validate(self, strict: bool = False, user_set_attributes: set[str] | None = None) -> None:
        """Check the options against each other; raise a ValueError that names the offending one."""
        del strict, user_set_attributes
        if "output_trajectory" not in self.__dict__:
            return  # called by the parent's constructor, before our options are set
        refuse_foreign_fields(vars(self))
        _check_kinds(self)
        if self.stop_ends not in get_args(StopEnds):
            raise ValueError(f"`stop_ends` must be 'gap' or 'row', got {self.stop_ends!r}")
        if self.cache not in (None, "off", *get_args(CacheMode)):
            raise ValueError(f"`cache` must be 'prefix', 'dual', 'off' or None, got {self.cache!r}")
        if self.cache_refresh is not None and self.cache in (None, "off"):
            raise ValueError(f"`cache_refresh={self.cache_refresh}` needs a cache: pass cache='prefix' or 'dual'")
        _check_draw(self)

    def update(self, defaults_only: bool = False, allow_custom_entries: bool = False, **kwargs: Any) -> dict[str, Any]:
        """As in transformers, except for two things.

        Of defaults, be they the model's or transformers' own, none applies that says how to draw (``top_k=50`` and so
        on) or that a canvas cannot follow. And drawing is turned on or off as a whole.
        """
        if defaults_only:
            barred = {*_DRAW, *asking(kwargs), *(("cache_refresh",) if _is_off("cache", self.cache) else ())}
            kwargs = {name: value for name, value in kwargs.items() if name not in barred}
        elif _turned_off(kwargs):
            kwargs = _GREEDY | kwargs
        elif kwargs.get("do_sample") and not self.temperature:
            kwargs = {"temperature": 1.0} | kwargs
        unused: dict[str, Any] = super().update(defaults_only, allow_custom_entries, **kwargs)  # type: ignore[no-untyped-call]
        return unused

    def to_dict(self) -> dict[str, Any]:
        """Serialisable options, drawing told as a plain config tells it.

        Per-call tensors (``fill_mask``, a ``seed`` per row) are left out.
        """
        tensors = {name: getattr(self, name) for name in _TENSORS if isinstance(getattr(self, name), Tensor)}
        for name in tensors:
            setattr(self, name, DEFAULTS[name])
        try:
            values = dict(super().to_dict())
        finally:
            for name, value in tensors.items():
                setattr(self, name, value)
        draw = self.draw()
        return values | (draw if draw["do_sample"] else dict.fromkeys(_DRAW) | {"do_sample": False})

    def draw(self) -> dict[str, Any]:
        """How tokens are drawn, as a whole, so that nothing of a config with less say is left."""
        heat = self.token_temperature
        return {"do_sample": heat > 0, "temperature": heat, "top_k": self.top_k or 0, "top_p": self.top_p or 1.0}

    @property
    def token_temperature(self) -> float:
        """The temperature in force: ``do_sample=True`` alone means 1."""
        return 1.0 if self.do_sample and not self.temperature else float(self.temperature)


def _check_kinds(config: UnmaskingGenerationConfig) -> None:
    """Counts, ids and flags are what they must be, and kept as Python's own, so that they can be saved."""
    said = {name: value for name, value in vars(config).items() if value is not None and not _is_off(name, value)}
    for name, bound in _LEAST.items():
        if name in said:
            setattr(config, name, require_int(name, said[name], at_least=bound))
    for name in ("mask_token_id", "pad_token_id"):
        if name in said:
            setattr(config, name, token_id(name, said[name]))
    for name in ("eos_token_id", "suppress_tokens"):
        if name in said:
            found = token_ids(name, said[name])
            setattr(config, name, found[0] if is_whole(said[name]) and name == "eos_token_id" else found)
    if is_whole(config.seed):
        config.seed = int(config.seed)
    for name in _FLAGS:
        if name in said:
            require_bool(name, said[name])


def _check_draw(config: UnmaskingGenerationConfig) -> None:
    temperature, top_p, scale = config.temperature, config.top_p, config.guidance_scale
    # below 1e-6 logits / temperature may overflow, which would draw nonsense
    if not is_number(temperature) or not (temperature == 0 or 1e-6 <= temperature < math.inf):
        raise ValueError(f"`temperature` must be 0 or a finite number of at least 1e-6, got {shown(temperature)}")
    if top_p is not None and not (is_number(top_p) and 0 < top_p <= 1):
        raise ValueError(f"`top_p` must be in (0, 1], got {shown(top_p)}")
    if scale is not None and not (is_number(scale) and math.isfinite(scale)):
        raise ValueError(f"`guidance_scale` must be a finite number, got {shown(scale)}")
    if config.do_sample is False and temperature:
        raise ValueError(f"`do_sample=False` contradicts `temperature={temperature}`: drop one of them")
    cuts = [name for name in ("top_k", "top_p") if getattr(config, name) and not _is_off(name, getattr(config, name))]
    if cuts and not config.token_temperature:
        raise ValueError(
            f"`top_k={config.top_k}` and `top_p={top_p}` cut a random draw, but `temperature` is 0: "
            "pass a temperature above 0 or drop them"
        )


def _is_off(name: str, value: Any) -> bool:
    return name in _OFF and type(value) in (str, int, float) and bool(value == _OFF[name])


def _turned_off(values: dict[str, Any]) -> bool:
    """Whether somebody says that tokens are not drawn."""
    return values.get("do_sample") is False or values.get("temperature") == 0


def _unknown(names: list[str]) -> str:
    return f"unknown option {', '.join(names)} of generate(); options are {', '.join(DEFAULTS)}"


def resolve_config(
    model_config: GenerationConfig | None, generation_config: GenerationConfig | None, options: dict[str, Any]
) -> UnmaskingGenerationConfig:
    """Merge, later ones winning: defaults, the model's ``generation_config``, the call's, the call's options.

    Sampling settings of plain configs count only where ``do_sample=True`` is said, as in transformers. Whoever says
    that tokens are not drawn is obeyed, unless one with more say wants them drawn.

    Raises:
        ValueError: an option that is unknown, asks for what a canvas cannot do, or is out of range.
    """
    given = _given(options)
    asked = _asked(generation_config, model_config)
    # the model's ids were settled with its adapter, where explicit ones win over its generation_config
    own = {name: value for name, value in _set_values(model_config).items() if name not in _IDS}
    values = _overlaid(_overlaid(DEFAULTS, own), _set_values(generation_config))
    if _turned_off(given) or given.get("do_sample", values["do_sample"]) is not True:
        values |= _GREEDY
    values = _overlaid(values, {name: value for name, value in given.items() if name in DEFAULTS})
    config = UnmaskingGenerationConfig(**{n: None if _is_off(n, value) else value for n, value in values.items()})
    _warn_of_the_models(model_config, {*given, *asked}, config)
    return config


def _overlaid(values: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    """What is said with more say; no cache takes its refresh with it."""
    return values | ({"cache_refresh": None} if more.get("cache") == "off" else {}) | more


def _given(options: dict[str, Any]) -> dict[str, Any]:
    """The options that say something."""
    unknown = sorted(options.keys() - DEFAULTS.keys() - FOREIGN.keys())
    if unknown:
        raise ValueError(_unknown(unknown))
    given = {name: value for name, value in options.items() if value is not None}
    refuse_foreign_fields(given)
    for name, value in given.items():
        if getattr(value, "ndim", 0) and name not in (*_TENSORS, *_IDS, "suppress_tokens"):
            raise ValueError(f"`{name}` must be one value for all rows, got {shown(value)}")
    if given.get("do_sample") and given.get("temperature") == 0:
        raise ValueError(f"`do_sample=True` contradicts `temperature={given['temperature']}`: drop one of them")
    return given


def checked_kind(config: Any) -> GenerationConfig:
    """The ``generation_config`` of a call, if it is one; anything else would be read as if it were empty."""
    if not isinstance(config, GenerationConfig):
        raise ValueError(
            f"`generation_config` must be a GenerationConfig, got {config!r}: pass the options themselves, or "
            "UnmaskingGenerationConfig(...)"
        )
    return config


def _asked(config: Any, own: Any) -> dict[str, Any]:
    """What the ``generation_config`` of a call sets, checked.

    What it shares with the model's own is the model's: transformers hands over both as one, and copies are common.
    """
    if config is None:
        return {}
    said = {
        name: value
        for name, value in vars(checked_kind(config)).items()
        if value is not None and not name.startswith("_")
    }
    said = {name: value for name, value in said.items() if name in DEFAULTS or value != getattr(own, name, None)}
    unknown = sorted(said.keys() - DEFAULTS.keys() - FOREIGN.keys() - METADATA)
    if unknown:
        raise ValueError(_unknown(unknown))
    refuse_foreign_fields(said)
    if isinstance(config, UnmaskingGenerationConfig):
        config.validate()  # it may have been changed since it was made
    return said


def _set_values(config: GenerationConfig | None) -> dict[str, Any]:
    """The options that a config sets. One that turns drawing off says nothing else of it."""
    if config is None:
        return {}
    values = {name: getattr(config, name, None) for name in DEFAULTS}  # configs of remote code may lack some
    if isinstance(config, UnmaskingGenerationConfig):
        values |= config.draw()
    elif _turned_off(values):
        values |= dict.fromkeys(_DRAW) | {"do_sample": False}
    return {name: value for name, value in values.items() if value is not None}


def _warn_of_the_models(own: Any, silenced: set[str], config: UnmaskingGenerationConfig) -> None:
    """Tell what the model's config asks for in vain, unless the call says otherwise."""
    if own is None:
        return
    if not hasattr(own, "__dict__"):
        raise ValueError(f"the model's `generation_config` must be a GenerationConfig, got {own!r}")
    values = {name: getattr(own, name, None) for name in FOREIGN}
    unmet = left_out(values, silenced, drawing=config.token_temperature > 0)
    if unmet:
        asked = ", ".join(f"{name}={value}" for name, value in unmet.items())
        warnings.warn(
            f"the model's generation_config asks for {asked}, which has no meaning for masked diffusion: decoded "
            f"without. To be rid of this warning: model.generation_config.{next(iter(unmet))} = None",
            stacklevel=5,
        )
