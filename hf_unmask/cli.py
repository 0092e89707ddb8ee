"""The command line. Everything heavy is imported inside functions, so that ``hf-unmask --help`` is quick."""

from __future__ import annotations

import importlib
import itertools
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich import box
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from hf_unmask import __version__, hub_cli
from hf_unmask.evaluation import cli as evaluate_cli
from hf_unmask.evaluation import report_cli
from hf_unmask.terminal import JsonFlag, load_model, make_console, plain_errors, print_json, quiet_libraries

if TYPE_CHECKING:
    from hf_unmask.demo import DemoRow, Setting
    from hf_unmask.output import UnmaskOutput
    from hf_unmask.tiny import HeldOut

app = typer.Typer(
    name="hf-unmask",
    help="Unmasking samplers for diffusion language models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
_NEW_TOKENS = 128
_STEP_DELAY = 0.12
_INTERRUPTED = 130

SeedOption = Annotated[int, typer.Option(help="Seed of everything random.")]


def main() -> None:
    """Console entry point."""
    app()


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit()


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    del version


# --------------------------------------------------------------------------------------------------------------- demo


@app.command()
def demo(
    limit: Annotated[int, typer.Option(min=1, help="Problems per task.")] = 50,
    split: Annotated[str, typer.Option(help="validation or test. The test problems are for final tables.")] = (
        "validation"
    ),
    samplers: Annotated[
        list[str] | None, typer.Option(help="Sampler spec; repeat it, or give several separated by spaces.")
    ] = None,
    seed: SeedOption = 0,
    as_json: JsonFlag = False,
) -> None:
    """Compare samplers on held-out problems with the embedded model, then show one answer being unmasked."""
    with plain_errors():
        from hf_unmask.demo import HEURISTICS, POLICIES, settings
        from hf_unmask.specs import parse_samplers
        from hf_unmask.tiny import TASKS, held_out, load_tiny

        plan = settings(parse_samplers(samplers or [*HEURISTICS, *POLICIES]))
        problems = {task: held_out(task, _split(split), limit) for task in TASKS}
        quiet_libraries()
        model, tokenizer = load_tiny()
        rows, finished = _measure_all(model, tokenizer, plan, problems, seed)
        if as_json:
            print_json({"split": split, "seed": seed, "finished": finished, "rows": [asdict(row) for row in rows]})
        else:
            _print_rows(rows, split, limit)
        if not finished:
            raise KeyboardInterrupt
        if not as_json:
            _show_one(model, tokenizer, _shown(plan, chosen=samplers is not None), problems, seed)


def _split(name: str) -> Literal["validation", "test"]:
    if name == "validation":
        return "validation"
    if name == "test":
        return "test"
    raise ValueError(f"`--split` must be validation or test, got {name!r}")


def _measure_all(
    model: Any, tokenizer: Any, plan: list[Setting], problems: dict[str, list[HeldOut]], seed: int
) -> tuple[list[DemoRow], bool]:
    """Rows in order; False if Ctrl-C cut them short."""
    from hf_unmask.demo import measure

    console = make_console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    rows: list[DemoRow] = []
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("", total=sum(len(problems[setting.task]) for setting in plan))
        try:
            for setting in plan:
                progress.update(bar, description=escape(f"{setting.task}, {setting.regime}, {setting.label}"))
                rows.append(
                    measure(
                        model,
                        tokenizer,
                        setting,
                        problems[setting.task],
                        seed=seed,
                        on_batch=lambda count: progress.advance(bar, count),
                    )
                )
        except KeyboardInterrupt:
            return rows, False
    return rows, True


def _print_rows(rows: Sequence[DemoRow], split: str, limit: int) -> None:
    table = Table(title=f"{limit} {split} problems per task, embedded model", title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("", no_wrap=True)
    for name in ("accuracy", "mean NFE", "tokens/NFE", "seconds", "s/answer"):
        table.add_column(name, justify="right", no_wrap=True)
    for (task, regime), group in itertools.groupby(rows, key=lambda row: (row.task, row.regime)):
        table.add_section()
        table.add_row(Text(f"{task}, {regime}", style="bold"))
        for row in group:
            table.add_row(
                Text(f"  {row.label}"),
                f"{row.accuracy:.1%}",
                f"{row.nfe:.1f}",
                f"{row.tokens_per_forward:.2f}",
                f"{row.seconds:.1f}",
                f"{row.seconds_per_sequence:.3f}",
            )
    console = make_console()
    console.print(table)
    console.print("NFE: forward passes of the model per answer. Blocks are filled left to right.")


def _shown(plan: list[Setting], *, chosen: bool) -> Setting:
    """The setting that is shown step by step: the first one chosen, or a learned policy."""
    return plan[0] if chosen else next(setting for setting in plan if str(setting.sampler).startswith("learned"))


def _show_one(model: Any, tokenizer: Any, setting: Setting, problems: dict[str, list[HeldOut]], seed: int) -> None:
    from hf_unmask.demo import answer
    from hf_unmask.watch import watching

    console, problem = make_console(), problems[setting.task][0]
    console.print(f"\n{problem.prompt!r} with {setting.label}, {setting.regime}:", markup=False)
    with watching(console, tokenizer, [problem.prompt], delay=_STEP_DELAY) as show:
        texts, output = answer(model, tokenizer, setting, [problem.prompt], seed=seed, on_step=show)
    verdict = "right" if problem.solved_by(texts[0]) else f"wrong, expected {problem.answer!r}"
    console.print(f"{int(output.nfe[0])} forward passes; the answer is {verdict}.", markup=False)


# ----------------------------------------------------------------------------------------------------------- generate


@app.command()
def generate(  # noqa: PLR0913 - one argument per option
    model: Annotated[str, typer.Option(help="Folder or repository of a denoiser, or `tiny` for the embedded one.")],
    prompt: Annotated[list[str], typer.Option(help="Prompt; repeat it for a batch.")],
    sampler: Annotated[str, typer.Option(help="Sampler spec, see `hf-unmask samplers`.")] = "threshold:threshold=0.9",
    max_new_tokens: Annotated[
        int | None,
        typer.Option(
            help="Tokens to add; 0 fills the mask tokens of the prompt. [default: 128, or tiny's longest answer]"
        ),
    ] = None,
    block_length: Annotated[int | None, typer.Option(help="Block size. [default: full diffusion]")] = None,
    temperature: Annotated[float, typer.Option(help="Of the token draw; 0 takes the most probable.")] = 0.0,
    seed: SeedOption = 0,
    trust_remote_code: Annotated[bool, typer.Option(help="Run model code that comes with the repository.")] = False,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of the repository.")] = None,
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    device: Annotated[str | None, typer.Option(help="[default: cuda if there is one, else cpu]")] = None,
    watch: Annotated[bool, typer.Option(help="Show the unmasking as it happens.")] = False,
    chat: Annotated[
        bool | None, typer.Option("--chat/--no-chat", help="Chat template. [default: if the tokenizer has one]")
    ] = None,
    system: Annotated[str | None, typer.Option(help="First turn of the chat template.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Answer prompts with a masked diffusion language model."""
    with plain_errors():
        from hf_unmask.demo import texts_of
        from hf_unmask.prompting import encode_prompts
        from hf_unmask.specs import parse_sampler
        from hf_unmask.tiny import TASKS, answer_length

        rule = parse_sampler(sampler)
        quiet_libraries()
        network, tokenizer = load_model(model, trust_remote_code, revision, dtype, device)
        if max_new_tokens is None:
            max_new_tokens = max(map(answer_length, TASKS)) if model == "tiny" else _NEW_TOKENS
        options = {"max_new_tokens": max_new_tokens, "block_length": block_length, "temperature": temperature}
        encoded = encode_prompts(tokenizer, prompt, chat=chat, system=system)
        began = time.perf_counter()
        watched = prompt if watch else None
        output = _run(network, tokenizer, encoded, watched, as_json, sampler=rule, seed=seed, **options)
        seconds = time.perf_counter() - began
        start = encoded["input_ids"].shape[1] if max_new_tokens else 0
        stops = network.generate.denoiser.stop_token_ids if max_new_tokens else ()
        texts = texts_of(tokenizer, output.sequences[:, start:], stops)
        if as_json:
            results = [
                {"prompt": text, "text": answer, **_numbers(output, row, start)}
                for row, (text, answer) in enumerate(zip(prompt, texts, strict=True))
            ]
            settings = {"model": model, "sampler": str(rule), "seed": seed, **options}
            print_json({**settings, "seconds": seconds, "version": __version__, "results": results})
        else:
            typer.echo("\n".join(texts))


def _run(
    network: Any, tokenizer: Any, encoded: dict[str, Any], watched: list[str] | None, as_json: bool, **options: Any
) -> Any:
    """Generate; with ``watched`` prompts shown live, on stderr if stdout is for JSON."""
    options |= {"attention_mask": encoded["attention_mask"], "return_dict_in_generate": True}
    if watched is None:
        return network.generate(encoded["input_ids"], **options)
    from hf_unmask.watch import watching

    with watching(make_console(stderr=as_json), tokenizer, watched) as show:
        return network.generate(encoded["input_ids"], on_step=show, **options)


def _numbers(output: UnmaskOutput, row: int, start: int) -> dict[str, Any]:
    fields = ("nfe", "steps", "tokens_per_forward", "complete")
    numbers = {name: getattr(output, name)[row].item() for name in fields}
    rows = {"tokens": output.sequences, "step_map": output.step_map}
    return numbers | {name: values[row, start:].tolist() for name, values in rows.items()}


# ----------------------------------------------------------------------------------------------------------- samplers


@app.command()
def samplers(as_json: JsonFlag = False) -> None:
    """List the samplers with their parameters, defaults and sources."""
    with plain_errors():
        from hf_unmask.specs import sampler_table

        rows = sampler_table()
        if as_json:
            print_json({"samplers": [row._asdict() for row in rows]})
            return
        for row in rows:
            typer.echo(f"{row.name}  ({row.parameters})")
            typer.echo(f"    {row.summary}")
            typer.echo(f"    {row.source}")


# ------------------------------------------------------------------------------------------------------------- models


@app.command()
def models(as_json: JsonFlag = False) -> None:
    """List the families of denoisers, what is known of each, and what its support was tested on."""
    with plain_errors():
        from hf_unmask.families import table

        rows = table()
        if as_json:
            print_json({"models": rows})
            return
        for row in rows:
            facts = [f"{name} {row[name]}" for name in ("mask id", "stop ids", "shift", "attention", "block", "cache")]
            typer.echo(f"{row['family']}  (tested on: {row['tested on']})")
            typer.echo(f"    {', '.join(facts)}; {row['loaded by']}")
            typer.echo(f"    {row['checkpoints']}" + (f" ({row['note']})" if row["note"] else ""))


# --------------------------------------------------------------------------------------------------- report and watch

app.command()(report_cli.report)
app.command()(report_cli.watch)
app.command()(report_cli.transfer)


evaluate_cli.register(app)
hub_cli.register(app)


# -------------------------------------------------------------------------------------------------------------- train


@app.command(add_help_option=False, context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def train(context: typer.Context) -> None:
    """Train an unmasking policy; --help lists the options."""
    with plain_errors("train"):
        # by name, because the trainer stands above the command line: it reads the options itself, with TRL's parser
        importlib.import_module("hf_unmask.trainers.cli").main(context.args)


if __name__ == "__main__":
    main()
