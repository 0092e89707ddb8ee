"""One vocabulary for all commands: how an option is written, what it was called before, how errors name it.

Dashes and underscores are the same, and older names are understood wherever the option is. Errors of the package speak
of arguments in Python, as its callers there know them; a command says the option in their place, spelt as it was typed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

#: What was called otherwise once, or is in Python.
OLDER = {
    "block-lengths": "block-length",
    "column": "columns",
    "out": "output",
    "prompts": "prompt",
    "samplers": "sampler",
    "seeds": "seed",
    "templates": "template",
}
#: An argument in backticks, one with a value that is proposed, an option. Names of folders may hold any of the rest.
_MENTION = re.compile(
    r"""`(?P<name>\w+)(?:=(?P<value>[^`]*))?`"""
    r"""|(?:^|(?<=pass )|(?<=with )|(?<=drop ))(?P<bare>\w+)=(?P<given>'[^']*'|"[^"]*"|[-\w.]+)"""
    r"""|(?<![\w/.-])--(?P<option>[a-z][\w-]*)"""
)
_SAYS_NOTHING = ("", "None", "True")  # behind an option
_OF_A_SPEC = "sampler spec "  # its parameters may be called as options are


def settled(name: str) -> str:
    """The name under which commands know an option, without its dashes."""
    name = name.replace("_", "-")
    return OLDER.get(name, name)


@dataclass(frozen=True)
class Words:
    """The options of a running command, and those that were typed as they were typed."""

    options: frozenset[str]
    typed: Mapping[str, str] = field(default_factory=dict)
    settle: Callable[[str], str] = settled

    @classmethod
    def of(cls, options: Iterable[str], arguments: Sequence[str], settle: Callable[[str], str] = settled) -> Words:
        """From the names of the options and what stood on the command line."""
        names = (one.partition("=")[0] for one in arguments if one.startswith("--"))
        return cls(frozenset(options), {settle(name[2:]): name for name in names}, settle)

    def say(self, message: str) -> str:
        """A message with options in the place of arguments."""
        of_a_spec = message.startswith(_OF_A_SPEC)

        def said(found: re.Match[str]) -> str:
            name = self.settle(found["name"] or found["bare"] or found["option"])
            if name not in self.options or (of_a_spec and not found["option"]):
                return found[0]
            value = (found["value"] or found["given"] or "").strip("'\"")
            text = self.typed.get(name, f"--{name}") + (f" {value}" if value not in _SAYS_NOTHING else "")
            return f"`{text}`" if found["name"] else text

        return _MENTION.sub(said, message)


_RUNNING: ContextVar[Words] = ContextVar("words", default=Words(frozenset()))  # noqa: B039 - it is frozen


@contextmanager
def speaking(words: Words) -> Iterator[None]:
    """Errors inside are said in these words."""
    before = _RUNNING.set(words)
    try:
        yield
    finally:
        _RUNNING.reset(before)


def in_words(message: str) -> str:
    """An error's message as the running command says it."""
    return _RUNNING.get().say(message)
