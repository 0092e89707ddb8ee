"""The denoising loop: the only place that calls a denoiser.

The loop advances rows, not the batch: each row has its own block pointer and step count, ``advance`` makes one step
for all rows that are left, and finished rows leave.

    while rows are left:
        forward pass -> logits in the sampler's window
        token draw   -> a proposal per position
        sampler      -> which positions take their proposal now
        write, move block pointers, let finished rows leave
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationConfig

from hf_unmask.canvas import Layout, Rows, lay_out, settle_blocks
from hf_unmask.configuration import UnmaskingGenerationConfig, resolve_config
from hf_unmask.denoisers import Denoiser
from hf_unmask.output import StepEvent, UnmaskOutput
from hf_unmask.randomness import ACTION, ROW, TOKEN, uniform
from hf_unmask.reading import Reading, TokenDraw, read
from hf_unmask.recording import Recording
from hf_unmask.step import ChecksUse, Noise, SamplerProtocol, Selection, Step
from hf_unmask.stopping import Stopping

_NOT_FINITE_MESSAGE = (
    "the denoiser's logits are NaN or infinite: check its weights and dtype (float16 overflows easily, try bfloat16)"
)


@dataclass(frozen=True)
class Run:
    """What stays the same during a call of ``generate``."""

    denoiser: Denoiser
    sampler: SamplerProtocol
    block_length: int
    draw: TokenDraw
    banned: tuple[int, ...]
    guidance_scale: float

    @property
    def forwards_per_step(self) -> int:
        return 1 if self.guidance_scale == 1.0 else 2


@torch.no_grad()
def generate(
    model: nn.Module | Denoiser,
    input_ids: Tensor,
    *,
    sampler: SamplerProtocol,
    attention_mask: Tensor | None = None,
    generation_config: GenerationConfig | None = None,
    streamer: Any = None,
    on_step: Callable[[StepEvent], None] | None = None,
    tokenizer: Any = None,
    **options: Any,
) -> Tensor | UnmaskOutput:
    """Fill masked positions with a diffusion language model, in the order a sampler chooses.

    Args:
        model: a model that an adapter covers (see ``Denoiser.from_model``), or a ``Denoiser``.
        input_ids: [B, P] long; prompts of unequal length are padded on either side. P may be 0.
        sampler: decides which positions open at each step, e.g. ``ThresholdSampler(0.9)``.
        attention_mask: [B, P], 0 at padding. None: padding is told by the padding token where that is unambiguous.
        generation_config: options; a plain ``GenerationConfig`` is read as far as it applies.
        streamer: ``put`` / ``end`` of transformers' streamers and, if it has it, ``put_draft`` with the whole canvas
            after each step. One row only.
        on_step: called after each step with a `StepEvent`.
        tokenizer: needed for ``stop_strings``, and asked for ids that the model does not know.
        **options: fields of `UnmaskingGenerationConfig`; they win over ``generation_config``, which wins over the
            model's own. Unknown ones are an error.

    Returns:
        [B * num_return_sequences, S] long sequences, or an `UnmaskOutput` with ``return_dict_in_generate=True``.

    Raises:
        ValueError: input or option that cannot be used, or logits that are not finite (names step and row).
        RuntimeError: a sampler that opens nothing or an ineligible position.
    """
    with _ended(streamer):
        config = resolve_config(_own_config(model), generation_config, options)
        denoiser = _denoiser(model, config, tokenizer)
        settle_blocks(denoiser, config)
        run = _prepare(denoiser, sampler, config)
        rows, layout, sequences = lay_out(denoiser, input_ids, attention_mask, config)
        if isinstance(sampler, ChecksUse):
            sampler.check(denoiser, config.block_length, rows.masked.shape[1])
        if config.block_length is None:
            run = replace(run, block_length=max(rows.masked.shape[1], 1))
        stopping = Stopping.from_config(denoiser, config, tokenizer)
        recording = Recording(rows, streamer, on_step, config.output_trajectory)
        rows = replace(rows, sampler_state=sampler.init(len(rows.key), _window_width(rows, run), denoiser.device))
        whole = rows
        recording.start(sequences[:, : input_ids.shape[1]])
        rows, whole = _leave(rows, whole, rows.length == 0)
        while len(rows.number):
            rows, finished = advance(rows, run, stopping, recording)
            if finished is not None:
                rows, whole = _leave(rows, whole, finished)
        sequences = layout.restore(whole.tokens)
        return _output(sequences, whole, layout, run, recording) if config.return_dict_in_generate else sequences


@contextmanager
def _ended(streamer: Any) -> Iterator[None]:
    """Ends the streamer whatever happens, so that who reads it in another thread is not left waiting."""
    try:
        yield
    finally:
        if streamer is not None:
            streamer.end()


def advance(rows: Rows, run: Run, stopping: Stopping, recording: Recording) -> tuple[Rows, Tensor | None]:
    """One denoising step of every row. Returns the rows and which have finished [R] bool, None if none has."""
    slots, inside = _window(rows, run)
    positions = rows.positions.gather(1, slots)
    reading, hidden = _denoise(rows, run, slots, positions)
    step = _step(rows, run, slots, inside, reading, hidden)
    noise = Noise(
        action=lambda: uniform(rows.key, rows.steps, step.index, ACTION),
        row=lambda: uniform(rows.key, rows.steps, torch.zeros_like(rows.key)[:, None], ROW)[:, 0],
    )
    selection = run.sampler.select(step, rows.sampler_state, noise)
    _check_form(selection, step, run.sampler)
    fault = _faults(selection, step, reading, run.sampler)
    after, opened = _write(rows, run, positions, step, selection)
    after, finished = stopping.apply(after, after.block * run.block_length >= after.length + after.lead)
    # the one device-to-host read of a step: any fault, any row finished
    *faulty, any_finished = torch.cat([fault, finished[None]]).any(-1).tolist()
    if any(faulty):
        _raise_fault(fault, rows, run.sampler)
    recording.step(after, slots, opened, step)
    return after, finished if any_finished else None


def _window_width(rows: Rows, run: Run) -> int:
    canvas = rows.masked.shape[1]
    return canvas if run.sampler.needs.where == "canvas" else min(run.block_length, canvas)


def _window(rows: Rows, run: Run) -> tuple[Tensor, Tensor]:
    """Canvas positions of the sampler's window [R, W] (clamped) and which of them exist in the row [R, W]."""
    slots = torch.arange(_window_width(rows, run), device=rows.key.device)[None].expand(len(rows.key), -1)
    inside = slots < rows.length[:, None]
    if run.sampler.needs.where == "eligible":
        slots = slots + (rows.block * run.block_length - rows.lead).clamp(min=0)[:, None]
        inside = (slots < rows.length[:, None]) & _in_block(slots, rows, run)
    return slots.clamp(max=rows.masked.shape[1] - 1), inside


def _in_block(slots: Tensor, rows: Rows, run: Run) -> Tensor:
    """[R, W] bool, which canvas positions [R, W] or [W] lie in the row's active block."""
    return (slots + rows.lead[:, None]) // run.block_length == rows.block[:, None]


def _denoise(rows: Rows, run: Run, slots: Tensor, positions: Tensor) -> tuple[Reading, Tensor | None]:
    wants_hidden = "hidden" in run.sampler.needs.quantities
    logits, hidden = run.denoiser(rows.tokens, rows.attended, positions, hidden=wants_hidden)
    if run.forwards_per_step == 2:
        canvas = torch.zeros_like(rows.tokens).scatter_add(1, rows.positions, rows.valid.long()) > 0
        blank = torch.where(canvas, rows.tokens, run.denoiser.mask_token_id)
        unconditional, _ = run.denoiser(blank, rows.attended, positions)
        logits = unconditional + run.guidance_scale * (logits - unconditional)
    noise = uniform(rows.key, rows.steps, slots, TOKEN) if run.draw.temperature else None
    return read(logits, run.sampler.needs, run.draw, noise, run.banned), hidden


def _step(rows: Rows, run: Run, slots: Tensor, inside: Tensor, reading: Reading, hidden: Tensor | None) -> Step:
    masked = rows.masked.gather(1, slots) & inside
    whole = run.sampler.needs.where == "canvas"  # otherwise the window is the active block
    quantities = dict(reading.quantities)
    if hidden is not None:
        quantities["hidden"] = hidden
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
        read=quantities,
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


def _faults(selection: Selection, step: Step, reading: Reading, sampler: SamplerProtocol) -> Tensor:
    """[3, R] bool: the row's logits are not finite, it opened an ineligible position, it opened nothing."""
    stalled = ~selection.open.any(-1)
    if sampler.may_stall:
        stalled = torch.zeros_like(stalled)
    return torch.stack([(step.valid & ~reading.finite).any(-1), (selection.open & ~step.eligible).any(-1), stalled])


def _raise_fault(fault: Tensor, rows: Rows, sampler: SamplerProtocol) -> None:
    for hits, error, message in (
        (fault[0], ValueError, _NOT_FINITE_MESSAGE),
        (fault[1], RuntimeError, f"sampler {sampler} opened a position that is not eligible"),
        (fault[2], RuntimeError, f"sampler {sampler} opened nothing although it must open a position"),
    ):
        hit = hits.nonzero()
        if len(hit):
            place = int(hit[0])
            raise error(f"{message} (step {int(rows.steps[place])}, row {int(rows.number[place])})")


def _write(rows: Rows, run: Run, positions: Tensor, step: Step, selection: Selection) -> tuple[Rows, Tensor]:
    """Write the opened positions and move the block pointers. Also returns what opened [R, L] bool."""
    chosen = step.proposal if selection.tokens is None else selection.tokens
    # adding differences keeps clamped window positions (they add 0) from overwriting real ones
    change = torch.where(selection.open, chosen - rows.tokens.gather(1, positions), 0)
    opened = torch.zeros_like(rows.step_map).scatter_add(1, step.index, selection.open.long()) > 0
    masked = rows.masked & ~opened
    place = torch.arange(masked.shape[1], device=masked.device)
    in_block = _in_block(place, rows, run)
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
        steps=rows.steps + 1,
        sampler_state=selection.state,
    ), opened


def _leave(rows: Rows, whole: Rows, finished: Tensor) -> tuple[Rows, Rows]:
    """Copy finished rows into the whole batch and go on with the others."""
    gone = rows.take(finished.nonzero()[:, 0])
    if not len(gone.number):
        return rows, whole
    update = {
        name: getattr(whole, name).index_copy(0, gone.number, getattr(gone, name))
        for name in ("tokens", "masked", "step_map", "steps")
    }
    return rows.take((~finished).nonzero()[:, 0]), replace(whole, **update)


def _output(sequences: Tensor, rows: Rows, layout: Layout, run: Run, recording: Recording) -> UnmaskOutput:
    nfe = rows.steps * run.forwards_per_step
    opened = (rows.step_map >= 0).sum(-1)
    step_map = torch.full_like(rows.tokens, -1)
    step_map = step_map.scatter_add(1, rows.positions, torch.where(rows.valid, rows.step_map + 1, 0))
    return UnmaskOutput(
        sequences=sequences,
        nfe=nfe,
        steps=rows.steps,
        tokens_per_forward=opened / nfe.clamp(min=1),
        step_map=layout.restore(step_map),
        complete=~rows.masked.any(-1),
        trajectory=recording.trajectory(),
    )


def _prepare(denoiser: Denoiser, sampler: SamplerProtocol, config: UnmaskingGenerationConfig) -> Run:
    if isinstance(sampler, type) or not isinstance(sampler, SamplerProtocol):
        raise ValueError(f"`sampler` must be a sampler such as ThresholdSampler(0.9), got {sampler!r}")
    banned = _banned(denoiser, config.suppress_tokens or ())
    scale = 1.0 if config.guidance_scale is None else float(config.guidance_scale)
    if not math.isfinite(scale):
        raise ValueError(f"`guidance_scale` must be finite, got {config.guidance_scale}")
    return Run(
        denoiser=denoiser,
        sampler=sampler,
        block_length=config.block_length or 1,
        draw=TokenDraw(config.token_temperature, config.top_k, config.top_p),
        banned=banned,
        guidance_scale=scale,
    )


def _banned(denoiser: Denoiser, suppressed: Sequence[int]) -> tuple[int, ...]:
    """What is never written: the mask token and the suppressed ones."""
    for token in suppressed:
        if not isinstance(token, int) or not 0 <= token < denoiser.vocab_size:
            raise ValueError(f"`suppress_tokens` holds {token!r}, the model knows 0 to {denoiser.vocab_size - 1}")
    banned = tuple(dict.fromkeys([denoiser.mask_token_id, *suppressed]))
    if len(banned) == denoiser.vocab_size:
        raise ValueError(f"`suppress_tokens` leaves none of the {denoiser.vocab_size} tokens to write")
    return banned


def _own_config(model: nn.Module | Denoiser) -> GenerationConfig | None:
    inner = model.model if isinstance(model, Denoiser) else model
    return getattr(inner, "generation_config", None)


def _denoiser(model: nn.Module | Denoiser, config: UnmaskingGenerationConfig, tokenizer: Any) -> Denoiser:
    """The model's adapter: the one given or attached, or a new one; ids in the options win."""
    denoiser = Denoiser.resolve(model, tokenizer=tokenizer, mask_token_id=config.mask_token_id)
    eos = config.eos_token_id
    ids = {
        "mask_token_id": config.mask_token_id,
        "pad_token_id": config.pad_token_id,
        "stop_token_ids": (eos,) if isinstance(eos, int) else eos and tuple(eos),
    }
    return replace(denoiser, **{name: value for name, value in ids.items() if value is not None})
