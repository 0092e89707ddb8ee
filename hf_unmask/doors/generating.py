"""``hf_unmask.generate`` and ``hf_unmask.generate_stream``: the loop's own, for samplers that may be text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from hf_unmask.denoisers.adapter import Denoiser
from hf_unmask.generation import loop
from hf_unmask.generation.loop import RowStream
from hf_unmask.generation.output import UnmaskOutput
from hf_unmask.generation.step import SamplerProtocol
from hf_unmask.samplers.specs import as_sampler


def generate(
    model: nn.Module | Denoiser, input_ids: Tensor, *, sampler: SamplerProtocol | str, **options: Any
) -> Tensor | UnmaskOutput:
    """Fill masked positions with a diffusion language model, in the order a sampler chooses.

    Args:
        model: a model that an adapter covers (see ``Denoiser.from_model``), or a ``Denoiser``.
        input_ids: [B, P] long; prompts of unequal length are padded on either side. P may be 0.
        sampler: decides which positions open at each step: ``ThresholdSampler(0.9)``, or its spec,
            ``"threshold:0.9"``.
        **options: ``attention_mask`` and the other arguments of `hf_unmask.generation.loop.generate`, and the fields
            of `UnmaskingGenerationConfig`.

    Returns:
        [B * num_return_sequences, S] long sequences, or an `UnmaskOutput` with ``return_dict_in_generate=True``.

    Raises:
        ValueError: a spec, input or option that cannot be used, or logits that are not finite.
        RuntimeError: a sampler that opens nothing or an ineligible position.
    """
    try:
        chosen = as_sampler(sampler)
    except Exception:
        with loop.ended(options.get("streamer")):
            raise
    return loop.generate(model, input_ids, sampler=chosen, **options)


def generate_stream(
    model: nn.Module | Denoiser,
    prompts: Sequence[Sequence[int] | Tensor],
    *,
    sampler: SamplerProtocol | str,
    slots: int = 8,
    ordered: bool = True,
    **options: Any,
) -> RowStream:
    """Fill prompts in ``slots`` places; a finished row's place goes to the next prompt. Yields rows as they finish.

    A row is what one ``generate`` call over all prompts gives it, to the token.

    Args:
        model, sampler: as for ``generate``.
        prompts: token ids, each of its own length, without padding.
        slots: rows that are filled at once.
        ordered: yield rows in the order of the prompts (a long one holds up those behind it), else as they finish.
        **options: the other arguments of `hf_unmask.generation.loop.generate_stream`, and the fields of
            `UnmaskingGenerationConfig`.

    Returns:
        An iterator of `StreamedRow`, which knows how many row-slots were ``wasted``. Nothing is computed before the
        first row is asked for.

    Raises:
        ValueError: a spec, input or option that cannot be used.
    """
    return loop.generate_stream(model, prompts, sampler=as_sampler(sampler), slots=slots, ordered=ordered, **options)
