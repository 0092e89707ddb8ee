"""One step of the rows that are being filled: the only place that calls a denoiser."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hf_unmask.caching import RowCache
from hf_unmask.canvas import Rows
from hf_unmask.randomness import ACTION, ROW, TOKEN, uniform
from hf_unmask.reading import Reading, read
from hf_unmask.run import Run, window_width
from hf_unmask.step import Noise, SamplerProtocol, Selection, Step

_NOT_FINITE_MESSAGE = (
    "the denoiser's logits are NaN or infinite: check its weights and dtype (float16 overflows easily, try bfloat16)"
)


@dataclass(frozen=True)
class Bucket:
    """Rows whose forward pass computes the same columns."""

    rows: Tensor | None  # [r] long, None: all
    start: int | None  # first column that is computed, with what lies before taken from the cache; None: the whole row


@dataclass(frozen=True)
class Plan:
    """What the host knows about the next step."""

    undecided: int  # no row has more masks in its active block
    padded: bool = True  # some row has padding
    cache: RowCache | None = None
    buckets: tuple[Bucket, ...] = (Bucket(None, None),)


@dataclass(frozen=True)
class Made:
    """A step, for those who listen to it."""

    step: Step
    opened: Tensor  # [R, L] bool
    computed: Tensor  # [R, W] bool, where the sampler's quantities mean something


def advance(rows: Rows, run: Run, plan: Plan) -> tuple[Rows, Made]:
    """One denoising step of every row. Nothing is read back to the host; rows that have finished stay as they are."""
    slots, inside = _window(rows, run)
    positions = rows.positions.gather(1, slots)
    masked = rows.masked.gather(1, slots) & inside
    only_masked = run.sampler.needs.where == "eligible"
    if only_masked:
        places = (~masked).int().argsort(dim=-1, stable=True)[:, : plan.undecided]
        reading = _read(rows, run, plan, slots.gather(1, places), positions.gather(1, places), positions)
        reading = reading.in_window(places, masked.gather(1, places), rows.tokens.gather(1, positions))
    else:
        reading = _read(rows, run, plan, slots, positions, positions)
    step = _step(rows, run, slots, inside, masked, reading)
    noise = Noise(
        action=lambda: uniform(rows.key, rows.steps, step.index, ACTION),
        row=lambda: uniform(rows.key, rows.steps, torch.zeros_like(rows.key)[:, None], ROW)[:, 0],
    )
    selection = run.sampler.select(step, rows.sampler_state, noise)
    _check_form(selection, step, run.sampler)
    fault = _fault(rows, selection, step, reading, run.sampler)
    after, opened = _write(rows, run, positions, step, selection)
    over = rows.finished | (after.block * run.block_length >= after.length)
    after, over = run.stopping.apply(after, over)
    return replace(after, finished=over, fault=fault), Made(step, opened, masked if only_masked else inside)


def status(rows: Rows, run: Run) -> Tensor:
    """What the host is told after a step, [5, R] long: fault, finished, masks in the active block, steps made in it,
    and with a cache the first column of what ``cache="prefix"`` computes."""
    left = (rows.masked & _in_block(rows, run)).sum(-1)
    start = torch.zeros_like(left)
    if run.cache:
        first = 0 if run.sampler.needs.where == "canvas" else rows.block * run.block_length
        first = (torch.zeros_like(left) + first).clamp(max=rows.masked.shape[1] - 1)
        start = run.denoiser.sources(rows.positions.gather(1, first[:, None]), rows.attended)[:, 0]
    return torch.stack([rows.fault, rows.finished.long(), left, rows.block_steps, start])


def plan_next(told: list[list[int]], rows: Rows, run: Run, padded: bool, cache: RowCache | None) -> Plan:
    """The next step's plan from what ``status`` told."""
    undecided = max(told[2]) if run.check_every == 1 else window_width(run, rows.masked.shape[1])
    if cache is None:
        return Plan(undecided, padded)
    groups: dict[int | None, list[int]] = {}
    for row, (made, start) in enumerate(zip(told[3], told[4], strict=True)):
        whole = made % (run.cache_refresh or run.block_length + 1) == 0
        groups.setdefault(None if whole else start if run.cache == "prefix" else 0, []).append(row)
    if len(groups) == 1:
        return Plan(undecided, padded, cache, (Bucket(None, next(iter(groups))),))
    device = rows.key.device
    buckets = (Bucket(torch.tensor(members, device=device), start) for start, members in groups.items())
    return Plan(undecided, padded, cache, tuple(buckets))


def raise_fault(faults: list[int], rows: Rows, sampler: SamplerProtocol) -> None:
    """Raise what went wrong first in the first row that has a fault, if any has; faults [R]."""
    place = next((place for place, fault in enumerate(faults) if fault), None)
    if place is None:
        return
    step, kind = divmod(faults[place], 4)
    error, message = (
        (ValueError, _NOT_FINITE_MESSAGE),
        (RuntimeError, f"sampler {sampler} opened a position that is not eligible"),
        (RuntimeError, f"sampler {sampler} opened nothing although it must open a position"),
    )[kind - 1]
    raise error(f"{message} (step {step}, row {int(rows.number[place])})")


def _window(rows: Rows, run: Run) -> tuple[Tensor, Tensor]:
    """Canvas positions of the sampler's window [R, W] (clamped) and which of them exist in the row [R, W]."""
    canvas = rows.masked.shape[1]
    slots = torch.arange(window_width(run, canvas), device=rows.key.device)[None].expand(len(rows.key), -1)
    if run.sampler.needs.where != "canvas":
        slots = slots + (rows.block * run.block_length)[:, None]
    return slots.clamp(max=canvas - 1), slots < rows.length[:, None]


def _in_block(rows: Rows, run: Run) -> Tensor:
    """[R, L] bool, canvas positions of the active block."""
    place = torch.arange(rows.masked.shape[1], device=rows.masked.device)
    return place // run.block_length == rows.block[:, None]


def _read(rows: Rows, run: Run, plan: Plan, slots: Tensor, positions: Tensor, window: Tensor) -> Reading:
    """Forward passes, read at canvas positions ``slots`` [R, n] that lie at ``positions`` [R, n] of the sequence.

    window [R, W] long: positions of the whole window.
    """
    if len(plan.buckets) == 1:
        return _read_bucket(rows, run, plan, plan.buckets[0], slots, positions, window)
    parts, order = [], []
    for bucket in plan.buckets:
        if bucket.rows is not None:
            some = replace(rows, sampler_state=None).take(bucket.rows)
            cut = (values[bucket.rows] for values in (slots, positions, window))
            parts.append(_read_bucket(some, run, plan, bucket, *cut))
            order.append(bucket.rows)
    return Reading.join(parts).take(torch.cat(order).argsort())


def _read_bucket(
    rows: Rows, run: Run, plan: Plan, bucket: Bucket, slots: Tensor, positions: Tensor, window: Tensor
) -> Reading:
    """One forward pass (guidance: two)."""
    needs, denoiser = run.sampler.needs, run.denoiser
    cache = plan.cache
    if cache is not None:
        cache.at(bucket.rows, _columns(rows, run, bucket, window))
    attended = rows.attended if plan.padded else None
    prediction = denoiser(rows.tokens, attended, positions, hidden="hidden" in needs.quantities, cache=cache)
    pieces = prediction.pieces()
    if run.forwards_per_step == 2:
        canvas = torch.zeros_like(rows.tokens).scatter_add(1, rows.positions, rows.valid.long()) > 0
        blank = torch.where(canvas, rows.tokens, denoiser.mask_token_id)
        unconditional = denoiser(blank, attended, positions).pieces()
        pieces = (
            plain + run.guidance_scale * (logits - plain) for logits, plain in zip(pieces, unconditional, strict=True)
        )
    noise = uniform(rows.key, rows.steps, slots, TOKEN).flatten() if run.draw.temperature else None
    reading = read(pieces, needs, run.draw, noise, run.banned)
    if prediction.hidden is not None:
        reading.quantities["hidden"] = prediction.hidden.flatten(0, 1)
    return reading.by_row(len(slots))


def _columns(rows: Rows, run: Run, bucket: Bucket, window: Tensor) -> Tensor | None:
    """What a pass between two whole ones computes, [R, Q] long; None for a whole one."""
    if bucket.start is None:
        return None
    if run.cache == "prefix":
        return torch.arange(bucket.start, rows.tokens.shape[1], device=window.device).expand(len(window), -1)
    sources = run.denoiser.sources(window, rows.attended)
    if sources is window:
        return window
    return torch.cat([sources[:, :1] if run.gapless else sources, window], dim=1)


def _step(rows: Rows, run: Run, slots: Tensor, inside: Tensor, masked: Tensor, reading: Reading) -> Step:
    whole = run.sampler.needs.where == "canvas"  # otherwise the window is the active block
    return Step(
        proposal=reading.proposal,
        masked=masked,
        eligible=masked & (slots // run.block_length == rows.block[:, None]) if whole else masked,
        valid=inside,
        index=slots,
        length=rows.length,
        steps=rows.steps,
        block_steps=rows.block_steps,
        block_length=run.block_length,
        stop_token_ids=run.denoiser.stop_token_ids,
        read=reading.quantities,
    )


def _check_form(selection: Selection, step: Step, sampler: SamplerProtocol) -> None:
    if selection.reopen is not None:
        raise RuntimeError(f"sampler {sampler} wants to reopen positions: remasking is not supported by this loop")
    if selection.open.dtype != torch.bool or selection.open.shape != step.eligible.shape:
        raise RuntimeError(
            f"sampler {sampler} must return bool of shape {tuple(step.eligible.shape)}, got {selection.open.dtype} "
            f"of shape {tuple(selection.open.shape)}"
        )
    tokens = selection.tokens
    if tokens is not None and (tokens.dtype != torch.long or tokens.shape != step.proposal.shape):
        raise RuntimeError(
            f"sampler {sampler} must return tokens as long of shape {tuple(step.proposal.shape)}, got {tokens.dtype} "
            f"of shape {tuple(tokens.shape)}"
        )


def _fault(rows: Rows, selection: Selection, step: Step, reading: Reading, sampler: SamplerProtocol) -> Tensor:
    """[R] long, in the coding of ``Rows.fault``: the row's logits are not finite, it opened an ineligible position, it
    opened nothing. The first fault stays."""
    at_work = ~rows.finished
    spoilt = (step.valid & ~reading.finite).any(-1) & at_work
    stalled = ~selection.open.any(-1) & at_work & (not sampler.may_stall)
    kinds = (spoilt, (selection.open & ~step.eligible).any(-1), stalled)
    fault = torch.zeros_like(rows.fault)
    for code, hit in reversed([*enumerate(kinds, 1)]):
        fault = torch.where(hit, code + 4 * rows.steps, fault)
    return torch.where(rows.fault > 0, rows.fault, fault)


def _write(rows: Rows, run: Run, positions: Tensor, step: Step, selection: Selection) -> tuple[Rows, Tensor]:
    """Write the opened positions and move the block pointers. Also returns what opened [R, L] bool."""
    chosen = step.proposal if selection.tokens is None else selection.tokens
    # adding differences keeps clamped window positions (they add 0) from overwriting real ones
    change = torch.where(selection.open, chosen - rows.tokens.gather(1, positions), 0)
    opened = torch.zeros_like(rows.step_map).scatter_add(1, step.index, selection.open.long()) > 0
    masked = rows.masked & ~opened
    in_block = _in_block(rows, run)
    block_steps = rows.block_steps + 1
    # only a sampler that may stall can use up its steps; what it left masked stays so
    done = ~(masked & in_block).any(-1) | (block_steps >= (in_block & rows.valid).sum(-1))
    return replace(
        rows,
        tokens=rows.tokens.scatter_add(1, positions, change),
        masked=masked,
        step_map=torch.where(opened, rows.steps[:, None], rows.step_map),
        block=rows.block + done,
        block_steps=torch.where(done, 0, block_steps),
        steps=rows.steps + ~rows.finished,
        passes=rows.passes + 1,
        sampler_state=selection.state,
    ), opened
