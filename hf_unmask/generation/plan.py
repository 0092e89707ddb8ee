"""The plan of a step: what the host knows before it, and what it must be told after it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hf_unmask.denoisers import head
from hf_unmask.denoisers.caching import RowCache
from hf_unmask.generation.cache_refresh import part_of
from hf_unmask.generation.canvas import KINDS, Rows
from hf_unmask.generation.run import Run, window_width
from hf_unmask.generation.window import in_block


@dataclass(frozen=True)
class Bucket:
    """Rows that share a forward pass."""

    rows: Tensor | None  # [r] long, None: all
    part: int | None  # what `columns_of` makes the computed columns of, `part_of`; None: the whole row

    def of(self, rows: Rows) -> Rows:
        """Its rows, without the sampler's memory if they are not all."""
        return rows if self.rows is None else replace(rows, sampler_state=None).take(self.rows)

    def cut(self, values: Tensor) -> Tensor:
        """What belongs to its rows of values [R, ...]."""
        return values if self.rows is None else values[self.rows]


@dataclass(frozen=True)
class Plan:
    """What the host knows about the next step."""

    undecided: int | None  # no row has more masks in the window; None: decided positions are read as well
    padded: bool = True  # some row has padding
    steps: int = 1  # to make before the host looks again: `check_every`, or fewer if none of these rows needs so many
    cache: RowCache | None = None
    buckets: tuple[Bucket, ...] = ()  # with a cache


def status(rows: Rows, run: Run) -> Tensor:
    """What the host is told after a step, [n, R]: the faults, whether the row has finished, and if it matters the masks
    in the window (or, if steps are made unseen, all of them), what was written since a whole pass and which part of the
    row the next pass computes."""
    told = [rows.fault.T, rows.finished[None]]
    if not run.looks_always:
        told.append(rows.masked.sum(-1)[None])
    elif _compacts(rows, run):
        left = rows.masked
        if run.needs.where != "canvas":
            left = left & in_block(torch.arange(left.shape[1], device=left.device), rows, run)
        told.append(left.sum(-1)[None])
    if run.cache:
        told += [rows.stale[None], part_of(rows, run)[None]]
    return torch.cat(told)


def plan_next(told: list[list[int]], rows: Rows, run: Run, padded: bool, cache: RowCache | None) -> Plan:
    """The next step's plan from what ``status`` told."""
    undecided, steps = None, 1
    if _compacts(rows, run):
        undecided = max(told[KINDS + 1]) if run.looks_always else window_width(run, rows.masked.shape[1])
    if not run.looks_always:
        steps = min(run.check_every, max(told[KINDS + 1]))  # each opens a mask of every row
    if cache is None:
        return Plan(undecided, padded, steps)
    groups: dict[int | None, list[int]] = {}
    for row, (stale, part) in enumerate(zip(*told[-2:], strict=True)):
        groups.setdefault(None if stale >= run.cache_refresh else part, []).append(row)
    if len(groups) == 1:
        return Plan(undecided, padded, steps, cache, (Bucket(None, next(iter(groups))),))
    device = rows.key.device
    buckets = (Bucket(torch.tensor(members, device=device), part) for part, members in groups.items())
    return Plan(undecided, padded, steps, cache, tuple(buckets))


def _compacts(rows: Rows, run: Run) -> bool:
    """Whether leaving out decided positions saves more than finding the others costs."""
    few = rows.masked.shape[0] * window_width(run, rows.masked.shape[1]) * run.denoiser.vocab_size <= head.FEW
    return run.needs.only_masked and not few
