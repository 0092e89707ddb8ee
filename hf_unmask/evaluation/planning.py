"""What an evaluation consists of: settings, and units of work in a fixed order."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

from hf_unmask.denoisers.values import MOST, is_whole
from hf_unmask.evaluation.problems import Problem
from hf_unmask.evaluation.prompt_templates import Template, load_template
from hf_unmask.evaluation.scoring import Scorers
from hf_unmask.generation.step import SamplerProtocol
from hf_unmask.results.foreign_text import is_text
from hf_unmask.results.records import Setting
from hf_unmask.samplers.specs import parse_samplers


@dataclass(frozen=True)
class Task:
    """A setting with everything that is needed to carry it out."""

    setting: Setting
    sampler: SamplerProtocol
    template: Template
    metrics: Scorers
    problems: tuple[Problem, ...]
    seeds: tuple[int, ...]
    draws: int


@dataclass(frozen=True)
class Axes:
    """What is varied, and what all settings have in common."""

    samplers: tuple[SamplerProtocol, ...]
    templates: tuple[Template, ...]
    block_lengths: tuple[int | None, ...]
    seeds: tuple[int, ...]
    draws: int
    max_new_tokens: int | Mapping[str, int]
    common: Mapping[str, Any]  # fields of every `Setting`


@dataclass(frozen=True)
class Unit:
    """One batch: what is generated together, and is done or not done as a whole."""

    task: Task
    seed: int
    problems: tuple[Problem, ...]


def tasks(axes: Axes, problems: Sequence[Problem], metrics: Mapping[str, Scorers]) -> list[Task]:
    """All settings, by template, task, block length and sampler. A deterministic one has one seed and one draw."""
    found = []
    by_task = {name: tuple(one for one in problems if one.task == name) for name in metrics}
    for template, name, block_length, sampler in product(axes.templates, by_task, axes.block_lengths, axes.samplers):
        setting = Setting(
            sampler=str(sampler),
            task=name,
            template=template.name,
            metric=metrics[name].first.name,
            max_new_tokens=new_tokens(axes.max_new_tokens, name),
            block_length=block_length,
            **axes.common,
        )
        for field, value in asdict(setting).items():
            if isinstance(value, str) and not is_text(value):
                raise ValueError(f"the {field} {value!r} is no UTF-8, so results cannot name it: rename it")
        often = is_stochastic(sampler, setting.temperature)
        seeds, draws = (axes.seeds, axes.draws) if often else (axes.seeds[:1], 1)
        found.append(Task(setting, sampler, template, metrics[name], by_task[name], seeds, draws))
    return found


def is_stochastic(sampler: SamplerProtocol, temperature: float) -> bool:
    """Whether another seed may give another answer: tokens are drawn, or the sampler reads its noise.

    Samplers say so themselves (``Sampler.stochastic``); one that does not say is taken to be stochastic.
    """
    return temperature > 0 or bool(getattr(sampler, "stochastic", True))


def row_seed(seed: int, prompt_id: int, draw: int) -> int:
    """The seed of one row: the first 8 bytes of SHA-256 of "seed:prompt_id:draw", little endian, signed.

    So equal prompts of a data set draw differently, wherever the batches begin and end.
    """
    digest = hashlib.sha256(f"{seed}:{prompt_id}:{draw}".encode()).digest()
    return int.from_bytes(digest[:8], "little", signed=True)


def as_samplers(samplers: Any) -> list[SamplerProtocol]:
    """Samplers from objects and specs, sweeps expanded.

    Raises:
        ValueError: none, or the same one twice.
    """
    given = [samplers] if isinstance(samplers, str) or not isinstance(samplers, Sequence) else samplers
    found: list[SamplerProtocol] = []
    for one in given:
        found += parse_samplers([one]) if isinstance(one, str) else [one]
    specs = [str(one) for one in found]
    twice = sorted({spec for spec in specs if specs.count(spec) > 1})
    if twice or not found:
        raise ValueError(f"`samplers` names {', '.join(twice)} more than once" if twice else "`samplers` is empty")
    for one in found:
        if isinstance(one, type) or not isinstance(one, SamplerProtocol):
            raise ValueError(f"`samplers` must hold samplers or specs, got {one!r}")
    return found


def as_block_lengths(lengths: Any) -> list[int | None]:
    """Block lengths with ``"full"`` and None for full diffusion."""
    found = [None if one == "full" else one for one in _listed(lengths)]
    wrong = [one for one in found if one is not None and not (is_whole(one) and 1 <= one <= MOST)]
    if wrong or not found or len(set(found)) < len(found):
        raise ValueError(f"`block_lengths` must hold different ints of at least 1, or 'full', got {lengths!r}")
    return [None if one is None else int(one) for one in found]


def as_seeds(seeds: Any) -> list[int]:
    """Different whole numbers, at least one."""
    found = _listed(seeds)
    if not found or len(set(found)) < len(found) or not all(map(is_whole, found)):
        raise ValueError(f"`seeds` must hold different ints, got {seeds!r}")
    return [int(seed) for seed in found]


def as_templates(templates: Any) -> list[Template]:
    """Templates by name or path; their names must differ, results are told apart by them."""
    given = _listed(templates)
    found = [load_template(one) for one in given]
    if not found or len({one.name for one in found}) < len(found):
        raise ValueError(f"`templates` must hold different names, got {[str(one) for one in given]}")
    return found


def new_tokens(max_new_tokens: int | Mapping[str, int], task: str) -> int:
    """Positions to fill for a task."""
    count = max_new_tokens.get(task) if isinstance(max_new_tokens, Mapping) else max_new_tokens
    if not is_whole(count) or count < 1:
        raise ValueError(f"`max_new_tokens` must be an int of at least 1 for the task {task!r}, got {count!r}")
    return int(count)


def units(tasks: Sequence[Task], batch_size: int) -> list[Unit]:
    """All batches: by setting, then seed, then prompts. A batch holds all draws of its prompts.

    ``batch_size`` counts rows; a prompt with more draws than that makes a batch of its own.
    """
    return [
        Unit(task, seed, task.problems[start : start + size])
        for task in tasks
        for size in (max(1, batch_size // task.draws),)
        for seed in task.seeds
        for start in range(0, len(task.problems), size)
    ]


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, Iterable) and not isinstance(value, str) else [value]
