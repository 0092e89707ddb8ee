"""Does the choice of order matter in the embedded environment? Accuracy and forward passes of every rule.

    python examples/benchmarks/tiny_environment.py                     # validation problems
    python examples/benchmarks/tiny_environment.py --split test --limit 600 --json tiny.json

Prints one Markdown table per task (blocks of a quarter of the answer beside full diffusion): accuracy with standard
errors, and the share of answers whose written work is right as well (the metric `well_formed`),
then the bars that the environment has to clear. Deterministic rules need one run; ``random`` is a draw.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from dataclasses import asdict, fields
from pathlib import Path

from rich.console import Console
from rich.progress import track

from hf_unmask.cli.demo_measuring import DemoRow, measure, settings
from hf_unmask.evaluation.environment import environment, environment_line
from hf_unmask.results.markdown import table
from hf_unmask.samplers.specs import parse_samplers
from hf_unmask.tiny import TASKS, held_out, load_tiny

FIXED = ("left_to_right", "left_to_right:k=4", "random", "random:k=4")
CONFIDENCE = (
    "confidence",
    "confidence:k=4",
    "margin",
    "entropy",
    "threshold:threshold=0.95",
    "threshold:threshold=0.5",
    "threshold:threshold=0.3",
    "entropy_bound",
    "factor",
    "factor:factor=0.25",
    "klass",
    "credit",
    "credit:threshold=0.99",
)
OTHERS = ("dilated", "eos_suppress(threshold:threshold=0.95)")


def task_table(rows: list[DemoRow], task: str) -> str:
    """Markdown: one line per sampler, both regimes."""
    found = {(row.sampler, row.block_length is None): row for row in rows if row.task == task}
    blocks = next(row.regime for row in rows if row.task == task and row.block_length)
    lines = []
    for spec in dict.fromkeys(row.sampler for row in rows):
        both = [found[spec, full] for full in (False, True)]
        cells = [f"{percent(row)} / {100 * row.well_formed:.1f} % @ {row.nfe:.1f}" for row in both]
        lines.append([f"`{spec}`", *cells])
    what = "accuracy / well formed @ NFE"
    return table([task, f"{blocks}: {what}", f"full diffusion: {what}"], lines)


def percent(row: DemoRow) -> str:
    error = math.sqrt(row.accuracy * (1 - row.accuracy) / row.problems)
    return f"{100 * row.accuracy:.1f} ± {100 * error:.1f} %"


def bars(rows: list[DemoRow]) -> list[tuple[str, bool]]:
    """What the environment promises, and whether it holds."""
    at = {(row.task, row.sampler, row.block_length is None): row for row in rows}
    gains = {
        spec: 100 * (at["chain_sum", spec, False].accuracy - at["chain_sum", spec, True].accuracy)
        for spec in map(str, parse_samplers(CONFIDENCE))
    }
    best = max(("confidence", "left_to_right"), key=lambda spec: at["chain_sum", spec, False].accuracy)
    single = 100 * at["chain_sum", best, False].accuracy
    sudoku = 100 * at["mini_sudoku", "confidence", False].accuracy
    fall = 100 * (
        at["chain_sum", "threshold:threshold=0.95", False].accuracy
        - at["chain_sum", "threshold:threshold=0.3", False].accuracy
    )
    losers = {name: [s for s in gains if s.partition(":")[0] == name] for name in {s.partition(":")[0] for s in gains}}
    kept = sorted(name for name, specs in losers.items() if max(gains[spec] for spec in specs) < 10)
    return [
        (f"chain_sum, one token per step in blocks ({best}): {single:.1f} %, bar 75 %", single >= 75),
        (f"mini_sudoku, one token per step in blocks (confidence): {sudoku:.1f} %, bar 90 %", sudoku >= 90),
        (f"threshold 0.3 loses {fall:.1f} points against 0.95 in blocks, bar 10", fall >= 10),
        (
            "full diffusion: confidence rules that lose fewer than 10 points against their own blocks at every dial: "
            f"{', '.join(kept) or 'none'}",
            not kept,
        ),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--split", choices=("validation", "test"), default="validation")
    parser.add_argument("--limit", type=int, default=100, help="problems per task")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--json", type=Path, help="write each row here when it is measured; a later call goes on from it"
    )
    args = parser.parse_args()
    model, tokenizer = load_tiny()
    problems = {task: held_out(task, args.split, args.limit) for task in TASKS}
    todo = settings(parse_samplers(FIXED + CONFIDENCE + OTHERS))
    rows: list[DemoRow] = []
    if args.json and args.json.exists():
        known = {field.name for field in fields(DemoRow)}
        rows = [DemoRow(**row) for row in json.loads(args.json.read_text()) if row.keys() == known]  # of this version
    done = {(row.task, row.block_length, row.sampler) for row in rows}
    for setting in track(todo, console=Console(stderr=True)):
        if (setting.task, setting.block_length, str(setting.sampler)) in done:
            continue
        row = measure(model, tokenizer, setting, problems[setting.task], seed=args.seed)
        rows.append(row)
        print(f"{row.task}, {row.regime}, {row.sampler}: {percent(row)} @ {row.nfe:.1f}", file=sys.stderr)
        if args.json:
            args.json.write_text(json.dumps([asdict(row) for row in rows], indent=1))
    here = environment(model.device)
    print(
        f"{args.split}, {args.limit} problems per task, seed {args.seed}, {environment_line(here)}, "
        f"{here['threads']} threads\n"
    )
    for task in TASKS:
        print(task_table(rows, task), "\n")
    for text, holds in bars(rows):
        print(f"- [{'x' if holds else ' '}] {text}")


if __name__ == "__main__":
    main()
