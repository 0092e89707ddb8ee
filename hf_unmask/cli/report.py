"""``hf-unmask report`` and ``transfer``: what evaluations found, as files and as one table."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hf_unmask.cli.result_options import Folder, TokenizerOption, TrustOption, matches, tokenizer_of
from hf_unmask.cli.terminal import plain_errors, say

_MANY = 20  # operating points; a report of more can take ten seconds


def report(folder: Folder, tokenizer: TokenizerOption = None, trust_remote_code: TrustOption = False) -> None:
    """Write results.csv, tables.md, frontier plots and a self-contained report.html into an evaluation's folder."""
    with plain_errors():
        from hf_unmask.report.writing import write_report
        from hf_unmask.results.places import require_evaluation
        from hf_unmask.results.records import read_results

        require_evaluation(folder)
        models = [point.setting.model for point in read_results(folder / "results.json")]
        if len(models) >= _MANY:
            say(f"{len(models)} operating points: tables, plots and the page", err=True)
        for path in write_report(folder, tokenizer=tokenizer_of(tokenizer, models, trust_remote_code)):
            say(path)


def transfer(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR...", help="Folders of evaluations.")],
    sampler: Annotated[
        list[str] | None, typer.Option(help="Spec, or a sampler's name for all its dials; repeat it. [default: all]")
    ] = None,
    by: Annotated[
        str, typer.Option(help="Fields of a setting that make a column, separated by commas.")
    ] = "task,block_length,max_new_tokens,model",
    columns: Annotated[str | None, typer.Option(help="Older name of --by.", hidden=True)] = None,
) -> None:
    """Print one Markdown table: samplers against tasks, block lengths, answer lengths and models."""
    with plain_errors():
        from hf_unmask.results.places import require_evaluation
        from hf_unmask.results.records import read_results
        from hf_unmask.results.transfer_matrix import transfer_matrix

        for folder in folders:
            require_evaluation(folder)

        points = [point for folder in folders for point in read_results(folder / "results.json")]
        specs = [point.setting.sampler for point in points]
        wanted = {match for name in sampler for match in matches(name, specs)} if sampler else set(specs)
        chosen = [point for point in points if point.setting.sampler in wanted]
        names = [name.strip() for name in (columns or by).split(",")]
        say(*transfer_matrix(chosen, columns=names).to_markdown().split("\n"))
