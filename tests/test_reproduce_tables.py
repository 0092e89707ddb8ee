"""The script behind the tables: which dials it keeps, and one whole run of it in small."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest
from operating_points import operating_point

SCRIPT = Path(__file__).parent.parent / "examples" / "reproduce_tables.py"


@pytest.fixture(scope="module")
def script():
    pytest.importorskip("moocore")
    spec = importlib.util.spec_from_file_location("reproduce_tables", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def test_dials_are_spread_over_the_forward_passes_of_the_pareto_set(script):
    measured = [(1, 0.1), (2, 0.2), (3, 0.3), (4, 0.4), (9, 0.5), (10, 0.6), (5, 0.35), (10, 0.55), (2, 0.2)]
    points = [operating_point(nfe, accuracy, sampler=f"confidence:k={i}") for i, (nfe, accuracy) in enumerate(measured)]
    # on the front: 1, 2, 3, 4, 9, 10; targets for three dials: 1, 5.5, 10
    assert script.chosen(points, 3) == {"confidence:k=0": 1, "confidence:k=3": 4, "confidence:k=5": 10}
    assert list(script.chosen(points, 9).values()) == [1, 2, 3, 4, 9, 10]
    assert list(script.chosen(points[-1:], 5).values()) == [2]


def test_candidates_differ_and_fit_their_block(script):
    for cell in script.cells(script.FULL):
        rules = script.grid(cell, 1)
        assert len(rules) == 13 and cell.width in (3, 5, 6, 10, 12, 20, 24, 40)
        specs = [spec for found in rules.values() for spec in found]
        assert len(set(specs)) == len(specs)
        assert max(getattr(script.parse_sampler(spec), "k", 1) for spec in specs) <= cell.width


def test_expected_forward_passes_are_exact_where_the_dial_fixes_them(script):
    assert script.expected("confidence:k=3", script.Cell("chain_sum", 10)) == 4 * 4
    assert script.expected("confidence:k=3", script.Cell("chain_sum", None)) == 14
    assert script.expected("threshold", script.Cell("chain_sum", None)) == pytest.approx(16)
    assert script.runs("random:k=2") == 3 and script.runs("threshold") == 1


@pytest.mark.slow
def test_a_run_writes_tables_reports_and_dials_and_goes_on_where_it_was(script, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(script, "BATCH_SIZE", 10)
    monkeypatch.setattr(script, "QUICK", script.Plan(problems=4, validation=3, dials=2, stride=4, parts=(4, 1)))
    monkeypatch.setattr(sys, "argv", ["reproduce_tables.py", "--quick", "--out", str(tmp_path)])
    script.main()
    first = capsys.readouterr().out
    assert "Estimate" in first and "This run took" in first
    assert first.count("**best heuristic at any block length**") == 4  # two tasks, two regimes
    assert (tmp_path / "chain_sum" / "report.html").stat().st_size <= 5_000_000
    dials = json.loads((tmp_path / "dials.json").read_text())
    assert all(1 <= len(kept) <= 2 for rules in dials["chosen"].values() for kept in rules.values())
    script.main()
    again = capsys.readouterr().out
    assert [row for row in again.splitlines() if row.startswith("|")] == [
        row for row in first.splitlines() if row.startswith("|")
    ]
