"""``hf-unmask check``: whether a model does what is taken for granted about it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich import box
from rich.table import Table

from hf_unmask.cli.options import TINY, DeviceOption, DtypeOption, JsonFlag, RevisionOption, TrustOption
from hf_unmask.cli.terminal import load_model, make_console, plain_errors, print_json, quiet_libraries, say, styled

_COLOURS = {"pass": "green", "fail": "bold red", "not supported": "yellow"}


def check(  # noqa: PLR0913 - one argument per option
    name: Annotated[
        str | None, typer.Argument(metavar="MODEL", help="Folder or repository of a denoiser, or `tiny`.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="The same, as in other commands.", hidden=True)] = None,
    text: Annotated[str | None, typer.Option(help="Something it could write. [default: English sentences]")] = None,
    prompt: Annotated[str | None, typer.Option(help="What stands before it, for models that only answer.")] = None,
    trust_remote_code: TrustOption = False,
    revision: RevisionOption = None,
    dtype: DtypeOption = "auto",
    device: DeviceOption = "auto",
    as_json: JsonFlag = False,
) -> None:
    """Prove from a model's weights that shift, mask token, padding, caches and stop tokens are what is assumed."""
    with plain_errors():
        from hf_unmask.doors.check import check as examine

        model = _one_of(name, model)
        quiet_libraries()
        say(f"loads {model}, then some thirty forward passes over at most 48 tokens", err=True)
        network, tokenizer = _load(model, trust_remote_code, revision, dtype, device)
        if model == TINY and text is None and prompt is None:
            prompt, text = _sudoku(tokenizer)
        report = examine(network, tokenizer, text=text, prompt=prompt)
        if as_json:
            print_json({"name": model, **asdict(report), "ok": report.ok})
        else:
            _print(report, model)
        if not report.ok:
            raise typer.Exit(1)


def _one_of(argument: str | None, option: str | None) -> str:
    found = {one for one in (argument, option) if one is not None}
    if len(found) != 1:
        raise ValueError(f"name one model: hf-unmask check MODEL; got {', '.join(sorted(found)) or 'none'}")
    return found.pop()


def _load(model: str, trust_remote_code: bool, revision: str | None, dtype: str, device: str) -> tuple[Any, Any]:
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
