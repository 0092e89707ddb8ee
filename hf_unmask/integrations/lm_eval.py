"""lm-evaluation-harness: any sampler on its ``generate_until`` tasks, as the model ``hf_unmask``.

    python -m hf_unmask.integrations.lm_eval --model hf_unmask --tasks gsm8k \\
        --model_args "pretrained=ORG/MODEL,sampler=threshold:0.9,block_length=32,max_new_tokens=256"

That is the harness's own command with all its options. It knows a model's name only once somebody has imported the
module that registers it (there are no entry points for models), and this one does that first. In Python::

    import hf_unmask.integrations.lm_eval
    results = lm_eval.simple_evaluate(model="hf_unmask", model_args={"pretrained": ..., "sampler": ...}, tasks=[...])

``--model_args`` is cut at commas, and each part at its first ``=``. Sampler specs hold no commas, so they are written
as everywhere; put the whole argument in the shell's quotes because of ``;`` and brackets. A value that does hold a
comma, such as a path, stands in quotes of its own (``pretrained="a,b"``), or all arguments are one JSON object.

What is said of sampling holds whatever the checkpoint's config says: ``do_sample: false``, or a temperature of 0, is
greedy. Every option of ``generate`` that is a task's to choose may stand in ``--gen_kwargs``, ``seed`` and
``block_length`` among them. ``--batch_size auto`` is as many rows as memory allows.

Forward passes are printed, and kept under ``config.hf_unmask`` in the results.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size  # type: ignore[import-untyped]
from tqdm import tqdm

from hf_unmask import __version__
from hf_unmask.cli.terminal import load_model
from hf_unmask.denoisers.texts import left_padded, text_length, texts_of
from hf_unmask.doors.loading import usable_device
from hf_unmask.evaluation.planning import as_block_lengths
from hf_unmask.generation.loop import generate
from hf_unmask.generation.output import UnmaskOutput
from hf_unmask.integrations.lm_eval_requests import Count, Job, cut, job_seed, line, read_options
from hf_unmask.samplers.specs import parse_sampler

try:
    from lm_eval.api.model import LM, TemplateLM  # type: ignore[import-untyped]
    from lm_eval.api.registry import model_registry  # type: ignore[import-untyped]
    from lm_eval.utils import simple_parse_args_string  # type: ignore[import-untyped]
except ModuleNotFoundError as error:
    raise ImportError(f"this needs {error.name}: pip install 'hf_unmask[lm-eval]'") from error

NAME = "hf_unmask"
_HARNESS_DEVICE = "cuda:0"  # also where no device is asked for
_AUTO = 64  # rows to begin with, as the harness's own models do


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
        max_batch_size: int | None = None,
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
            batch_size: rows generated together; wins over ``--batch_size``. ``auto``: ``max_batch_size``, or 64, and
                half as many whenever memory does not suffice; no answer depends on it.
            seed: of stochastic samplers and token draws. Temperature and the like come from ``--gen_kwargs``, where a
                ``seed`` or ``block_length`` wins over these.
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
        self.adapts = str(batch_size).partition(":")[0] == "auto"  # "auto:N", too: it adapts whenever it has to
        most = _AUTO if max_batch_size is None else _whole("max_batch_size", max_batch_size)
        self.batch_size = most if self.adapts else _whole("batch_size", batch_size)
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
        self._counts: dict[str, Count] = {}
        self._chat = False

    @classmethod
    def create_from_arg_string(cls, arg_string: str, additional_config: dict[str, Any] | None = None) -> UnmaskLM:
        """From ``key=value,key=value``."""
        return cls.create_from_arg_obj(simple_parse_args_string(arg_string), additional_config)

    @classmethod
    def create_from_arg_obj(cls, arg_dict: dict[str, Any], additional_config: dict[str, Any] | None = None) -> UnmaskLM:
        """From the keys of ``--model_args``; they win over the harness's own, which it sets even if nobody does."""
        further = {name: value for name, value in (additional_config or {}).items() if value is not None}
        if further.get("device") == _HARNESS_DEVICE and not torch.cuda.is_available():
            further["device"] = usable_device()
            tqdm.write(
                f"no {_HARNESS_DEVICE} here, the harness's default: {NAME} runs on {further['device']}", sys.stderr
            )
        return cls(**{**further, **arg_dict})

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """The answers, in the order of the requests."""
        texts = [""] * len(requests)
        counts: dict[str, Count] = {}
        with tqdm(total=len(requests), disable=disable_tqdm, desc=f"{self.sampler}") as bar:
            for batch in self._batches(requests):
                for job, text in zip(batch, self._fitting(batch, counts), strict=True):
                    texts[job.place] = text
                    self.cache_hook.add_partial("generate_until", job.request.args, text)
                bar.update(len(batch))
        self._counts |= counts
        for task, count in counts.items():
            tqdm.write(line(task, str(self.sampler), count.summary()), file=sys.stderr)
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

    @property
    def batch_sizes(self) -> dict[str, int]:
        """What became of ``auto``, for the harness's report."""
        return {"generate_until": self.batch_size} if self.adapts else {}

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

    def _batches(self, requests: Sequence[Any]) -> Iterator[list[Job]]:
        """Requests that share their options, the longest first: it tells early if memory is short."""
        repeated: dict[str, int] = {}
        grouped: dict[str, list[Job]] = {}
        for place, request in enumerate(requests):
            occurrence = repeated.get(request.args[0], 0)
            repeated[request.args[0]] = occurrence + 1
            job = self._job(place, request, occurrence)
            grouped.setdefault(job.group, []).append(job)
        for jobs in grouped.values():
            jobs.sort(key=lambda job: -len(job.ids))
            while jobs:
                yield jobs[: (size := self.batch_size)]
                jobs = jobs[size:]

    def _job(self, place: int, request: Any, occurrence: int) -> Job:
        text, asked = request.args
        options = read_options(asked, self._own_options())
        until, seed = options.pop("until"), job_seed(options.pop("seed"), occurrence)
        return Job(place, request, self._ids(text, options), seed, until, options)

    def _own_options(self) -> dict[str, Any]:
        return {
            "max_new_tokens": self.max_new_tokens,
            "block_length": "full" if self.block_length is None else self.block_length,
            "stop_at_eos": self.stop_at_eos,
            "seed": self.seed,
        }

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

    def _fitting(self, jobs: Sequence[Job], counts: dict[str, Count]) -> list[str]:
        """Texts of a batch, of its halves where memory does not suffice for all and that is ours to settle."""
        try:
            return self._answer(jobs, counts)
        except RuntimeError as error:
            if not self.adapts or len(jobs) == 1 or not should_reduce_batch_size(error):
                raise
        clear_device_cache(garbage_collection=True)
        self.batch_size = half = -(-len(jobs) // 2)
        return [text for part in (jobs[:half], jobs[half:]) for text in self._fitting(part, counts)]

    def _answer(self, jobs: Sequence[Job], counts: dict[str, Count]) -> list[str]:
        """Texts of a batch; what it took is added to ``counts``."""
        first = jobs[0]
        ids, mask = left_padded([job.ids for job in jobs], self.adapter.filler_token_id)
        output = generate(
            self.adapter,
            ids,
            attention_mask=mask,
            sampler=self.sampler,
            tokenizer=self.tokenizer,
            seed=torch.tensor([job.seed for job in jobs]),
            stop_strings=list(first.until) if first.options["stop_at_eos"] and first.until else None,
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
            count = counts.setdefault(str(job.request.task_name), Count())
            count.requests += 1
            count.forwards += forwards
            count.opened += positions
            count.answered += text_length(tokens, stops)
        return [cut(text, first.until) for text in texts_of(self.tokenizer, new, stops)]

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
