"""The folder of a training run: whether one may start or go on there, and what it was about."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hf_unmask import __version__
from hf_unmask.policy.card.rendering import read_recipe
from hf_unmask.policy.config import PolicyLoadError
from hf_unmask.policy.hub.files import MAX_JSON, WEIGHTS, parse_json
from hf_unmask.policy.hub.opening import read_inside

from .arguments import ScriptArguments, option_of
from .checkpoints import check_resumable, newest_whole, processes_of, write_json
from .config import UnmaskingGRPOConfig

#: What a run is about, written when it starts.
RECORD = "run.json"
#: Arguments that another call may change: where the run lies, and what only observes it.
_FREE = {"output", "resume"}
#: Settings of the trainer that change nothing about the policy.
_HARMLESS = {
    *("output_dir", "disable_tqdm", "report_to", "run_name", "project", "logging_steps", "log_completions"),
    *("num_completions_to_print", "save_total_limit", "rollout_batch_size", "use_cpu", "ddp_timeout", "ddp_backend"),
    *("resume_from_checkpoint", "local_rank", "logging_dir", "log_level"),
}


def checkpoint_to_resume(script: ScriptArguments, args: UnmaskingGRPOConfig) -> tuple[str | None, list[str]]:
    """The checkpoint that training goes on from (None: a new run), and what is wrong with newer ones.

    Raises:
        ValueError: a new run in a folder that holds one, nothing to resume, or the folder of another run.
    """
    folder = Path(args.output_dir)
    if args.resume_from_checkpoint:
        check_resumable(Path(args.resume_from_checkpoint))
        return str(args.resume_from_checkpoint), []
    newest, damaged = newest_whole(folder)
    if script.resume:
        if newest is None:
            raise ValueError("; ".join([*damaged, f"no checkpoint in {folder}: start without --resume"]))
        check_resumable(newest)
        _check_same(folder, script)
        return str(newest), damaged
    if newest is not None:
        raise ValueError(f"{folder} holds a run ({newest.name}): go on with --resume, or take another --output")
    if (folder / WEIGHTS).exists():
        raise ValueError(f"{folder} holds a policy, which this run would overwrite: take another --output")
    return None, damaged


def finished_at(checkpoint: str | Path | None, args: UnmaskingGRPOConfig) -> int | None:
    """The updates of a run that is at its end and has saved its policy; None for one that is not."""
    if checkpoint is None or not (Path(args.output_dir) / WEIGHTS).exists():
        return None
    state = json.loads((Path(checkpoint) / "trainer_state.json").read_text("utf-8"))
    made, asked = int(state["global_step"]), args.max_steps
    if asked <= 0:  # epochs are asked for
        asked = int(state["max_steps"]) if state["num_train_epochs"] >= args.num_train_epochs else made + 1
    return made if made >= asked else None


def write_record(script: ScriptArguments, folder: str | Path) -> None:
    """Say what the run is about."""
    write_json(Path(folder) / RECORD, {"version": __version__, **_about(script)})


def changed_settings(checkpoint: str | Path, args: UnmaskingGRPOConfig) -> list[str]:
    """Settings that are not those of the checkpoint, as ``name old -> new``."""
    checkpoint = Path(checkpoint)
    before = read_recipe(checkpoint)
    if before is None:
        return []
    now = json.loads(json.dumps(args.to_dict(), default=str))
    before, now = {**before, "processes": processes_of(checkpoint)}, {**now, "processes": args.world_size}
    return [
        f"{name} {before[name]} -> {now[name]}"
        for name in sorted(before.keys() & now.keys() - _HARMLESS)
        if before[name] != now[name]
    ]


def _about(script: ScriptArguments) -> dict[str, Any]:
    return {name: value for name, value in asdict(script).items() if name not in _FREE}


def _check_same(folder: Path, script: ScriptArguments) -> None:
    found = read_inside(folder, RECORD, MAX_JSON)
    if found is None:
        return  # started by other means than the command
    try:
        before, now = parse_json(found, RECORD), _about(script)
    except PolicyLoadError as error:
        raise ValueError(f"{folder / RECORD} is damaged ({error}): arguments cannot be compared with it") from error
    other = [name for name in now if name in before and before[name] != now[name]]
    if other:
        told = ", ".join(f"{option_of(name)} {before[name]} (now {now[name]})" for name in other)
        raise ValueError(f"{folder} holds another run, with {told}: repeat its arguments, or take another --output")
