"""What the commands about an evaluation's folder share: its options, its tokenizer, samplers named in short."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from hf_unmask.cli.terminal import say

_EMBEDDED = Path(__file__).parents[1] / "tiny" / "model"

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="Folder that `hf-unmask evaluate --output` wrote.")]
TokenizerOption = Annotated[
    str | None,
    typer.Option(help="Folder or repository of a tokenizer. [default: that of the evaluated model, if it is a folder]"),
]
TrustOption = Annotated[
    bool, typer.Option("--trust-remote-code", help="Run code that comes with the tokenizer named by --tokenizer.")
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


def tokenizer_of(name: str | None, models: Sequence[str], trust_remote_code: bool = False) -> Any:
    """The tokenizer named, else that of the only model evaluated if it lies on this machine.

    The model's name stands in a file that may be anybody's: it is never fetched, and no code of it runs.

    Returns:
        None, with one line on stderr that says what to do about it, if there is no such tokenizer.

    Raises:
        ValueError, OSError: the tokenizer named does not load.
    """
    if name is not None:
        return _load(name, trust_remote_code=trust_remote_code)
    unique = list(dict.fromkeys(models))
    if len(unique) > 1:
        say("several models were evaluated: tokens are shown as ids (or give --tokenizer)", err=True)
        return None
    (source,) = unique
    local = str(_EMBEDDED) if source == "tiny" else source
    try:
        if local and Path(local).is_dir():
            return _load(local, local_files_only=True)
        why = f"{source!r} is no folder here"
    except (OSError, ValueError) as error:
        why = f"that of {source!r} does not load: " + str(error).strip().partition("\n")[0]
    say(f"tokens are shown as ids (or give --tokenizer), {why}", err=True)
    return None


def _load(name: str, *, trust_remote_code: bool = False, local_files_only: bool = False) -> Any:
    from transformers import AutoTokenizer

    from hf_unmask.results.places import looks_like_path, naming, unreadable

    if looks_like_path(name) and not Path(name).exists():
        raise ValueError(f"no folder {name!r} for `tokenizer`")
    try:
        with naming(name, unreadable("the tokenizer", name)):
            return AutoTokenizer.from_pretrained(
                name, trust_remote_code=trust_remote_code, local_files_only=local_files_only
            )
    except (OSError, ValueError):
        raise
    except Exception as error:  # a damaged file ends in anything, also in the plain Exception of the tokenizers library
        raise ValueError(f"the tokenizer {name!r} cannot be loaded: {type(error).__name__} {error}") from error
