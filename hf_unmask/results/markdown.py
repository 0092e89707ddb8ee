"""Markdown out of values: tables, foreign texts that stay text, and the parts of a file that are rendered."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from hf_unmask.results.foreign_text import printable

_SPECIAL = re.compile(r"[\\`*\[\]~$]|(?<!\w)_|_(?!\w)")  # an underscore within a word means nothing
_BAR, _NO_BAR = r"\|", r"\x7c"


def plain(value: object) -> str:
    """A text as it is: neither Markdown nor HTML makes anything of it."""
    return escape(_SPECIAL.sub(r"\\\g<0>", printable(value)), quote=False)


def code(value: object) -> str:
    """A text as code, whatever it holds."""
    text = printable(value).replace("`", "'")
    # a bar is kept from ending a cell by a backslash before it, which another one would take away
    return f"`{text.replace(_BAR, _NO_BAR) or ' '}`"


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Cells are Markdown themselves (`plain` and `code` make it); only the bars that end a cell are escaped."""
    return "\n".join([_line(heads), "|---" * len(heads) + "|", *map(_line, rows)])


def put_between(path: Path, name: str, parts: Sequence[str]) -> None:
    """Replace what stands between the marks ``<!-- NAME:start -->`` and ``<!-- NAME:end -->`` of a file.

    Raises:
        ValueError: the file does not hold each mark once.
    """
    before, after = check_marks(path, name)
    path.write_text("\n\n".join([before, *parts, after]), "utf-8")


def check_marks(path: Path, name: str) -> tuple[str, str]:
    """What stands up to the first mark and from the second one on, marks included; errors as in `put_between`."""
    start, end = f"<!-- {name}:start -->", f"<!-- {name}:end -->"
    text = path.read_text("utf-8")
    if text.count(start) != 1 or text.count(end) != 1:
        raise ValueError(f"{path} must hold {start} and {end} once each")
    return text.partition(start)[0] + start, end + text.partition(end)[2]


def _line(cells: Sequence[str]) -> str:
    escaped = (cell.replace("|", "\\|") for cell in cells)
    return f"| {' | '.join(escaped)} |"
