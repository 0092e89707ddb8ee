"""What happens around training: Ctrl-C that loses nothing, a best checkpoint that is there, a config of one's own."""

from __future__ import annotations

import logging
import signal
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any

from accelerate.utils import gather_object  # type: ignore[import-untyped]
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hf_unmask.policy.config import UnmaskingPolicyConfig

from .checkpoints import damage

_logger = logging.getLogger(__name__)
_ECHO = 1.0  # seconds


class StopAtRolloutBoundary(TrainerCallback):
    """The first Ctrl-C saves a checkpoint where the next batch of rollouts would begin, and ends training there.

    Earlier would not do: TRL's buffer of rollouts is not part of a checkpoint. A second Ctrl-C interrupts at once, not
    an echo of the first: torchrun passes on what a terminal has already sent to all processes.
    """

    def __init__(self, steps_per_rollout: int) -> None:
        self.steps_per_rollout = steps_per_rollout
        self.asked = False
        self._pressed_at: float | None = None  # in this process; `asked` may come from another one
        self._before: Any = None

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        del args, state, control
        self.asked, self._pressed_at = False, None
        if threading.current_thread() is threading.main_thread():  # signals belong to it
            self._before = signal.signal(signal.SIGINT, self._handle)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        del args
        # Every process asks: a signal need not reach them all before the same step.
        if state.global_step % self.steps_per_rollout == 0:
            self.asked = any(gather_object([self.asked]))
        if self.asked and state.global_step % self.steps_per_rollout == 0:
            control.should_save = control.should_training_stop = True

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        del args, state, control
        self.release()

    def release(self) -> None:
        """Give Ctrl-C back to who had it before."""
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)
            self._before = None

    def _handle(self, number: int, frame: FrameType | None) -> None:
        del frame
        now = time.monotonic()
        if self._pressed_at is not None:
            if now - self._pressed_at > _ECHO:
                self.release()
                signal.raise_signal(number)
            return
        self.asked, self._pressed_at = True, now
        _logger.warning("interrupted: saving at the end of this batch of rollouts (again Ctrl-C: stop at once)")


class BestIsWhole(TrainerCallback):
    """Finds the best checkpoint of a run that goes on, also in a folder that was moved; forgets a damaged one."""

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        del control
        if not args.load_best_model_at_end or state.best_global_step is None:
            return
        here = Path(str(args.output_dir)) / f"checkpoint-{state.best_global_step}"
        wrong = {path: damage(Path(path)) for path in (str(here), state.best_model_checkpoint) if path}
        whole = [path for path in wrong if wrong[path] is None]
        if not whole:
            told = f"{here.name}, the best so far, is damaged: {wrong[str(here)]}; the best is looked for from here on"
            _logger.warning(told)
            state.best_metric = state.best_global_step = None
        state.best_model_checkpoint = whole[0] if whole else None


class OwnConfig(TrainerCallback):
    """Undoes what transformers and TRL write into a model's config: token ids of the tokenizer, `use_cache`.

    Made before the trainer, it restores the config when asked and when training begins.
    """

    def __init__(self, config: UnmaskingPolicyConfig) -> None:
        self.config = config
        self._kept = dict(config.__dict__)

    def restore(self) -> None:
        """Everything but the record of what the policy is trained for, which the trainer writes on purpose."""
        purpose = self.config.trained_for
        self.config.__dict__.clear()
        self.config.__dict__.update(self._kept, trained_for=purpose)

    def lend_ids_of(self, tokenizer: Any) -> None:
        """The tokenizer's ids until training begins, so that transformers sees no conflict to warn about."""
        for name in ("eos_token_id", "bos_token_id", "pad_token_id"):
            setattr(self.config, name, getattr(tokenizer, name))

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        del args, state, control
        self.restore()
