"""Training runs that are killed while they write, for a process of its own; `"every", N`: up to the last moment.

Each run is killed at its n-th use of the file system in its folder, counted from the update after which it first saves,
and then resumed. FOLDER/MOMENT holds what came of it, FOLDER/whole the run that nothing disturbed.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from training import LONG, make_trainer, rows
from transformers import TrainerCallback

from hf_unmask.trainers.checkpoints import newest_whole

#: Two checkpoints, the second of which makes the first one vanish unless that is the best.
SETTINGS: dict[str, Any] = LONG | {"max_steps": 4, "eval_strategy": "steps", "eval_steps": 2, "save_total_limit": 1}
SETTINGS |= {"load_best_model_at_end": True, "metric_for_best_model": "eval_reward", "greater_is_better": True}


class KillAt(TrainerCallback):
    """Kills the process at the ``moment``-th use of the file system near ``folder`` after update 2."""

    def __init__(self, folder: Path, moment: int) -> None:
        self.folder, self.moment, self.armed = folder, moment, False
        sys.addaudithook(self.watch)

    def on_step_end(self, args, state, control, **kwargs):
        self.armed = state.global_step >= 2

    def watch(self, event: str, arguments: tuple[object, ...]) -> None:
        if not self.armed or not event.startswith(("open", "os.", "shutil.", "tempfile.")):
            return
        if any(str(one).startswith(str(self.folder)) for one in arguments):
            self.moment -= 1
            if not self.moment:
                os.kill(os.getpid(), signal.SIGKILL)


def train(folder: Path, *callbacks: TrainerCallback) -> None:
    """Start, or go on from the newest whole checkpoint, and save the policy as the command does."""
    run = make_trainer(folder, callbacks=list(callbacks), eval_dataset=rows(2), **SETTINGS)
    run.train(resume_from_checkpoint=newest_whole(folder)[0] is not None)
    run.save_model()


def in_child(work: Callable[..., None], *arguments: Any) -> int:
    """The exit code of work done in another process; negative: the signal that ended it."""
    child = os.fork()
    if not child:
        work(*arguments)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def interrupted(root: Path, moment: int) -> bool:
    """Whether a run was killed at the moment; then it has been resumed."""
    folder = root / str(moment)
    code = in_child(lambda: train(folder, KillAt(folder, moment)))
    if code == 0:
        shutil.rmtree(folder)
        return False
    (folder / "left").write_text("\n".join(sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))))
    if (code, in_child(train, folder)) != (-signal.SIGKILL, 0):
        sys.exit(f"{folder}: {code}")
    return True


def train_whole(folder: Path) -> None:
    """Undisturbed, with both checkpoints kept."""
    run = make_trainer(folder, eval_dataset=rows(2), **SETTINGS | {"save_total_limit": None})
    run.train()
    run.save_model()


def main(root: Path, *moments: int | str) -> None:
    code = in_child(train_whole, root / "whole")
    if code:
        sys.exit(f"the undisturbed run: {code}")
    if moments[0] == "every":
        moment = 1
        while interrupted(root, moment):
            moment += int(moments[1])
    elif not all(interrupted(root, int(moment)) for moment in moments):
        sys.exit(f"there are not so many moments: {moments}")
