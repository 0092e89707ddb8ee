"""What the commands share: how they print, how they fail, how they load a model."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer
from rich.console import Console
from rich.text import Text

from hf_unmask.cli.vocabulary import in_words
from hf_unmask.results.foreign_text import printable

_PIPE_WIDTH = 100
_INTERRUPTED = 130
_LONGEST_ERROR = 4000


def say(*lines: object, err: bool = False, longest: int | None = None) -> None:
    """Print lines. A foreign text in one can neither move the cursor nor make a line of its own (see `printable`)."""
    for line in lines:
        typer.echo(printable(line, longest=longest), err=err)


def say_prose(text: str) -> None:
    """Print a text that may have several lines: an answer of a model, a card."""
    typer.echo(printable(text, lines=True))


def styled(text: object, style: str = "") -> Text:
    """A line, or a cell of a table, for a console; nothing in it is markup."""
    return Text(printable(text), style)


@contextmanager
def plain_errors(extra: str = "evaluate") -> Iterator[None]:
    """What a user can get wrong ends in one line on stderr and exit code 2; Ctrl-C in code 130.

    A missing package is named with the line that installs it, as part of the ``extra`` that the command belongs to.
    """
    escape_what_streams_cannot_encode()
    try:
        try:
            yield
        except ModuleNotFoundError as error:
            raise ImportError(f"this needs {error.name}: pip install 'hf_unmask[{extra}]'") from error
    except (typer.Exit, BrokenPipeError):  # a RuntimeError to Python; of a reader who has enough, typer ends in silence
        raise
    except KeyboardInterrupt:
        say("interrupted", err=True)
        raise typer.Exit(_INTERRUPTED) from None
    except (ValueError, OSError, RuntimeError, ImportError) as error:
        if os.environ.get("HF_UNMASK_TRACEBACK") == "1":
            raise
        say(error_line(error), err=True, longest=_LONGEST_ERROR)
        raise typer.Exit(2) from None


def error_line(error: Exception) -> str:
    """What went wrong and with what, in the words of the command line."""
    text = " ".join(str(error).split()) or type(error).__name__
    notes = [note for note in getattr(error, "__notes__", []) if note not in text]
    return f"error: {in_words(': '.join([*notes, text]))}{_cure(error)}"


def _cure(error: BaseException | None) -> str:
    """What to do where a library cannot write into its cache."""
    if not isinstance(error, OSError) and error is not None and not (error.__cause__ or error.__context__):
        return ""
    from huggingface_hub.constants import HF_HOME

    while error is not None:
        if isinstance(error, OSError) and str(error.filename).startswith(HF_HOME):
            return f": set HF_HOME, which is {HF_HOME}, to a folder that can be written to"
        error = error.__cause__ or error.__context__
    return ""


def escape_what_streams_cannot_encode() -> None:
    """On a stream that is not UTF-8 a character of another script is written as ``\\u4e16``, and no result is lost."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors in ("strict", "surrogateescape"):
            stream.reconfigure(errors="backslashreplace")


def make_console(*, stderr: bool = False, width: int = _PIPE_WIDTH) -> Console:
    """A console; ``width`` is used where the output goes into a pipe, which has none of its own."""
    console = Console(stderr=stderr, highlight=False)
    return console if console.is_terminal else Console(stderr=stderr, highlight=False, width=width)


def print_json(value: dict[str, Any]) -> None:
    """One JSON object on stdout, exact: what a terminal must not get is escaped as JSON does."""
    text = json.dumps(value, ensure_ascii=not sys.stdout.encoding.lower().startswith("utf"))
    typer.echo("".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text))


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

    from hf_unmask.doors.loading import load_denoiser, usable_device
    from hf_unmask.doors.sources import check_source, check_tokenizer
    from hf_unmask.results.places import naming, unreadable
    from hf_unmask.tiny import load_tiny

    if dtype not in ("auto", "float32", "bfloat16", "float16"):
        raise ValueError(f"`--dtype` must be auto, float32, bfloat16 or float16, got {dtype!r}")
    device = usable_device(device or "auto")
    if name == "tiny":
        tiny: Any
        tiny, tokenizer = load_tiny()
        return tiny.to(device=device, dtype=tiny.dtype if dtype == "auto" else getattr(torch, dtype)), tokenizer
    check_source(name)
    check_tokenizer(name)
    with naming(name, unreadable("the model", name)):
        tokenizer = AutoTokenizer.from_pretrained(name, revision=revision, trust_remote_code=trust_remote_code)
    source: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
    return load_denoiser(name, dtype=dtype, device=device, tokenizer=tokenizer, **source, **conventions), tokenizer
