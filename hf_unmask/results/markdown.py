"""Markdown: tables, and the parts of a file that are rendered."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Cells are Markdown themselves; only the bars that end a cell are escaped."""
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
