"""The folder of an evaluation after damage: what cannot be gone on with is named, nothing ends in a traceback."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
from damage import BYTES, variants
from evaluation_run import run

from hf_unmask.evaluation import running
from hf_unmask.evaluation.storage import Store, check_manifest
from hf_unmask.results.records import ResultsError

FILES = ("samples.jsonl", "timings.jsonl", "manifest.json")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, tuple[Any, ...], Any]:
    """An evaluation's folder, what its store was made of, and its manifest."""
    made: list[Any] = []

    class Noted(Store):
        def __init__(self, folder: Path, *arguments: Any) -> None:
            made.append(arguments)
            super().__init__(folder, *arguments)

    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(running, "Store", Noted)
        run(folder, block_lengths=4)
    return folder, made[0], json.loads((folder / "manifest.json").read_text())


@pytest.fixture
def folder(whole: tuple[Path, Any, Any], tmp_path: Path) -> Path:
    for name in FILES:
        shutil.copy(whole[0] / name, tmp_path)
    return tmp_path


def opened(folder: Path, whole: tuple[Path, Any, Any]) -> int:
    """What the start of a run does with a folder. Returns how many units are left to do."""
    check_manifest(folder, whole[2])
    _, arguments, _ = whole
    store = Store(folder, *arguments)
    store.merge()
    return len(store.pending(arguments[1]))


@pytest.mark.parametrize("count", [pytest.param(100, id="some"), pytest.param(None, id="all", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ["samples.jsonl", "timings.jsonl"])
def test_every_field_of_a_line(folder: Path, whole: tuple[Path, Any, Any], name: str, count: int | None) -> None:
    """Refused with the line, or what it damaged is done again; nothing is left out without a word."""
    lines = (folder / name).read_text().splitlines(keepends=True)
    damaged = list(variants(json.loads(lines[1])))
    for what, text in damaged if count is None else random.Random(0).sample(damaged, count):
        for each in FILES:
            shutil.copy(whole[0] / each, folder)
        (folder / name).write_text("".join([lines[0], f"{text}\n", *lines[2:]]))
        try:
            left = opened(folder, whole)
        except ResultsError as error:
            assert f"{folder / name}, line 2" in str(error) and str(error).isprintable(), what
        except Exception as error:
            error.add_note(what)
            raise
        else:
            kept = len((folder / "samples.jsonl").read_bytes().splitlines())
            assert left or kept == len((whole[0] / "samples.jsonl").read_bytes().splitlines()), what


def test_every_field_of_the_manifest(folder: Path, whole: tuple[Path, Any, Any]) -> None:
    same = 0
    for what, text in variants(whole[2]):
        (folder / "manifest.json").write_text(text)
        try:
            same += opened(folder, whole) == 0
        except ValueError as error:
            assert str(folder) in str(error) and "give a new folder" in str(error), what
        except Exception as error:
            error.add_note(what)
            raise
    assert same < 30  # 1 for true


@pytest.mark.parametrize("data", [*BYTES, b"\xef\xbb\xbf"])
@pytest.mark.parametrize("name", FILES)
def test_other_content(folder: Path, whole: tuple[Path, Any, Any], name: str, data: bytes) -> None:
    good = (folder / name).read_bytes()
    (folder / name).write_bytes(data + b"\n" + good if name.endswith("l") else data)
    with pytest.raises(ValueError, match=name):
        opened(folder, whole)
