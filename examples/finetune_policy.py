"""Go on from an existing policy: here a packaged one, on problems in another mixture.

    python examples/finetune_policy.py --policy builtin:tiny-speed --output runs/sudoku
    python examples/finetune_policy.py --policy runs/semi-ar --output runs/sudoku --task_mix mini_sudoku=1

The policy keeps its shape and its block length, learns at a lower rate than from nothing, and needs no warm start.
Where it came from is recorded in its config (``trained_for.lineage``, oldest first), so that a chain of fine-tunings
can be followed. With your own denoiser, data set and metric the same is

    hf-unmask train --policy ORG/POLICY --model ORG/MODEL --dataset DATA --metric METRIC --output FOLDER
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from hf_unmask.cli.train import run_command

SETTINGS: dict[str, Any] = {
    "policy": "builtin:tiny-speed",
    "task_mix": ["mini_sudoku=3", "chain_sum=1"],
    "num_prompts": 2048,
    "learning_rate": 2e-4,
    "max_steps": 60,
    "save_steps": 10,
    "warm_start_prompts": 0,
    "seed": 0,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", default="runs/finetuned", help="folder of the run")
    args, options = parser.parse_known_args()
    run_command(["--output", args.output, *options], SETTINGS)
    record = json.loads((Path(args.output) / "config.json").read_text("utf-8"))["trained_for"]
    print(f"{args.output} comes from {' -> '.join(record['lineage'])}")


if __name__ == "__main__":
    main()
