"""What stays the same while rows are filled, settled before the first step."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn
from transformers import GenerationConfig

from hf_unmask.denoisers.adapter import Denoiser
from hf_unmask.denoisers.values import token_ids
from hf_unmask.denoisers.wrappers import unwrapped
from hf_unmask.generation.canvas import NEVER, Layout, Rows, lay_out, settle_blocks
from hf_unmask.generation.configuration import CacheMode, UnmaskingGenerationConfig, resolve_config
from hf_unmask.generation.prompts import Prompts
from hf_unmask.generation.reading import TokenDraw
from hf_unmask.generation.step import ChecksUse, Needs, SamplerProtocol
from hf_unmask.generation.stopping import Stopping

#: Blocks shorter than this are few steps long, and what a step writes matters to all of it.
SHORT = 16


@dataclass(frozen=True)
class Run:
    """The options of a call, resolved."""

    denoiser: Denoiser
    sampler: SamplerProtocol
    needs: Needs  # the sampler's
    block_length: int
    draw: TokenDraw
    banned: tuple[int, ...]
    guidance_scale: float
    stopping: Stopping
    slots: int | None
    check_every: int
    cache: CacheMode | None
    cache_refresh: int  # positions
    gapless: bool  # with a cache: every row's canvas is one piece of its sequence
    typed: bool  # some token is of another type than 0, which is a model's default
    overhang: bool  # a window may reach beyond the canvas, or a block begin in the prompt

    @property
    def forwards_per_step(self) -> int:
        return 1 if self.guidance_scale == 1.0 else 2

    @property
    def looks_always(self) -> bool:
        """Whether the host looks after every step, so that no row is stepped on that has finished or failed."""
        return self.check_every == 1


def prepare(
    model: nn.Module | Denoiser,
    prompts: Prompts,
    sampler: SamplerProtocol,
    generation_config: GenerationConfig | None,
    tokenizer: Any,
    options: dict[str, Any],
) -> tuple[Run, Rows, Layout, UnmaskingGenerationConfig]:
    """Resolve options, lay out the rows and let everybody check what it is used on."""
    config = resolve_config(_own_config(model), generation_config, options)
    denoiser = _adapter(model, config, tokenizer)
    settle_blocks(denoiser, config)
    if isinstance(sampler, type) or not isinstance(sampler, SamplerProtocol):
        raise ValueError(f"`sampler` must be a sampler such as ThresholdSampler(0.9), got {sampler!r}")
    banned = _banned(denoiser, config.suppress_tokens or ())
    rows, layout = lay_out(denoiser, prompts, config)
    canvas = rows.masked.shape[1]
    if isinstance(sampler, ChecksUse):
        sampler.check(denoiser, config.block_length, canvas)
    block_length = config.block_length or max(canvas, 1)
    run = Run(
        denoiser=denoiser,
        sampler=sampler,
        needs=sampler.needs,
        block_length=block_length,
        draw=TokenDraw(config.token_temperature, config.top_k, config.top_p),
        banned=banned,
        guidance_scale=1.0 if config.guidance_scale is None else float(config.guidance_scale),
        stopping=Stopping.from_config(denoiser, config, tokenizer, block_length),
        slots=config.slots,
        check_every=config.check_every,
        cache=config.cache,
        cache_refresh=config.cache_refresh or _default_refresh(denoiser, block_length),
        gapless=config.cache is not None and _gapless(rows),
        typed=prompts.types is not None and bool(rows.types.any()),
        overhang=canvas % block_length > 0 or config.check_every > 1 or denoiser.block_length is not None,
    )
    _check_cache(run, config.cache_refresh)
    width = window_width(run, canvas)
    return run, replace(rows, sampler_state=sampler.init(len(rows.key), width, denoiser.device)), layout, config


def window_width(run: Run, canvas: int) -> int:
    """Positions of the sampler's window."""
    return canvas if run.needs.where == "canvas" else min(run.block_length, canvas)


def _default_refresh(denoiser: Denoiser, block_length: int) -> int:
    if denoiser.causal_block is not None:
        return NEVER
    return 1 if block_length < SHORT else block_length // 2


def _gapless(rows: Rows) -> bool:
    return not bool(((rows.positions.diff(dim=1) != 1) & rows.valid[:, 1:]).any())


def _check_cache(run: Run, refresh: int | None) -> None:
    if run.cache is None:
        return
    asked = f"`cache={run.cache!r}`"
    if run.denoiser.cache_refusal is not None:
        raise ValueError(f"{asked} cannot be used with this model: {run.denoiser.cache_refusal}; drop `cache`")
    if run.forwards_per_step == 2:
        raise ValueError(f"{asked} keeps one pass, `guidance_scale={run.guidance_scale}` makes two: drop one of them")
    if run.check_every > 1:
        raise ValueError(f"{asked} must know after every step where rows are: drop `check_every={run.check_every}`")
    if run.cache == "dual" and run.needs.where == "canvas":
        raise ValueError(
            f"{asked} computes the active block alone, but {run.sampler} reads the whole canvas: use cache='prefix', "
            "or a policy with observation='block'"
        )
    if refresh is None and run.cache_refresh == 1:
        warnings.warn(
            f"{asked} keeps nothing by default in blocks of {run.block_length}, shorter than {SHORT}: it would save "
            "little and cost accuracy. Pass cache_refresh=... (positions written between two whole passes)",
            stacklevel=4,
        )


def _banned(denoiser: Denoiser, suppressed: Sequence[int]) -> tuple[int, ...]:
    """What is never written: the mask token and the suppressed ones."""
    for token in suppressed:
        if not 0 <= token < denoiser.vocab_size:
            raise ValueError(f"`suppress_tokens` holds {token!r}, the model knows 0 to {denoiser.vocab_size - 1}")
    banned = tuple(dict.fromkeys([denoiser.mask_token_id, *suppressed]))
    if len(banned) == denoiser.vocab_size:
        raise ValueError(f"`suppress_tokens` leaves none of the {denoiser.vocab_size} tokens to write")
    return banned


def _own_config(model: nn.Module | Denoiser) -> GenerationConfig | None:
    core = model.core if isinstance(model, Denoiser) else unwrapped(model)
    return getattr(core, "generation_config", None)


def _adapter(model: nn.Module | Denoiser, config: UnmaskingGenerationConfig, tokenizer: Any) -> Denoiser:
    """The model's adapter: the one given or attached, or a new one; ids in the options win."""
    denoiser = Denoiser.resolve(model, tokenizer=tokenizer, mask_token_id=config.mask_token_id)
    stops = None if config.eos_token_id is None else tuple(token_ids("eos_token_id", config.eos_token_id))
    ids = {
        "mask_token_id": config.mask_token_id,
        "pad_token_id": config.pad_token_id,
        "stop_token_ids": stops,
    }
    return replace(denoiser, **{name: value for name, value in ids.items() if value is not None})
