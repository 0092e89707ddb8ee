"""A small training run that waits for Ctrl-C in the middle of a batch of rollouts: `interrupted_run.py FOLDER`."""

from __future__ import annotations

import signal
import sys
import time

import torch
from training import LONG, make_trainer
from transformers import TrainerCallback


class Wait(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step != 3:
            return
        sys.stderr.write("ready\n")
        sys.stderr.flush()
        deadline = time.monotonic() + 60
        while not run._stop.asked and time.monotonic() < deadline:
            time.sleep(0.02)


def handled(number, frame):
    raise SystemExit(9)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, handled)  # a process in the background starts by ignoring it
    torch.set_num_threads(1)
    run = make_trainer(sys.argv[1], callbacks=[Wait()], **LONG | {"save_strategy": "no"})
    run.train()
    sys.exit(0 if signal.getsignal(signal.SIGINT) is handled else 1)
