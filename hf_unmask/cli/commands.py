"""How a command line becomes a command: options in any spelling, and one line for what is wrong with it."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from hf_unmask.cli.terminal import say
from hf_unmask.cli.vocabulary import Words, settled, speaking

#: Options whose values may follow one another: ``--columns prompt=question answer=solution``.
_SEVERAL = ("columns", "sampler")
_TYPED = "hf_unmask typed"


def _words(context: Any) -> Words:
    options = (name for one in context.command.params for name in (*one.opts, *one.secondary_opts))
    names = [name[2:] for name in options if name.startswith("--")]
    return Words.of(names, context.meta.get(_TYPED, []))


class Command(TyperCommand):
    """A command whose options may be spelt with dashes or underscores."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        ctx.meta[_TYPED] = list(args)
        plain = all(one.param_type_name == "option" for one in self.params)
        return super().parse_args(ctx, list(_one_each(args)) if plain else args)

    def invoke(self, ctx: Any) -> Any:
        with speaking(_words(ctx)):
            return super().invoke(ctx)


def _one_each(arguments: Sequence[str]) -> Iterator[str]:
    """``--columns A B`` as ``--columns A --columns B``; train's parser, too, takes both."""
    option, values = "", 0
    for place, argument in enumerate(arguments):
        if argument.startswith("-"):
            name, equals, _ = argument.partition("=")
            option, values = (name if settled(name.lstrip("-")) in _SEVERAL else ""), len(equals)
            if argument == "--":
                yield from arguments[place:]
                return
        elif option:
            values += 1
            if values > 1:
                yield option
        yield argument


class Group(TyperGroup):
    """All commands. What is wrong with a command line is one line, as any other error is."""

    def main(self, *args: Any, standalone_mode: bool = True, **extra: Any) -> Any:
        typed = args[0] if args else extra.pop("args", None)
        given = list(sys.argv[1:] if typed is None else typed) or ["--help"]
        try:
            code = super().main(given, *args[1:], **{**extra, "standalone_mode": False})
        except typer.Abort:
            code = 1
        except Exception as error:
            if not standalone_mode or not hasattr(error, "format_message"):
                raise
            say(f"error: {_usage(error)}", err=True)
            code = 2
        if standalone_mode:
            sys.exit(code if isinstance(code, int) else 0)
        return code


def _usage(error: Any) -> str:
    """What the parser found wrong, with the options as they were typed."""
    context = getattr(error, "ctx", None)
    words = Words(frozenset()) if context is None else _words(context)
    asked = "hf-unmask" if context is None else context.command_path
    unknown, near = getattr(error, "option_name", ""), getattr(error, "possibilities", None)
    text = str(error.format_message()).strip()
    if near is not None or text.startswith("No such option"):
        typed = words.typed.get(unknown.lstrip("-"), unknown)
        text = f"no option {typed}" + (f", did you mean {near[0]}?" if near else "")
    elif context is not None and getattr(error, "param", None) is not None:
        text += _given_to(error.param, words, context.meta.get(_TYPED, []))
    text = words.say(" ".join(f"{text[:1].lower()}{text[1:]}".removesuffix(".").split()))
    return f"{text} (see {asked} --help)"


def _given_to(parameter: Any, words: Words, arguments: Sequence[str]) -> str:
    """The value of an option, which the parser's messages do not show."""
    names = {words.typed.get(name[2:]) for name in parameter.opts if name.startswith("--")} - {None}
    for place, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if name in names and (equals or place + 1 < len(arguments)):
            return f", got {value if equals else arguments[place + 1]!r}"
    return ""
