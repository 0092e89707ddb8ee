"""``hf-unmask train``: an unmasking policy from a denoiser, prompts and a metric.

Every field of `ScriptArguments` and `UnmaskingGRPOConfig` is an option, and a key of the YAML file that ``--config``
names. Several processes: ``torchrun --nproc_per_node 2 -m hf_unmask.cli.main train ...`` or ``accelerate launch``.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import typer
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from hf_unmask.cli.costs import notes
from hf_unmask.cli.terminal import load_model, plain_errors, quiet_libraries, say
from hf_unmask.cli.train_arguments import HELP, words
from hf_unmask.cli.train_help import show_help
from hf_unmask.cli.train_next import next_steps
from hf_unmask.cli.vocabulary import speaking
from hf_unmask.policy.config import UnmaskingPolicyConfig
from hf_unmask.policy.growing import extended
from hf_unmask.policy.model import UnmaskingPolicy
from hf_unmask.trainers.arguments import ScriptArguments
from hf_unmask.trainers.callbacks import StopAtRolloutBoundary
from hf_unmask.trainers.checkpoints import newest_whole, only_run
from hf_unmask.trainers.config import UnmaskingGRPOConfig
from hf_unmask.trainers.data import training_data, validation_data
from hf_unmask.trainers.parts import loaded_policy
from hf_unmask.trainers.progress import TrainingProgress
from hf_unmask.trainers.rewards import EvaluateReward, SpeedReward
from hf_unmask.trainers.run_folder import changed_settings, checkpoint_to_resume, finished_at, write_record
from hf_unmask.trainers.script import parse
from hf_unmask.trainers.trainer import UnmaskingGRPOTrainer

_INTERRUPTED = 130


def main(arguments: Sequence[str], defaults: Mapping[str, Any] | None = None) -> None:
    """Run the command; ``defaults`` are settings that ``--config`` and arguments override.

    Raises:
        typer.Exit: code 2 for what a user can get wrong, 130 after Ctrl-C.
    """
    with speaking(words(arguments)), plain_errors(extra="train"):
        if HELP & set(arguments):
            show_help(everything="--help-all" in arguments)
            return
        quiet_libraries()
        # TRL asks for it by its old name; nothing that a user could do about it
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing`", category=FutureWarning)
        train(*parse(arguments, defaults))


def run_command(arguments: Sequence[str], defaults: Mapping[str, Any] | None = None) -> None:
    """The command for scripts: as ``main``, and what goes wrong ends the process with the same code."""
    try:
        main(arguments, defaults)
    except typer.Exit as end:
        sys.exit(end.exit_code)


def train(script: ScriptArguments, args: UnmaskingGRPOConfig) -> None:
    """Train as the arguments say, save the policy and say what to do next.

    Raises:
        typer.Exit: code 130 after Ctrl-C; the checkpoint can be resumed.
    """
    if Path(args.output_dir).is_file():
        raise ValueError(f"`output={args.output_dir}` is a file")
    script.check_places()
    with only_run(args):
        _train(script, args)


def _train(script: ScriptArguments, args: UnmaskingGRPOConfig) -> None:
    checkpoint, damaged = checkpoint_to_resume(script, args)
    done = finished_at(checkpoint, args) if script.resume else None
    if done is not None:
        _say(f"finished: {args.output_dir} holds the policy after {done} updates, there is nothing to go on with")
        return
    trainer = build(script, args)
    first = trainer.is_world_process_zero()
    trainer.accelerator.wait_for_everyone()  # nobody writes before everybody has looked
    if first:
        _begin(script, args, checkpoint, damaged)
    try:
        with notes("hf_unmask.trainers", first):
            trainer.train(resume_from_checkpoint=checkpoint)
    except KeyboardInterrupt:
        _stop(trainer, args)
    stopped = any(one.asked for one in trainer.callback_handler.callbacks if isinstance(one, StopAtRolloutBoundary))
    if not stopped:
        trainer.save_model()
        if first:
            _report(trainer, script, args)
    trainer.accelerator.wait_for_everyone()
    trainer.accelerator.end_training()  # a process that exits while its threads serve the group may be aborted
    if stopped:
        _stop(trainer, args)


def _started(script: ScriptArguments) -> UnmaskingPolicy | str:
    """The policy to start from; one that shall read more is extended."""
    name = str(script.policy)
    if not script.more_inputs:
        return name
    return extended(loaded_policy(name, script.policy_revision), **script.more_inputs)


def build(script: ScriptArguments, args: UnmaskingGRPOConfig) -> UnmaskingGRPOTrainer:
    """The trainer that the arguments describe, with the policy to train and its data."""
    model, tokenizer = load_model(script.model, args.trust_remote_code, script.revision, script.dtype, str(args.device))
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    options = script.policy_options(getattr(model.config, "hidden_size", None))
    trainer = UnmaskingGRPOTrainer(
        UnmaskingPolicyConfig(**options) if script.policy is None else _started(script),
        model,
        rewards(script, args.trust_remote_code),
        args,
        train_dataset=training_data(script, tokenizer, args.seed),
        eval_dataset=validation_data(script, tokenizer),
        processing_class=tokenizer,
        policy_revision=None if script.more_inputs else script.policy_revision,
    )
    local = Path(str(script.dataset)).expanduser()  # of which only the name is anybody's business
    trainer.policy.config.trained_for["dataset"] = local.resolve().name if local.exists() else script.dataset
    for theirs in (ProgressCallback, PrinterCallback):
        trainer.remove_callback(theirs)
    trainer.add_callback(TrainingProgress())
    return trainer


def rewards(script: ScriptArguments, trust_remote_code: bool = False) -> list[Any]:
    """What is rewarded and, beside it with weight 0, what is only logged."""
    options: Mapping[str, Any] = {"allow_code_execution": True} if script.allow_code_execution else {}
    correct, *further = (
        EvaluateReward(metric, revision=script.metric_revision, trust_remote_code=trust_remote_code, **options)
        for metric in script.metrics
    )
    if script.reward == "correctness":
        return [correct, *further]
    return [SpeedReward(correct, script.reward), correct, *further]


def _begin(script: ScriptArguments, args: UnmaskingGRPOConfig, checkpoint: str | None, damaged: Sequence[str]) -> None:
    for one in damaged:
        _say(one)
    if checkpoint is None:
        write_record(script, args.output_dir)
        return
    changes = changed_settings(checkpoint, args)
    _say(f"going on from {checkpoint}" + (f", with changed settings: {'; '.join(changes)}" if changes else ""))


def _stop(trainer: UnmaskingGRPOTrainer, args: UnmaskingGRPOConfig) -> NoReturn:
    """Say how to go on, and exit."""
    if trainer.is_world_process_zero():
        newest, _ = newest_whole(Path(args.output_dir))
        if newest is None:
            _say("interrupted before the first checkpoint: nothing was kept")
        else:
            _say(f"interrupted; {newest} is saved: the same command with --resume goes on from there")
    raise typer.Exit(_INTERRUPTED)


def _report(trainer: UnmaskingGRPOTrainer, script: ScriptArguments, args: UnmaskingGRPOConfig) -> None:
    state, folder = trainer.state, args.output_dir
    if args.load_best_model_at_end and state.best_model_checkpoint is not None:
        best = f"of {Path(state.best_model_checkpoint).name} ({args.metric_for_best_model} {state.best_metric:.3g})"
    else:
        best = f"after update {state.global_step}"
    _say(f"saved the policy {best} in {folder}")
    _say(*next_steps(script, args, conditioned=trainer.policy.config.speed_conditioned).splitlines())


def _say(*lines: str) -> None:
    say(*lines, err=True)
