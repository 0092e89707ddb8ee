"""What there is to know of the samplers without importing them: names, parameters, defaults; what their files say.

So a list of them, and the answer to a spec that is misspelt or out of range, wait for no torch. A test compares every
row with its class.
"""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from typing import TYPE_CHECKING, Any

from hf_unmask.denoisers.values import require, require_int
from hf_unmask.results.spec_text import unquoted

if TYPE_CHECKING:
    from hf_unmask.samplers.base import Sampler

_LINK = re.compile(r"https://[^\s,;)]+[^\s,;).]")
#: Types that a value may have; text in their place is one of a few words.
Kind = type | str
_CHECKS: dict[str, Callable[..., Any]] = {"require": require, "require_int": require_int}
_BASES = {"RankedSampler": "ranked"}
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

    def load(self) -> type[Sampler]:
        """The class."""
        module = importlib.import_module(f"hf_unmask.samplers.{self.name}")
        found: type[Sampler] = getattr(module, self.class_name)
        return found

    @cached_property
    def summary(self) -> str:
        """First line of the class's docstring."""
        return self._prose.splitlines()[0]

    @cached_property
    def source(self) -> str:
        """The link in it."""
        found = _LINK.search(self._prose)
        return found.group() if found else ""

    def check(self, values: Mapping[str, Any]) -> None:
        """Raise what the class would for a value that is out of its range, as far as its file says it in one line."""
        for node in (node for one in self._classes for node in ast.walk(one)):
            match node:
                case ast.Call(func=ast.Name(id=name), args=[ast.Constant(value=str(key)), *_]) if name in _CHECKS:
                    if values.get(key) is not None:
                        bounds = {str(one.arg): ast.literal_eval(one.value) for one in node.keywords}
                        _CHECKS[name](key, values[key], **bounds)

    @property
    def _prose(self) -> str:
        return ast.get_docstring(self._classes[0]) or ""

    @cached_property
    def _classes(self) -> list[ast.ClassDef]:
        """The class, as its file has it, and its base if that is in a file beside it."""
        own = _class_in(self.name)
        bases = {ast.unparse(base) for base in own.bases}
        return [own, *(_class_in(file) for base, file in _BASES.items() if base in bases)]

    @property
    def shown_parameters(self) -> str:
        """ "threshold=0.9, minimum=1": comma separated, with defaults."""
        return ", ".join(f"{one.name}={one.default}" for one in self.parameters)


def _class_in(name: str) -> ast.ClassDef:
    """The first class of a file of this room."""
    file = resources.files("hf_unmask.samplers").joinpath(f"{name}.py")
    return next(node for node in ast.parse(file.read_text("utf-8")).body if isinstance(node, ast.ClassDef))


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
    Row("confidence", "ConfidenceSampler", _ranked()),
    Row("credit", "CreditSampler", _floats(alpha=0.7, beta=0.8, gamma=0.2, threshold=0.9)),
    Row("dilated", "DilatedSampler", (Parameter("base", (int,), 2),)),
    Row("entropy", "EntropySampler", _ranked()),
    Row("entropy_bound", "EntropyBoundSampler", _floats(gamma=0.1)),
    Row("eos_suppress", "EosSuppressSampler", (Parameter("inner", (SAMPLER,), "threshold"),)),
    Row("factor", "FactorSampler", _floats(factor=1.0)),
    Row("klass", "KLASSSampler", (*_floats(tau=0.9, eps=0.01), Parameter("n", (int,), 2))),
    Row("left_to_right", "LeftToRightSampler", _ranked()),
    Row("margin", "MarginSampler", _ranked()),
    Row(
        "pc",
        "PCSampler",
        _ranked(*_floats(decay=0.25, alpha=10.0), Parameter("frequencies", (str, type(None)), None)),
    ),
    Row("random", "RandomSampler", _ranked()),
    Row("threshold", "ThresholdSampler", (*_floats(threshold=0.9), Parameter("minimum", (int,), 1))),
)
#: Rules written by hand, by name.
HEURISTICS = {row.name: row for row in _ROWS}
LEARNED = "learned"
