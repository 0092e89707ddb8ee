"""What commands say of their cost: an answer's forward passes and seconds, and what an evaluation notes on its way."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from hf_unmask.results.foreign_text import printable

if TYPE_CHECKING:
    from hf_unmask.generation.output import UnmaskOutput


def cost_line(output: UnmaskOutput, seconds: float) -> str:
    """``9 forward passes, 4.44 tokens per forward pass, 0.21 s``; of several answers the means."""
    rows = len(output.nfe)
    passes, tokens = output.nfe.double().mean().item(), output.tokens_per_forward.double().mean().item()
    cost = f"{passes:.3g} forward passes, {tokens:.2f} tokens per forward pass"
    return f"{cost}, {seconds:.2f} s" if rows == 1 else f"{rows} answers: {cost} on average, {seconds:.2f} s together"


class _BesideBars(logging.Handler):
    """Lines on stderr, above a bar that is there."""

    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm

        tqdm.write(printable(record.getMessage()), file=sys.stderr)


@contextmanager
def notes(name: str, shown: bool = True) -> Iterator[None]:
    """What a part of the package notes goes to stderr; nowhere if it is not ``shown``, as of all processes but one."""
    logger, handler = logging.getLogger(name), _BesideBars()
    before = logger.level, logger.propagate
    if shown:
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.level, logger.propagate = before
