"""What the commands about an evaluation's folder share: its options, its tokenizer, samplers named in short."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

_EMBEDDED = Path(__file__).parents[1] / "tiny" / "model"

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="Folder that `hf-unmask evaluate --out` wrote.")]
TokenizerOption = Annotated[
    str | None, typer.Option(help="Folder or repository of a tokenizer. [default: that of the evaluated model]")
]


def matches(wanted: str, specs: Sequence[str]) -> list[str]:
    """The spec itself, however its dials are written, else all dials of the sampler of that name."""
    from hf_unmask.results.comparable import is_learned
    from hf_unmask.results.frontier import method_of
    from hf_unmask.samplers.specs import parse_sampler

    names = [method_of(spec) for spec in specs]
    if wanted not in specs and wanted in names:
        return [spec for spec, name in zip(specs, names, strict=True) if name == wanted]
    if wanted not in specs and not is_learned(wanted):  # to parse a learned one would load its policy
        wanted = str(parse_sampler(wanted))
    check_known("sampler", wanted, specs)
    return [wanted]


def check_known(what: str, given: Any, known: Sequence[Any]) -> None:
    if given not in known:
        unique = list(dict.fromkeys(known))
        more = f" and {len(unique) - 20} more" if len(unique) > 20 else ""
        raise ValueError(f"no {what} {given!r} in these results; there are {', '.join(map(str, unique[:20]))}{more}")


def tokenizer_of(name: str | None, models: Sequence[str]) -> Any:
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
