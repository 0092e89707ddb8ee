"""lm-evaluation-harness: any sampler on its ``generate_until`` tasks, as the model ``hf_unmask``.

    python -m hf_unmask.integrations.lm_eval --model hf_unmask --tasks gsm8k \\
        --model_args "pretrained=ORG/MODEL,sampler=threshold:threshold=0.9,block_length=32,max_new_tokens=256"

That is the harness's own command with all its options. It knows a model's name only once somebody has imported the
module that registers it (there are no entry points for models), and this one does that first. In Python::

    import hf_unmask.integrations.lm_eval
    results = lm_eval.simple_evaluate(model="hf_unmask", model_args={"pretrained": ..., "sampler": ...}, tasks=[...])

``--model_args`` is cut at commas, and each part at its first ``=``. Sampler specs hold no commas, so they are written
as everywhere; put the whole argument in the shell's quotes because of ``;`` and brackets. A value that does hold a
comma, such as a path, stands in quotes of its own (``pretrained="a,b"``), or all arguments are one JSON object.

Forward passes are printed, and kept under ``config.hf_unmask`` in the results.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm

from hf_unmask import __version__
from hf_unmask.cli.terminal import load_model
from hf_unmask.denoisers.texts import text_length, texts_of
from hf_unmask.evaluation.planning import as_block_lengths, row_seed
from hf_unmask.generation.loop import generate
from hf_unmask.generation.output import UnmaskOutput
from hf_unmask.samplers.specs import parse_sampler

try:
    from lm_eval.api.model import LM, TemplateLM  # type: ignore[import-untyped]
    from lm_eval.api.registry import model_registry  # type: ignore[import-untyped]
    from lm_eval.models.utils import normalize_gen_kwargs  # type: ignore[import-untyped]
    from lm_eval.utils import simple_parse_args_string  # type: ignore[import-untyped]
except ModuleNotFoundError as error:
    raise ImportError(f"this needs {error.name}: pip install 'hf_unmask[lm-eval]'") from error

NAME = "hf_unmask"
_DEFAULT_NEW_TOKENS = 256  # what the harness's own models take where neither user nor task says


@dataclass(frozen=True)
class _Job:
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
class _Count:
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


class UnmaskLM(LM):  # type: ignore[misc]  # the harness is not typed
    """A diffusion language model and a sampler, as the harness sees them."""

    def __init__(  # noqa: PLR0913 - these are the keys of --model_args
        self,
        *,
        pretrained: str,
        sampler: str,
        block_length: int | str | None = None,
        max_new_tokens: int | None = None,
        batch_size: int | str = 1,
        seed: int = 0,
        stop_at_eos: bool = False,
        max_length: int | None = None,
        dtype: str = "auto",
        device: str | None = None,
        revision: str | None = None,
        trust_remote_code: bool = False,
    ):
        """
        Args:
            pretrained: folder or repository of a denoiser, or ``tiny``, the embedded one.
            sampler: spec, e.g. ``threshold:threshold=0.9``.
            block_length: positions per block; None or ``full`` for full diffusion.
            max_new_tokens: positions to fill. It wins over what a task asks for: the whole canvas is always filled, so
                its length is a choice like the block length. None: the task's own, or 256.
            batch_size: rows generated together; wins over ``--batch_size``.
            seed: of stochastic samplers and token draws. Temperature and the like come from ``--gen_kwargs``.
            stop_at_eos: end rows at their first stop token or string of ``until``. Texts are cut there in any case;
                ending early saves forward passes, so it is off unless asked for, as everywhere.
            max_length: prompt and answer together; longer prompts lose their beginning. None: the model's own.
            dtype, device, revision, trust_remote_code: how to load the denoiser.

        Raises:
            ValueError: an argument that cannot be used.
        """
        super().__init__()
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise ValueError(f"model {NAME!r} runs in one process, WORLD_SIZE is {os.environ['WORLD_SIZE']}")
        self.batch_size = _whole("batch_size", batch_size)
        self.max_new_tokens = None if max_new_tokens is None else _whole("max_new_tokens", max_new_tokens)
        (self.block_length,) = as_block_lengths(block_length)
        self.sampler = parse_sampler(str(sampler))
        self.seed, self.stop_at_eos = seed, stop_at_eos
        self.pretrained = str(pretrained)
        # the parser makes numbers of values that look like some
        source = (self.pretrained, trust_remote_code, None if revision is None else str(revision), str(dtype), device)
        attached, self.tokenizer = load_model(*source)
        self.adapter = attached.generate.denoiser
        self.max_length = self.adapter.max_length if max_length is None else _whole("max_length", max_length)
        self._device = self.adapter.device
        self._counts: dict[str, _Count] = {}
        self._chat = False

    @classmethod
    def create_from_arg_string(cls, arg_string: str, additional_config: dict[str, Any] | None = None) -> UnmaskLM:
        """From ``key=value,key=value``."""
        return cls.create_from_arg_obj(simple_parse_args_string(arg_string), additional_config)

    @classmethod
    def create_from_arg_obj(cls, arg_dict: dict[str, Any], additional_config: dict[str, Any] | None = None) -> UnmaskLM:
        """From the keys of ``--model_args``; they win over the harness's own, which it sets even if nobody does."""
        further = {name: value for name, value in (additional_config or {}).items() if value is not None}
        return cls(**{**further, **arg_dict})

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """The answers, in the order of the requests."""
        texts = [""] * len(requests)
        counts: dict[str, _Count] = {}
        with tqdm(total=len(requests), disable=disable_tqdm, desc=f"{self.sampler}") as bar:
            for batch in self._batches(requests):
                for job, text in zip(batch, self._answer(batch, counts), strict=True):
                    texts[job.place] = text
                    self.cache_hook.add_partial("generate_until", job.request.args, text)
                bar.update(len(batch))
        self._counts |= counts
        for task, count in counts.items():
            tqdm.write(_line(task, str(self.sampler), count.summary()), file=sys.stderr)
        return texts

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """Not offered."""
        raise NotImplementedError(_no_likelihood(requests))

    def loglikelihood_rolling(self, requests: Sequence[Any]) -> list[float]:
        """Not offered."""
        raise NotImplementedError(_no_likelihood(requests))

    def get_model_info(self) -> dict[str, Any]:
        """What the harness puts into ``results["config"]``."""
        return {
            NAME: {
                "version": __version__,
                "sampler": str(self.sampler),
                "block_length": self.block_length,
                "max_new_tokens": self.max_new_tokens,
                "stop_at_eos": self.stop_at_eos,
                "seed": self.seed,
                "batch_size": self.batch_size,
                "tasks": {task: count.summary() for task, count in self._counts.items()},
            }
        }

    # ----------------------------------------------------------------------------------------------- chat templates

    chat_template = TemplateLM.chat_template  # which of a tokenizer's templates is meant; needs `tokenizer` only

    @property
    def tokenizer_name(self) -> str:
        """Tells apart cached requests."""
        return str(self.tokenizer.name_or_path).replace("/", "__")

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """A conversation as text. Where the template refuses system messages, it is applied without them."""
        from jinja2.exceptions import TemplateError

        self._chat = True
        options = {"add_generation_prompt": add_generation_prompt, "continue_final_message": not add_generation_prompt}
        try:
            return str(self.tokenizer.apply_chat_template(chat_history, tokenize=False, **options))
        except TemplateError:
            rest = [turn for turn in chat_history if turn["role"] != "system"]
            if rest == chat_history:
                raise
            return str(self.tokenizer.apply_chat_template(rest, tokenize=False, **options))

    # -------------------------------------------------------------------------------------------------- one request

    def _batches(self, requests: Sequence[Any]) -> Iterator[list[_Job]]:
        """Requests that share their options, the longest first: it tells early if memory is short."""
        repeated: dict[str, int] = {}
        grouped: dict[str, list[_Job]] = {}
        for place, request in enumerate(requests):
            occurrence = repeated.get(request.args[0], 0)
            repeated[request.args[0]] = occurrence + 1
            job = self._job(place, request, occurrence)
            grouped.setdefault(job.group, []).append(job)
        for jobs in grouped.values():
            jobs.sort(key=lambda job: -len(job.ids))
            for start in range(0, len(jobs), self.batch_size):
                yield jobs[start : start + self.batch_size]

    def _job(self, place: int, request: Any, occurrence: int) -> _Job:
        text, asked = request.args
        options = dict(normalize_gen_kwargs(asked, _DEFAULT_NEW_TOKENS))
        until = tuple(stop for stop in options.pop("until") if stop)
        asked_tokens = options.pop("max_gen_toks")
        options["max_new_tokens"] = self.max_new_tokens or asked_tokens
        if not (options.pop("do_sample") and options.get("temperature")):
            # tasks say these beside do_sample=False, where they mean nothing
            for name in ("temperature", "top_k", "top_p"):
                options.pop(name, None)
        # the seed tells equal prompts apart, so that repeats differ and batches do not matter
        return _Job(place, request, self._ids(text, options), row_seed(self.seed, 0, occurrence), until, options)

    def _ids(self, text: str, options: Mapping[str, Any]) -> list[int]:
        """Token ids of a prompt, its end if it is too long."""
        begin = self.tokenizer.bos_token
        written = self._chat or bool(begin and text.startswith(begin))  # templates write special tokens themselves
        ids = list(self.tokenizer(text, add_special_tokens=not written)["input_ids"])
        if self.max_length is None:
            return ids
        room = self.max_length - options["max_new_tokens"]
        if room < 1:
            raise ValueError(
                f"`max_new_tokens` {options['max_new_tokens']} leaves no room for the prompt: the model takes "
                f"{self.max_length} tokens"
            )
        return ids[-room:]

    def _answer(self, jobs: Sequence[_Job], counts: dict[str, _Count]) -> list[str]:
        """Texts of a batch; what it took is added to ``counts``."""
        first = jobs[0]
        rows = [torch.tensor(job.ids, dtype=torch.long) for job in jobs]
        output = generate(
            self.adapter,
            _padded(rows, self.adapter.pad_token_id).to(self.device),
            attention_mask=_padded([torch.ones_like(row) for row in rows], 0).to(self.device),
            sampler=self.sampler,
            tokenizer=self.tokenizer,
            block_length=self.block_length,
            seed=torch.tensor([job.seed for job in jobs]),
            stop_at_eos=self.stop_at_eos,
            stop_strings=list(first.until) if self.stop_at_eos and first.until else None,
            return_dict_in_generate=True,
            **first.options,
        )
        if not isinstance(output, UnmaskOutput):
            raise TypeError(f"generate returned {type(output).__name__}, not an UnmaskOutput")
        width = first.options["max_new_tokens"]
        new, opened = output.sequences[:, -width:], (output.step_map[:, -width:] >= 0).sum(-1)
        stops = self._stops(first.until)
        for job, tokens, forwards, positions in zip(
            jobs, new.tolist(), output.nfe.tolist(), opened.tolist(), strict=True
        ):
            count = counts.setdefault(str(job.request.task_name), _Count())
            count.requests += 1
            count.forwards += forwards
            count.opened += positions
            count.answered += text_length(tokens, stops)
        return [_cut(text, first.until) for text in texts_of(self.tokenizer, new, stops)]

    def _stops(self, until: Sequence[str]) -> list[int]:
        """Stop tokens, with those that ``until`` names: their text is gone once special tokens are dropped."""
        added = self.tokenizer.get_added_vocab()
        return sorted({*self.adapter.stop_token_ids, *(added[text] for text in until if text in added)})


def main() -> None:
    """The harness's command."""
    from lm_eval.__main__ import cli_evaluate  # type: ignore[import-untyped]

    cli_evaluate()


def _whole(name: str, value: Any) -> int:
    text = str(value)
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"`{name}` must be a whole number of at least 1, got {value!r}")
    return int(text)


def _padded(rows: list[Tensor], value: int) -> Tensor:
    """[B, P], padded on the left."""
    return pad_sequence(rows, batch_first=True, padding_value=value, padding_side="left")


def _cut(text: str, until: Sequence[str]) -> str:
    """The text before the earliest stop string."""
    return text[: min((place for place in map(text.find, until) if place >= 0), default=len(text))]


def _line(task: str, sampler: str, summary: Mapping[str, float]) -> str:
    return (
        f"{task}, {sampler}: {summary['nfe_mean']:.2f} forward passes per answer (mean of {summary['requests']}), "
        f"{summary['tokens_per_forward']:.2f} tokens per forward, "
        f"{summary['tokens_per_forward_to_eos']:.2f} counted up to the end of the answer"
    )


def _no_likelihood(requests: Sequence[Any]) -> str:
    names = ", ".join(sorted({str(request.task_name) for request in requests}))
    return (
        f"{names}: model {NAME!r} generates text and offers no likelihoods, which this task scores by; choose tasks "
        "with `output_type: generate_until`"
    )


# by name, not as a class: with ``python -m`` this file runs as ``__main__`` and is imported again under its own name
if NAME not in model_registry:
    model_registry.register(NAME, target=f"hf_unmask.integrations.lm_eval:{UnmaskLM.__name__}")

if __name__ == "__main__":
    main()
