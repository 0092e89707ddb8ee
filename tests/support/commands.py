"""``hf-unmask`` in this process."""

from __future__ import annotations

import functools
from collections.abc import Iterable

import typer.testing
from typer.testing import CliRunner, Result

from hf_unmask.cli.main import app

# for every call it would make the tree of all commands, which takes longer than most of them
typer.testing._get_command = functools.cache(typer.testing._get_command)


def invoke(arguments: Iterable[object], typed: str | None = None, charset: str = "utf-8") -> Result:
    """The result of a command; ``typed`` is its standard input."""
    return CliRunner(charset=charset).invoke(app, [str(argument) for argument in arguments], input=typed)


def call(*arguments: object, code: int = 0, typed: str | None = None, charset: str = "utf-8") -> Result:
    """The result of a command, which must end with ``code``."""
    result = invoke(arguments, typed, charset)
    assert result.exit_code == code, (result.output, result.exception)
    return result
