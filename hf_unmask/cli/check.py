"""``hf-unmask check``: whether a model does what is taken for granted about it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich import box
from rich.table import Table

from hf_unmask.cli.terminal import (
    JsonFlag,
    load_model,
    make_console,
    plain_errors,
    print_json,
    quiet_libraries,
    say,
    styled,
)

_COLOURS = {"pass": "green", "fail": "bold red", "not supported": "yellow"}


def check(  # noqa: PLR0913 - one argument per option
    model: Annotated[str, typer.Argument(help="Folder or repository of a denoiser, or `tiny`.")],
    text: Annotated[str | None, typer.Option(help="Something it could write. [default: English sentences]")] = None,
    prompt: Annotated[str | None, typer.Option(help="What stands before it, for models that only answer.")] = None,
    trust_remote_code: Annotated[bool, typer.Option(help="Run model code that comes with the repository.")] = False,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of the repository.")] = None,
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    device: Annotated[str | None, typer.Option(help="[default: cuda if there is one, else cpu]")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Prove from a model's weights that shift, mask token, padding, caches and stop tokens are what is assumed."""
    with plain_errors():
        from hf_unmask.doors.check import check as examine

        quiet_libraries()
        network, tokenizer = _load(model, trust_remote_code, revision, dtype, device)
        if model == "tiny" and text is None and prompt is None:
            prompt, text = _sudoku(tokenizer)
        report = examine(network, tokenizer, text=text, prompt=prompt)
        if as_json:
            print_json({"name": model, **asdict(report), "ok": report.ok})
        else:
            _print(report, model)
        if not report.ok:
            raise typer.Exit(1)


def _load(model: str, trust_remote_code: bool, revision: str | None, dtype: str, device: str | None) -> tuple[Any, Any]:
    """The model, attached if its family is known."""
    from hf_unmask.denoisers.conventions import UnknownFamily
    from hf_unmask.doors.attaching import detach

    try:
        return load_model(model, trust_remote_code, revision, dtype, device)
    except UnknownFamily:
        network, tokenizer = load_model(model, trust_remote_code, revision, dtype, device, shift=0, attention="2d")
        return detach(network), tokenizer


def _sudoku(tokenizer: Any) -> tuple[str, str]:
    """A puzzle that the embedded model was trained to solve, and what it writes."""
    from hf_unmask.tiny import held_out

    problem = held_out("mini_sudoku", "validation", 1)[0]
    return problem.prompt, problem.answer + 3 * str(tokenizer.eos_token)


def _print(report: Any, name: str) -> None:
    table = Table(title=styled(f"{name} ({report.model})"), title_justify="left", box=box.SIMPLE_HEAD)
    for column in ("", "", "measured", "cure"):
        table.add_column(column, overflow="fold")
    for finding in report.findings:
        verdict = styled(finding.verdict, _COLOURS[finding.verdict])
        table.add_row(styled(finding.name), verdict, styled(finding.value), styled(finding.cure))
    make_console().print(table)
    if report.suggestion is not None:
        say(f"Attach it with: {report.suggestion}")
    say(f"{report.passes} forward passes, {report.seconds:.1f} s.")
