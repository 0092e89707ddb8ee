"""``hf-unmask evaluate``. Imports nothing heavy."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hf_unmask.cli.terminal import load_model, make_console, plain_errors, print_json, quiet_libraries, say, styled

if TYPE_CHECKING:
    from hf_unmask.results.records import OperatingPoint

_TINY = "tiny"


def evaluate(  # noqa: PLR0913 - one argument per option
    model: Annotated[str, typer.Option(help="Folder or repository of a denoiser, or `tiny`.")] = _TINY,
    dataset: Annotated[
        str, typer.Option(help="tiny[:TASK[:SPLIT]], a file, a saved folder, or NAME[:CONFIG]:SPLIT of the Hub.")
    ] = _TINY,
    metric: Annotated[
        str | None,
        typer.Option(
            help="Packaged metric or path of one, or TASK=METRIC,TASK=METRIC; several are A+B, the first decides. "
            "[default: those of tiny's tasks]"
        ),
    ] = None,
    samplers: Annotated[
        list[str] | None, typer.Option(help="Sampler spec; repeat it, or give several separated by spaces.")
    ] = None,
    block_lengths: Annotated[str, typer.Option(help="Separated by commas; `full` is full diffusion.")] = "full",
    seeds: Annotated[str, typer.Option(help="Separated by commas. Deterministic rules run with the first.")] = "0",
    draws: Annotated[int, typer.Option(help="Answers per prompt and seed.")] = 1,
    template: Annotated[list[str] | None, typer.Option(help="Prompt template: name or file; repeat it.")] = None,
    max_new_tokens: Annotated[int | None, typer.Option(help="Positions to fill. [default: tiny's own]")] = None,
    temperature: Annotated[float, typer.Option(help="Of the token draw; 0 takes the most probable.")] = 0.0,
    stop_at_eos: Annotated[bool, typer.Option(help="End rows at their first stop token.")] = False,
    batch_size: Annotated[int, typer.Option(help="Rows generated together.")] = 50,
    limit: Annotated[int | None, typer.Option(help="Problems per task. [default: all]")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the results; an interrupted run resumes.")] = None,
    column: Annotated[
        list[str] | None, typer.Option(help="Another name of a column, e.g. prompt=question; repeat it.")
    ] = None,
    allow_code_execution: Annotated[
        bool, typer.Option(help="Let the metric run generated programs here; a sandbox needs bubblewrap.")
    ] = False,
    trust_remote_code: Annotated[bool, typer.Option(help="Run model code that comes with the repository.")] = False,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of the model.")] = None,
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    device: Annotated[str | None, typer.Option(help="[default: cuda if there is one, else cpu]")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")] = False,
) -> None:
    """Compare samplers on a data set: accuracy with intervals, forward passes, seconds."""
    with plain_errors():
        quiet_libraries()
        network, tokenizer = load_model(model, trust_remote_code, revision, dtype, device or _own_device())
        points = _evaluate(
            network,
            tokenizer,
            dataset,
            metric,
            samplers,
            max_new_tokens,
            block_lengths=[_block_length(part) for part in _parts(block_lengths)],
            seeds=[_whole("--seeds", part) for part in _parts(seeds)],
            draws=draws,
            templates=template or ["plain"],
            temperature=temperature,
            stop_at_eos=stop_at_eos,
            batch_size=batch_size,
            limit=limit,
            out=out,
            columns=dict(_assignment(text) for text in column or []),
            metric_options={"allow_code_execution": True} if allow_code_execution else {},
            model_name=model,
        )
        if os.environ.get("RANK", "0") != "0":
            return  # of several processes one speaks
        if as_json:
            print_json({"out": None if out is None else str(out), "records": [asdict(point) for point in points]})
        else:
            _print_table(points)


def _evaluate(  # noqa: PLR0913 - passes options on
    network: Any,
    tokenizer: Any,
    dataset: str,
    metric: str | None,
    samplers: list[str] | None,
    max_new_tokens: int | None,
    **options: Any,
) -> list[OperatingPoint]:
    """Fill in what belongs to the packaged problems."""
    packaged = dataset.split(":")[0] == _TINY
    if not packaged and (metric is None or max_new_tokens is None):
        raise ValueError(f"the data set {dataset!r} needs --metric and --max-new-tokens")
    from hf_unmask.cli.demo_measuring import HEURISTICS
    from hf_unmask.evaluation.running import evaluate_samplers
    from hf_unmask.evaluation.scoring import TINY_METRICS, metric_by_task
    from hf_unmask.tiny import TASKS, answer_length

    return evaluate_samplers(
        network,
        tokenizer,
        dataset,
        metric_by_task(metric) if metric else TINY_METRICS,
        samplers or list(HEURISTICS),
        max_new_tokens=max_new_tokens or {task: answer_length(task) for task in TASKS},
        **options,
    )


def _own_device() -> str | None:
    """The GPU of this process where several were started on one machine; None leaves the choice to others."""
    import torch

    rank = os.environ.get("LOCAL_RANK")
    return f"cuda:{rank}" if rank is not None and torch.cuda.is_available() else None


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _block_length(text: str) -> int | str:
    return text if text == "full" else _whole("--block-lengths", text)


def _whole(option: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"`{option}` must hold whole numbers, got {text!r}") from None


def _assignment(text: str) -> tuple[str, str]:
    name, equals, source = text.partition("=")
    if not name or not equals or not source:
        raise ValueError(f"`--column` must be NAME=COLUMN, got {text!r}")
    return name, source


def _print_table(points: list[OperatingPoint]) -> None:
    from rich import box
    from rich.table import Table

    from hf_unmask.metrics import METRICS
    from hf_unmask.results.several_metrics import metrics_of

    console = make_console(width=160)
    table = Table(box=box.SIMPLE_HEAD)
    for name in ("task", "blocks", "sampler"):
        table.add_column(name, no_wrap=True)
    further = list(dict.fromkeys(name for point in points for name in point.further))
    for name in ("accuracy", "95 %", *further, "mean NFE", "tokens/NFE", "s/answer"):
        table.add_column(name, justify="right", no_wrap=True)
    several = len({point.setting.template for point in points}) > 1
    for point in points:
        setting = point.setting
        low, high = point.accuracy_interval
        beside = [f"{point.further[name].accuracy:.1%}" if name in point.further else "-" for name in further]
        table.add_row(
            styled(f"{setting.task}, {setting.template}" if several else setting.task),
            "full" if setting.block_length is None else str(setting.block_length),
            styled(setting.sampler),
            f"{point.accuracy:.1%}",
            f"{low:.1%} to {high:.1%}",
            *beside,
            f"{point.nfe_mean:.1f}",
            f"{point.tokens_per_forward_to_eos:.2f}",
            f"{point.seconds_per_sequence.get('total', float('nan')):.3f}",
        )
    console.print(table)
    deciding = {point.setting.metric for point in points}
    for name in metrics_of(points):
        what = f": {METRICS[name]}" if name in METRICS else ""
        say(f"{'accuracy, ' if name in deciding else ''}{name}{what}.")
    say("tokens/NFE: answer tokens before the first stop token per forward pass.")
