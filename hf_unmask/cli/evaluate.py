"""``hf-unmask evaluate``. Imports nothing heavy."""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hf_unmask.cli.costs import notes
from hf_unmask.cli.options import (
    FULL,
    TINY,
    ColumnsOption,
    DeviceOption,
    DtypeOption,
    JsonFlag,
    ModelOption,
    OutputOption,
    RevisionOption,
    SamplersOption,
    TemperatureOption,
    TrustOption,
    assignments,
    parts,
    whole,
)
from hf_unmask.cli.options import (
    block_length as read_block_length,
)
from hf_unmask.cli.terminal import load_model, make_console, plain_errors, print_json, quiet_libraries, say, styled

if TYPE_CHECKING:
    from pathlib import Path

    from hf_unmask.results.records import OperatingPoint

_WIDE = 110  # columns of a terminal; below, figures take two lines where they can


def evaluate(  # noqa: PLR0913 - one argument per option
    model: ModelOption = TINY,
    dataset: Annotated[
        str, typer.Option(help="tiny[:TASK[:SPLIT]], a file, a folder[:SPLIT], or NAME[:CONFIG]:SPLIT of the Hub.")
    ] = TINY,
    metric: Annotated[
        str | None,
        typer.Option(
            help="Packaged metric or path of one, or TASK=METRIC,TASK=METRIC; several are A+B, the first decides. "
            "[default: those of tiny's tasks]"
        ),
    ] = None,
    samplers: SamplersOption = None,
    block_length: Annotated[
        list[str] | None,
        typer.Option(metavar="N|full", help="Positions per block; several separated by commas. [default: full]"),
    ] = None,
    seed: Annotated[
        list[str] | None,
        typer.Option(help="Several separated by commas. Deterministic rules run with the first. [default: 0]"),
    ] = None,
    draws: Annotated[int, typer.Option(help="Answers per prompt and seed.")] = 1,
    template: Annotated[list[str] | None, typer.Option(help="Prompt template: name or file; repeat it.")] = None,
    max_new_tokens: Annotated[int | None, typer.Option(help="Positions to fill. [default: tiny's own]")] = None,
    temperature: TemperatureOption = 0.0,
    stop_at_eos: Annotated[bool, typer.Option(help="End rows at their first stop token.")] = False,
    batch_size: Annotated[int, typer.Option(help="Rows generated together.")] = 50,
    limit: Annotated[int | None, typer.Option(help="Problems per task. [default: all]")] = None,
    output: OutputOption = None,
    columns: ColumnsOption = None,
    allow_code_execution: Annotated[
        bool, typer.Option(help="Let the metric run generated programs here; a sandbox needs bubblewrap.")
    ] = False,
    trust_remote_code: TrustOption = False,
    revision: RevisionOption = None,
    dtype: DtypeOption = "auto",
    device: DeviceOption = "auto",
    as_json: JsonFlag = False,
) -> None:
    """Compare samplers on a data set: accuracy with intervals, forward passes, seconds."""
    with plain_errors():
        lengths = [read_block_length(part) for part in parts(block_length or [FULL])]
        seeds = [whole("--seed", part) for part in parts(seed or ["0"])]
        named = assignments("--columns", columns or [])
        chosen = _before_loading(samplers, dataset, metric, max_new_tokens, output)
        quiet_libraries()
        network, tokenizer = load_model(model, trust_remote_code, revision, dtype, _own_device(device))
        points = _evaluate(
            network,
            tokenizer,
            dataset,
            metric,
            chosen,
            max_new_tokens,
            block_lengths=lengths,
            seeds=seeds,
            draws=draws,
            templates=template or ["plain"],
            temperature=temperature,
            stop_at_eos=stop_at_eos,
            batch_size=batch_size,
            limit=limit,
            out=output,
            columns=named,
            metric_options={"allow_code_execution": True} if allow_code_execution else {},
            model_name=model,
        )
        if os.environ.get("RANK", "0") != "0":
            return  # of several processes one speaks
        if as_json:
            print_json({"out": None if output is None else str(output), "records": [asdict(point) for point in points]})
        else:
            _print_table(points)


@notes("hf_unmask.evaluation")
def _evaluate(  # noqa: PLR0913 - passes options on
    network: Any,
    tokenizer: Any,
    dataset: str,
    metric: str | None,
    samplers: list[Any] | None,
    max_new_tokens: int | None,
    **options: Any,
) -> list[OperatingPoint]:
    """Fill in what belongs to the packaged problems."""
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


def _before_loading(
    samplers: list[str] | None, dataset: str, metric: str | None, max_new_tokens: int | None, output: Path | None
) -> list[Any] | None:
    """The samplers, and whether anything is wrong that takes no model to know."""
    from hf_unmask.results.places import EVALUATION, check_data_name, require_own
    from hf_unmask.samplers.specs import parse_samplers

    if dataset.split(":")[0] != TINY and (metric is None or max_new_tokens is None):
        raise ValueError(f"the data set {dataset!r} needs --metric and --max-new-tokens")
    check_data_name(dataset)
    if output is not None:
        require_own(output, EVALUATION, option="out")
    return parse_samplers(samplers) if samplers else None


def _own_device(asked: str) -> str:
    """Of several processes that were started on one machine each takes the GPU of its rank, unless it is told."""
    import torch

    rank = os.environ.get("LOCAL_RANK")
    return f"cuda:{rank}" if asked == "auto" and rank is not None and torch.cuda.is_available() else asked


def _print_table(points: list[OperatingPoint]) -> None:
    """What is the same in all rows stands above them; text is folded, so that nothing is lost at 80 columns."""
    from rich import box
    from rich.table import Table

    from hf_unmask.metrics import METRICS
    from hf_unmask.results.several_metrics import metrics_of

    further = list(dict.fromkeys(name for point in points for name in point.further))
    rows = [(_place(point), _figures(point, further)) for point in points]
    same = [name for name in rows[0][0] if len({place[name] for place, _ in rows}) == 1 and name != "sampler"]
    title = ", ".join(f"{name} {rows[0][0][name]}" for name in same)
    table = Table(title=styled(title) if same else None, title_justify="left", box=box.SIMPLE_HEAD)
    console = make_console(width=160)
    for name in rows[0][0]:
        if name not in same:
            table.add_column(name, overflow="fold", min_width=len(name))
    for name in rows[0][1]:
        words = [word for text in (name, *(found[name] for _, found in rows)) for word in text.split()]
        table.add_column(name, justify="right", width=max(map(len, words)) if console.width < _WIDE else None)
    for place, found in rows:
        table.add_row(*(styled(text) for name, text in place.items() if name not in same), *found.values())
    console.print(table)
    deciding = {point.setting.metric for point in points}
    for name in metrics_of(points):
        what = f": {METRICS[name]}" if name in METRICS else ""
        say(f"{'accuracy, ' if name in deciding else ''}{name}{what}.")
    say("tokens per NFE: answer tokens before the first stop token per forward pass.")


def _place(point: OperatingPoint) -> dict[str, str]:
    setting = point.setting
    blocks = "full" if setting.block_length is None else str(setting.block_length)
    return {"task": setting.task, "prompt": setting.template, "blocks": blocks, "sampler": setting.sampler}


def _figures(point: OperatingPoint, further: list[str]) -> dict[str, str]:
    low, high = point.accuracy_interval
    return {
        "accuracy": f"{point.accuracy:.1%}",
        "95 %": f"{low:.1%} - {high:.1%}",
        **{name: f"{point.further[name].accuracy:.1%}" if name in point.further else "-" for name in further},
        "mean NFE": f"{point.nfe_mean:.1f}",
        "tokens per NFE": f"{point.tokens_per_forward_to_eos:.2f}",
        "s per answer": f"{point.seconds_per_sequence.get('total', float('nan')):.3f}",
    }
