"""Data sets for the trainer: prompts as TRL wants them, beside the columns that rewards read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from datasets import Dataset  # type: ignore[import-untyped]

from hf_unmask.evaluation.problems import load_problems
from hf_unmask.evaluation.prompt_templates import Template, load_template
from hf_unmask.tiny import answer_length

from .arguments import TINY, TINY_PROMPTS, ScriptArguments
from .problems import TASKS, distinct

Row = dict[str, Any]
_TURNS = " turns"  # of a conversation, before its prompt; no column of a data set is called so


def training_data(script: ScriptArguments, tokenizer: Any, seed: int) -> Dataset:
    """The training prompts that the arguments name."""
    template = load_template(script.template)
    if script.on_tiny:
        rows = fresh_problems(_shares(script), script.num_prompts or TINY_PROMPTS, seed)
    elif script.task_mix:
        raise ValueError(f"--task-mix {' '.join(script.task_mix)} is for tiny's tasks, not for {script.dataset!r}")
    else:
        rows = _load(str(script.dataset), script)[: script.num_prompts]
    return as_dataset(rows, template, tokenizer)


def validation_data(script: ScriptArguments, tokenizer: Any) -> Dataset | None:
    """The validation problems that the arguments name, at most ``eval_limit`` per task; None without validation."""
    if script.validation is None:
        return None
    if script.validation.startswith(f"{TINY}:") and script.validation.endswith(":test"):
        raise ValueError(f"{script.validation!r} is for final tables: a checkpoint is chosen on validation problems")
    rows = _load(script.validation, script, script.eval_limit)
    return as_dataset(rows, load_template(script.template), tokenizer)


def fresh_problems(shares: Mapping[str, float], count: int, seed: int) -> list[Row]:
    """Training problems of the embedded tasks, all different, ``count`` in total, divided by ``shares``.

    Each says how many tokens its answer has (``max_new_tokens``), so that tasks can share a batch.
    """
    total = sum(shares.values())
    rows: list[Row] = []
    so_far = 0.0
    for task, share in shares.items():
        so_far += share
        wanted = round(count * so_far / total) - len(rows)  # so that they add up
        found = distinct(task, "train", wanted, seed=seed) if wanted else []
        rows += [{"prompt": one.prompt, "answer": one.answer, "task": task, **one.metadata} for one in found]
    return [{**row, "max_new_tokens": answer_length(row["task"])} for row in rows]


def as_dataset(rows: Sequence[Mapping[str, Any]], template: Template, tokenizer: Any) -> Dataset:
    """Rows with their prompts rendered: text, or messages for a chat template. A column some rows lack is None there.

    Raises:
        ValueError: a template that begins the model's reply, which TRL cannot render, or a chat template for a
            tokenizer without one.
    """
    if template.reply:
        raise ValueError(
            f"template {template.name!r} begins the model's reply: training takes templates without such a beginning"
        )
    chat = template.chat or any(row.get(_TURNS) for row in rows)
    if chat and getattr(tokenizer, "chat_template", None) is None:
        what = f"template {template.name!r} is" if template.chat else "the prompts are"
        raise ValueError(f"{what} for conversations, but the tokenizer has no chat template")
    names = dict.fromkeys(name for row in rows for name in row if name != _TURNS)
    rendered = [{**{name: row.get(name) for name in names}, "prompt": _render(template, row, chat)} for row in rows]
    return Dataset.from_list(rendered)


def _render(template: Template, row: Mapping[str, Any], chat: bool) -> Any:
    text = template.text.replace("{prompt}", row["prompt"])
    return [*row.get(_TURNS, ()), {"role": "user", "content": text}] if chat else text


def _load(name: str, script: ScriptArguments, limit: int | None = None) -> list[Row]:
    columns = dict(_pairs("--columns", script.columns or []))
    rows = [
        {
            **problem.columns,
            **({_TURNS: list(problem.turns)} if problem.turns else {}),
            **{"prompt": problem.prompt, "answer": problem.answer, "task": problem.task},
        }
        for problem in load_problems(name, limit=limit, columns=columns)
    ]
    if name.split(":")[0] == TINY:
        rows = [{**row, "max_new_tokens": answer_length(row["task"])} for row in rows]
    return rows


def _shares(script: ScriptArguments) -> dict[str, float]:
    """Shares of the embedded tasks; a single task named with the data set is all of it."""
    _, _, task = str(script.dataset).partition(":")
    if task and (task not in TASKS or script.task_mix):
        raise ValueError(
            f"training problems are tiny or tiny:TASK with TASK of {', '.join(TASKS)}, got {script.dataset!r}"
            + (f" with --task-mix {' '.join(script.task_mix)}" if script.task_mix else "")
        )
    if task:
        return {task: 1.0}
    shares = {name: _number(text) for name, text in _pairs("--task-mix", script.task_mix or [f"{t}=1" for t in TASKS])}
    if set(shares) - set(TASKS) or min(shares.values()) < 0 or not sum(shares.values()):
        raise ValueError(f"--task-mix takes shares of {', '.join(TASKS)}, e.g. {TASKS[0]}=3, got {shares}")
    return shares


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"`--task-mix` takes NAME=SHARE, got {text!r} for a share") from None


def _pairs(option: str, texts: Iterable[str]) -> Iterable[tuple[str, str]]:
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name and equals and value):
            raise ValueError(f"`{option}` takes NAME=VALUE, got {text!r}")
        yield name, value
