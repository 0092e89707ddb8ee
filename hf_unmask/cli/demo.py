"""``hf-unmask demo``: samplers on held-out problems of the embedded model, and one answer being unmasked."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich import box
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from hf_unmask.cli.options import JsonFlag, SamplersOption, SeedOption
from hf_unmask.cli.terminal import make_console, plain_errors, print_json, quiet_libraries, say, styled
from hf_unmask.results.foreign_text import printable

if TYPE_CHECKING:
    from hf_unmask.cli.demo_measuring import DemoRow, Setting
    from hf_unmask.tiny import HeldOut

_STEP_DELAY = 0.12
_MUCH = 1000  # forward passes of one row: more can take ten seconds


def demo(
    limit: Annotated[int, typer.Option(min=1, help="Problems per task.")] = 50,
    split: Annotated[str, typer.Option(help="validation or test. The test problems are for final tables.")] = (
        "validation"
    ),
    samplers: SamplersOption = None,
    seed: SeedOption = 0,
    as_json: JsonFlag = False,
) -> None:
    """Compare samplers on held-out problems with the embedded model, then show one answer being unmasked."""
    with plain_errors():
        from hf_unmask.samplers.specs import parse_samplers

        chosen = parse_samplers(samplers) if samplers else None  # before torch is imported
        from hf_unmask.cli.demo_measuring import HEURISTICS, POLICIES, settings
        from hf_unmask.tiny import TASKS, held_out, load_tiny

        plan = settings(chosen or parse_samplers([*HEURISTICS, *POLICIES]))
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
    from hf_unmask.cli.demo_measuring import measure
    from hf_unmask.evaluation.pace import WORTH_SAYING, Pace, counted, duration, expected_forwards
    from hf_unmask.tiny import answer_length

    console = make_console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    rows: list[DemoRow] = []
    work = [
        expected_forwards(one.sampler, answer_length(one.task), one.block_length) * len(problems[one.task])
        for one in plan
    ]
    pace = Pace(sum(work))
    if pace.total >= _MUCH:
        samplers = counted(len({str(one.sampler) for one in plan}), "sampler")
        count = counted(sum(map(len, problems.values())), "problem")
        say(f"{samplers} on {count}; the first tells how long it takes", err=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("", total=sum(len(problems[setting.task]) for setting in plan))
        try:
            for place, setting in enumerate(plan):
                line = f"{setting.task}, {setting.regime}, {setting.label}"
                progress.update(bar, description=escape(printable(line)))
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
                pace.add(work[place])
                if place == 0 and pace.left >= WORTH_SAYING:
                    say(f"about {duration(pace.left)} to go", err=True)
        except KeyboardInterrupt:
            return rows, False
    return rows, True


def _print_rows(rows: Sequence[DemoRow], split: str, limit: int) -> None:
    table = Table(title=f"{limit} {split} problems per task, embedded model", title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("", overflow="fold")  # rather than a number lost on a narrow terminal
    for name in ("accuracy", "well formed", "NFE", "tokens/NFE", "s/answer"):
        table.add_column(name, justify="right", no_wrap=True)
    for (task, regime), group in itertools.groupby(rows, key=lambda row: (row.task, row.regime)):
        table.add_section()
        table.add_row(styled(f"{task}, {regime}", "bold"))
        for row in group:
            table.add_row(
                styled(f"  {row.label}"),
                f"{row.accuracy:.1%}",
                f"{row.well_formed:.1%}",
                f"{row.nfe:.1f}",
                f"{row.tokens_per_forward:.2f}",
                f"{row.seconds_per_sequence:.3f}",
            )
    make_console().print(table)
    say(
        "accuracy: the answer is right, whatever is written before it. well formed: every written step is right too.",
        "NFE: mean forward passes of the model per answer. Blocks are filled left to right.",
    )


def _shown(plan: list[Setting], *, chosen: bool) -> Setting:
    """The setting that is shown step by step: the first one chosen, or a learned policy."""
    return plan[0] if chosen else next(setting for setting in plan if str(setting.sampler).startswith("learned"))


def _show_one(model: Any, tokenizer: Any, setting: Setting, problems: dict[str, list[HeldOut]], seed: int) -> None:
    from hf_unmask.cli.demo_measuring import BATCH_SIZE, answer, typical
    from hf_unmask.cli.terminal_canvas import watching

    among = problems[setting.task][:BATCH_SIZE]
    problem = typical(model, tokenizer, setting, among, seed=seed)
    say("", f"{problem.prompt!r} with {setting.label}, {setting.regime}:")
    say(f"(the first of {len(among)} problems that takes the median of forward passes)")
    with watching(make_console(), tokenizer, [problem.prompt], delay=_STEP_DELAY) as show:
        texts, output = answer(model, tokenizer, setting, [problem.prompt], seed=seed, on_step=show)
    right = "right and well formed" if problem.well_formed(texts[0]) else "right, but not well formed"
    verdict = right if problem.solved_by(texts[0]) else f"wrong, expected {problem.answer!r}"
    say(f"{int(output.nfe[0])} forward passes; the answer is {verdict}.")
