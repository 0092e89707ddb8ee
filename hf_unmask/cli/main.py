"""The command ``hf-unmask``: all commands under one name."""

from __future__ import annotations

from typing import Annotated

import typer

from hf_unmask import __version__
from hf_unmask.cli import tables
from hf_unmask.cli.chat import chat
from hf_unmask.cli.check import check
from hf_unmask.cli.commands import Command, Group
from hf_unmask.cli.demo import demo
from hf_unmask.cli.evaluate import evaluate
from hf_unmask.cli.generate import generate
from hf_unmask.cli.hub import import_, pull, push, search
from hf_unmask.cli.policies import card, info, verify
from hf_unmask.cli.report import report, transfer
from hf_unmask.cli.terminal import plain_errors, say
from hf_unmask.cli.vocabulary import settled, speaking
from hf_unmask.cli.watch import watch

app = typer.Typer(
    name="hf-unmask",
    help="Unmasking samplers for diffusion language models.",
    cls=Group,
    context_settings={"token_normalize_func": settled, "help_option_names": ["--help", "-h"]},
    add_completion=False,
    pretty_exceptions_enable=False,
)


def main() -> None:
    """Console entry point."""
    app()


def _print_version(wanted: bool) -> None:
    if wanted:
        say(__version__)
        raise typer.Exit()


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    del version


for command in (
    demo,
    generate,
    chat,
    tables.samplers,
    tables.models,
    check,
    report,
    watch,
    transfer,
    evaluate,
    push,
    card,
    pull,
    import_,
    info,
    verify,
    search,
):
    app.command(command.__name__.rstrip("_"), cls=Command)(command)


@app.command(add_help_option=False, context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def train(context: typer.Context) -> None:
    """Train an unmasking policy; --help lists the options."""
    from hf_unmask.cli.train_arguments import check_arguments, words

    with speaking(words(context.args)), plain_errors("train"):
        check_arguments(context.args)  # before seconds of imports
        from hf_unmask.cli.train import main as run  # with TRL, whose parser reads the options

        run(context.args)


if __name__ == "__main__":
    main()
