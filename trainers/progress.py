"""What a training run shows: a bar on a terminal, and one short line per log everywhere."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from transformers import TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ProgressCallback

from hf_unmask.evaluation.pace import Pace, to_go
from hf_unmask.results.foreign_text import printable

#: Name in the logs -> name in a line; README says what they mean. Everything else is in the trackers and in
#: trainer_state.json.
_SHOWN = {
    "reward": "reward",
    "policy_reward": "policy's reward",
    "nfe": "forward passes",
    "unresolved_masks": "masks left",
    "grad_norm": "gradient norm",
    "step_time": "seconds per update",
    "time/update_share": "update share of time",
}
_CORRECT = "rewards/"
_FAST = "fast_"  # correctness times speed, which is the reward itself


class TrainingProgress(ProgressCallback):
    """The bar of transformers, with a readable line instead of a dictionary of forty numbers."""

    pace: Pace | None = None  # of this run, in updates

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kw: Any) -> None:
        if not args.disable_tqdm:
            super().on_train_begin(args, state, control, **kw)  # type: ignore[no-untyped-call]
        self.pace = Pace(state.max_steps - state.global_step)
        checked = f", validation every {args.eval_steps:g}" if args.eval_steps and args.eval_strategy != "no" else ""
        self._say(state, f"{self.pace.total:g} updates{checked}; the first tells how long they take")

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kw: Any) -> None:
        if self.training_bar is not None:
            super().on_step_end(args, state, control, **kw)
        if self.pace is not None:
            self.pace.add(1)
            if self.pace.done == 1:
                self._say(state, f"update {state.global_step}/{state.max_steps}{to_go(self.pace)}")

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, Any] | None = None,
        **_: Any,
    ) -> None:
        del args, control
        line = log_line(state.global_step, state.max_steps, logs or {})
        if line is not None:
            self._say(state, line if self.pace is None else f"{line}{to_go(self.pace)}")

    def _say(self, state: TrainerState, line: str) -> None:
        """On stderr, of one process, above the bar if there is one."""
        if not state.is_world_process_zero:
            return
        if self.training_bar is not None:
            self.training_bar.write(line, file=sys.stderr)
        else:
            sys.stderr.write(line + "\n")

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kw: Any) -> None:
        if self.training_bar is not None:
            super().on_train_end(args, state, control, **kw)


def log_line(step: int, steps: int, logs: Mapping[str, Any]) -> str | None:
    """``update 20/200  reward 0.61  ...``; None for logs that are neither an update's nor a validation's."""
    prefix = "eval_" if "eval_reward" in logs else ""
    if f"{prefix}reward" not in logs:
        return None
    single = [name.removeprefix(prefix + _CORRECT) for name in logs if name.startswith(prefix + _CORRECT)]
    metrics = [
        name for name in single if not name.startswith(_FAST) and not name.endswith("/std") and "_at_speed_" not in name
    ]
    named = len(metrics) > 1
    correct = {
        f"{prefix}{_CORRECT}{name}": f"accuracy ({name.removesuffix('/mean')})" if named else "accuracy"
        for name in metrics
    }
    names = {prefix + name: shown for name, shown in _SHOWN.items()} | correct
    numbers = [f"{shown} {float(logs[name]):.3g}" for name, shown in names.items() if name in logs]
    return printable("  ".join([f"{'validation at' if prefix else 'update'} {step}/{steps}", *numbers]))
