"""Samplers on held-out problems of the embedded model: accuracy against forward passes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from torch import nn

from hf_unmask.denoisers.texts import texts_of
from hf_unmask.generation.loop import generate
from hf_unmask.generation.output import StepEvent, UnmaskOutput
from hf_unmask.generation.step import SamplerProtocol
from hf_unmask.tiny import TASKS, HeldOut, answer_length

#: What is compared unless something else is asked for.
HEURISTICS = (
    "left_to_right",
    "left_to_right:k=4",
    "random",
    "confidence",
    "threshold:threshold=0.9",
    "threshold:threshold=0.3",
    "entropy_bound",
    "entropy_bound:gamma=1.6",
)
POLICIES = (
    "learned:builtin:tiny-block;speed=0.75",
    "learned:builtin:tiny-full",
    "learned:builtin:tiny-semi-ar;speed=0.75",
    "learned:builtin:tiny-speed;speed=0.75",
)
BATCH_SIZE = 50
_PACKAGED = "learned:builtin:"


@dataclass(frozen=True)
class Setting:
    """One line of the table before it is measured."""

    task: str
    block_length: int | None  # None: full diffusion, one block as long as the answer
    sampler: SamplerProtocol

    @property
    def regime(self) -> str:
        return "full diffusion" if self.block_length is None else f"blocks of {self.block_length}"

    @property
    def label(self) -> str:
        """The sampler with its dial, given or not, and what else is not as usual: ``threshold 0.9``,
        ``left_to_right k=4``, ``tiny-speed speed=0.75``."""
        spec = str(self.sampler)
        if not is_dataclass(self.sampler):
            return spec
        name = spec.partition(":")[0]
        values = {f.name: getattr(self.sampler, f.name) for f in fields(self.sampler)}
        if not all(value is None or isinstance(value, int | float | str) for value in values.values()):
            return spec.removeprefix(_PACKAGED).replace(";", " ") if spec.startswith(_PACKAGED) else spec
        told = [f for place, f in enumerate(fields(self.sampler)) if place == 0 or values[f.name] != f.default]
        shown = [str(values[f.name]) if f.name == name else f"{f.name}={values[f.name]}" for f in told]
        return " ".join([name, *shown])


@dataclass(frozen=True)
class DemoRow:
    """One line of the table. Means are over problems; tokens per forward is positions filled / forward passes."""

    task: str
    regime: str
    block_length: int | None
    sampler: str  # its spec
    label: str  # the same in short
    problems: int
    accuracy: float  # share of problems solved
    well_formed: float  # share solved by work that is right as well
    nfe: float  # mean forward passes
    tokens_per_forward: float
    seconds: float  # wall time of all batches
    seconds_per_sequence: float


def settings(samplers: Sequence[SamplerProtocol], tasks: Sequence[str] = TASKS) -> list[Setting]:
    """Every sampler on every task, in blocks of a quarter of the answer and in full diffusion; a policy in the regime
    it was trained for."""
    found = []
    for task in tasks:
        homes = [(sampler, _regimes(sampler, answer_length(task) // 4)) for sampler in samplers]
        blocks = dict.fromkeys(length for _, lengths in homes for length in lengths if length is not None)
        found += [
            Setting(task, length, sampler)
            for length in (*blocks, None)
            for sampler, lengths in homes
            if length in lengths
        ]
    return found


def _regimes(sampler: SamplerProtocol, quarter: int) -> tuple[int | None, ...]:
    record = getattr(getattr(getattr(sampler, "policy", None), "config", None), "trained_for", {})
    return (record["block_length"],) if "block_length" in record else (quarter, None)


def measure(
    model: nn.Module,
    tokenizer: Any,
    setting: Setting,
    problems: Sequence[HeldOut],
    *,
    seed: int = 0,
    batch_size: int = BATCH_SIZE,
    on_batch: Callable[[int], None] | None = None,
) -> DemoRow:
    """Answer the problems of one setting. ``on_batch`` hears how many were answered after each batch."""
    if not problems:
        raise ValueError(f"no problems given for {setting.task!r}, got {problems!r}")
    solved, worked, forwards, seconds = 0, 0, 0, 0.0
    for start in range(0, len(problems), batch_size):
        batch = problems[start : start + batch_size]
        began = time.perf_counter()
        texts, output = answer(model, tokenizer, setting, [problem.prompt for problem in batch], seed=seed)
        seconds += time.perf_counter() - began
        solved += sum(problem.solved_by(text) for problem, text in zip(batch, texts, strict=True))
        worked += sum(problem.well_formed(text) for problem, text in zip(batch, texts, strict=True))
        forwards += int(output.nfe.sum())
        if on_batch is not None:
            on_batch(len(batch))
    count = len(problems)
    return DemoRow(
        task=setting.task,
        regime=setting.regime,
        block_length=setting.block_length,
        sampler=str(setting.sampler),
        label=setting.label,
        problems=count,
        accuracy=solved / count,
        well_formed=worked / count,
        nfe=forwards / count,
        tokens_per_forward=answer_length(setting.task) * count / forwards,
        seconds=seconds,
        seconds_per_sequence=seconds / count,
    )


def typical(
    model: nn.Module, tokenizer: Any, setting: Setting, problems: Sequence[HeldOut], *, seed: int = 0
) -> HeldOut:
    """The first problem whose answer takes the median of forward passes, the lower one of two."""
    _, output = answer(model, tokenizer, setting, [problem.prompt for problem in problems], seed=seed)
    spent = output.nfe.tolist()
    return problems[spent.index(sorted(spent)[(len(spent) - 1) // 2])]


def answer(
    model: nn.Module,
    tokenizer: Any,
    setting: Setting,
    prompts: list[str],
    *,
    seed: int = 0,
    on_step: Callable[[StepEvent], None] | None = None,
) -> tuple[list[str], UnmaskOutput]:
    """The answers to some prompts, and how they came about."""
    encoded = tokenizer(prompts, return_tensors="pt", padding=True, padding_side="left")
    output = generate(
        model,
        encoded["input_ids"],
        attention_mask=encoded["attention_mask"],
        sampler=setting.sampler,
        max_new_tokens=answer_length(setting.task),
        block_length=setting.block_length,
        seed=seed,
        on_step=on_step,
        return_dict_in_generate=True,
    )
    if not isinstance(output, UnmaskOutput):
        raise TypeError(f"generate returned {type(output).__name__}, not an UnmaskOutput")
    new = output.sequences[:, encoded["input_ids"].shape[1] :]
    return texts_of(tokenizer, new, [tokenizer.eos_token_id]), output
