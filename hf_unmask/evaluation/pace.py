"""How long work will take that has begun. Imports nothing heavy: the demo runs without the extra ``evaluate``."""

from __future__ import annotations

import math
import time
from typing import Any

#: Seconds from which on it is worth saying how long something takes.
WORTH_SAYING = 10.0
_GUESS = 0.3  # forward passes per position of a rule whose dial does not fix them
_MINUTE, _HOUR = 60, 3600


def expected_forwards(sampler: Any, length: int, block_length: int | None) -> float:
    """Forward passes per answer of ``length`` positions, as far as the dial tells; else a guess."""
    width, k = min(block_length or length, length), getattr(sampler, "k", None)
    return _GUESS * length if k is None else length / width * math.ceil(width / k)


def duration(seconds: float) -> str:
    """A time that is roughly known: ``40 s``, ``3 min``, ``2 h 10 min``."""
    if seconds < 1.5 * _MINUTE:
        return f"{max(5 * math.ceil(seconds / 5), 5)} s"
    if seconds < 1.5 * _HOUR:
        return f"{seconds / _MINUTE:.0f} min"
    hours, minutes = divmod(10 * round(seconds / _MINUTE / 10), 60)
    return f"{hours} h {minutes} min"


def counted(count: int, one: str, several: str | None = None) -> str:
    """``1 batch``, ``2,000 batches``; ``several``: the plural where it is not ``one`` and an s."""
    return f"{count:,} {one if count == 1 else several or f'{one}s'}"


class Pace:
    """From what is done of some work, how long the rest will take. Amounts are in any unit."""

    def __init__(self, total: float) -> None:
        self.total, self.done, self.began = total, 0.0, time.monotonic()

    def add(self, amount: float) -> None:
        """So much more is done."""
        self.done += amount

    @property
    def left(self) -> float:
        """Seconds to go; infinite while nothing is done."""
        spent = time.monotonic() - self.began
        return spent * (self.total - self.done) / self.done if self.done else math.inf


def to_go(pace: Pace) -> str:
    """``, about 3 min to go`` for the end of a line, "" before anything is done and when all is."""
    return f", about {duration(pace.left)} to go" if 0 < pace.done < pace.total else ""
