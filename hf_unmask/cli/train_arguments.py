"""The command line of ``hf-unmask train``, looked at before TRL is imported, which takes longer than most mistakes."""

from __future__ import annotations

import ast
import dataclasses
import importlib.util
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import hf_unmask.trainers
from hf_unmask.cli.vocabulary import Words
from hf_unmask.trainers.arguments import ScriptArguments, field_of, normal, option_of, unknown_option

HELP = {"-h", "--help", "--help-all"}
#: Classes whose fields are options, and the files in which they are defined.
_OURS = {"arguments.py": "ScriptArguments", "config.py": "UnmaskingGRPOConfig"}
_THEIRS = {
    ("trl", "trainer/grpo_config.py"): "GRPOConfig",
    ("trl", "trainer/base_config.py"): "_BaseConfig",
    ("transformers", "training_args.py"): "TrainingArguments",
}
_NUMBERS = {"int": (int, "a whole number"), "float": (float, "a number")}


def words(arguments: Sequence[str]) -> Words:
    """How errors name this command's options."""
    return Words.of(
        (option_of(name)[2:] for name in known_fields()), arguments, lambda name: option_of(field_of(name))[2:]
    )


def check_arguments(arguments: Sequence[str]) -> None:
    """Find what is wrong with options as such: their names, numbers that are none, paths that lead nowhere.

    Raises:
        ModuleNotFoundError: TRL is not installed.
        ValueError: an option that does not exist or whose value cannot be used.
    """
    if HELP & set(arguments):
        return
    if importlib.util.find_spec("trl") is None:
        raise ModuleNotFoundError(f"no trl among {len(arguments)} arguments' needs", name="trl")
    known, given = known_fields(), _given(arguments)
    for name, values in given.items():
        if known and name not in known and name.removeprefix("no_") not in known:
            typed = next(
                one for one in arguments if one.startswith("--") and field_of(one[2:].partition("=")[0]) == name
            )
            raise ValueError(unknown_option(typed.partition("=")[0], known))
        _check_number(name, values, known.get(name, ""))
    if "config" in given:
        _check_config(given["config"])
    else:
        _check_script(given)


def _given(arguments: Sequence[str]) -> dict[str, list[str]]:
    """Fields and the values that follow."""
    found: dict[str, list[str]] = {}
    values: list[str] = []
    for word in normal(arguments):
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            values = found.setdefault(name, [])
            values += [value] if equals else []
        else:
            values.append(word)
    return found


def _check_number(name: str, values: Sequence[str], annotation: str) -> None:
    kinds = {kind.strip() for kind in annotation.split("|")} - {"None"}
    if len(kinds) != 1 or len(values) != 1 or not kinds <= _NUMBERS.keys():
        return
    kind, what = _NUMBERS[kinds.pop()]
    try:
        kind(values[0])
    except ValueError:
        raise ValueError(f"`{name}` must be {what}, got {values[0]!r}") from None


def _check_config(values: Sequence[str]) -> None:
    if values and not Path(values[0]).is_file():
        raise ValueError(f"no file {values[0]!r} for --config")


def _check_script(given: Mapping[str, Sequence[str]]) -> None:
    if "output" not in given and "output_dir" not in given:
        raise ValueError("say where to: --output FOLDER")
    texts = {one.name for one in dataclasses.fields(ScriptArguments) if str(one.type) in ("str", "str | None")}
    said = {name: values[0] for name, values in given.items() if name in texts and len(values) == 1}
    said.setdefault("output", next(iter(given.get("output_dir", [])), ""))
    ScriptArguments(**said).check_places()


@cache
def known_fields() -> Mapping[str, str]:
    """Every field that is an option, with its declared type, read from the source; empty if that lies elsewhere."""
    here = Path(str(hf_unmask.trainers.__file__)).parent
    sources = {here / file: name for file, name in _OURS.items()}
    for (package, file), name in _THEIRS.items():
        spec = importlib.util.find_spec(package)
        places = [] if spec is None else list(spec.submodule_search_locations or ())
        if not places:
            return {}
        sources[Path(places[0]) / file] = name
    found: dict[str, str] = {"config": ""}
    for path, name in reversed(sources.items()):
        fields = _fields(path, name)
        if not fields:
            return {}
        found |= fields
    return found


def _fields(path: Path, name: str) -> dict[str, str]:
    if not path.is_file():
        return {}
    classes = (
        node for node in ast.parse(path.read_bytes()).body if isinstance(node, ast.ClassDef) and node.name == name
    )
    lines = (line for node in classes for line in node.body if isinstance(line, ast.AnnAssign))
    return {ast.unparse(line.target): ast.unparse(line.annotation) for line in lines}
