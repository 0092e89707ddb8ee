"""The denoising loop.

The loop advances rows, not the batch: each row has its own block pointer and step count, ``advance`` makes one step
for all rows that are being filled, finished rows leave and waiting ones take their place.

    while rows are left:
        forward pass -> logits where the sampler reads them
        token draw   -> a proposal per position
        sampler      -> which positions take their proposal now
        write, move block pointers, let finished rows leave
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationConfig

from hf_unmask.denoisers.adapter import Denoiser
from hf_unmask.generation.canvas import Layout, Rows
from hf_unmask.generation.output import StepEvent, StreamedRow, UnmaskOutput
from hf_unmask.generation.pool import Pool
from hf_unmask.generation.prompts import Prompts
from hf_unmask.generation.recording import Recording
from hf_unmask.generation.run import Run, prepare
from hf_unmask.generation.step import SamplerProtocol


@torch.inference_mode(False)  # whose tensors could not be written to in place
@torch.no_grad()
def generate(
    model: nn.Module | Denoiser,
    input_ids: Tensor,
    *,
    sampler: SamplerProtocol,
    attention_mask: Tensor | None = None,
    token_type_ids: Tensor | None = None,
    generation_config: GenerationConfig | None = None,
    streamer: Any = None,
    on_step: Callable[[StepEvent], None] | None = None,
    tokenizer: Any = None,
    **options: Any,
) -> Tensor | UnmaskOutput:
    """Fill masked positions with a diffusion language model, in the order a sampler chooses.

    A row's result depends on its prompt and seed, not on the rows beside it. In float64 that is exact; in float32 it
    holds up to decisions closer than 1e-4, which the shape of a batch may round either way.

    Args:
        model: a model that an adapter covers (see ``Denoiser.from_model``), or a ``Denoiser``.
        input_ids: [B, P] long; prompts of unequal length are padded on either side. P may be 0.
        sampler: decides which positions open at each step, e.g. ``ThresholdSampler(0.9)``.
        attention_mask: [B, P], 0 at padding. None: padding is told by the padding token, if one is known and is neither
            a stop token nor the mask token. Else all is text, and a batch of several rows warns if that is in doubt.
        token_type_ids: [B, P], the segment of every token, for models that have such (BERT); new tokens are of that of
            the prompt's last one. None: all 0. So ``generate(model, **tokenizer(texts, ...), sampler=...)`` works.
        generation_config: options; a plain ``GenerationConfig`` is read as far as it applies.
        streamer: ``put`` / ``end`` of transformers' streamers and, if it has it, ``put_draft`` with what may still
            change after each step. One row only. The text comes in its order, with what lies between gaps.
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
    with ended(streamer):
        run, rows, layout, config = prepare(
            model,
            Prompts(input_ids, attention_mask, token_type_ids),
            sampler,
            generation_config,
            tokenizer,
            options,
        )
        recording = Recording(rows, layout.canvas, streamer, on_step, config.output_trajectory)
        recording.start(rows, layout)
        pool = Pool(rows, run, recording)
        while not pool.empty:
            pool.turn()
        output = _output(pool.whole, layout, run, recording)
        return output if config.return_dict_in_generate else output.sequences


class RowStream(Iterator[StreamedRow]):
    """Rows of ``generate_stream``, computed as they are asked for."""

    def __init__(self, pool: Pool, layout: Layout, ordered: bool):
        self._pool, self._layout, self._ordered = pool, layout, ordered
        self._finished: deque[int] = deque(pool.finished)
        self._next = 0

    @property
    def steps(self) -> int:
        """Made so far, each by all slots."""
        return self._pool.steps

    @property
    def wasted(self) -> float:
        """Share of slots, over all steps so far, that were empty or held a row that had finished."""
        places = self._pool.steps * self._pool.slots
        return 1 - self._pool.charged / places if places else 0.0

    @torch.inference_mode(False)
    @torch.no_grad()
    def __next__(self) -> StreamedRow:
        while (number := self._ready()) is None:
            if self._pool.empty:
                raise StopIteration
            self._finished.extend(self._pool.turn())
        return StreamedRow(number, self._row(number))

    def _ready(self) -> int | None:
        if not self._ordered:
            return self._finished.popleft() if self._finished else None
        if self._next not in self._finished:
            return None
        self._finished.remove(self._next)
        self._next += 1
        return self._next - 1

    def _row(self, number: int) -> UnmaskOutput:
        index = torch.tensor([number], device=self._layout.source.device)
        row, layout = self._pool.whole.take(index), self._layout.take(index)
        real = layout.restore(row.attended)[0]
        output = _output(row, layout, self._pool.run, self._pool.recording)
        output.sequences, output.step_map = output.sequences[:, real], output.step_map[:, real]
        return output


@torch.inference_mode(False)
@torch.no_grad()
def generate_stream(
    model: nn.Module | Denoiser,
    prompts: Sequence[Sequence[int] | Tensor],
    *,
    sampler: SamplerProtocol,
    slots: int = 8,
    ordered: bool = True,
    token_type_ids: Sequence[Sequence[int] | Tensor] | None = None,
    generation_config: GenerationConfig | None = None,
    on_step: Callable[[StepEvent], None] | None = None,
    tokenizer: Any = None,
    **options: Any,
) -> RowStream:
    """Fill prompts in ``slots`` places; a finished row's place goes to the next prompt. Yields rows as they finish.

    A row is what one ``generate`` call over all prompts gives it, to the token.

    Args:
        model, sampler, generation_config, on_step, tokenizer, **options: as for ``generate``.
        prompts: token ids, each of its own length, without padding.
        slots: rows that are filled at once.
        token_type_ids: as for ``generate``, each as long as its prompt.
        ordered: yield rows in the order of the prompts (a long one holds up those behind it), else as they finish.

    Returns:
        An iterator of `StreamedRow`, which knows how many row-slots were ``wasted``. Nothing is computed before the
        first row is asked for.

    Raises:
        ValueError: input or option that cannot be used.
    """
    for name in ("fill_mask", "output_trajectory"):
        if options.get(name) is not None:
            raise ValueError(f"`{name}` is laid out for a whole batch: use generate(..., slots={slots})")
    run, laid, layout, _ = prepare(
        model,
        Prompts.of_lists(prompts, token_type_ids),
        sampler,
        generation_config,
        tokenizer,
        {**options, "slots": slots},
    )
    return RowStream(Pool(laid, run, Recording(laid, layout.canvas, None, on_step, False)), layout, ordered)


@contextmanager
def ended(streamer: Any) -> Iterator[None]:
    """Ends the streamer whatever happens, so that who reads it in another thread is not left waiting."""
    try:
        yield
    finally:
        if streamer is not None:
            streamer.end()


def _output(rows: Rows, layout: Layout, run: Run, recording: Recording) -> UnmaskOutput:
    nfe = rows.steps * run.forwards_per_step
    step_map = torch.full_like(rows.tokens, -1)
    step_map = step_map.scatter_add(1, rows.positions, torch.where(rows.valid, rows.step_map + 1, 0))
    step_map = layout.restore(step_map)
    return UnmaskOutput(
        sequences=layout.restore(rows.tokens),
        nfe=nfe,
        forwards_run=rows.passes * run.forwards_per_step,
        steps=rows.steps,
        tokens_per_forward=(step_map >= 0).sum(-1) / nfe.clamp(min=1),
        step_map=step_map,
        complete=~rows.masked.any(-1),
        trajectory=recording.trajectory(),
    )
