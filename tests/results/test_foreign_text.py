"""Texts of strangers: on terminals, in Markdown, in spreadsheets, and from files of any encoding."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_unmask.results.foreign_text import csv_cell, printable, read_text
from hf_unmask.results.markdown import code, plain, table


@pytest.mark.parametrize(
    ("text", "line", "prose"),
    [
        ("a\x1b[2Jb", "a\\x1b[2Jb", "a\\x1b[2Jb"),  # clears the screen
        ("\x9b2J\x07\r\x00", "\\x9b2J\\x07\\r\\x00", "\\x9b2J\\x07\\r\\x00"),  # the same in one byte, bell, overwriting
        ("a\nb\tc", "a\\nb\\tc", "a\nb\tc"),
        ("a\u2028b\x85", "a\\u2028b\\x85", "a\\u2028b\\x85"),  # also line breaks, to some
        ("\u202egnp.exe\u2066", "\\u202egnp.exe\\u2066", "\\u202egnp.exe\\u2066"),  # overrides of direction
        ("\ud800", "\\ud800", "\\ud800"),  # half a character, which no stream can encode
        ("\U000e0041", "\\U000e0041", "\\U000e0041"),  # invisible
        ("日\u3000本 e\u0301 \u0645\u200c\u0646", "日\\u3000本 e\u0301 \u0645\\u200c\u0646", None),
        ("plain ☃ text", "plain ☃ text", None),
    ],
)
def test_printable(text: str, line: str, prose: str | None) -> None:
    assert printable(text) == line
    assert printable(text, lines=True) == (text if prose is None else prose)


@given(st.text())
def test_whatever_is_printed_is_one_line_without_controls(text: str) -> None:
    assert printable(text).isprintable() and printable(text).splitlines() in ([], [printable(text)])
    assert printable(printable(text)) == printable(text)
    assert all(c.isprintable() or c in "\n\t\u200c\u200d" or c.isspace() for c in printable(text, lines=True))
    printable(text, lines=True).encode()


def test_long_texts_are_cut() -> None:
    assert printable("abcdef", longest=3) == "abc..." and printable("abc", longest=3) == "abc"


@pytest.mark.parametrize("text", ["=1+1", "+1+1", "-1+1", "@SUM(A1)", "\uff1dcmd", "=\x1b"])
def test_no_cell_is_a_formula(text: str) -> None:
    assert csv_cell(text) == "'" + printable(text)


@pytest.mark.parametrize("value", [-1.5, 2, None, True, "-1.5", "-2e-3", "12", "learned:a;speed=-1", "", "\t=1"])
def test_other_cells_stay(value: object) -> None:
    assert csv_cell(value) == (printable(value) if isinstance(value, str) else value)


def rendered(markdown: str) -> str:
    """What a reader of Markdown makes of it, raw HTML included."""
    from markdown_it import MarkdownIt

    return MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render(markdown)


HOSTILE = [
    "<img src=x onerror=alert(1)>",
    "[a](javascript:alert(1))",
    "![a](https://example.com/spy.png)",
    "a | b\n| c",
    "`<b>`",
    "a\\|b\\",
    "&lt;b&gt; *bold* _slanted_ ~~gone~~ chain_sum",
    "<!--",
    "\\",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_markdown_of_a_text_is_that_text(text: str) -> None:
    from html import escape

    assert rendered(plain(text)) == f"<p>{escape(printable(text), quote=False)}</p>\n".replace('"', "&quot;")


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("form", [plain, code])
def test_a_table_keeps_its_cells_whatever_they_hold(form, text: str) -> None:
    made = rendered(table(["head", form(text)], [[form(text), "x"], ["y", form(text)]]))
    assert made.count("<td>") == 4 and made.count("<th>") == 2
    tags = {"table", "thead", "tbody", "tr", "th", "td", "code"}
    assert not {tag for tag in tags_of(made)} - tags


def tags_of(html: str) -> set[str]:
    import re

    return set(re.findall(r"<!?/?([\w-]+)", html))


@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf"])
def test_files_are_utf8_with_or_without_a_mark(tmp_path: Path, start: bytes) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(start + "é\r\nb\n".encode())
    assert read_text(path) == "é\nb\n"


def test_other_encodings_are_named_with_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("a\nnaïve\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"a\.txt, line 2 is not UTF-8 .*0xef.*save the file as UTF-8"):
        read_text(path)
