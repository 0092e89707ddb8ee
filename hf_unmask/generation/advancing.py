"""One step of the rows that are being filled: the only place that calls a denoiser."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor

from hf_unmask.denoisers import head
from hf_unmask.denoisers.caching import RowCache
from hf_unmask.generation.canvas import KINDS, NEVER, Rows
from hf_unmask.generation.randomness import ACTION, ROW, TOKEN, uniform
from hf_unmask.generation.reading import Reading, read
from hf_unmask.generation.run import Run, window_width
from hf_unmask.generation.step import Noise, SamplerProtocol, Selection, Step

_NOT_FINITE_MESSAGE = (
    "the denoiser's logits are NaN or infinite: check its weights and dtype (float16 overflows easily, try bfloat16)"
)


@dataclass(frozen=True)
class Bucket:
    """Rows that share a forward pass."""

    rows: Tensor | None  # [r] long, None: all
    part: int | None  # what `_columns` makes the computed columns of, `_part`; None: the whole row


@dataclass(frozen=True)
class Plan:
    """What the host knows about the next step."""

    undecided: int | None  # no row has more masks in the window; None: decided positions are read as well
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
    slots, inside, positions, masked = _window(rows, run)
    only_masked = run.needs.only_masked
    if only_masked and plan.undecided is not None:
        places = (~masked).int().argsort(dim=-1, stable=True)[:, : plan.undecided]
        reading = _read(rows, run, plan, slots.gather(1, places), positions.gather(1, places), positions)
        reading = reading.in_window(places, masked.gather(1, places), rows.tokens.gather(1, positions))
    else:
        reading = _read(rows, run, plan, slots, positions, positions)
        if only_masked:
            reading = reading.only(masked, rows.tokens.gather(1, positions))
    step = _step(rows, run, slots, inside, masked, reading)
    noise = Noise(
        action=lambda: uniform(rows.key, rows.steps, step.index, ACTION),
        row=lambda: uniform(rows.key, rows.steps, torch.zeros_like(rows.key)[:, None], ROW)[:, 0],
    )
    selection = run.sampler.select(step, rows.sampler_state, noise)
    _check_form(selection, step, run.sampler)
    opening = selection.open & step.eligible
    fault = _fault(rows, run, selection, opening, step, reading)
    after, opened = _write(rows, run, positions, step, selection, opening, fault)
    return run.stopping.apply(after), Made(step, opened, masked if only_masked else inside)


def status(rows: Rows, run: Run) -> Tensor:
    """What the host is told after a step, [n, R]: the faults, whether the row has finished, and if it matters the masks
    in the window, what was written since a whole pass and which part of the row the next pass computes."""
    told = [rows.fault.T, rows.finished[None]]
    if _compacts(rows, run):
        left = rows.masked
        if run.needs.where != "canvas":
            left = left & _in_block(torch.arange(left.shape[1], device=left.device), rows, run)
        told.append(left.sum(-1)[None])
    if run.cache:
        told += [rows.stale[None], _part(rows, run)[None]]
    return torch.cat(told)


def plan_next(told: list[list[int]], rows: Rows, run: Run, padded: bool, cache: RowCache | None) -> Plan:
    """The next step's plan from what ``status`` told."""
    undecided = None
    if _compacts(rows, run):
        undecided = max(told[KINDS + 1]) if run.check_every == 1 else window_width(run, rows.masked.shape[1])
    if cache is None:
        return Plan(undecided, padded)
    groups: dict[int | None, list[int]] = {}
    for row, (stale, part) in enumerate(zip(*told[-2:], strict=True)):
        groups.setdefault(None if stale >= run.cache_refresh else part, []).append(row)
    if len(groups) == 1:
        return Plan(undecided, padded, cache, (Bucket(None, next(iter(groups))),))
    device = rows.key.device
    buckets = (Bucket(torch.tensor(members, device=device), part) for part, members in groups.items())
    return Plan(undecided, padded, cache, tuple(buckets))


def raise_fault(faults: list[list[int]], rows: Rows, sampler: SamplerProtocol) -> None:
    """Raise what went wrong first in the first row that has a fault, if any has; faults [KINDS][R]."""
    if not any(map(any, faults)):
        return
    place, found = next((place, found) for place, found in enumerate(zip(*faults, strict=True)) if any(found))
    error, message = (
        (ValueError, _NOT_FINITE_MESSAGE),
        (RuntimeError, f"sampler {sampler} opened a position that is not eligible"),
        (RuntimeError, f"sampler {sampler} opened nothing although it must open a position"),
    )[found.index(True)]
    raise error(f"{message} (step {int(rows.steps[place]) - 1}, row {int(rows.number[place])})")


def _compacts(rows: Rows, run: Run) -> bool:
    """Whether leaving out decided positions saves more than finding the others costs."""
    few = rows.masked.shape[0] * window_width(run, rows.masked.shape[1]) * run.denoiser.vocab_size <= head.FEW
    return run.needs.only_masked and not few


def _window(rows: Rows, run: Run) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The sampler's window, each [R, W]: its canvas positions (clamped), which of them exist in the row, where they lie
    in the sequence, and which are undecided."""
    canvas = rows.masked.shape[1]
    slots = torch.arange(window_width(run, canvas), device=rows.key.device)
    if run.needs.where == "canvas":
        return slots.expand(len(rows.key), -1), rows.valid, rows.positions, rows.masked
    if not run.overhang:
        slots = slots + rows.start[:, None]
        return slots, slots < rows.length[:, None], rows.positions.gather(1, slots), rows.masked.gather(1, slots)
    start, end = _bounds(rows, run)
    slots = slots + start[:, None]
    inside = slots < end[:, None]
    slots = slots.clamp(max=canvas - 1)
    return slots, inside, rows.positions.gather(1, slots), rows.masked.gather(1, slots) & inside


def _bounds(rows: Rows, run: Run) -> tuple[Tensor, Tensor]:
    """First canvas position in each row's active block, and the first one behind it, both [R] long."""
    return rows.start.clamp(min=0), torch.minimum(rows.start + run.block_length, rows.length)


def _in_block(slots: Tensor, rows: Rows, run: Run) -> Tensor:
    """[R, W] bool, which canvas positions [R, W] or [W] lie in the row's active block."""
    return (slots - rows.start[:, None]) // run.block_length == 0


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
    needs, denoiser = run.needs, run.denoiser
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
    if bucket.part is None:
        return None
    if run.denoiser.causal_block is not None:
        first = (_seen_end(rows, run, run.denoiser.causal_block) - bucket.part).clamp(min=0)
        return first[:, None] + torch.arange(bucket.part, device=first.device)
    if run.cache == "prefix":
        return torch.arange(bucket.part, rows.tokens.shape[1], device=window.device).expand(len(window), -1)
    sources = run.denoiser.sources(window, rows.attended)
    if sources is window:
        return window
    return torch.cat([sources[:, :1] if run.gapless else sources, window], dim=1)


def _part(rows: Rows, run: Run) -> Tensor:
    """[R] long, which part of the row a pass between two whole ones computes: the number of columns up to
    `_seen_end` (block-causal models), the first column (``cache="prefix"``), or 0 for the window (``"dual"``)."""
    if run.denoiser.causal_block is not None:
        return _width(rows, run, run.denoiser.causal_block)
    if run.cache == "dual":
        return torch.zeros_like(rows.start)
    first = torch.zeros_like(rows.start) if run.needs.where == "canvas" else rows.start
    first = first.clamp(min=0, max=rows.masked.shape[1] - 1)
    return run.denoiser.sources(rows.positions.gather(1, first[:, None]), rows.attended)[:, 0]


def _width(rows: Rows, run: Run, block: int) -> Tensor:
    """[R] long, columns to compute of a model with causal blocks of ``block`` positions: the active one, and the one
    before if it has just been finished; all from the first that holds a canvas position for who reads the canvas."""
    prompt = rows.attended.sum(-1) - rows.length
    if run.needs.where == "canvas":
        width = rows.length + prompt % block
    else:
        enters = (rows.block_steps == 0) & ((prompt + rows.start) % block == 0)
        width = block + block * enters
    return (width + run.denoiser.shift).clamp(max=rows.tokens.shape[1])


def _seen_end(rows: Rows, run: Run, block: int) -> Tensor:
    """[R] long, first column behind what the sampler sees: the model's active block, or the canvas."""
    total = rows.tokens.shape[1]
    if run.needs.where == "canvas":
        return torch.full_like(rows.start, total)
    before = total - rows.length + rows.start  # columns before the sampler's active block
    padding = total - rows.attended.sum(-1)
    return (before - (before - padding) % block + block).clamp(max=total)


def _step(rows: Rows, run: Run, slots: Tensor, inside: Tensor, masked: Tensor, reading: Reading) -> Step:
    whole = run.needs.where == "canvas"  # otherwise the window is the active block
    return Step(
        proposal=reading.proposal,
        masked=masked,
        eligible=masked & _in_block(slots, rows, run) if whole else masked,
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


def _fault(rows: Rows, run: Run, selection: Selection, opening: Tensor, step: Step, reading: Reading) -> Tensor:
    """[R, KINDS] bool: ``Rows.fault`` and what this step adds; opening [R, W] bool, what is chosen and eligible."""
    spoilt = reading.spoilt if run.needs.only_masked else reading.spoilt & step.valid
    opens = torch.ones_like(opening) if run.sampler.may_stall else opening
    found = torch.stack([spoilt, selection.open ^ opening, opens], dim=1).any(-1)
    fault = found ^ _wanted(found.device)
    return fault if run.looks_always else rows.fault | (fault & ~rows.finished[:, None])


@lru_cache(maxsize=16)
def _wanted(device: torch.device) -> Tensor:
    """[KINDS] bool, what is right of what `_fault` looks for: something opens."""
    return torch.tensor([False, False, True], device=device)


def _write(
    rows: Rows, run: Run, positions: Tensor, step: Step, selection: Selection, opening: Tensor, fault: Tensor
) -> tuple[Rows, Tensor]:
    """Write ``opening`` [R, W] bool and move the block pointers. Also returns what opened, [R, L] bool."""
    chosen = step.proposal if selection.tokens is None else selection.tokens
    passes = rows.passes + 1
    steps = passes if run.looks_always else rows.steps + ~rows.finished
    # adding differences keeps clamped window positions (they add 0) from overwriting real ones
    change = (chosen - run.denoiser.mask_token_id) * opening
    step_map = rows.step_map.scatter_add(1, step.index, steps[:, None] * opening)
    opened = step_map != rows.step_map
    block_steps = rows.block_steps + 1
    done = (opening == step.eligible).all(-1)
    if run.sampler.may_stall:  # it can use up its steps; what it left masked stays so
        start, end = _bounds(rows, run)
        done = done | (block_steps >= end - start)
    start = torch.add(rows.start, done, alpha=run.block_length)
    finished = start >= rows.length
    if not run.looks_always:  # its steps then tell where the first fault was
        finished = finished | rows.finished | fault.any(-1)
    return replace(
        rows,
        tokens=rows.tokens.scatter_add(1, positions, change),
        masked=rows.masked ^ opened,
        step_map=step_map,
        start=start,
        block_steps=block_steps.masked_fill(done, 0),
        stale=_stale(rows, run, opening, done) if run.cache else rows.stale,
        steps=steps,
        passes=passes,
        finished=finished,
        fault=fault,
        sampler_state=selection.state,
    ), opened


def _stale(rows: Rows, run: Run, opening: Tensor, done: Tensor) -> Tensor:
    """``Rows.stale`` after a step."""
    before = rows.stale.masked_fill(rows.stale >= run.cache_refresh, 0)
    stale = before + opening.sum(-1)
    return stale if run.denoiser.causal_block is not None else stale.masked_fill(done, NEVER)
