"""The description of an unmasking policy: enough to rebuild the network, and what it was trained for."""

from __future__ import annotations

from dataclasses import field, fields
from typing import Any, ClassVar, Literal

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import PreTrainedConfig

SCHEMA_VERSION = 1
Observation = Literal["canvas", "block"]
ActionKind = Literal["bernoulli", "plackett_luce"]


class PolicyLoadError(ValueError):
    """A policy's config or weights are not what they must be. Names the key, what was found, what was expected."""

    def __init__(self, key: str, found: Any, expected: str) -> None:
        super().__init__(key, found, expected)  # kept in `args`, so that the error can be pickled
        self.key, self.found, self.expected = key, found, expected

    def __str__(self) -> str:
        return f"unmasking policy: `{self.key}`: found {self.found}, expected {self.expected}"


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
_TRAINED_FOR_TEXTS = ("base_model", "base_model_revision", "task", "dataset")
#: What transformers itself adds to a saved config.json.
TRANSFORMERS_KEYS = frozenset({"transformers_version", "architectures", "dtype", "model_type"})
# What transformers passes or adds in memory (`to_dict`, `from_pretrained`), never written to config.json.
_RUNTIME_KEYS = frozenset(
    {"name_or_path", "_name_or_path", "attn_implementation", "experts_implementation", "output_attentions"}
)


def _shown(value: Any) -> str:
    return f"{value!r} ({type(value).__name__})"


def _check_integer(key: str, value: Any, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise PolicyLoadError(key, _shown(value), f"an integer in [{low}, {high}]")


def _check_number(key: str, value: Any, low: float, high: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise PolicyLoadError(key, _shown(value), f"a finite number in [{low:g}, {high:g}]")
    return float(value)


def check_keys(found: set[str], allowed: frozenset[str], prefix: str = "") -> None:
    """Refuse the first key that nobody knows: a misspelt option must not be ignored."""
    unknown = sorted(found - allowed)
    if unknown:
        raise PolicyLoadError(prefix + unknown[0], "an unknown key", f"one of {sorted(allowed)}")


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
        speed_conditioned: whether the policy takes a speed in [0, 1].
        log_alpha_range: [low, high], natural logarithm of the reward's speed exponent at speed 0 and at speed 1. Given
            exactly when `speed_conditioned`.
        schema_version: version of this schema.
        trained_for: record of the training set-up. Keys, all optional: base_model, base_model_revision, task, dataset
            (text), mask_token_id, block_length, max_new_tokens (integers; a block_length of None is full diffusion),
            lineage (list of text, the policies this one started from, oldest first).

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
    speed_conditioned: bool = False
    log_alpha_range: list[float] | None = None
    schema_version: int = SCHEMA_VERSION
    trained_for: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self, **kwargs: Any) -> None:
        # Before the base class: it drops some foreign keys silently and keeps the rest as attributes.
        check_keys(set(kwargs), _RUNTIME_KEYS | own_keys() | {"model_type"})
        model_type = kwargs.pop("model_type", self.model_type)
        if model_type != type(self).model_type:
            raise PolicyLoadError("model_type", repr(model_type), repr(type(self).model_type))
        super().__post_init__(**kwargs)  # type: ignore[no-untyped-call]
        self._check_inherited()
        self.validate()

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """As in transformers, with every refusal a `PolicyLoadError`. Returns the config."""
        try:
            return super().from_dict(config_dict, **kwargs)
        except (StrictDataclassError, AttributeError) as error:  # fields of the base class, e.g. a made-up dtype
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
                raise PolicyLoadError(key, _shown(getattr(self, key)), f"one of {choices}")
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
        plain = PreTrainedConfig()
        for f in fields(PreTrainedConfig):
            if f.name not in TRANSFORMERS_KEYS and getattr(self, f.name) != getattr(plain, f.name):
                raise PolicyLoadError(f.name, _shown(getattr(self, f.name)), "no such key in a policy's config")

    def _check_transformers_keys(self) -> None:
        names, version = self.architectures, self.transformers_version
        if names is not None and not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
            raise PolicyLoadError("architectures", _shown(names), "a list of text")
        if version is not None and not isinstance(version, str):
            raise PolicyLoadError("transformers_version", _shown(version), "text")
        # transformers holds a dtype or, for a moment while saving, its name
        dtype = getattr(torch, self.dtype, None) if isinstance(self.dtype, str) else self.dtype
        if self.dtype is not None and not isinstance(dtype, torch.dtype):
            raise PolicyLoadError("dtype", _shown(self.dtype), "a torch dtype")

    def _check_speed(self) -> None:
        if not isinstance(self.speed_conditioned, bool):
            raise PolicyLoadError("speed_conditioned", _shown(self.speed_conditioned), "true or false")
        bounds = self.log_alpha_range
        if not self.speed_conditioned:
            if bounds is not None:
                raise PolicyLoadError("log_alpha_range", _shown(bounds), "null for an unconditioned policy")
            return
        if not isinstance(bounds, list | tuple) or len(bounds) != 2:
            raise PolicyLoadError("log_alpha_range", _shown(bounds), "[low, high] for a speed-conditioned policy")
        low, high = (_check_number(f"log_alpha_range[{i}]", value, -100.0, 100.0) for i, value in enumerate(bounds))
        if not low < high:
            raise PolicyLoadError("log_alpha_range", _shown(bounds), "low < high")
        self.log_alpha_range = [low, high]

    def _check_trained_for(self) -> None:
        record = self.trained_for
        if not isinstance(record, dict):
            raise PolicyLoadError("trained_for", _shown(record), "a dictionary")
        known = frozenset(_TRAINED_FOR_TEXTS) | frozenset(_TRAINED_FOR_INTEGERS) | {"lineage"}
        check_keys({str(key) for key in record}, known, "trained_for.")
        for key, value in record.items():
            if value is None:
                continue
            if key in _TRAINED_FOR_INTEGERS:
                _check_integer(f"trained_for.{key}", value, *_TRAINED_FOR_INTEGERS[key])
            elif key in _TRAINED_FOR_TEXTS and not isinstance(value, str):
                raise PolicyLoadError(f"trained_for.{key}", _shown(value), "text")
            elif key == "lineage" and not (isinstance(value, list) and all(isinstance(v, str) for v in value)):
                raise PolicyLoadError("trained_for.lineage", _shown(value), "a list of text")


def own_keys() -> frozenset[str]:
    """The fields that this package adds to the base config: with `TRANSFORMERS_KEYS`, all that a file may hold."""
    inherited = {f.name for f in fields(PreTrainedConfig)}
    return frozenset(f.name for f in fields(UnmaskingPolicyConfig) if f.name not in inherited)
