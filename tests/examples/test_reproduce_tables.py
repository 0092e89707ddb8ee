"""The script behind the tables: one whole run of it in small."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from scripts import load

from hf_unmask.evaluation.tuning import heuristic_dials
from hf_unmask.results.records import read_results

SCRIPT = Path(__file__).parents[2] / "examples" / "benchmarks" / "reproduce_tables.py"


@pytest.fixture(scope="module")
def script():
    pytest.importorskip("moocore")
    return load("reproduce_tables")


def test_candidates_differ_and_fit_their_block(script):
    for cell in script.cells(script.FULL):
        rules = heuristic_dials(cell.width)
        assert len(rules) == 13 and cell.width in (6, 10, 12, 20, 24, 40)
        specs = [spec for found in rules.values() for spec in found]
        assert len(set(specs)) == len(specs)
        assert max(getattr(script.parse_sampler(spec), "k", 1) for spec in specs) <= cell.width


def test_stochastic_rules_are_run_with_every_seed(script):
    assert script.runs("random:k=2") == 3 and script.runs("threshold") == 1


def test_a_readme_without_marks_is_refused_before_the_hours_of_a_run(script, tmp_path, monkeypatch, capsys):
    readme = tmp_path / "README.md"
    for text in (None, "no marks"):
        if text is not None:
            readme.write_text(text)
        monkeypatch.setattr(sys, "argv", ["reproduce_tables.py", "--readme", str(readme), "--out", str(tmp_path / "o")])
        with pytest.raises(SystemExit) as end:
            script.main()
        assert end.value.code == 2 and str(readme) in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


# ------------------------------------------------------------------------------------------- whole runs, in small

SMALL = {"problems": 4, "validation": 3, "stride": 4, "parts": (4, 1)}


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    """The script with less to do."""
    path = tmp_path_factory.mktemp("script") / "small.py"
    lines = [f"import sys; sys.path.insert(0, {str(SCRIPT.parent)!r})", "import reproduce_tables as script"]
    lines += ["script.BATCH_SIZE = 3", f"script.QUICK = script.Plan(**{SMALL})", "script.main()"]
    path.write_text("\n".join(lines))
    return path


def run(script: Path, out: Path, *launcher: str) -> str:
    command = [sys.executable, *launcher, str(script), "--quick", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def finished(small, tmp_path_factory) -> tuple[Path, str]:
    out = tmp_path_factory.mktemp("tables")
    return out, run(small, out)


def rows(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("|")]


@pytest.mark.slow
def test_a_run_writes_tables_reports_and_dials(finished):
    out, said = finished
    assert "Estimate" in said and "[8 of 8] mini_sudoku/full, test: " in said and "This run took" in said
    assert said.count("**best heuristic at any block length**") == 4  # two tasks, two regimes
    for task in ("chain_sum", "mini_sudoku"):
        assert (out / task / "report.html").stat().st_size <= 5_000_000
        points = read_results(out / task / "results.json")
        assert {point.prompts for point in points} == {4}
        assert {len(point.seeds) for point in points if point.setting.sampler.startswith("random")} == {3}
        assert {len(point.seeds) for point in points if not point.setting.sampler.startswith("random")} == {1}
        assert {point.setting.dataset for point in points} == {f"tiny:{task}:test"}
    dials = json.loads((out / "dials.json").read_text())
    assert all(1 <= len(kept) <= 5 for rules in dials["chosen"].values() for kept in rules.values())


@pytest.mark.slow
def test_a_run_goes_on_where_it_was(small, finished, tmp_path):
    out, said = finished
    shutil.copytree(out, tmp_path / "again")
    shutil.rmtree(tmp_path / "again" / "mini_sudoku" / "test" / "full")
    assert rows(run(small, tmp_path / "again")) == rows(said)
    dials = json.loads((tmp_path / "again" / "dials.json").read_text())
    (tmp_path / "again" / "dials.json").write_text(json.dumps({**dials, "weights": "others"}))
    with pytest.raises(AssertionError, match="made for other weights"):
        run(small, tmp_path / "again")


@pytest.mark.slow
def test_torchrun_gives_the_tables_of_one_process(small, finished, tmp_path):
    out, said = finished
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    assert rows(run(small, tmp_path, *launcher)) == rows(said)
    for task in ("chain_sum", "mini_sudoku"):
        assert (tmp_path / task / "samples.jsonl").read_bytes() == (out / task / "samples.jsonl").read_bytes()
    assert read_results(tmp_path / "chain_sum" / "results.json")[0].environment["processes"] == 2


@pytest.mark.slow
def test_a_readme_gets_tables(script, finished, tmp_path):
    run_before = script.Run(script.Plan(**SMALL), finished[0])
    readme = tmp_path / "README.md"
    start, end = "<!-- tables:start -->", "<!-- tables:end -->"
    readme.write_text(f"before\n{start}\nof last time\n{end}\nafter\n")
    script.publish(run_before, readme, "the command")
    text = readme.read_text()
    heads = "| chain_sum, answer_match / well_formed: best of | blocks of 10 | full diffusion | best heuristic"
    assert text.startswith(f"before\n{start}\n\n{heads}")
    assert text.endswith(f"`the command`)\n\n{end}\nafter\n") and "of last time" not in text
    for name in re.findall(r"\((examples/figures/[^)]+)\)", text):
        assert (tmp_path / name).stat().st_size > 1000
    readme.write_text("no marks")
    with pytest.raises(ValueError, match="must hold"):
        script.publish(run_before, readme, "")
