"""The options of ``hf-unmask train``: what is trained on what, and every setting of the trainer."""

from __future__ import annotations

import dataclasses
import os
import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import yaml  # type: ignore[import-untyped]
from trl import TrlParser

from hf_unmask.policy.card.metadata import read_yaml

from .arguments import ScriptArguments, field_of, normal, spelt, unknown_option
from .config import UnmaskingGRPOConfig

_LONGEST_CONFIG = 2**16  # characters


class _Parser(TrlParser):  # type: ignore[misc]
    """TRL's parser; what is wrong is a ValueError of one line, and no option may be abbreviated."""

    def __init__(self, *types: Any) -> None:
        super().__init__(types, allow_abbrev=False, add_help=False)

    def error(self, message: str) -> NoReturn:
        raise ValueError(message)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Namespace, list[str]]:
        found, rest = super().parse_known_args(args, namespace)
        if "output_dir" in found:
            _complete(found)
        return found, rest

    def parse(self, arguments: Sequence[str], defaults: Mapping[str, Any]) -> tuple[list[Any], list[str]]:
        """Instances of the dataclasses, and what nobody understood. Later wins: defaults, --config, arguments."""
        rest, config = _without_config(normal(arguments))
        left = self.set_defaults_with_config(**{**defaults, **config})
        *found, more = self.parse_args_and_config(rest, return_remaining_strings=True)
        return found, left + more


def _complete(found: Namespace) -> None:
    """Settings that follow from others."""
    if found.output is None and found.output_dir is None:
        raise ValueError("say where to: --output FOLDER")
    if found.output_dir is not None and found.output not in (None, found.output_dir):
        raise ValueError(f"--output {found.output} and --output_dir {found.output_dir} are two names of one option")
    found.output = found.output_dir = found.output or found.output_dir
    if found.eval_steps is None:  # every checkpoint is validated
        found.eval_steps = found.save_steps
    if found.disable_tqdm is None:
        found.disable_tqdm = not sys.stderr.isatty()


def _without_config(arguments: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    """The arguments without ``--config FILE``, and what stands in the file."""
    if "--config" not in arguments:
        return list(arguments), {}
    place = arguments.index("--config")
    if place + 1 == len(arguments) or arguments[place + 1].startswith("--"):
        raise ValueError(f"{' '.join(arguments)}: --config needs the name of a YAML file")
    return [*arguments[:place], *arguments[place + 2 :]], _read_config(arguments[place + 1])


def _read_config(name: str) -> dict[str, Any]:
    """The settings in a YAML file; under ``env``, as in TRL, variables of the environment.

    Raises:
        ValueError: it is too large, not UTF-8, or not the YAML of such settings.
    """
    try:
        with open(name, encoding="utf-8-sig") as file:
            text = file.read(_LONGEST_CONFIG + 1)
        if len(text) > _LONGEST_CONFIG:
            raise ValueError(f"more than {_LONGEST_CONFIG:,} characters")
        read_yaml(text)  # small and without aliases
        found = yaml.safe_load(text)
    except UnicodeDecodeError as error:
        raise ValueError(f"{name} is not UTF-8 ({error}): save the file as UTF-8") from error
    except (ValueError, yaml.YAMLError) as error:
        raise ValueError(f"{name}: {error}") from error
    except (LookupError, AttributeError, TypeError, ArithmeticError) as error:  # of types that do not fit their value
        raise ValueError(f"{name} holds a value that is not of its YAML type: {error!r}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{name} must hold a mapping of settings, got {found!r}")
    os.environ.update({str(key): str(value) for key, value in (found.pop("env", None) or {}).items()})
    named = {_field_in_file(str(key)): value for key, value in found.items()}
    return {key: spelt(key, value) for key, value in named.items()}


def _field_in_file(key: str) -> str:
    """The field that a key sets; ``temperature`` is TRL's own there, in whose files it may stand."""
    name = key.replace("-", "_")
    return name if name == "temperature" else field_of(name)


def parse(
    arguments: Sequence[str], defaults: Mapping[str, Any] | None = None
) -> tuple[ScriptArguments, UnmaskingGRPOConfig]:
    """Options from a command line; ``--config FILE`` reads YAML, which arguments override.

    ``defaults`` are overridden by both. Settings that follow from the script's arguments (validation, the embedded
    model) are the weakest.

    Raises:
        ValueError: an unknown option, or a value that cannot be used.
    """
    defaults = defaults or {}
    (script,), _ = _Parser(ScriptArguments).parse(arguments, defaults)
    parser = _Parser(ScriptArguments, UnmaskingGRPOConfig)
    (script, args), unknown = parser.parse(arguments, script.settings() | defaults)
    if unknown:
        raise ValueError(unknown_option(unknown[0], _names()))
    script.output = os.path.expanduser(script.output)
    return script, args


def _names() -> list[str]:
    return [one.name for kind in (ScriptArguments, UnmaskingGRPOConfig) for one in dataclasses.fields(kind)]
