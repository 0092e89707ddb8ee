"""A request of the harness, read as one of ours, and what answering it took."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hf_unmask.evaluation.planning import as_seeds, row_seed
from hf_unmask.generation.fields import FOREIGN

try:
    from lm_eval.models.utils import normalize_gen_kwargs  # type: ignore[import-untyped]
except ModuleNotFoundError as error:
    raise ImportError(f"this needs {error.name}: pip install 'hf_unmask[lm-eval]'") from error

_DEFAULT_NEW_TOKENS = 256  # what the harness's own models take where neither user nor task says
#: What means nothing where tokens are not drawn; tasks say it all the same.
_DRAW = {"temperature", "top_k", "top_p", *(name for name, field in FOREIGN.items() if field.draws)}
#: What a task's options cannot choose, and who does.
_SETTLED = {
    **dict.fromkeys(("sampler", "tokenizer"), "--model_args"),
    **dict.fromkeys(("stop_strings",), "`until`"),
    **dict.fromkeys(("num_return_sequences",), "the task's `repeats`"),
    **dict.fromkeys(
        ("attention_mask", "fill_mask", "output_trajectory", "return_dict_in_generate"), "the model itself"
    ),
}


@dataclass(frozen=True)
class Job:
    """One request, ready to run."""

    place: int  # among the requests
    request: Any
    ids: list[int]
    seed: int
    until: tuple[str, ...]
    options: Mapping[str, Any]  # of ``generate``

    @property
    def group(self) -> str:
        """Requests of one group can share a batch."""
        return repr((self.until, sorted(self.options.items())))


@dataclass
class Count:
    """Sums over the requests of a task that were generated (and not read from the harness's cache)."""

    requests: int = 0
    forwards: int = 0
    opened: int = 0  # positions
    answered: int = 0  # tokens before the first stop token

    def summary(self) -> dict[str, float]:
        return {
            "requests": self.requests,
            "nfe_mean": self.forwards / self.requests,
            "tokens_per_forward": self.opened / max(self.forwards, 1),
            "tokens_per_forward_to_eos": self.answered / max(self.forwards, 1),
        }


def read_options(asked: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Options of ``generate``, ``until`` and ``seed`` from those of a task; ``own`` ones count where it is silent.

    Raises:
        ValueError: one that is not for a task to choose.
    """
    options = {**own, **normalize_gen_kwargs(asked, _DEFAULT_NEW_TOKENS)}
    options["until"] = tuple(stop for stop in options["until"] if stop)
    asked_tokens = options.pop("max_gen_toks")
    options["max_new_tokens"] = options["max_new_tokens"] or asked_tokens
    for name in _SETTLED.keys() & options.keys():
        raise ValueError(f"generation option `{name}={options[name]}` is chosen by {_SETTLED[name]}: drop it")
    if options["do_sample"] and options.get("temperature") != 0:
        return options
    # said aloud, or the model's own generation_config would decide
    return {name: value for name, value in options.items() if name not in _DRAW} | {"do_sample": False}


def job_seed(seed: Any, occurrence: int) -> int:
    """Tells equal prompts apart, so that repeats differ and batches do not matter."""
    (number,) = as_seeds(seed)
    return row_seed(number, 0, occurrence)


def cut(text: str, until: Sequence[str]) -> str:
    """The text before the earliest stop string."""
    return text[: min((place for place in map(text.find, until) if place >= 0), default=len(text))]


def line(task: str, sampler: str, summary: Mapping[str, float]) -> str:
    return (
        f"{task}, {sampler}: {summary['nfe_mean']:.2f} forward passes per answer (mean of {summary['requests']}), "
        f"{summary['tokens_per_forward']:.2f} tokens per forward, "
        f"{summary['tokens_per_forward_to_eos']:.2f} counted up to the end of the answer"
    )
