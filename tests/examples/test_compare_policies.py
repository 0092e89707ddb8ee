"""The script behind the comparison of policies: a whole run of it in small, published beside itself."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from published_tables import checked_rows, summary_of
from report_folder import point, setting
from scripts import load, start

from hf_unmask.policy.hub.folders import PACKAGED

ROOT = Path(__file__).parents[2]


@pytest.fixture
def script(tmp_path, monkeypatch):
    """With less to do, for a README and cards of its own."""
    pytest.importorskip("moocore")
    found = load("compare_policies")
    plan = found.Plan(problems=2, validation=2, first=2, dials=1, stride=20)
    for name, value in {"ROOT": tmp_path, "TASKS": ("mini_sudoku",), "PARTS": (4, 1), "Plan": lambda **_: plan}.items():
        monkeypatch.setattr(found, name, value)
    for name in ("examples", "model_cards"):
        shutil.copytree(ROOT / name, tmp_path / name)
    shutil.copyfile(ROOT / "README.md", tmp_path / "README.md")
    monkeypatch.chdir(tmp_path)
    return found


def test_other_training_seeds_are_found_where_they_are_finished(script, tmp_path):
    """A training under way that ends the comparison, or one that is taken for a policy of its own."""
    shutil.copytree(PACKAGED / "tiny-speed", tmp_path / "seed" / "speed")
    (tmp_path / "seed" / "full").mkdir()
    sources = ["builtin:tiny-full", "builtin:tiny-speed"]
    twins = script.twins(sources, [Path("seed"), Path("none")])
    assert twins == {"seed/speed": "builtin:tiny-speed, training seed 1"}
    run = script.Run(script.Plan(), tmp_path / "out", sources, "none", twins)
    assert run.method("learned:seed/speed;speed=0.5") == "learned:builtin:tiny-speed, training seed 1"
    dial = run.method("learned:seed/speed;beta=2.0;speed=0.5")
    assert dial == "learned:builtin:tiny-speed, beta dial, training seed 1"
    assert [cell.block_length for cell in run.cells("mini_sudoku")] == [6, None]
    assert run.budgets("mini_sudoku") == [3, 4, 6]


def test_the_plot_holds_policies_and_rules(script, tmp_path):
    """Trainings with other seeds stay out of it: they would be taken for policies of their own."""
    shutil.copytree(PACKAGED / "tiny-full", tmp_path / "seed" / "full")
    run = script.Run(
        script.Plan(), tmp_path / "out", ["builtin:tiny-full"], "none", {"seed/full": "x, training seed 1"}
    )
    specs = ("threshold", "learned:builtin:tiny-full;beta=2.0", "learned:seed/full;beta=2.0")
    run.known["sums"] = script.Measured(testing=[point(setting(spec), [1.0], 4) for spec in specs])
    (tmp_path / "out" / "sums").mkdir(parents=True)
    (tmp_path / "examples" / "figures" / "sums.png").unlink(missing_ok=True)
    assert script.draw(run, "sums") == "![sums: accuracy against forward passes and seconds](examples/figures/sums.png)"
    assert (tmp_path / "examples" / "figures" / "sums.png").stat().st_size > 1000
    svg = (tmp_path / "out" / "sums" / "figure" / "frontier-sums.svg").read_text()
    assert ">threshold</text>" in svg and ">learned:builtin:tiny-full</text>" in svg and "seed/full" not in svg


@pytest.mark.slow
@pytest.mark.parametrize("task", ["mini_sudoku", "chain_sum"])
def test_a_run_publishes_one_comparison(script, tmp_path, monkeypatch, capsys, task):
    monkeypatch.setattr(script, "TASKS", (task,))
    metrics = {"mini_sudoku": ["sudoku"], "chain_sum": ["answer_match", "well_formed"]}[task]
    shutil.copytree(PACKAGED / "tiny-speed", tmp_path / "seed" / "speed")
    given = ["--quick", "--out", "out", "--seeds", "seed", "--conditioned", "none", "--publish"]
    start(monkeypatch, script, *given)
    readme = (tmp_path / "README.md").read_text("utf-8")
    assert checked_rows(readme, tmp_path / "model_cards") == 12 * len(metrics)
    assert [row["metric"] for row in summary_of(readme)[: 3 * len(metrics)]] == [m for m in metrics for _ in range(3)]
    card = (tmp_path / "model_cards" / "tiny-speed.md").read_text("utf-8")
    assert f"- `{metrics[0]}`, the accuracy of {task}: " in card and all(f"\n- `{name}`" in card for name in metrics)
    assert "it covers the choice of prompts only" in readme
    assert f"![{task}: accuracy against forward passes and seconds](examples/figures/{task}.png)" in readme
    speed = [row for row in summary_of(readme) if row["policy"] == "`tiny-speed`"]
    assert all(row["other training seeds"] == row["accuracy (NFE)"] for row in speed)  # the same weights here
    found = json.loads((tmp_path / "out" / "policies.json").read_text("utf-8"))["tasks"][task]
    assert {name.rpartition(" by ")[2] for name in found if not name.startswith("blind ")} == set(metrics)
    blocks = {
        rival["point"]["setting"]["block_length"]
        for rounds in found.values()
        for one in rounds
        if "budget" in one
        for rival in one["rivals"]
        if rival["role"] == "best heuristic"
    }
    assert None in blocks  # for policies at home in blocks as well
    said = capsys.readouterr().out
    start(monkeypatch, script, *given)  # everything is there: the same again
    again = capsys.readouterr().out
    assert [line for line in again.splitlines() if line.startswith("|")] == [
        line for line in said.splitlines() if line.startswith("|")
    ]
