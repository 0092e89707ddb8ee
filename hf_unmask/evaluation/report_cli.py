"""``hf-unmask report``, ``watch`` and ``transfer``: what evaluations found, as files and on the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hf_unmask.terminal import make_console, plain_errors

if TYPE_CHECKING:
    from hf_unmask.evaluation.records import Sample
    from hf_unmask.output import StepEvent

_EMBEDDED = Path(__file__).parents[1] / "tiny" / "model"
_ROWS = 4  # trajectories that one terminal shows together

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="Folder that `hf-unmask evaluate --out` wrote.")]
TokenizerOption = Annotated[
    str | None, typer.Option(help="Folder or repository of a tokenizer. [default: that of the evaluated model]")
]


def report(folder: Folder, tokenizer: TokenizerOption = None) -> None:
    """Write results.csv, tables.md, frontier plots and a self-contained report.html into an evaluation's folder."""
    with plain_errors():
        from hf_unmask.evaluation.records import read_results
        from hf_unmask.evaluation.report import write_report

        models = [point.setting.model for point in read_results(folder / "results.json")]
        for path in write_report(folder, tokenizer=_tokenizer(tokenizer, models)):
            typer.echo(str(path))


def watch(  # noqa: PLR0913 - one argument per option
    folder: Folder,
    prompt_id: Annotated[int | None, typer.Option(help="Number of the prompt. [default: the first]")] = None,
    sampler: Annotated[
        list[str] | None, typer.Option(help="Spec as in the results, or a sampler's name; repeat it to compare.")
    ] = None,
    task: Annotated[str | None, typer.Option(help="[default: the first]")] = None,
    interval: Annotated[float, typer.Option(min=0.0, help="Seconds between two steps.")] = 0.2,
    tokenizer: TokenizerOption = None,
) -> None:
    """Replay stored trajectories on the terminal; in a pipe one line per step."""
    with plain_errors():
        from hf_unmask.evaluation.groups import label, regime
        from hf_unmask.watch import watching

        chosen = _chosen(folder / "samples.jsonl", task, prompt_id, sampler or [])
        shown = chosen[:_ROWS]
        pieces = _tokenizer(tokenizer, [sample.setting.model for sample in shown]) or Numbers()
        titles = [f"{label(sample.setting)}, {regime(sample.setting)}:" for sample in shown]
        console = make_console()
        console.print(f"{shown[0].setting.task}, prompt {shown[0].prompt_id}", markup=False)
        if not console.is_terminal:
            for number, title in enumerate(titles, 1):
                console.print(f"[{number}] {title}", markup=False, soft_wrap=True)
        with watching(console, pieces, titles, delay=interval) as show:
            for event in events(shown):
                show(event)
        for title, sample in zip(titles, shown, strict=True):
            console.print(f"{title} {_verdict(sample)}, {sample.nfe} NFE", markup=False, soft_wrap=True)
        if len(chosen) > len(shown):
            typer.echo(f"{len(shown)} of {len(chosen)} shown; --sampler and --task choose others", err=True)


def transfer(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR...", help="Folders of evaluations.")],
    sampler: Annotated[
        list[str] | None, typer.Option(help="Spec, or a sampler's name for all its dials; repeat it. [default: all]")
    ] = None,
    columns: Annotated[
        str, typer.Option(help="Fields of a setting that make a column, separated by commas.")
    ] = "task,block_length,max_new_tokens,model",
) -> None:
    """Print one Markdown table: samplers against tasks, block lengths, answer lengths and models."""
    with plain_errors():
        from hf_unmask.evaluation.records import read_results
        from hf_unmask.evaluation.transfer import transfer_matrix

        points = [point for folder in folders for point in read_results(folder / "results.json")]
        specs = [point.setting.sampler for point in points]
        wanted = {match for name in sampler for match in _matches(name, specs)} if sampler else set(specs)
        chosen = [point for point in points if point.setting.sampler in wanted]
        names = [name.strip() for name in columns.split(",")]
        typer.echo(transfer_matrix(chosen, columns=names).to_markdown())


class Numbers:
    """Stands in for a tokenizer that cannot be loaded: shows ids."""

    all_special_ids: tuple[int, ...] = ()

    def decode(self, tokens: Sequence[int]) -> str:
        """The ids, each with a blank behind it."""
        return "".join(f"{token} " for token in tokens)


def events(samples: Sequence[Sample]) -> Iterator[StepEvent]:
    """What ``generate`` would have told a listener: all samples step by step, finished rows no longer."""
    import torch

    from hf_unmask.output import StepEvent

    for step in range(max(max(sample.step_map, default=-1) for sample in samples) + 1):
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
    chosen = dict.fromkeys(match for spec in wanted for match in _matches(spec, specs))
    return [sample for spec in chosen for sample in found if sample.setting.sampler == spec] if wanted else found


def _prompt(path: Path, task: str | None, prompt_id: int | None) -> tuple[str, int]:
    """The task and prompt to show: what was asked for, else the first."""
    from hf_unmask.evaluation.records import iter_samples

    stored: dict[str, set[int]] = {}
    for sample in iter_samples(path):
        stored.setdefault(sample.setting.task, set()).add(sample.prompt_id)
    if not stored:
        raise ValueError(f"{path.parent} holds no samples.jsonl with answers; `hf-unmask evaluate` writes it")
    task = next(iter(stored)) if task is None else task
    _check("task", task, list(stored))
    prompt_id = min(stored[task]) if prompt_id is None else prompt_id
    _check("prompt id", prompt_id, sorted(stored[task]))
    return task, prompt_id


def _of_prompt(path: Path, task: str, prompt_id: int) -> list[Sample]:
    """Of each setting the answer with the first seed and draw, settings in the order of the file."""
    from hf_unmask.evaluation.records import iter_samples

    found: dict[str, Sample] = {}
    for sample in iter_samples(path):
        if (sample.setting.task, sample.prompt_id) == (task, prompt_id):
            before = found.get(sample.setting.key, sample)
            found[sample.setting.key] = min(sample, before, key=lambda one: (one.seed, one.draw))
    return list(found.values())


def _matches(wanted: str, specs: Sequence[str]) -> list[str]:
    """The spec itself, however its dials are written, else all dials of the sampler of that name."""
    from hf_unmask.evaluation.frontier import method_of
    from hf_unmask.evaluation.groups import is_learned
    from hf_unmask.specs import parse_sampler

    names = [method_of(spec) for spec in specs]
    if wanted not in specs and wanted in names:
        return [spec for spec, name in zip(specs, names, strict=True) if name == wanted]
    if wanted not in specs and not is_learned(wanted):  # to parse a learned one would load its policy
        wanted = str(parse_sampler(wanted))
    _check("sampler", wanted, specs)
    return [wanted]


def _check(what: str, given: Any, known: Sequence[Any]) -> None:
    if given not in known:
        unique = list(dict.fromkeys(known))
        more = f" and {len(unique) - 20} more" if len(unique) > 20 else ""
        raise ValueError(f"no {what} {given!r} in these results; there are {', '.join(map(str, unique[:20]))}{more}")


def _verdict(sample: Sample) -> str:
    return {1.0: "correct", 0.0: "wrong"}.get(sample.score, f"score {sample.score:g}")


def _tokenizer(name: str | None, models: Sequence[str]) -> Any:
    """The tokenizer named, else that of the only model evaluated; None, with one line on stderr, if it cannot load."""
    unique = list(dict.fromkeys(models))
    if name is None and len(unique) > 1:
        typer.echo("several models were evaluated: tokens are shown as ids (or give --tokenizer)", err=True)
        return None
    source = name or unique[0]
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(_EMBEDDED if source == "tiny" else source)
    except (OSError, ValueError) as error:
        if name is not None:
            raise
        first = str(error).strip().partition("\n")[0]
        typer.echo(f"tokens are shown as ids, the tokenizer of {source!r} does not load: {first}", err=True)
        return None
