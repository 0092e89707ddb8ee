"""The README is executable and complete: its Python blocks run, its tables and its layout are those of the code."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
from published_tables import checked_rows

from hf_unmask.denoisers.families import table
from hf_unmask.samplers.specs import sampler_table

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def samplers_markdown() -> str:
    """The table between the markers; printed by ``python tests/test_readme.py`` to be pasted."""
    lines = ["| name | class and parameters | what it does | source |", "|---|---|---|---|"]
    for row in sampler_table():
        summary = row.summary.replace("|", "\\|")
        source = f"[link]({row.source})" if row.source else ""
        lines.append(f"| `{row.name}` | `{row.class_name}({row.parameters})` | {summary} | {source} |")
    return "\n".join(lines)


def models_markdown() -> str:
    """The table of supported models; printed as well."""
    lines = []
    for row in table():
        cells = {**row, "tested on": f"**{row['tested on']}**"}
        note = cells.pop("note")
        cells["checkpoints"] += f" ({note})" if note else ""
        lines.append("| " + " | ".join(cells.values()) + " |")
    names = list(cells)
    return "\n".join(["| " + " | ".join(names) + " |", "|---" * len(names) + "|", *lines])


def between(name: str) -> str:
    return README.split(f"<!-- {name}:start -->")[1].split(f"<!-- {name}:end -->")[0].strip()


def test_python_blocks_run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", README, flags=re.M | re.S)
    module = ModuleType("readme")
    monkeypatch.setitem(sys.modules, "readme", module)  # dataclasses look their module up
    for place, block in enumerate(blocks):
        exec(compile(block, f"README block {place}", "exec"), vars(module))  # blocks build on each other
    assert len(blocks) >= 4
    printed = capsys.readouterr().out
    shown = re.findall(r"^```python\n.*?^```\n+```text\n(.*?)^```", README, flags=re.M | re.S)
    shown += re.findall(r"^print\(.*\)  # (.+)$", README, flags=re.M)
    assert len(shown) >= 2 and all(text in printed for text in shown), (shown, printed)


def test_pictures_are_small() -> None:
    pictures = re.findall(r"^!\[.+\]\((.+)\)$", README, flags=re.M)
    assert "examples/figures/unmasking.gif" in pictures
    assert all((ROOT / picture).stat().st_size <= 1_000_000 for picture in pictures)


def test_attach_is_shown_early() -> None:
    assert "attach(" in "\n".join(README.splitlines()[:30])


def test_sampler_table_is_current() -> None:
    """A new sampler or another default must reach the README: paste `python tests/test_readme.py`."""
    assert between("samplers") == samplers_markdown()


def test_model_table_is_current() -> None:
    """A row that changes must reach the README, and the README may not promise more than the rows."""
    assert between("models") == models_markdown()


def test_the_comparison_of_policies_is_that_of_their_cards() -> None:
    """Cards of one run beside the README of another, a number typed by hand, a sampler that overspends its budget."""
    assert checked_rows(README, ROOT / "model_cards") == 24


def test_layout_names_every_room() -> None:
    layout = README.split("## Layout")[1]
    rooms = {f"{path.parent.relative_to(ROOT).as_posix()}/" for path in (ROOT / "hf_unmask").glob("*/__init__.py")}
    named = set(re.findall(r"^ +(?:\d+ +)?([a-z_]+/\S*) ", layout, flags=re.M))
    assert rooms | {"trainers/"} <= named
    assert {name for name in named if not (ROOT / name).exists()} == set()


def test_files_that_are_named_exist() -> None:
    """In the README, the cards, the examples and the package: a script that was moved, under its old path."""
    texts = [ROOT / "README.md", *(ROOT / "model_cards").glob("*.md"), *(ROOT / "examples").rglob("*.*")]
    texts += [*(ROOT / "hf_unmask").rglob("*.py"), *(ROOT / "trainers").glob("*.py")]
    file = re.compile(r"\b(?:examples|tests|model_cards|hf_unmask)/[a-z\d_./-]+\.(?:py|md|png)\b")
    found = {
        (name, path.relative_to(ROOT).as_posix())
        for path in texts
        if path.suffix in (".md", ".py")
        for name in file.findall(path.read_text("utf-8"))
    }
    assert {"examples/benchmarks/bench_generate.py", "examples/train_policy_tiny.py"} <= {name for name, _ in found}
    assert {(name, where) for name, where in found if not (ROOT / name).exists()} == set()


def test_links_inside_lead_somewhere() -> None:
    """A heading that was renamed under the links to it."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```", "", README, flags=re.M | re.S), flags=re.M)
    anchors = {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings}
    links = set(re.findall(r"\]\(#([^)]+)\)", README))
    assert len(links) > 4 and links <= anchors


def test_commands_exist() -> None:
    """No promised command that is not there."""
    from typer.main import get_command

    from hf_unmask.cli.main import app

    known = set(get_command(app).commands)  # type: ignore[attr-defined]
    assert set(re.findall(r"^hf-unmask (\w+)", README, flags=re.M)) <= known


if __name__ == "__main__":
    sys.stdout.write(samplers_markdown() + "\n\n" + models_markdown() + "\n")
