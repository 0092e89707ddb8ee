"""Markdown: what is rendered into a file that people write too."""

from __future__ import annotations

import pytest

from hf_unmask.results.markdown import check_marks, put_between

MARKED = "before\n<!-- tables:start -->\nof last time\n<!-- tables:end -->\nafter\n"


def test_only_what_stands_between_the_marks_is_replaced(tmp_path):
    path = tmp_path / "README.md"
    path.write_text(MARKED)
    for _ in range(2):  # the marks stay, so it can be done again
        put_between(path, "tables", ["| a |", "(b)"])
        assert path.read_text() == "before\n<!-- tables:start -->\n\n| a |\n\n(b)\n\n<!-- tables:end -->\nafter\n"


@pytest.mark.parametrize("text", ["", MARKED.replace("start", "begin"), MARKED * 2])
def test_a_file_whose_marks_are_not_there_once_stays_as_it_is(text, tmp_path):
    path = tmp_path / "README.md"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"README.md must hold <!-- tables:start --> and <!-- tables:end --> once"):
        put_between(path, "tables", ["| a |"])
    assert path.read_text() == text


def test_this_readme_holds_the_marks_of_the_scripts(request):
    for name in ("tables", "policies"):
        before, after = check_marks(request.config.rootpath / "README.md", name)
        assert before.endswith(f"<!-- {name}:start -->") and after.startswith(f"<!-- {name}:end -->")
