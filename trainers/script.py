"""The options of ``hf-unmask train``: what is trained on what, and every setting of the trainer."""

from __future__ import annotations

import dataclasses
import difflib
import os
import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NoReturn

import yaml  # type: ignore[import-untyped]
from trl import TrlParser

from hf_unmask.evaluation.scoring import TINY_METRICS, by_rank, metric_by_task
from hf_unmask.policy.card.metadata import read_yaml
from hf_unmask.policy.hub.folders import find_policy, load_policy

from .config import UnmaskingGRPOConfig

TINY = "tiny"
#: Fresh problems of the embedded tasks, unless another number is asked for.
TINY_PROMPTS = 4096
_OFF = "none"
_LONGEST_CONFIG = 2**16  # characters
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
    metric_revision: str | None = _option(None, "Commit of a metric on the Hub, which needs --trust_remote_code.")
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
    policy_top_k: int | None = _option(None, "Largest probabilities a fresh policy reads per position. [default: 1]")
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
                raise ValueError(f"`--{name}` must be at least 1, got {value}")

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
            "top_k": self.policy_top_k,
            "initial_bias": self.initial_bias,
            "hidden_input_size": hidden_states if self.read_hidden else None,
            "reads_revealed": self.reads_revealed,
        }
        given = {name: value for name, value in wanted.items() if value is not None}
        if self.policy is not None and given:
            raise ValueError(f"{', '.join(given)} belong to a fresh policy, but --policy {self.policy} is one already")
        return given


class _Parser(TrlParser):  # type: ignore[misc]
    """TRL's parser; what is wrong is a ValueError of one line, and no option may be abbreviated."""

    def __init__(self, *types: Any) -> None:
        super().__init__(types, allow_abbrev=False, add_help=False)

    def error(self, message: str) -> NoReturn:
        raise ValueError(message)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Namespace, list[str]]:
        found, rest = super().parse_known_args(args, namespace)
        if "output_dir" in found:
            _complete(found)
        return found, rest

    def parse(self, arguments: Sequence[str], defaults: Mapping[str, Any]) -> tuple[list[Any], list[str]]:
        """Instances of the dataclasses, and what nobody understood. Later wins: defaults, --config, arguments."""
        left = self.set_defaults_with_config(**defaults)
        *found, rest = self.parse_args_and_config(_normal(arguments), return_remaining_strings=True)
        return found, left + rest


def _complete(found: Namespace) -> None:
    """Settings that follow from others."""
    if found.output is None and found.output_dir is None:
        raise ValueError("say where to: --output FOLDER")
    if found.output_dir is not None and found.output not in (None, found.output_dir):
        raise ValueError(f"--output {found.output} and --output_dir {found.output_dir} are two names of one option")
    found.output = found.output_dir = found.output or found.output_dir
    if found.eval_steps is None:  # every checkpoint is validated
        found.eval_steps = found.save_steps
    if found.disable_tqdm is None:
        found.disable_tqdm = not sys.stderr.isatty()


def _normal(arguments: Sequence[str]) -> list[str]:
    """``--config=FILE`` as two arguments, the only form that TRL reads, with FILE known to be readable."""
    normal = []
    for argument in arguments:
        name, equals, value = argument.partition("=")
        normal += [name, value] if equals and name == "--config" else [argument]
    if "--config" in normal:
        place = normal.index("--config") + 1
        if place == len(normal):
            raise ValueError(f"{' '.join(normal)}: --config needs the name of a YAML file")
        _check_yaml(normal[place])
    return normal


def _check_yaml(name: str) -> None:
    """TRL reads the file once more, with all that YAML can do: by then it is known to be small and readable."""
    try:
        with open(name, encoding="utf-8") as file:
            text = file.read(_LONGEST_CONFIG + 1)
        if len(text) > _LONGEST_CONFIG:
            raise ValueError(f"more than {_LONGEST_CONFIG:,} characters")
        read_yaml(text)
        yaml.safe_load(text)
    except UnicodeDecodeError as error:
        raise ValueError(f"{name} is not UTF-8 ({error}): save the file as UTF-8") from error
    except (ValueError, yaml.YAMLError) as error:
        raise ValueError(f"{name}: {error}") from error
    except (LookupError, AttributeError, TypeError, ArithmeticError) as error:  # of types that do not fit their value
        raise ValueError(f"{name} holds a value that is not of its YAML type: {error!r}") from error


def parse(
    arguments: Sequence[str], defaults: Mapping[str, Any] | None = None
) -> tuple[ScriptArguments, UnmaskingGRPOConfig]:
    """Options from a command line; ``--config FILE`` reads YAML, which arguments override.

    ``defaults`` are overridden by both. Settings that follow from the script's arguments (validation, the embedded
    model) are the weakest.

    Raises:
        ValueError: an unknown option, or a value that cannot be used.
    """
    defaults = defaults or {}
    (script,), _ = _Parser(ScriptArguments).parse(arguments, defaults)
    parser = _Parser(ScriptArguments, UnmaskingGRPOConfig)
    (script, args), unknown = parser.parse(arguments, script.settings() | defaults)
    if unknown:
        raise ValueError(_unknown(unknown[0]))
    script.output = os.path.expanduser(script.output)
    return script, args


def _unknown(argument: str) -> str:
    names = [f"--{one.name}" for kind in (ScriptArguments, UnmaskingGRPOConfig) for one in dataclasses.fields(kind)]
    close = difflib.get_close_matches(argument.partition("=")[0].replace("-", "_").replace("__", "--", 1), names, 1)
    meant = f", did you mean {close[0]}?" if close else "; `hf-unmask train --help-all` lists all"
    return f"unknown option {argument}{meant}"
