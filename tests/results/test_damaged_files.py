"""Results that were damaged, or made to do harm: read as what they are, or refused with the place named."""

from __future__ import annotations

import gc
import json
import pickle
import random
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import invoke
from damage import BYTES, variants
from report_folder import write

from hf_unmask.cli.terminal_canvas import frames_of_events, render_plain
from hf_unmask.cli.watch import Numbers, events
from hf_unmask.policy.card.measured import read_measured
from hf_unmask.report import sections
from hf_unmask.report.frontier_plots import Picture
from hf_unmask.report.writing import html, write_csv
from hf_unmask.results.folder import read_contents
from hf_unmask.results.records import ResultsError, iter_samples, read_results
from hf_unmask.results.summary_tables import tables
from hf_unmask.results.transfer_matrix import transfer_matrix

RESULTS, SAMPLES = "results.json", "samples.jsonl"
#: Of the variants that are read, how many go through everything that is made of results.
USED = [pytest.param(12, id="some"), pytest.param(None, id="all", marks=pytest.mark.slow)]


@pytest.fixture(scope="module", autouse=True)
def _nothing_to_collect() -> Iterator[None]:
    """statsmodels collects garbage at every call, which takes a second where much is imported."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of two samplers on one task, three prompts each."""
    folder = write(tmp_path_factory.mktemp("whole"), prompts=3)
    content = json.loads((folder / RESULTS).read_text())
    content["records"] = content["records"][3:5]
    content["records"][1] |= {"pass_at_k": {"1": 0.5}, "majority": 0.5}
    content["records"][1]["environment"] |= {"versions": {"torch": "2"}, "date": "2026-01-01T00:00:00"}
    (folder / RESULTS).write_text(json.dumps(content))
    kept = {record["setting"]["sampler"] for record in content["records"]}
    lines = [
        line for line in (folder / SAMPLES).read_text().splitlines() if json.loads(line)["setting"]["sampler"] in kept
    ]
    (folder / SAMPLES).write_text(
        "".join(f"{line}\n" for line in lines if json.loads(line)["setting"]["block_length"] is None)
    )
    return folder


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    for name in (RESULTS, SAMPLES):
        (tmp_path / name).write_bytes((whole / name).read_bytes())
    return tmp_path


def use(folder: Path) -> None:
    """All that ``report`` (but its plots), ``transfer`` and ``card --results`` do."""
    contents = read_contents(folder)
    tables(contents).encode()
    html(contents, [b"png"] * len(contents.groups), None, ()).encode()
    write_csv(contents, folder / "results.csv")
    transfer_matrix(contents.points).to_markdown().encode()
    if any("learned:" in point.setting.sampler for point in contents.points):
        measured = read_measured(folder, None, "org/name")
        "".join((measured.points, measured.comparison, measured.transfer, measured.environment)).encode()
        assert len(measured.eval_results) == 2 * len(measured.own)


def replay(folder: Path) -> None:
    """What ``watch`` does, for all samples."""
    for sample in iter_samples(folder / SAMPLES):
        made = list(events([sample]))
        assert len(made) <= len(sample.tokens)
        for frame in frames_of_events(made):
            assert render_plain(frame, Numbers()).isprintable()


def refused(folder: Path, name: str, read) -> bool:
    """Whether reading is refused; any other error fails the test."""
    try:
        read()
    except ResultsError as error:
        text = str(error)
        assert str(folder / name) in text and text.isprintable() and len(text) < 1000, text
        assert error.line is None or f"{name}, line {error.line}" in text
        assert str(pickle.loads(pickle.dumps(error))) == text
        return True
    return False


def through(damaged: list[tuple[str, str]], count: int | None, used) -> None:
    """Use what is read of variants; no warning either."""
    for what, text in damaged if count is None else random.Random(0).sample(damaged, count):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            try:
                used(text)
            except Exception as error:
                error.add_note(what)
                raise


@pytest.mark.parametrize("count", USED)
def test_every_field_of_results(folder: Path, count: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sections, "dark_picture", lambda *_: Picture(b"png", 1, 1, ()))
    path = folder / RESULTS
    damaged = list(variants(json.loads(path.read_text())))
    read = []
    for what, text in damaged:
        path.write_text(text)
        if not refused(folder, RESULTS, lambda: read_results(path)):
            read.append((what, text))
    assert len(damaged) > 1200 and len(read) < 0.35 * len(damaged)

    def used(text: str) -> None:
        path.write_text(text)
        use(folder)

    through(read, count, used)


@pytest.mark.parametrize("count", USED)
def test_every_field_of_a_sample(folder: Path, count: int | None) -> None:
    path = folder / SAMPLES
    damaged = list(variants(json.loads(path.read_text().splitlines()[0])))
    read = []
    for what, text in damaged:
        path.write_text(f"{text}\n")
        if not refused(folder, SAMPLES, lambda: list(iter_samples(path))):
            read.append((what, text))
    assert len(damaged) > 600 and len(read) < 0.4 * len(damaged)

    def used(text: str) -> None:
        path.write_text(f"{text}\n")
        replay(folder)
        assert len(read_contents(folder).points) == 2

    through(read, count, used)


@pytest.mark.parametrize("data", BYTES)
def test_other_content(folder: Path, data: bytes) -> None:
    (folder / RESULTS).write_bytes(data)
    assert refused(folder, RESULTS, lambda: read_results(folder / RESULTS))
    good = (folder / SAMPLES).read_bytes()
    (folder / SAMPLES).write_bytes(data + b"\n" + good)
    assert refused(folder, SAMPLES, lambda: list(iter_samples(folder / SAMPLES)))
    (folder / SAMPLES).write_bytes(good + b"\n" + data)
    assert refused(folder, SAMPLES, lambda: list(iter_samples(folder / SAMPLES)))  # a blank line


def test_truncated_files(folder: Path) -> None:
    """A last line that was cut off is what a crash leaves; anything else is damage."""
    data = (folder / SAMPLES).read_bytes()
    ends = [place for place, byte in enumerate(data) if byte == ord("\n")]
    for length in range(0, len(data), 97):
        (folder / SAMPLES).write_bytes(data[:length])
        assert len(list(iter_samples(folder / SAMPLES))) == sum(end <= length for end in ends)
    results = (folder / RESULTS).read_bytes()
    for length in range(0, len(results) - 2, 61):
        (folder / RESULTS).write_bytes(results[:length])
        assert refused(folder, RESULTS, lambda: read_results(folder / RESULTS))


def test_a_mark_of_the_byte_order_is_no_damage(folder: Path) -> None:
    for name in (RESULTS, SAMPLES):
        (folder / name).write_bytes(b"\xef\xbb\xbf" + (folder / name).read_bytes())
    assert len(read_contents(folder).points) == 2 and len(list(iter_samples(folder / SAMPLES))) == 6


def test_a_setting_twice_is_refused(folder: Path) -> None:
    content = json.loads((folder / RESULTS).read_text())
    content["records"].append(content["records"][0])
    (folder / RESULTS).write_text(json.dumps(content))
    assert refused(folder, RESULTS, lambda: read_results(folder / RESULTS))


@pytest.mark.parametrize("name", [RESULTS, SAMPLES])
def test_commands_end_in_one_line(folder: Path, name: str) -> None:
    (folder / name).write_bytes(b"{}\n" + (folder / name).read_bytes())
    for command in (["report"], ["watch"], ["transfer"], ["card", "builtin:tiny-full", "--results"]):
        if (command[0] == "watch") == (name == RESULTS) and command[0] != "report":
            continue  # reads the other file
        result = invoke([*command, folder])
        assert result.exit_code == 2, (command, result.output, result.exception)
        assert result.stderr.count("\n") == 1 and str(folder / name) in result.stderr
