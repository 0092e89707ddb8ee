"""What there is to know of the samplers without importing them: names, parameters, defaults, sources.

So a list of them, and the answer to a spec that is misspelt, wait for no torch. A test compares every row with its
class.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hf_unmask.results.spec_text import unquoted

if TYPE_CHECKING:
    from hf_unmask.samplers.base import Sampler

#: Types that a value may have; text in their place is one of a few words.
Kind = type | str
#: Stands for the type of a sampler that another one holds.
SAMPLER = "a sampler"


@dataclass(frozen=True)
class Parameter:
    """One parameter of a spec."""

    name: str
    kinds: tuple[Kind, ...]
    default: Any

    def value(self, text: str) -> Any:
        """``text``, perhaps in quotes, as what the parameter takes.

        Raises:
            ValueError: says what it takes.
        """
        if text == "None" and type(None) in self.kinds:
            return None
        if SAMPLER in self.kinds:
            raise ValueError(f"`{self.name}` is given in brackets: eos_suppress({text})")
        for kind in self.kinds:
            if kind is bool and text.lower() in ("true", "false"):
                return text.lower() == "true"
            if text == kind:
                return text
            if kind in (int, float, str):
                try:
                    return kind(unquoted(text))
                except ValueError:
                    pass
        takes = " or ".join(_shown(kind) for kind in self.kinds)
        raise ValueError(f"`{self.name}` must be {takes} (default {self.default}), got {text!r}")


@dataclass(frozen=True)
class Row:
    """One sampler. The first parameter may stand in a spec without its name."""

    name: str
    class_name: str
    parameters: tuple[Parameter, ...]
    summary: str  # first line of the docstring
    source: str  # its link

    def load(self) -> type[Sampler]:
        """The class."""
        module = importlib.import_module(f"hf_unmask.samplers.{self.name}")
        found: type[Sampler] = getattr(module, self.class_name)
        return found

    @property
    def shown_parameters(self) -> str:
        """ "threshold=0.9, minimum=1": comma separated, with defaults."""
        return ", ".join(f"{one.name}={one.default}" for one in self.parameters)


def _shown(kind: Kind) -> str:
    if isinstance(kind, str):
        return kind
    return "None" if kind is type(None) else kind.__name__


def _ranked(*more: Parameter) -> tuple[Parameter, ...]:
    """Parameters of a rule that opens a number of positions per step."""
    steps = Parameter("steps_per_block", (int, type(None)), None)
    return (Parameter("k", (int,), 1), steps, Parameter("schedule", ("even", "late"), "even"), *more)


def _floats(**defaults: float) -> tuple[Parameter, ...]:
    return tuple(Parameter(name, (float,), default) for name, default in defaults.items())


#: What a spec of a learned sampler may say behind its policy.
LEARNED_PARAMETERS = (
    Parameter("policy_temperature", (float,), 1.0),
    Parameter("beta", (float,), 1.0),
    Parameter("speed", (float,), None),
    Parameter("greedy", (bool,), False),
    Parameter("revision", (str,), None),
    Parameter("cache_dir", (str,), None),
    Parameter("local_files_only", (bool,), False),
    Parameter("max_bytes", (int,), None),
)

_ROWS = (
    Row(
        "confidence",
        "ConfidenceSampler",
        _ranked(),
        "Open the ``k`` eligible positions whose proposal is most probable.",
        "https://arxiv.org/abs/2502.09992",
    ),
    Row(
        "credit",
        "CreditSampler",
        _floats(alpha=0.7, beta=0.8, gamma=0.2, threshold=0.9),
        "Threshold rule on probabilities that are raised for tokens which led in earlier steps of the block.",
        "https://arxiv.org/abs/2510.06133",
    ),
    Row(
        "dilated",
        "DilatedSampler",
        (Parameter("base", (int,), 2),),
        "Round t = 1, 2, ... opens the offsets of a block that are multiples of max(1, floor(B / base ** t)).",
        "https://arxiv.org/abs/2506.19037",
    ),
    Row(
        "entropy",
        "EntropySampler",
        _ranked(),
        "Open the ``k`` eligible positions of lowest entropy (nats).",
        "https://github.com/DreamLM/Dream",
    ),
    Row(
        "entropy_bound",
        "EntropyBoundSampler",
        _floats(gamma=0.1),
        "Open the k positions of lowest entropy, largest k with (sum of entropies) - (largest of them) <= gamma, "
        "k >= 1.",
        "https://arxiv.org/abs/2505.24857",
    ),
    Row(
        "eos_suppress",
        "EosSuppressSampler",
        (Parameter("inner", (SAMPLER,), "threshold"),),
        "Let ``inner`` choose, but not a stop token while an earlier masked position of the row proposes another "
        "token.",
        "https://github.com/yjyddq/EOSER-ASS-RL",
    ),
    Row(
        "factor",
        "FactorSampler",
        _floats(factor=1.0),
        "Open the n most confident positions, n as large as the n-th confidence >= 1 - factor / (n + 1) allows, "
        "n >= 1.",
        "https://arxiv.org/abs/2505.22618",
    ),
    Row(
        "klass",
        "KLASSSampler",
        (*_floats(tau=0.9, eps=0.01), Parameter("n", (int,), 2)),
        "Open positions with confidence > tau whose KL(p_t || p_(t-1)) was < eps in each of the last n steps.",
        "https://arxiv.org/abs/2511.05664",
    ),
    Row(
        "left_to_right",
        "LeftToRightSampler",
        _ranked(),
        "Open the ``k`` leftmost eligible positions.",
        "https://arxiv.org/abs/2502.06768",
    ),
    Row(
        "margin",
        "MarginSampler",
        _ranked(),
        "Open the ``k`` eligible positions with the largest gap between the two most probable tokens.",
        "https://arxiv.org/abs/2502.06768",
    ),
    Row(
        "pc",
        "PCSampler",
        _ranked(*_floats(decay=0.25, alpha=10.0), Parameter("frequencies", (str, type(None)), None)),
        "Open the ``k`` largest exp(-decay * i) * min(alpha, -p * ln f): i place in the canvas, p confidence, "
        "f frequency.",
        "https://arxiv.org/abs/2508.13021",
    ),
    Row(
        "random",
        "RandomSampler",
        _ranked(),
        "Open ``k`` eligible positions drawn uniformly without replacement.",
        "https://arxiv.org/abs/2502.09992",
    ),
    Row(
        "threshold",
        "ThresholdSampler",
        (*_floats(threshold=0.9), Parameter("minimum", (int,), 1)),
        "Open every position whose confidence is at least ``threshold``, and always the ``minimum`` most confident "
        "ones.",
        "https://arxiv.org/abs/2505.22618",
    ),
)
#: Rules written by hand, by name.
HEURISTICS = {row.name: row for row in _ROWS}
LEARNED = "learned"
