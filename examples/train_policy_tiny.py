"""Train a policy of the embedded model from nothing: one command per policy that is shipped.

    python examples/train_policy_tiny.py --policy semi-ar          # into runs/semi-ar
    python examples/train_policy_tiny.py --policy full --output runs/other --max_steps 50
    python examples/train_policy_tiny.py --policy semi-ar --start runs/speed    # instead of the packaged tiny-speed

The same command goes on where a run was stopped, by Ctrl-C or otherwise. Each run imitates heuristics on problems they
solve, learns by GRPO with validation problems at every checkpoint, and ends with the best checkpoint as a policy folder
in its output. Seeds are fixed: on one machine with one number of threads a run gives the same weights every time.
Everything behind the recipe's name is an option of ``hf-unmask train`` and overrides the recipe.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from hf_unmask.cli.train import run_command
from hf_unmask.trainers.checkpoints import newest_whole

#: What all recipes share. A batch mixes both tasks; sums have 40 positions, sudokus 24, and their rows say so.
COMMON: dict[str, Any] = {
    "seed": 0,
    "num_prompts": 8192,
    "eval_limit": 150,
    # rollouts: 32 prompts x 8
    "per_device_train_batch_size": 256,
    "num_generations": 8,
    "num_iterations": 2,
    # updates
    "learning_rate": 2e-4,
    "warmup_steps": 10,
    "max_steps": 240,
    "scale_rewards": "none",
    # imitation first
    "warm_start_prompts": 2048,
    "warm_start_epochs": 8,
    "warm_start_learning_rate": 1e-3,
    # files
    "save_steps": 20,
    "save_total_limit": 3,
    "logging_steps": 2,
    "report_to": "none",
}
_HASTY = "threshold:threshold=0.3@10"  # without it the quick end stays at six passes for four blocks
_BLOCKS = [
    "entropy_bound:gamma=6.4@10",
    "entropy_bound:gamma=3.2@10",
    "entropy_bound:gamma=1.6@10",
    "entropy_bound:gamma=0.4@10",
    "entropy_bound:gamma=0.01@10",
]

_CANVAS = [
    "entropy_bound:gamma=1.6@full",
    "threshold:threshold=0.5@full",
    "entropy_bound:gamma=0.4@10",
    "factor:factor=0.5@full",
]
_CAREFUL = "entropy_bound:gamma=0.01@full"  # solves nearly every sudoku that the model can

#: By name. `warm_start_experts` are sampler specs @ the blocks they work in.
RECIPES: dict[str, dict[str, Any]] = {
    "semi-ar": {  # goes on from the packaged policy for full diffusion, at higher prices
        "policy": "builtin:tiny-speed",
        "block_length": 10,
        "learning_rate": 1e-4,
        "max_steps": 120,
        "warm_start_prompts": 1024,
        "warm_start_epochs": 4,
        "warm_start_learning_rate": 3e-4,
        "warm_start_experts": [_HASTY, *_BLOCKS],
        "alpha_range": [0.05, 30.0],
        "scale_prices": True,
        "rollout_fallback": True,  # four steps are too few for a careful policy in the last block of a sudoku
        "eval_policy_temperature": 0.5,
    },
    "full": {
        "block_length": 0,
        "read_hidden": True,
        "alpha": 1.0,
        "per_device_train_batch_size": 512,  # with 256 and the common rate it is best after 20 updates
        "learning_rate": 5e-5,
        "max_steps": 160,
        "warm_start_experts": ["entropy_bound:gamma=1.6@full", "factor:factor=0.5@full"],
    },
    "speed": {
        "block_length": 0,
        "read_hidden": True,
        "alpha_range": [0.05, 5.0],
        "warm_start_experts": [*_CANVAS, _CAREFUL],
    },
    "price": {  # for one price, --alpha, at a third of what `speed` costs: three of them are compared with that one
        "block_length": 0,
        "read_hidden": True,
        "max_steps": 80,
        "warm_start_prompts": 683,
        "warm_start_experts": _CANVAS,
    },
    "block": {  # what an engine can give it: probabilities in the active block, no hidden states
        "block_length": 10,
        "observation": "block",
        "policy_top_k": 8,
        "max_steps": 160,
        "alpha_range": [0.1, 5.0],
        "eval_policy_temperature": 0.5,
        "warm_start_experts": _BLOCKS,
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policy", choices=RECIPES, required=True, help="the recipe")
    parser.add_argument("--output", help="folder of the run; runs/NAME if not given")
    parser.add_argument("--start", help="the policy to go on from, instead of the recipe's")
    args, options = parser.parse_known_args()
    output = args.output or str(Path("runs") / args.policy)
    started = newest_whole(Path(output))[0] is not None
    recipe = COMMON | RECIPES[args.policy] | ({"policy": args.start} if args.start else {})
    run_command(["--output", output, *(["--resume"] if started else []), *options], recipe)


if __name__ == "__main__":
    main()
