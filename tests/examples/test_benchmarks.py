"""The measuring scripts: each starts from where it lies, and says what it is for."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from scripts import load

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted((ROOT / "examples" / "benchmarks").glob("*.py"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_it_needs_no_neighbour_and_explains_itself(script, monkeypatch, capsys):
    """A script that imports another one by luck of the folder it is started from."""
    monkeypatch.setattr(sys, "argv", [str(script), "--help"])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(script), run_name="__main__")
    assert end.value.code == 0
    doc = script.read_text("utf-8").partition('"""')[2].partition("\n")[0]
    assert doc in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("text", "work"),
    [("so the answer is 4", "none"), ("3-2=1 total 0", "some"), ("3-2=1 and so 1-1=0 total 0", "all"), ("", "none")],
)
def test_the_work_of_a_sum_is_an_equation_for_every_operation(text, work):
    """An answer that passes as worked out because it holds one equation."""
    assert load("full_diffusion_failures").work_in(text, "3-2-1=") == work


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            "measure_overhead.py --samplers threshold:threshold=0.5 --batch-sizes 1 --repeats 1",
            "chain_sum, blocks of 10; median of 1 runs",
        ),
        (
            "measure_training.py --tiny --positions 4 --block-length 4",
            "denoiser 1.3 million parameters, policy 331,265; 16 rollouts of 4 positions",
        ),
        ("tiny_environment.py --limit 1", "| `left_to_right` | 100.0 ± 0.0 % / 100.0 % @ 40.0 |"),
        ("full_diffusion_failures.py --limit 1", "| `entropy` | right | 1 | 50 % | 1 | 0 | 0 |"),
        ("bench_families.py --families MDLM --length 4 --repeats 1", "| MDLM | 50,258 | 4 | 4 / 4 |"),
        ("bench_generate.py --tables loops --models a --batches 1 --rules threshold", "threshold"),
    ],
    ids=lambda value: value.partition(".")[0],
)
@pytest.mark.slow
def test_it_measures_and_says_on_what(arguments, said):
    name, *options = arguments.split()
    command = [sys.executable, str(ROOT / "examples" / "benchmarks" / name), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert said in done.stdout
    (line,) = [line for line in done.stdout.splitlines() if "hf_unmask 0." in line]
    assert "torch 2." in line and "transformers 5." in line and "1 threads" in line
