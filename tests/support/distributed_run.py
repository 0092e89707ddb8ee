"""A small training run for several processes, each of which writes what it ends with."""

from __future__ import annotations

import os
import signal
from typing import Any

import torch
from training import CONDITIONED, SMALL, letters, make_trainer, rows, weights
from transformers import TrainerCallback

from hf_unmask.policy import UnmaskingPolicyConfig
from hf_unmask.trainers import SpeedReward


def finished(folder: str, batch: int) -> dict[str, Any]:
    """Weights, evaluation and logs. ``batch`` rows per process, three groups of four among all of them."""
    settings = {"max_steps": 4, "per_device_train_batch_size": batch, "save_strategy": "steps", "save_steps": 4}
    run = make_trainer(
        f"{folder}/run",
        UnmaskingPolicyConfig(**SMALL, **CONDITIONED),
        SpeedReward(letters),
        train_dataset=rows(6),
        eval_dataset=rows(5),
        adam_epsilon=1e-4,  # a gradient of nothing but rounding is not blown up to a whole step
        **settings,
    )
    run.train()
    return {
        "weights": weights(run.policy),
        "evaluation": run.evaluate(),
        "logs": [entry for entry in run.state.log_history if "loss" in entry],
        "seed": torch.initial_seed(),
        "stopped": interrupted(folder, run.accelerator.is_last_process),
    }


class Interrupt(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 3:
            os.kill(os.getpid(), signal.SIGINT)


def interrupted(folder: str, here: bool) -> int:
    """The update at which a run ends if Ctrl-C reaches one process alone."""
    callbacks = [Interrupt()] if here else []
    run = make_trainer(f"{folder}/stopped", max_steps=8, per_device_train_batch_size=4, callbacks=callbacks)
    run.train()
    return run.state.global_step


def main(folder: str, batch: int) -> None:
    found = finished(folder, batch)
    torch.save(found, f"{folder}/rank-{torch.distributed.get_rank()}.pt")
    torch.distributed.destroy_process_group()
