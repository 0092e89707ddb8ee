"""Texts that somebody else wrote: shown without harm, and read from files that may be anything."""

from __future__ import annotations

import re
import reprlib
import unicodedata
from pathlib import Path
from typing import Any

_PROSE = "\n\t\N{ZERO WIDTH NON-JOINER}\N{ZERO WIDTH JOINER}"  # several scripts cannot be written without joiners
_FORMULA = re.compile(r"[=+\-@\uff1d\uff0b\uff0d\uff20]")
_NUMBER = re.compile(r"-?\d+(\.\d+)?(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)


def printable(value: object, *, lines: bool = False, longest: int | None = None) -> str:
    """One line of text that moves no cursor, hides nothing and reorders nothing: for terminals, logs and tables.

    Escape sequences, control characters, overrides of the writing direction, line breaks and odd spaces are written as
    Python writes them (``\\x1b``, ``\\n``).

    Args:
        value: what is shown; ``str`` of it.
        lines: it is prose, not a name: line breaks and tabs stay, and so do the spaces and joiners of all scripts.
        longest: characters to show, ``...`` stands for the others. None: all.
    """
    text = str(value)
    if longest is not None and len(text) > longest:
        text = text[:longest] + "..."
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or (lines and _in_prose(c)) else ascii(c)[1:-1] for c in text)


def _in_prose(character: str) -> bool:
    return character in _PROSE or unicodedata.category(character) == "Zs"


def csv_cell(value: Any) -> Any:
    """A value as a spreadsheet may read it: text stays text, even if it begins like a formula; numbers stay numbers."""
    if not isinstance(value, str):
        return value
    text = printable(value)
    return f"'{text}" if _FORMULA.match(text) and not _NUMBER.fullmatch(text) else text


def is_text(text: str) -> bool:
    """Whether all of it can be written as UTF-8: JSON and the arguments of a command may hold half a character."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


class _ShortRepr(reprlib.Repr):
    """Values of any size and depth in a few words."""

    def repr_int(self, x: int, level: int) -> str:
        del level
        return repr(x) if x.bit_length() <= 128 else f"an integer of {x.bit_length()} bits"  # repr refuses huge ones


_SHORT = _ShortRepr()
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxother = 2, 60, 60


def shown(value: Any) -> str:
    """A value and its type for an error message, short whatever its size."""
    return f"{_SHORT.repr(value)} ({type(value).__name__})"


def read_text(path: str | Path) -> str:
    """The text of a UTF-8 file, without the mark that some editors put at its beginning.

    Raises:
        ValueError: it is no UTF-8; names the file, the line and the byte.
        OSError: it cannot be read.
    """
    data = Path(path).read_bytes()
    try:
        return decoded(data)
    except ValueError as error:
        line = data[: getattr(error, "start", 0)].count(b"\n") + 1
        raise ValueError(f"{path}, line {line} is not UTF-8 ({error}): save the file as UTF-8") from error


def decoded(data: bytes) -> str:
    """UTF-8 as text, without its mark and with line breaks as Python has them."""
    return data.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
