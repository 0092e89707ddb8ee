"""Rows that wait, rows that are being filled, and rows that have finished."""

from __future__ import annotations

from collections import deque
from dataclasses import replace

import torch
from torch import Tensor

from hf_unmask.denoisers.caching import RowCache
from hf_unmask.generation.advancing import advance
from hf_unmask.generation.canvas import KINDS, Rows
from hf_unmask.generation.faults import raise_fault
from hf_unmask.generation.plan import Plan, plan_next, status
from hf_unmask.generation.recording import Recording
from hf_unmask.generation.run import Run

_RESULTS = ("tokens", "masked", "step_map", "steps", "passes")
#: Columns of padding are dropped by this many, so that few shapes occur.
_STRIDE = 16


class Pool:
    """All rows of a call, of which at most ``run.slots`` are filled at once.

    ``turn`` makes steps; rows that finish leave, and waiting ones take their places. Padding that all rows at work
    share is dropped. What a row sees does not depend on any of it.
    """

    def __init__(self, rows: Rows, run: Run, recording: Recording):
        # ``whole`` is written to when rows finish
        self.whole = replace(rows, **{name: getattr(rows, name).clone() for name in _RESULTS})
        self.run, self.recording = run, recording
        self.slots = min(run.slots or len(rows.number), len(rows.number))
        self.steps = 0  # made so far, each by all slots
        self._padding, done = torch.stack([(~rows.attended).sum(-1), rows.finished]).tolist()
        self.finished = [number for number, is_done in enumerate(done) if is_done]  # without a step
        self._waiting = deque(number for number, is_done in enumerate(done) if not is_done)
        self._active: list[int] = []
        self._dropped = 0
        self._cache = RowCache() if run.cache else None
        self._rows = rows
        self._plan = Plan(None)
        self._admit([])

    @property
    def empty(self) -> bool:
        """Whether all rows have finished."""
        return not self._active

    @property
    def charged(self) -> int:
        """Steps that rows needed so far, summed over rows."""
        at_work = int(self._rows.steps.sum()) if self._active else 0
        return int(self.whole.steps.sum()) + at_work

    def turn(self) -> list[int]:
        """Make as many steps as are planned. Returns the numbers of the rows that have finished."""
        for left in reversed(range(self._plan.steps)):
            before = self._rows
            after, made = advance(before, self.run, self._plan)
            self.steps += 1
            # the one device-to-host read of a step, or of several
            told = [] if left else status(after, self.run).tolist()
            if told:
                raise_fault(told[:KINDS], after, self.run.sampler)
            self.recording.step(before, after, made)
            self._rows = after
        if any(told[KINDS]):
            return self._leave(told[KINDS])
        self._look_ahead(told)
        return []

    def _leave(self, done: list[int]) -> list[int]:
        places = [place for place, is_done in enumerate(done) if is_done]
        gone: slice | Tensor = slice(None) if len(places) == len(done) else self._index(places)
        for name in _RESULTS:
            target = getattr(self.whole, name)
            if name == "tokens":
                target = target[:, self._dropped :]
            target.index_copy_(0, self._rows.number[gone], getattr(self._rows, name)[gone])
        numbers = [self._active[place] for place in places]
        self._admit([place for place, is_done in enumerate(done) if not is_done])
        return numbers

    def _admit(self, kept: list[int]) -> None:
        """Go on with the rows at the places ``kept`` and with as many waiting ones as there is room for."""
        coming = [self._waiting.popleft() for _ in range(min(self.slots - len(kept), len(self._waiting)))]
        self._active = [self._active[place] for place in kept] + coming
        if not self._active:
            return
        stride = 1 if self.slots == 1 else _STRIDE  # a row alone has no padding
        dropped = min(self._padding[number] for number in self._active) // stride * stride
        parts = []
        if kept:
            parts.append(self._rows.take(self._index(kept)).without(dropped - self._dropped))
        if coming:
            at_once = len(coming) == len(self.whole.number)  # then nothing has been done to the rows given
            parts.append((self._rows if at_once else self.whole.take(self._index(coming))).without(dropped))
        rows = parts[0] if len(parts) == 1 else parts[0].and_rows(parts[1])
        if self._cache is not None:
            self._cache.rearrange(self._index(kept), len(coming), dropped - self._dropped)
        self._rows, self._dropped = rows, dropped
        self._look_ahead(status(rows, self.run).tolist())

    def _look_ahead(self, told: list[list[int]]) -> None:
        padded = any(self._padding[number] > self._dropped for number in self._active)
        self._plan = plan_next(told, self._rows, self.run, padded, self._cache)

    def _index(self, places: list[int]) -> Tensor:
        return torch.tensor(places, dtype=torch.long, device=self.whole.number.device)
