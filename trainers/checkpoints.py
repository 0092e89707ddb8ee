"""Checkpoints that are whole or not there.

One is written in a hidden folder and gets its name when all processes have written. It lists its files with their sizes
and hashes, so that one which lost something later is known for damaged.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hf_unmask.policy.hub.locking import only_writer

_logger = logging.getLogger(__name__)
#: The list of a checkpoint's files, written last.
MANIFEST = "checkpoint.json"
#: What training goes on from, besides random numbers; `save_only_model` leaves most of it out.
_STATE = ("config.json", "model.safetensors", "optimizer.pt", "scheduler.pt", "trainer_state.json")
_HIDDEN = ".saving"


@contextmanager
def in_hiding(trainer: Any, run: Path) -> Iterator[Path]:
    """A folder in which a trainer's processes write checkpoint-N of a ``run``; at the end it is moved there.

    A process that is killed meanwhile leaves the hidden folder, which the next one removes, and older checkpoints as
    they were. These are rotated only when the new one is there.
    """
    args, state, hidden = trainer.args, trainer.state, run / _HIDDEN
    name = f"checkpoint-{state.global_step}"
    if args.should_save:  # one process, or one per machine that has a disk of its own
        hidden.mkdir(parents=True)
    trainer.accelerator.wait_for_everyone()
    try:
        yield hidden
        if state.best_model_checkpoint == str(hidden / name):
            state.best_model_checkpoint = str(run / name)
        trainer.accelerator.wait_for_everyone()  # the others may still write
        if args.should_save:
            if state.best_model_checkpoint == str(run / name):
                state.save_to_json(str(hidden / name / "trainer_state.json"))
            _list_files(hidden / name, args.world_size)
            _move(hidden / name, run / name, aside=hidden / "replaced")
            _rotate(run, args.save_total_limit, run / name, state.best_model_checkpoint)
    finally:
        if args.should_save:
            shutil.rmtree(hidden, ignore_errors=True)
    trainer.accelerator.wait_for_everyone()  # nobody looks for it earlier


def _list_files(checkpoint: Path, processes: int) -> None:
    files = {}
    for path in sorted(path for path in checkpoint.iterdir() if path.is_file()):
        with path.open("rb+") as file:
            os.fsync(file.fileno())  # else a power cut may keep the names and lose the contents
        files[path.name] = {"bytes": path.stat().st_size, "sha256": _digest(path)}
    write_json(checkpoint / MANIFEST, {"processes": processes, "files": files})


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _move(made: Path, target: Path, aside: Path) -> None:
    if target.exists():  # of a run that went on from an older one
        os.rename(target, aside)
    os.rename(made, target)


def _rotate(run: Path, limit: int | None, newest: Path, best: str | None) -> None:
    """Keep ``limit`` checkpoints, the newest and the best among them. The others vanish whole, the oldest first."""
    if limit is None or limit <= 0:
        return
    others = [one for one in checkpoints_of(run) if one != newest and str(one) != best]
    kept = len(checkpoints_of(run)) - len(others)
    for checkpoint in others[: len(others) - max(limit - kept, 0)]:
        os.rename(checkpoint, run / _HIDDEN / checkpoint.name)


def checkpoints_of(run: Path) -> list[Path]:
    """The folders checkpoint-N of a run, in this order."""
    found = [path for path in run.glob("checkpoint-*") if path.is_dir() and path.name[11:].isdecimal()]
    return sorted(found, key=lambda path: int(path.name[11:]))


def write_json(path: Path, content: Any) -> None:
    """Write a file whole or not at all."""
    partial = path.with_name(f".{path.name}.part")
    with partial.open("w", encoding="utf-8") as file:
        json.dump(content, file, indent=2, default=str)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def damage(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint; None if it is whole."""
    try:
        listed = json.loads((checkpoint / MANIFEST).read_text("utf-8"))["files"]
        for name, expected in listed.items():
            path = checkpoint / name
            if not path.is_file():
                return f"{name} is missing"
            if path.stat().st_size != expected["bytes"] or _digest(path) != expected["sha256"]:
                return f"{name} is not what was saved"
    except FileNotFoundError:
        return f"{MANIFEST} is missing"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{MANIFEST} cannot be read, {error!r}"
    return None


def newest_whole(run: Path) -> tuple[Path | None, list[str]]:
    """The newest whole checkpoint of a run, and what is wrong with those that are newer."""
    told: list[str] = []
    for checkpoint in reversed(checkpoints_of(run)):
        wrong = damage(checkpoint)
        if wrong is None:
            return checkpoint, told
        told.append(f"{checkpoint.name} is damaged: {wrong}")
    return None, told


def check_resumable(checkpoint: Path) -> None:
    """Whether training can go on from a checkpoint and be the run that it was.

    Raises:
        ValueError: it is not there, damaged, or holds the policy alone.
    """
    if not checkpoint.is_dir():
        raise ValueError(f"no checkpoint {checkpoint}")
    wrong = damage(checkpoint)
    if wrong is not None:
        raise ValueError(f"{checkpoint} is damaged: {wrong}; go on from another checkpoint")
    left_out = [name for name in _STATE if not (checkpoint / name).is_file()]
    if left_out:
        raise ValueError(
            f"{checkpoint} has no {', '.join(left_out)} (`save_only_model`): train on its policy in a new run instead"
        )


def processes_of(checkpoint: Path) -> int:
    """How many processes saved a checkpoint that is whole."""
    return int(json.loads((checkpoint / MANIFEST).read_text("utf-8"))["processes"])


def to_resume(args: Any, asked: str | bool | None) -> str | None:
    """The checkpoint that ``Trainer.train(resume_from_checkpoint=asked)`` means; None: a new run.

    Raises:
        ValueError: none that training could go on from.
    """
    if not asked:
        return None
    checkpoint = _newest(Path(args.output_dir)) if asked is True else Path(str(asked))
    check_resumable(checkpoint)
    if (before := processes_of(checkpoint)) != args.world_size:
        _logger.warning(
            "%s was saved by %d process(es), now there are %d: batches and random numbers are others than they were",
            *(checkpoint, before, args.world_size),
        )
    return str(checkpoint)


def _newest(run: Path) -> Path:
    found, damaged = newest_whole(run)
    for one in damaged:
        _logger.warning(one)
    if found is None:
        raise ValueError("; ".join([*damaged, f"no checkpoint in {run}: start without resuming"]))
    return found


@contextmanager
def only_run(args: Any) -> Iterator[None]:
    """Keep other trainings out of the output folder, for the process that writes there; a killed one left nothing."""
    if not args.should_save:
        yield
        return
    with only_writer(Path(args.output_dir), "training"):
        shutil.rmtree(Path(args.output_dir) / _HIDDEN, ignore_errors=True)
        yield
