"""Trains a tiny policy with a token in its settings and pushes it: ``python push_run.py FOLDER REPO TOKEN``.

A process of its own, whose environment says where the Hub is; everything that it writes lies below FOLDER.
"""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path

from models import tiny_eurobert
from report_folder import write
from training import LONG, SMALL, make_trainer

from hf_unmask.policy import UnmaskingPolicyConfig


def main(folder: Path, repo: str, token: str) -> None:
    logging.basicConfig(level=logging.DEBUG, filename=folder / "debug.log")
    config = UnmaskingPolicyConfig(**SMALL)
    output = folder / "first"
    first = make_trainer(output, config, **LONG, hub_token=token, hub_model_id=repo, hub_private_repo=True)
    sys.stdout.write(f"{first.args}\n{first.args!r}\n")
    first.train()
    commits = [first.push_to_hub().oid]
    evaluation = folder / "evaluation"
    evaluation.mkdir()
    write(evaluation)
    tuned = make_trainer(folder / "tuned", output, denoiser=tiny_eurobert(), report_to="tensorboard", seed=4)
    tuned.train()
    pushed = tuned.push_to_hub("Tuned", repo_id=repo, results=evaluation, license="mit", revision="tuned")
    commits.append(pushed.oid)
    older = make_trainer(folder / "older", repo, denoiser=tiny_eurobert(), policy_revision=commits[0])
    sys.stdout.write(json.dumps([*commits, older.policy.config.trained_for["lineage"]]) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3])
