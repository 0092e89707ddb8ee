"""A training run for `torchrun`, of which one process is killed: `killed_distributed.py FOLDER [RANK MOMENT]`.

It starts, or goes on from the newest whole checkpoint, and saves the policy. Moments are those of `killed_run`.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
from killed_run import KillAt, train

if __name__ == "__main__":
    torch.set_num_threads(1)
    folder, *kill = sys.argv[1:]
    killers = [KillAt(Path(folder), int(kill[1]))] if kill and os.environ["RANK"] == kill[0] else []
    train(Path(folder), *killers)
    torch.distributed.destroy_process_group()
