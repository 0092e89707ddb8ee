"""The base class of samplers and the row-wise helpers they share."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import GenerationConfig

from hf_unmask.denoisers.adapter import Denoiser
from hf_unmask.generation.configuration import CacheMode, StopEnds, checked_kind
from hf_unmask.generation.custom_generate import PREPARED, as_passed, asked_rows, own_mode, refuse_foreign, repeated
from hf_unmask.generation.loop import generate
from hf_unmask.generation.output import StepEvent, UnmaskOutput
from hf_unmask.generation.step import Needs, Noise, Selection, State, Step
from hf_unmask.generation.ties import descending, first_largest
from hf_unmask.results.spec_text import quoted


@dataclass(frozen=True)
class Sampler:
    """Decides which positions to open at a step. Subclasses are small frozen dataclasses, one per file.

    A subclass sets ``name`` and ``needs`` and writes ``select``; samplers with memory also write ``init``. State
    belongs to rows and comes in and goes out, it is never kept on the object. ``step.block_steps == 0`` tells that a
    row just entered a block. ``str(sampler)`` is its spec, which ``hf_unmask.parse_sampler`` turns back.
    """

    name: ClassVar[str]
    may_stall: ClassVar[bool] = False

    @property
    def needs(self) -> Needs:
        raise TypeError(f"{type(self).__name__} must define `needs`, e.g. Needs.of('confidence')")

    @property
    def stochastic(self) -> bool:
        """Whether ``select`` reads its noise, so that another seed may give another order."""
        return False

    def init(self, rows: int, length: int, device: torch.device) -> State:
        """Fresh memory for ``rows`` rows with a window of ``length`` positions; None for samplers without memory.

        Where memory is first made by ``select``, a row that joins others later finds zeros.
        """
        del rows, length, device
        return None

    def check(self, denoiser: Denoiser, block_length: int | None, canvas: int) -> None:
        """Look at what the sampler is used on, before the first step; a sampler may warn or refuse here.

        ``block_length``: positions of a block, None for full diffusion; ``canvas``: positions to fill, of the longest
        row.
        """
        del denoiser, block_length, canvas

    def select(self, step: Step, state: State, noise: Noise) -> Selection:
        """Choose at least one eligible position in every row that has one."""
        del step, state, noise
        raise TypeError(f"{type(self).__name__} must define `select(step, state, noise) -> Selection`")

    def __call__(  # noqa: PLR0913 (transformers only passes arguments that are named here)
        self,
        model: nn.Module,
        input_ids: Tensor,
        logits_processor: Any = None,
        stopping_criteria: Any = None,
        generation_config: GenerationConfig | None = None,
        *,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        block_length: int | None = None,
        seed: int | Tensor | None = None,
        fill_mask: Tensor | None = None,
        stop_at_eos: bool | None = None,
        stop_ends: StopEnds | None = None,
        mask_token_id: int | None = None,
        output_trajectory: bool | None = None,
        slots: int | None = None,
        check_every: int | None = None,
        cache: Any = None,
        unmask_cache: CacheMode | None = None,
        cache_refresh: int | None = None,
        on_step: Callable[[StepEvent], None] | None = None,
        unmask_streamer: Any = None,
        **model_kwargs: Any,
    ) -> Tensor | UnmaskOutput:
        """So that ``model.generate(ids, custom_generate=sampler)`` works on any ``GenerationMixin`` model.

        transformers has merged its configs, repeated rows and built processors before it calls this, and hands over
        only options that are named here or part of its own config. It keeps ``streamer`` and ``tokenizer`` to itself
        in this mode, and from 5.24 on ``cache`` means what it prepares, hence ``unmask_streamer`` and ``unmask_cache``;
        for ``stop_strings`` and for filling a prompt without new tokens use ``hf_unmask.generate`` or
        ``hf_unmask.attach``.
        """
        config = GenerationConfig() if generation_config is None else checked_kind(generation_config)
        refuse_foreign("logits_processor", logits_processor, config)
        refuse_foreign("stopping_criteria", stopping_criteria, config)
        unknown = sorted(name for name in model_kwargs.keys() - PREPARED if model_kwargs[name] is not None)
        if unknown:
            raise ValueError(f"unknown option {', '.join(unknown)} of generate(custom_generate={self}): drop it")
        if temperature and config.do_sample is False:
            raise ValueError(f"`temperature={temperature}` needs `do_sample=True` with custom_generate={self}")
        rows, mask, types = asked_rows(config, input_ids), *map(model_kwargs.get, ("attention_mask", "token_type_ids"))
        if len(rows) < len(input_ids):
            input_ids = input_ids[rows]
            mask, types = (None if one is None else one[rows] for one in (mask, types))
        repeats = config.num_return_sequences or 1
        return generate(
            model,
            input_ids,
            sampler=self,
            # transformers drops a mask of ones, also one that was passed
            attention_mask=torch.ones_like(input_ids) if mask is None else mask,
            token_type_ids=types,
            generation_config=as_passed(getattr(model, "generation_config", None), config),
            streamer=unmask_streamer,
            on_step=on_step,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            block_length=block_length,
            seed=repeated(getattr(config, "seed", None) if seed is None else seed, repeats),
            fill_mask=repeated(getattr(config, "fill_mask", None) if fill_mask is None else fill_mask, repeats),
            stop_at_eos=stop_at_eos,
            stop_ends=stop_ends,
            mask_token_id=mask_token_id,
            output_trajectory=output_trajectory,
            slots=slots,
            check_every=check_every,
            cache=own_mode(unmask_cache, cache, model_kwargs.get("past_key_values")),
            cache_refresh=cache_refresh,
            num_return_sequences=1,
        )

    def __str__(self) -> str:
        """The spec: the sampler's name and the parameters that differ from their defaults."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        changed = [
            f"{f.name}={quoted(value) if isinstance(value := values[f.name], str) else value}"
            for f in fields(self)
            if f.default is MISSING or values[f.name] != f.default
        ]
        return self.name + (":" + ";".join(changed) if changed else "")


def top(score: Tensor, eligible: Tensor, count: Tensor | int) -> Tensor:
    """The ``count`` eligible positions of largest score, per row; all if there are fewer. Ties: leftmost first.

    score [B, W] float, eligible [B, W] bool, count [B] long or int -> [B, W] bool.
    """
    order = descending(score.masked_fill(~eligible, -math.inf))
    limit = count if isinstance(count, int) else count[:, None]
    rank_open = torch.arange(score.shape[-1], device=score.device) < limit
    chosen = torch.zeros_like(eligible).scatter(-1, order, rank_open.expand_as(order))
    return chosen & eligible


def at_least_one(chosen: Tensor, eligible: Tensor, by: Tensor) -> Tensor:
    """``chosen`` and, in rows that chose nothing, the eligible position of largest ``by``; other rows untouched.

    chosen, eligible [B, W] bool, by [B, W] float -> [B, W] bool. Rows without an eligible position stay empty.
    """
    chosen = chosen & eligible
    best = first_largest(torch.where(eligible, by, -math.inf))[..., None]
    fallback = eligible > chosen.any(-1, keepdim=True)  # as `eligible & ~...`
    return chosen.scatter(-1, best, (chosen | fallback).gather(-1, best))
