"""What the commands share: how they print, how they fail, how they load a model."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from rich.console import Console

_PIPE_WIDTH = 100
_INTERRUPTED = 130

SeedOption = Annotated[int, typer.Option(help="Seed of everything random.")]
JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else.")]


@contextmanager
def plain_errors(extra: str = "evaluate") -> Iterator[None]:
    """What a user can get wrong ends in one line on stderr and exit code 2; Ctrl-C in code 130.

    A missing package is named with the line that installs it, as part of the ``extra`` that the command belongs to.
    """
    try:
        try:
            yield
        except ModuleNotFoundError as error:
            raise ImportError(f"this needs {error.name}: pip install 'hf_unmask[{extra}]'") from error
    except (typer.Exit, BrokenPipeError):  # a RuntimeError to Python; of a reader who has enough, typer ends in silence
        raise
    except KeyboardInterrupt:
        typer.echo("interrupted", err=True)
        raise typer.Exit(_INTERRUPTED) from None
    except (ValueError, OSError, RuntimeError, ImportError) as error:
        if os.environ.get("HF_UNMASK_TRACEBACK") == "1":
            raise
        typer.echo(f"error: {' '.join(str(error).split()) or type(error).__name__}", err=True)
        raise typer.Exit(2) from None


def make_console(*, stderr: bool = False, width: int = _PIPE_WIDTH) -> Console:
    """A console; ``width`` is used where the output goes into a pipe, which has none of its own."""
    console = Console(stderr=stderr, highlight=False)
    return console if console.is_terminal else Console(stderr=stderr, highlight=False, width=width)


def print_json(value: dict[str, Any]) -> None:
    """One JSON object on stdout."""
    typer.echo(json.dumps(value, ensure_ascii=False))


def quiet_libraries() -> None:
    """No progress bars or notices of libraries between our lines."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    if not sys.warnoptions:
        logging.set_verbosity_error()


def load_model(
    name: str, trust_remote_code: bool, revision: str | None, dtype: str, device: str | None, **conventions: Any
) -> tuple[Any, Any]:
    """An attached model in eval mode, and its tokenizer; ``conventions`` as in `hf_unmask.attach`."""
    import torch
    from transformers import AutoTokenizer

    from hf_unmask.doors.loading import load_denoiser
    from hf_unmask.tiny import load_tiny

    if dtype not in ("auto", "float32", "bfloat16", "float16"):
        raise ValueError(f"`--dtype` must be auto, float32, bfloat16 or float16, got {dtype!r}")
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if name == "tiny":
        tiny: Any
        tiny, tokenizer = load_tiny()
        return tiny.to(device=device, dtype=tiny.dtype if dtype == "auto" else getattr(torch, dtype)), tokenizer
    source: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
    tokenizer = AutoTokenizer.from_pretrained(name, **source)
    return load_denoiser(name, dtype=dtype, device=device, tokenizer=tokenizer, **source, **conventions), tokenizer
