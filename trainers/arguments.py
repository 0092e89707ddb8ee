"""What ``hf-unmask train`` is asked for besides the settings of the trainer. Imports nothing heavy.

Options may be written with dashes or underscores, and have the names that other commands give to the same things.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from hf_unmask.results.places import POLICY, RUN, check_data_name, looks_like_path, require_own

TINY = "tiny"
FULL = "full"
#: Fresh problems of the embedded tasks, unless another number is asked for.
TINY_PROMPTS = 4096
_OFF = "none"
#: What the embedded model wants where nothing else is said: answers of 24 and 40 tokens, minutes instead of days.
TINY_SETTINGS: dict[str, Any] = {
    "block_length": 8,
    "max_completion_length": 40,
    "learning_rate": 7e-4,
    "warmup_steps": 10,
    "max_steps": 200,
    "save_steps": 20,
    "logging_steps": 2,
    "warm_start_prompts": 256,
}
#: Options by the names that they have in every command, and the fields that they set.
FIELDS = {
    "max_new_tokens": "max_completion_length",
    "temperature": "token_temperature",  # on the command line: TRL's own has no meaning here
}
_OLDER = {"out": "output", "column": "columns"}
#: Options that may be repeated, each time with one value or several.
_LISTS = ("columns", "policy_inputs", "task_mix", "warm_start_experts")


def _option(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass
class ScriptArguments:
    """What ``hf-unmask train`` takes besides the settings of the trainer (`UnmaskingGRPOConfig`)."""

    output: str | None = _option(None, "Folder for checkpoints, logs and at last the policy.")
    resume: bool = _option(False, "Go on from the newest whole checkpoint in --output.")

    model: str = _option(TINY, "Folder or repository of the denoiser, or `tiny` for the embedded one.")
    revision: str | None = _option(None, "Branch, tag or commit of the denoiser.")
    dtype: str = _option("auto", "Of the denoiser: auto, float32, bfloat16 or float16.")

    dataset: str | None = _option(
        None,
        "tiny[:TASK] for fresh problems of the embedded tasks, a file, a saved folder, or NAME[:CONFIG]:SPLIT of the "
        "Hub. [default: tiny, for the embedded model]",
    )
    num_prompts: int | None = _option(
        None, f"Training prompts, the first ones. [default: {TINY_PROMPTS} fresh ones of tiny, else all there are]"
    )
    task_mix: list[str] | None = _option(None, "Shares of tiny's tasks, e.g. chain_sum=3 mini_sudoku=1.")
    columns: list[str] | None = _option(None, "Other names of columns, e.g. prompt=question answer=solution.")
    template: str = _option("plain", "Prompt template: name or file, as in `hf-unmask evaluate`.")
    eval_dataset: str | None = _option(
        None, "Validation problems, named as --dataset; none: no validation. [default: tiny's, if it is trained on]"
    )
    eval_limit: int | None = _option(100, "Validation problems per task, the first ones.")

    metric: str | None = _option(
        None,
        "Packaged metric or path of one, or by task: sums=answer_match,puzzles=sudoku. Of several, A+B, the first is "
        "rewarded and the others are logged. [default: tiny's]",
    )
    metric_revision: str | None = _option(None, "Commit of a metric on the Hub, which needs --trust-remote-code.")
    allow_code_execution: bool = _option(False, "Let the metric run generated programs.")
    reward: Literal["multiplicative", "additive", "correctness"] = _option(
        "multiplicative", "Correctness times speed (the paper), minus the price of steps (its ablation), or alone."
    )

    policy: str | None = _option(
        None, "Policy to go on from: a folder, builtin:NAME or a repository. [default: a fresh one]"
    )
    policy_revision: str | None = _option(None, "Branch, tag or commit of --policy on the Hub.")
    hidden_size: int | None = _option(None, "Width of a fresh policy. [default: 128]")
    observation: Literal["canvas", "block"] | None = _option(
        None, "A fresh policy sees all positions, or the active block only. [default: canvas]"
    )
    action: Literal["bernoulli", "plackett_luce"] | None = _option(
        None, "Distribution over actions of a fresh policy. [default: bernoulli]"
    )
    policy_top_k: int | None = _option(
        None, "Largest probabilities the policy reads per position; with --policy it is extended. [default: 1]"
    )
    policy_inputs: list[str] | None = _option(
        None, "What the policy reads besides: names such as rank and stop, or portable. With --policy it is extended."
    )
    read_hidden: bool = _option(False, "A fresh policy also reads the denoiser's last hidden state.")
    reads_revealed: bool | None = _option(
        None, "A fresh policy also reads confidences and hidden states of positions that are open. [default: true]"
    )
    initial_bias: float | None = _option(None, "Opening logit that a fresh policy begins with. [default: -2]")

    def __post_init__(self) -> None:
        if self.dataset is None and self.model != TINY:
            raise ValueError(f"--model {self.model} needs --dataset: prompts to train on")
        self.dataset = self.dataset or TINY
        if self.metric is None and not self.on_tiny:
            raise ValueError(f"--dataset {self.dataset} needs --metric: what makes an answer right")
        for name in ("num_prompts", "eval_limit"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"`{name}` must be at least 1, got {value}")

    @property
    def on_tiny(self) -> bool:
        """Whether the training problems are the embedded environment's."""
        return str(self.dataset).split(":")[0] == TINY

    @property
    def validation(self) -> str | None:
        """Name of the validation problems, None if there are none."""
        if self.eval_dataset is None:
            return self.dataset if self.on_tiny else None
        return None if self.eval_dataset.lower() == _OFF else self.eval_dataset

    @property
    def metrics(self) -> list[Any]:
        """First the metric that is rewarded, then those that are only logged; each one for all tasks, or by task."""
        from hf_unmask.evaluation.scoring import TINY_METRICS, by_rank, metric_by_task

        return by_rank(metric_by_task(self.metric) if self.metric else TINY_METRICS)

    def settings(self) -> dict[str, Any]:
        """Settings of the trainer that follow, unless they are given."""
        found: dict[str, Any] = {}
        logged = len(self.metrics) - (self.reward == "correctness")  # what is rewarded is logged by itself as well
        if logged:
            found["reward_weights"] = [1.0] + [0.0] * logged
        if self.validation is not None:
            found |= {"eval_strategy": "steps", "load_best_model_at_end": True, "greater_is_better": True}
            found["metric_for_best_model"] = "eval_reward"
        found |= TINY_SETTINGS if self.on_tiny else {}
        if self.policy is not None:
            from hf_unmask.policy.hub.folders import find_policy, load_policy

            record = load_policy(find_policy(self.policy, revision=self.policy_revision)).config.trained_for
            if "block_length" in record:
                found["block_length"] = record["block_length"] or 0  # on a command line, 0 is full diffusion
        return found

    def policy_options(self, hidden_states: int | None) -> dict[str, Any]:
        """Arguments of the config of a fresh policy; ``hidden_states`` is the denoiser's width."""
        wanted: dict[str, Any] = {
            "hidden_size": self.hidden_size,
            "intermediate_size": self.hidden_size and 4 * self.hidden_size,
            "observation": self.observation,
            "action": self.action,
            "initial_bias": self.initial_bias,
            "hidden_input_size": hidden_states if self.read_hidden else None,
            "reads_revealed": self.reads_revealed,
        }
        given = {name: value for name, value in wanted.items() if value is not None}
        if self.policy is not None and given:
            raise ValueError(f"{', '.join(given)} belong to a fresh policy, but --policy {self.policy} is one already")
        return given | self.more_inputs

    @property
    def more_inputs(self) -> dict[str, Any]:
        """Inputs of a fresh policy, or those with which the one to start from is extended."""
        inputs: Any = self.policy_inputs if self.policy_inputs != ["portable"] else "portable"
        wanted = {"top_k": self.policy_top_k, "further_inputs": inputs}
        return {name: value for name, value in wanted.items() if value is not None}

    def check_places(self) -> None:
        """Look for what is named by a path, and at what lies where the run is to go.

        Raises:
            ValueError: it is not there, or the folder of the run holds something else.
        """
        if self.output:
            require_own(self.output, RUN, POLICY, option="output")
        for name in (self.dataset, self.validation):
            if name is not None:
                check_data_name(name)
        for option, name in (("model", self.model), ("policy", self.policy)):
            if name is not None and looks_like_path(name) and not Path(name).expanduser().exists():
                raise ValueError(f"no folder {name!r} for `{option}`")


def field_of(name: str) -> str:
    """The field that an option sets, however it is written."""
    name = name.replace("-", "_")
    return FIELDS.get(name) or _OLDER.get(name, name)


def option_of(name: str) -> str:
    """The option that sets a field, as it is shown: ``--max-new-tokens``."""
    shown = {sets: option for option, sets in FIELDS.items()}
    return "--" + shown.get(name, name).replace("_", "-")


def normal(arguments: Sequence[str]) -> list[str]:
    """A command line in the one form that TRL's parser reads: fields for options, each list in one piece."""
    groups: list[tuple[str, list[str]]] = [("", [])]
    values = groups[0][1]
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if not name.startswith("--") or name == "--":
            values.append(argument)
            continue
        sets = field_of(name[2:])
        earlier = [there for one, there in groups if one == sets and sets in _LISTS]
        values = earlier[0] if earlier else []
        groups += [] if earlier else [(sets, values)]
        values += [value] if equals else []
    return [word for name, values in groups for word in _words(name, values)]


def _words(name: str, values: Sequence[str]) -> Iterator[str]:
    values = [spelt(name, value) for value in values]
    if len(values) == 1 and values[0].startswith("--"):  # behind an equals sign
        yield f"--{name}={values[0]}"
        return
    yield from [f"--{name}"] if name else []
    yield from values


def spelt(name: str, value: Any) -> Any:
    """The value of a field as its parser reads it: where others write ``full``, 0 is full diffusion."""
    return "0" if name == "block_length" and value == FULL else value


def unknown_option(given: str, names: Iterable[str]) -> str:
    """The message for an option that does not exist, with a guess at what was meant."""
    close = difflib.get_close_matches(field_of(given.partition("=")[0].lstrip("-")), list(names), 1)
    meant = f", did you mean {option_of(close[0])}?" if close else "; `hf-unmask train --help-all` lists all"
    return f"unknown option {given}{meant}"
