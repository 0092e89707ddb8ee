"""Options that several commands have: one name, one form and one meaning for each."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

#: The embedded model and its problems.
TINY = "tiny"
FULL = "full"

ModelOption = Annotated[
    str, typer.Option(help="Folder or repository of a denoiser, or `tiny` for the embedded one.", show_default=False)
]
TrustOption = Annotated[bool, typer.Option(help="Run model code that comes with the repository.")]
RevisionOption = Annotated[str | None, typer.Option(help="Branch, tag or commit of the model.")]
DtypeOption = Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")]
DeviceOption = Annotated[
    str, typer.Option(help="auto takes an accelerator if there is one: cuda, mps or another; else cpu.")
]
SamplerOption = Annotated[str, typer.Option(help="Sampler spec, see `hf-unmask samplers`.")]
SamplersOption = Annotated[
    list[str] | None, typer.Option("--sampler", help="Sampler spec; repeat it, or give several separated by spaces.")
]
BlockLengthOption = Annotated[
    str, typer.Option(metavar="N|full", help="Positions per block; full is one block, full diffusion.")
]
TemperatureOption = Annotated[float, typer.Option(help="Of the token draw; 0 takes the most probable.")]
ColumnsOption = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME=COLUMN", help="Another name of a column, e.g. prompt=question; several, or repeat it."),
]
OutputOption = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Folder for the results; an interrupted run resumes.")
]
SeedOption = Annotated[int, typer.Option(help="Seed of everything random.")]
JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else.")]


def block_length(text: str, *, least: int = 1) -> int | str:
    """A block length as it is typed: a whole number or ``full``.

    Raises:
        ValueError: anything else.
    """
    if text == FULL:
        return FULL
    number = whole("--block-length", text, f"a whole number or {FULL}")
    if number < least:
        raise ValueError(f"`--block-length` must be at least {least}, or {FULL}, got {text!r}")
    return number


def whole(option: str, text: str, what: str = "a whole number") -> int:
    """A whole number as it is typed.

    Raises:
        ValueError: anything else.
    """
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"`{option}` must be {what}, got {text!r}") from None


def parts(texts: list[str]) -> list[str]:
    """What stands between commas, of all texts."""
    return [part.strip() for text in texts for part in text.split(",") if part.strip()]


def assignments(option: str, texts: list[str]) -> dict[str, str]:
    """``NAME=VALUE`` of each text.

    Raises:
        ValueError: a text of another form.
    """
    found = [text.partition("=") for text in texts]
    for text, pair in zip(texts, found, strict=True):
        if not all(pair):
            raise ValueError(f"`{option}` must be NAME=VALUE, got {text!r}")
    return {name: value for name, _, value in found}
