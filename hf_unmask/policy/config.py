"""The description of an unmasking policy: enough to rebuild the network, and what it was trained for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field, fields
from os import PathLike
from typing import Any, ClassVar, Literal

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import PreTrainedConfig

from hf_unmask.results.foreign_text import printable, shown

SCHEMA_VERSION = 1
_LONGEST_SHOWN = 500
Observation = Literal["canvas", "block"]
#: Inputs that every denoiser has besides what the paper's policy reads, in the order of the network's columns.
PORTABLE = (
    "log_odds", "entropy", "margin", "rank", "stop", "change", "stability", "repeat", "place", "calibration",
)  # fmt: skip
#: Numbers of a calibration code, one per row.
CODE_SIZE = 8
ActionKind = Literal["bernoulli", "plackett_luce"]


class PolicyLoadError(ValueError):
    """A policy's config or weights are not what they must be. Names the key, what was found, what was expected."""

    def __init__(self, key: str, found: Any, expected: str) -> None:
        super().__init__(key, found, expected)  # kept in `args`, so that the error can be pickled
        self.key, self.found, self.expected = key, found, expected

    def __str__(self) -> str:
        key, found = (printable(value, longest=_LONGEST_SHOWN) for value in (self.key, self.found))
        return f"unmasking policy: `{key}`: found {found}, expected {self.expected}"


# Bounds keep a hostile file from asking for absurd memory; they are far above anything useful.
_INTEGERS = {
    "hidden_size": (2, 16384),
    "intermediate_size": (1, 65536),
    "num_heads": (1, 256),
    "time_size": (2, 16384),
    "top_k": (1, 4096),
    "hidden_input_size": (1, 65536),
    "schema_version": (SCHEMA_VERSION, SCHEMA_VERSION),
}
_NUMBERS = {"rope_theta": (1.0, 1e12), "stop_logit": (-100.0, 100.0), "initial_bias": (-100.0, 100.0)}
_CHOICES = {"observation": ("canvas", "block"), "action": ("bernoulli", "plackett_luce")}
_TRAINED_FOR_INTEGERS = {
    "mask_token_id": (0, 2**31 - 1),
    "block_length": (1, 2**31 - 1),
    "max_new_tokens": (1, 2**31 - 1),
}
_TRAINED_FOR_TEXTS = ("base_model", "base_model_revision", "task", "dataset", "hf_unmask_version")
_LONGEST_TEXT, _MOST_TEXTS = 500, 100
#: Stands in a lineage for the oldest policies, once there are too many.
LEFT_OUT = "(older ones are left out)"
#: What transformers itself adds to a saved config.json.
TRANSFORMERS_KEYS = frozenset({"transformers_version", "architectures", "dtype", "model_type"})
# What transformers passes or adds in memory (`to_dict`, `from_pretrained`), never written to config.json.
_RUNTIME_KEYS = frozenset({"name_or_path", "_name_or_path", "output_attentions"})
# Only a caller may choose these: transformers downloads and runs a kernel for a name like "org/kernel".
_CALLERS_KEYS = frozenset({"attn_implementation", "experts_implementation"})
# transformers makes keyword arguments of a file's keys, and this is the name of the first positional one.
_NEVER_KEYS = _CALLERS_KEYS | {"self"}


def _check_integer(key: str, value: Any, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise PolicyLoadError(key, shown(value), f"an integer in [{low}, {high}]")


def _check_number(key: str, value: Any, low: float, high: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise PolicyLoadError(key, shown(value), f"a finite number in [{low:g}, {high:g}]")
    return float(value)


def _check_text(key: str, value: Any) -> None:
    if not isinstance(value, str) or len(value) > _LONGEST_TEXT or not value.isprintable():
        raise PolicyLoadError(key, shown(value), f"one line of text, at most {_LONGEST_TEXT} characters")


def _check_texts(key: str, values: Any) -> None:
    if not isinstance(values, list) or len(values) > _MOST_TEXTS:
        raise PolicyLoadError(key, shown(values), f"a list of text, at most {_MOST_TEXTS}")
    for value in values:
        _check_text(key, value)


def check_keys(found: set[str], allowed: frozenset[str], prefix: str = "") -> None:
    """Refuse the first key that nobody knows: a misspelt option must not be ignored."""
    unknown = sorted(found - allowed)
    if unknown:
        raise PolicyLoadError(prefix + unknown[0], "an unknown key", f"one of {sorted(allowed)}")


def _check_runtime(values: dict[str, Any]) -> None:
    for key in ("name_or_path", "_name_or_path"):
        if not isinstance(values.get(key, ""), str | PathLike):
            raise PolicyLoadError(key, shown(values[key]), "text")
    if not isinstance(values.get("output_attentions"), bool | None):
        raise PolicyLoadError("output_attentions", shown(values["output_attentions"]), "true or false")


class UnmaskingPolicyConfig(PreTrainedConfig):
    """Configuration of an `UnmaskingPolicy`. The defaults are the main model of https://arxiv.org/abs/2512.09106.

    Args:
        hidden_size: width H of both streams.
        intermediate_size: width of the feed-forward layer.
        num_heads: attention heads; each has an even width (rotary pairs).
        time_size: length of the time feature vector, even.
        top_k: how many of the largest token probabilities the policy reads per position.
        rope_theta: base of the rotary position embedding.
        observation: "canvas", the policy sees all positions to fill; "block", the active block only.
        action: "bernoulli", one independent choice per position; "plackett_luce", an ordered list with STOP.
        stop_logit: logit of STOP, read by "plackett_luce" only.
        initial_bias: bias of the last layer at initialisation; negative values start with few openings per step.
        hidden_input_size: width of the denoiser's hidden states if the policy reads them, else None.
        further_inputs: names out of `PORTABLE`, what the policy reads besides, or "portable" for all of them:
            log_odds (of the ``top_k`` probabilities), entropy, margin, rank (among the masked), stop (the proposal
            ends the text), change (of the confidence since the last step), stability (for how many steps the proposal
            has stood), repeat (the proposal is its left neighbour's), place (in block and canvas, and whether it may
            open), calibration (how sure the denoiser was of the canvas of nothing but masks). See `observe`.
        reads_revealed: whether the policy reads confidences and hidden states of revealed positions, as the original
            does. Without, it sees zeros there, and the denoiser's output layer runs on the masked positions alone.
        speed_conditioned: whether the policy takes a speed in [0, 1].
        log_alpha_range: [low, high], natural logarithm of the reward's speed exponent at speed 0 and at speed 1. Given
            exactly when `speed_conditioned`.
        schema_version: version of this schema.
        trained_for: record of the training set-up. Keys, all optional: base_model, base_model_revision, task, dataset,
            hf_unmask_version (one line of text), mask_token_id, block_length, max_new_tokens (integers; a block_length
            of None is full diffusion), lineage (list of text, the policies this one started from, oldest first; see
            `extended_lineage`).

    Every value is checked on construction and again on saving; a bad one raises `PolicyLoadError`.
    """

    model_type: ClassVar[str] = "unmask_policy"

    hidden_size: int = 128
    intermediate_size: int = 512
    num_heads: int = 2
    time_size: int = 128
    top_k: int = 1
    rope_theta: float = 10000.0
    observation: Observation = "canvas"
    action: ActionKind = "bernoulli"
    stop_logit: float = 0.0
    initial_bias: float = -2.0
    hidden_input_size: int | None = None
    further_inputs: list[str] = field(default_factory=list)
    reads_revealed: bool = True
    speed_conditioned: bool = False
    log_alpha_range: list[float] | None = None
    schema_version: int = SCHEMA_VERSION
    trained_for: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self, **kwargs: Any) -> None:
        # Before the base class: it drops some foreign keys silently and keeps the rest as attributes.
        check_keys(set(kwargs), _RUNTIME_KEYS | _CALLERS_KEYS | own_keys() | {"model_type"})
        model_type = kwargs.pop("model_type", self.model_type)
        if model_type != type(self).model_type:
            raise PolicyLoadError("model_type", shown(model_type), repr(type(self).model_type))
        # Also before: it converts names of dtypes and labels, and fails in its own ways where it cannot.
        _check_runtime(kwargs)
        self._check_inherited()
        self._check_transformers_keys()
        super().__post_init__(**kwargs)  # type: ignore[no-untyped-call]
        self.validate()

    def to_dict(self) -> dict[str, Any]:
        """As in transformers, without further inputs where there are none: versions before them read the rest."""
        found: dict[str, Any] = super().to_dict()
        return {key: value for key, value in found.items() if key != "further_inputs" or value}

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """As in transformers, with every refusal a `PolicyLoadError`. Returns the config."""
        for key in sorted(_NEVER_KEYS & config_dict.keys()):
            raise PolicyLoadError(key, shown(config_dict[key]), "no such key in a policy's config")
        try:
            return super().from_dict(dict(config_dict), **kwargs)  # a copy: `kwargs` are written into it
        except StrictDataclassError as error:  # fields of the base class
            raise PolicyLoadError("config", error, "keys and values that transformers accepts") from error

    def validate(self) -> None:
        """Raise `PolicyLoadError` for the first field of a wrong type or out of its range."""
        for key, (low, high) in _INTEGERS.items():
            if key != "hidden_input_size" or self.hidden_input_size is not None:
                _check_integer(key, getattr(self, key), low, high)
        for key, (least, most) in _NUMBERS.items():
            setattr(self, key, _check_number(key, getattr(self, key), least, most))
        for key, choices in _CHOICES.items():
            if getattr(self, key) not in choices:
                raise PolicyLoadError(key, shown(getattr(self, key)), f"one of {choices}")
        for key in ("reads_revealed", "speed_conditioned"):
            if not isinstance(getattr(self, key), bool):
                raise PolicyLoadError(key, shown(getattr(self, key)), "true or false")
        self._check_inputs()
        pairs = 2 * self.num_heads
        if self.hidden_size % pairs:
            raise PolicyLoadError("hidden_size", self.hidden_size, f"a multiple of 2 * num_heads = {pairs}")
        if self.time_size % 2:
            raise PolicyLoadError("time_size", self.time_size, "an even number")
        self._check_transformers_keys()
        self._check_speed()
        self._check_trained_for()

    def log_alpha(self, speed: float) -> float:
        """Natural logarithm of the speed exponent that a speed in [0, 1] stands for; linear in between."""
        if self.log_alpha_range is None:
            raise ValueError("this policy is not speed-conditioned: it has no `log_alpha_range`")
        low, high = self.log_alpha_range
        return low + speed * (high - low)

    def _check_inherited(self) -> None:
        """Base-class fields that mean nothing for a policy must keep their defaults."""
        plain = PreTrainedConfig()  # differs from the defaults of its fields
        for f in fields(PreTrainedConfig):
            if f.name not in TRANSFORMERS_KEYS and getattr(self, f.name) not in (f.default, getattr(plain, f.name)):
                raise PolicyLoadError(f.name, shown(getattr(self, f.name)), "no such key in a policy's config")

    def _check_transformers_keys(self) -> None:
        if self.architectures is not None:
            _check_texts("architectures", self.architectures)
        if self.transformers_version is not None:
            _check_text("transformers_version", self.transformers_version)
        # A dtype or its name. Not getattr, which imports parts of torch for some names.
        dtype = vars(torch).get(self.dtype) if isinstance(self.dtype, str) else self.dtype
        if self.dtype is not None and not isinstance(dtype, torch.dtype):
            raise PolicyLoadError("dtype", shown(self.dtype), "a torch dtype")

    def _check_inputs(self) -> None:
        given: Any = self.further_inputs
        names = list(PORTABLE) if given == "portable" else given
        if not isinstance(names, list | tuple):
            raise PolicyLoadError("further_inputs", shown(names), "a list of names, or 'portable'")
        for name in names:
            if name not in PORTABLE or names.count(name) > 1:
                raise PolicyLoadError("further_inputs", shown(name), f"each at most once of {list(PORTABLE)}")
        self.further_inputs = [name for name in PORTABLE if name in names]

    @property
    def further_columns(self) -> dict[str, slice]:
        """Which numbers per position each of the further inputs is; a calibration code is none of them."""
        widths, found, start = {"log_odds": self.top_k, "place": 3}, {}, 0
        for name in self.further_inputs:
            if name != "calibration":
                found[name] = slice(start, start + widths.get(name, 1))
                start = found[name].stop
        return found

    @property
    def further_size(self) -> int:
        """Numbers that the policy reads per position besides probabilities and hidden states."""
        return max((columns.stop for columns in self.further_columns.values()), default=0)

    def _check_speed(self) -> None:
        bounds = self.log_alpha_range
        if not self.speed_conditioned:
            if bounds is not None:
                raise PolicyLoadError("log_alpha_range", shown(bounds), "null for an unconditioned policy")
            return
        if not isinstance(bounds, list | tuple) or len(bounds) != 2:
            raise PolicyLoadError("log_alpha_range", shown(bounds), "[low, high] for a speed-conditioned policy")
        low, high = (_check_number(f"log_alpha_range[{i}]", value, -100.0, 100.0) for i, value in enumerate(bounds))
        if not low < high:
            raise PolicyLoadError("log_alpha_range", shown(bounds), "low < high")
        self.log_alpha_range = [low, high]

    def _check_trained_for(self) -> None:
        record = self.trained_for
        if not isinstance(record, dict):
            raise PolicyLoadError("trained_for", shown(record), "a dictionary")
        known = frozenset(_TRAINED_FOR_TEXTS) | frozenset(_TRAINED_FOR_INTEGERS) | {"lineage"}
        check_keys({str(key) for key in record}, known, "trained_for.")
        for key, value in record.items():
            if value is None:
                continue
            if key in _TRAINED_FOR_INTEGERS:
                _check_integer(f"trained_for.{key}", value, *_TRAINED_FOR_INTEGERS[key])
            elif key in _TRAINED_FOR_TEXTS:
                _check_text(f"trained_for.{key}", value)
            else:
                _check_texts("trained_for.lineage", value)


def extended_lineage(lineage: Sequence[str] | None, name: str) -> list[str]:
    """A lineage with one more policy at its end; of too long a one the oldest are replaced by a note."""
    whole = [*(lineage or []), name]
    return whole if len(whole) <= _MOST_TEXTS else [LEFT_OUT, *whole[1 - _MOST_TEXTS :]]


def own_keys() -> frozenset[str]:
    """The fields that this package adds to the base config: with `TRANSFORMERS_KEYS`, all that a file may hold."""
    inherited = {f.name for f in fields(PreTrainedConfig)}
    return frozenset(f.name for f in fields(UnmaskingPolicyConfig) if f.name not in inherited)
