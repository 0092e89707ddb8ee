"""``hf-unmask watch``: stored trajectories replayed on the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hf_unmask.cli.result_options import Folder, TokenizerOption, TrustOption, check_known, matches, tokenizer_of
from hf_unmask.cli.terminal import make_console, plain_errors, say

if TYPE_CHECKING:
    from hf_unmask.generation.output import StepEvent
    from hf_unmask.results.records import Sample

_ROWS = 4  # trajectories that one terminal shows together


def watch(  # noqa: PLR0913 - one argument per option
    folder: Folder,
    prompt_id: Annotated[int | None, typer.Option(help="Number of the prompt. [default: the first]")] = None,
    sampler: Annotated[
        list[str] | None, typer.Option(help="Spec as in the results, or a sampler's name; repeat it to compare.")
    ] = None,
    task: Annotated[str | None, typer.Option(help="[default: the first]")] = None,
    interval: Annotated[float, typer.Option(min=0.0, help="Seconds between two steps.")] = 0.2,
    tokenizer: TokenizerOption = None,
    trust_remote_code: TrustOption = False,
    save: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a film (.gif) or a drawing (.svg) instead.")
    ] = None,
) -> None:
    """Replay stored trajectories on the terminal; in a pipe one line per step."""
    with plain_errors():
        from hf_unmask.cli import recording
        from hf_unmask.cli.terminal_canvas import Picture, watching
        from hf_unmask.results.comparable import label, regime
        from hf_unmask.results.places import require_evaluation

        if save is not None:
            recording.check_format(save)
        require_evaluation(folder, finished=False)
        chosen = _chosen(folder / "samples.jsonl", task, prompt_id, sampler or [])
        shown = chosen[:_ROWS]
        models = [sample.setting.model for sample in shown]
        pieces = tokenizer_of(tokenizer, models, trust_remote_code) or Numbers()
        titles = [f"{label(sample.setting)}, {regime(sample.setting)}:" for sample in shown]
        steps = max(max(sample.step_map) + 1 for sample in shown)
        if save is not None:
            recording.save(save, Picture(pieces, titles, steps=steps), events(shown), interval=interval)
            say(save)
            return
        console = make_console()
        say(f"{shown[0].setting.task}, prompt {shown[0].prompt_id}")
        if not console.is_terminal:
            for number, title in enumerate(titles, 1):
                say(f"[{number}] {title}")
        with watching(console, pieces, titles, delay=interval, steps=steps) as show:
            for event in events(shown):
                show(event)
        for title, sample in zip(titles, shown, strict=True):
            say(f"{title} {_verdict(sample)}, {sample.nfe} NFE")
        if len(chosen) > len(shown):
            say(f"{len(shown)} of {len(chosen)} shown; --sampler and --task choose others", err=True)


class Numbers:
    """Stands in for a tokenizer that cannot be loaded: shows ids."""

    all_special_ids: tuple[int, ...] = ()

    def decode(self, tokens: Sequence[int]) -> str:
        """The ids, each with a blank behind it."""
        return "".join(f"{token} " for token in tokens)


def events(samples: Sequence[Sample]) -> Iterator[StepEvent]:
    """What ``generate`` would have told a listener: all samples step by step, finished rows no longer.

    Steps that opened nothing are left out.
    """
    import torch

    from hf_unmask.generation.output import StepEvent

    for step in sorted({step for sample in samples for step in sample.step_map if step >= 0}):
        for row, sample in enumerate(samples):
            opened_at = torch.tensor([sample.step_map])
            if step > int(opened_at.max()):
                continue
            read = torch.full(opened_at.shape, torch.nan)
            if sample.confidence is not None:
                read = torch.tensor([[torch.nan if value is None else value for value in sample.confidence]])
            opened = opened_at == step
            yield StepEvent(
                rows=torch.tensor([row]),
                steps=torch.tensor([step + 1]),
                tokens=torch.tensor([sample.tokens]),
                masked=(opened_at > step) | (opened_at < 0),
                opened=opened,
                confidence=read.masked_fill(~opened, torch.nan),
            )


def _chosen(path: Path, task: str | None, prompt_id: int | None, wanted: Sequence[str]) -> list[Sample]:
    """The first stored trajectory of every setting that fits, in the order asked for."""
    found = _of_prompt(path, *_prompt(path, task, prompt_id))
    specs = [sample.setting.sampler for sample in found]
    chosen = dict.fromkeys(match for spec in wanted for match in matches(spec, specs))
    return [sample for spec in chosen for sample in found if sample.setting.sampler == spec] if wanted else found


def _prompt(path: Path, task: str | None, prompt_id: int | None) -> tuple[str, int]:
    """The task and prompt to show: what was asked for, else the first."""
    from hf_unmask.results.records import iter_samples

    stored: dict[str, set[int]] = {}
    for sample in iter_samples(path):
        stored.setdefault(sample.setting.task, set()).add(sample.prompt_id)
    if not stored:
        raise ValueError(f"{path.parent} holds no samples.jsonl with answers; `hf-unmask evaluate` writes it")
    task = next(iter(stored)) if task is None else task
    check_known("task", task, list(stored))
    prompt_id = min(stored[task]) if prompt_id is None else prompt_id
    check_known("prompt id", prompt_id, sorted(stored[task]))
    return task, prompt_id


def _of_prompt(path: Path, task: str, prompt_id: int) -> list[Sample]:
    """Of each setting the answer with the first seed and draw, settings in the order of the file."""
    from hf_unmask.results.records import iter_samples

    found: dict[str, Sample] = {}
    for sample in iter_samples(path):
        if (sample.setting.task, sample.prompt_id) == (task, prompt_id):
            before = found.get(sample.setting.key, sample)
            found[sample.setting.key] = min(sample, before, key=lambda one: (one.seed, one.draw))
    return list(found.values())


def _verdict(sample: Sample) -> str:
    words = {1.0: "correct", 0.0: "wrong"}
    further = [f"{name} {words.get(score, f'{score:g}')}" for name, score in sample.further.items()]
    return ", ".join([words.get(sample.score, f"score {sample.score:g}"), *further])
