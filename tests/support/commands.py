"""``hf-unmask`` in this process."""

from __future__ import annotations

from typer.testing import CliRunner, Result

from hf_unmask.cli.main import app


def call(*arguments: object, code: int = 0) -> Result:
    """The result of a command, which must end with ``code``."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, (result.output, result.exception)
    return result
