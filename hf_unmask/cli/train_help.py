"""``hf-unmask train --help``: the options that matter, and on request all of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

from rich import box
from rich.table import Table
from trl import GRPOConfig

from hf_unmask.cli.terminal import make_console, say, styled
from hf_unmask.trainers.arguments import TINY_SETTINGS, ScriptArguments, option_of
from hf_unmask.trainers.config import UnmaskingGRPOConfig

_USAGE = """hf-unmask train --output FOLDER [--model ... --dataset ... --metric ...] [--policy ...] [OPTIONS]

Train an unmasking policy with GRPO. Without --model and --dataset: on the embedded model and its problems.
--config FILE reads any of these options from YAML; the command line wins. Ctrl-C saves, --resume goes on."""

_UPDATES = """max_steps num_train_epochs per_device_train_batch_size num_generations num_iterations learning_rate
warmup_steps lr_scheduler_type epsilon beta loss_type scale_rewards max_grad_norm seed""".split()
_ROLLOUTS = ("max_completion_length",)  # TRL's, too
_FILES = """logging_steps report_to run_name log_completions save_steps save_total_limit eval_strategy eval_steps
resume_from_checkpoint trust_remote_code use_cpu""".split()
#: Of left-to-right decoding; the option of the name is another setting here.
_HIDDEN = {"temperature", "output_dir"}

#: Where the command does more than transformers says.
_OTHERWISE = {
    "block_length": "Positions per block, N or full (full diffusion). [default: that of --policy, else 32]",
    "eval_steps": "Updates between validations. [default: save_steps]",
    "eval_strategy": "no, steps or epoch. [default: steps if there are validation problems]",
    "resume_from_checkpoint": "A checkpoint to go on from; --resume takes the newest whole one.",
    "trust_remote_code": "Run code that comes with the denoiser's repository, and a metric's of the Hub.",
}


def show_help(*, everything: bool) -> None:
    """Print the options by theme, with their defaults; with ``everything`` also all others of TRL."""
    console = make_console()
    say(*_USAGE.splitlines())
    ours = {one.name: one for one in dataclasses.fields(UnmaskingGRPOConfig)}
    inherited = {one.name for one in dataclasses.fields(GRPOConfig)}
    _show(console, "What is trained on what", dataclasses.fields(ScriptArguments))
    _show(
        console,
        "Rollouts, experts, warm start, validation",
        (ours[name] for name in ours if name in _ROLLOUTS or name not in inherited),
    )
    _show(console, "Updates (TRL; `step` in place of `token`)", (ours[name] for name in _UPDATES))
    _show(console, "Logs, checkpoints, machine (transformers)", (ours[name] for name in _FILES))
    if everything:
        rest = [name for name in ours if name in inherited and name not in (*_UPDATES, *_FILES, *_ROLLOUTS, *_HIDDEN)]
        _show(console, "Everything else of TRL and transformers", (ours[name] for name in rest))
    else:
        say("--help-all lists every setting of TRL and transformers.")
    changed = ", ".join(f"{option_of(name)} {value}" for name, value in TINY_SETTINGS.items())
    say(f"On tiny's problems the defaults are instead: {changed}.")


def _show(console: Any, title: str, options: Iterable[Any]) -> None:
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column()
    for option in options:
        default = "" if option.name in _OTHERWISE else _default(option)
        table.add_row(option_of(option.name), styled(_text(option) + (f" [default: {default}]" if default else "")))
    console.print(table)


def _text(option: Any) -> str:
    """The first sentences of a help text; those of transformers go on for paragraphs."""
    text = " ".join(_OTHERWISE.get(option.name, str(option.metadata.get("help", ""))).split())
    return text if len(text) <= 200 else text[:200].rpartition(". ")[0] or text[:200] + "..."


def _default(option: Any) -> str:
    value = option.default if option.default_factory is dataclasses.MISSING else option.default_factory()
    if value is None or value is dataclasses.MISSING:
        return ""
    return " ".join(map(str, value)) if isinstance(value, list) else str(getattr(value, "value", value))
