"""One step of the rows that are being filled: the only place that calls a denoiser."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hf_unmask.denoisers.caching import RowCache
from hf_unmask.generation.cache_refresh import columns_of, stale_after
from hf_unmask.generation.canvas import Rows
from hf_unmask.generation.faults import check_form, find_faults
from hf_unmask.generation.plan import Plan
from hf_unmask.generation.randomness import ACTION, ROW, TOKEN, uniform
from hf_unmask.generation.reading import Reading, guided, read
from hf_unmask.generation.run import Run
from hf_unmask.generation.step import Noise, Selection, Step
from hf_unmask.generation.window import Window, block_bounds, in_block, window_of


@dataclass(frozen=True)
class Made:
    """A step, for those who listen to it."""

    step: Step
    opened: Tensor  # [R, L] bool
    computed: Tensor  # [R, W] bool, where the sampler's quantities mean something


def advance(rows: Rows, run: Run, plan: Plan) -> tuple[Rows, Made]:
    """One denoising step of every row. Nothing is read back to the host; rows that have finished stay as they are."""
    window = window_of(rows, run)
    reading = _read(rows, run, plan, window)
    step = _step(rows, run, window, reading)
    noise = Noise(
        action=lambda: uniform(rows.key, rows.steps, step.index, ACTION),
        row=lambda: uniform(rows.key, rows.steps, torch.zeros_like(rows.key)[:, None], ROW)[:, 0],
    )
    selection = run.sampler.select(step, rows.sampler_state, noise)
    check_form(selection, step, run.sampler)
    opening = selection.open & step.eligible
    fault = find_faults(rows, run, selection, opening, step, reading)
    after, opened = _write(rows, run, window, step, selection, opening, fault)
    return run.stopping.apply(after), Made(step, opened, window.masked if run.needs.only_masked else window.inside)


def _read(rows: Rows, run: Run, plan: Plan, window: Window) -> Reading:
    """What the sampler reads in its window; decided positions that it does not need are left out where that pays."""
    if not run.needs.only_masked:
        return _passes(rows, run, plan, window, window.slots, window.positions)
    if plan.undecided is None:
        reading = _passes(rows, run, plan, window, window.slots, window.positions)
        return reading.only(window.masked, rows.tokens.gather(1, window.positions))
    places = (~window.masked).int().argsort(dim=-1, stable=True)[:, : plan.undecided]
    reading = _passes(rows, run, plan, window, window.slots.gather(1, places), window.positions.gather(1, places))
    return reading.in_window(places, window.masked.gather(1, places), rows.tokens.gather(1, window.positions))


def _passes(rows: Rows, run: Run, plan: Plan, window: Window, slots: Tensor, positions: Tensor) -> Reading:
    """Read at canvas positions ``slots`` [R, n] that lie at ``positions`` [R, n] of the sequence: by one forward pass,
    with a cache by one per bucket."""
    cache = plan.cache
    if cache is None:
        return _pass(rows, run, plan.padded, slots, positions)
    parts = []
    for bucket in plan.buckets:
        some = bucket.of(rows)
        cache.at(bucket.rows, columns_of(some, run, bucket.part, bucket.cut(window.positions)))
        parts.append(_pass(some, run, plan.padded, bucket.cut(slots), bucket.cut(positions), cache))
    reading = Reading.join(parts)
    order = [bucket.rows for bucket in plan.buckets if bucket.rows is not None]
    return reading.take(torch.cat(order).argsort()) if order else reading


def _pass(
    rows: Rows, run: Run, padded: bool, slots: Tensor, positions: Tensor, cache: RowCache | None = None
) -> Reading:
    """One forward pass (guidance: two)."""
    needs, denoiser = run.needs, run.denoiser
    attended = rows.attended if padded else None
    types = rows.types if run.typed else None
    prediction = denoiser(
        rows.tokens, attended, positions, hidden="hidden" in needs.quantities, cache=cache, types=types
    )
    pieces = prediction.pieces()
    if run.forwards_per_step == 2:
        canvas = torch.zeros_like(rows.tokens).scatter_add(1, rows.positions, rows.valid.long()) > 0
        blank = torch.where(canvas, rows.tokens, denoiser.mask_token_id)
        unconditional = denoiser(blank, attended, positions, types=types).pieces()
        pieces = (guided(*both, run.guidance_scale) for both in zip(pieces, unconditional, strict=True))
    noise = uniform(rows.key, rows.steps, slots, TOKEN).flatten() if run.draw.temperature else None
    reading = read(pieces, needs, run.draw, noise, run.banned)
    if prediction.hidden is not None:
        reading.quantities["hidden"] = prediction.hidden.flatten(0, 1)
    return reading.by_row(len(slots))


def _step(rows: Rows, run: Run, window: Window, reading: Reading) -> Step:
    whole = run.needs.where == "canvas"  # otherwise the window is the active block
    return Step(
        proposal=reading.proposal,
        masked=window.masked,
        eligible=window.masked & in_block(window.slots, rows, run) if whole else window.masked,
        valid=window.inside,
        index=window.slots,
        length=rows.length,
        steps=rows.steps,
        block_steps=rows.block_steps,
        block_length=run.block_length,
        stop_token_ids=run.denoiser.stop_token_ids,
        read=reading.quantities,
    )


def _write(
    rows: Rows, run: Run, window: Window, step: Step, selection: Selection, opening: Tensor, fault: Tensor
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
        start, end = block_bounds(rows, run)
        done = done | (block_steps >= end - start)
    start = torch.add(rows.start, done, alpha=run.block_length)
    finished = start >= rows.length
    if not run.looks_always:  # its steps then tell where the first fault was
        finished = finished | rows.finished | fault.any(-1)
    return replace(
        rows,
        tokens=rows.tokens.scatter_add(1, window.positions, change),
        masked=rows.masked ^ opened,
        step_map=step_map,
        start=start,
        block_steps=block_steps.masked_fill(done, 0),
        stale=stale_after(rows, run, opening, done) if run.cache else rows.stale,
        steps=steps,
        passes=passes,
        finished=finished,
        fault=fault,
        sampler_state=selection.state,
    ), opened
