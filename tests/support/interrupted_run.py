"""A small training run that waits for Ctrl-C in the middle of a batch of rollouts; for a process of its own."""

from __future__ import annotations

import signal
import sys
import time

from training import LONG, make_trainer
from transformers import TrainerCallback


class Wait(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step != 3:
            return
        sys.stdout.write("ready\n")
        deadline = time.monotonic() + 60
        while not self.trainer._stop.asked and time.monotonic() < deadline:
            time.sleep(0.02)


def handled(number, frame):
    raise SystemExit(9)


def main(folder: str) -> None:
    """Exits with 0 if Ctrl-C is afterwards what it was before."""
    signal.signal(signal.SIGINT, handled)
    wait = Wait()
    wait.trainer = make_trainer(folder, callbacks=[wait], **LONG | {"save_strategy": "no"})
    wait.trainer.train()
    sys.exit(0 if signal.getsignal(signal.SIGINT) is handled else 1)
