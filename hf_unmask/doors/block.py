"""What a sampler decides about the masked positions of an engine that keeps its own loop.

Every adapter of an engine calls `decide_block` and nothing else of ours: logits and masks go in, what opens comes out.
Shapes are static and nothing is read back to the host, so that an engine's step stays on its device. A learned policy
ends in `hf_unmask.policy.decision.decide` here as in our own loop.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hf_unmask.generation.randomness import ACTION, ROW, uniform
from hf_unmask.generation.reading import TokenDraw, read
from hf_unmask.generation.step import Noise, SamplerProtocol, State, Step
from hf_unmask.policy.model import UnmaskingPolicy, require_finite


@dataclass(frozen=True)
class Decision:
    """Outcome of one step."""

    opened: Tensor  # [B, W] bool, a subset of the masked positions, never empty in a row that has one
    tokens: Tensor  # [B, W] long, what opened positions take
    state: State  # of the sampler, for its next step


class _Drawn(TokenDraw):
    """Tokens that the engine has drawn already stand in the place of the noise."""

    def __call__(self, logits: Tensor, noise: Tensor) -> Tensor:
        del logits
        return noise


def decide_block(  # noqa: PLR0913 - an engine passes its tensors as they are
    sampler: SamplerProtocol,
    logits: Tensor,
    masked: Tensor,
    noise: Noise,
    *,
    block_steps: Tensor,
    steps: Tensor | None = None,
    length: Tensor | None = None,
    canvas: Tensor | None = None,
    tokens: Tensor | None = None,
    banned: tuple[int, ...] = (),
    stop_token_ids: tuple[int, ...] = (),
    state: State = None,
) -> Decision:
    """One step of the active block, or of the whole canvas where an engine has no blocks.

    Args:
        sampler: one that `require_usable` has passed.
        logits: [B, W, V] float, aligned: place i predicts position i.
        masked: [B, W] bool, what may open.
        noise: uniform numbers, read by stochastic samplers only.
        block_steps: [B] long, steps made in this block.
        steps: [B] long, steps made on the whole canvas. None: those of the block.
        length: [B] long, positions of the whole canvas. None: those of the block.
        canvas: [B, W] bool, what the block had to fill when it began; the rest is prompt. None: all of it.
        tokens: [B, W] long, what the engine has drawn. None: the most probable tokens.
        banned: tokens that are never written nor counted, the mask token above all.
        stop_token_ids: tokens that end a text.
        state: the sampler's memory.

    Raises:
        RuntimeError: a sampler that wants to reopen positions.
    """
    canvas = torch.ones_like(masked) if canvas is None else canvas
    pieces = [logits.flatten(0, 1).clone()]  # reading overwrites
    drawn = None if tokens is None else tokens.flatten()
    reading = read(pieces, sampler.needs, _Drawn(), drawn, banned).by_row(len(logits))
    step = Step(
        proposal=reading.proposal,
        masked=masked,
        eligible=masked,
        valid=canvas,
        index=(canvas.cumsum(-1) - 1).clamp(min=0),
        length=canvas.sum(-1) if length is None else length,
        steps=block_steps if steps is None else steps,
        block_steps=block_steps,
        block_length=masked.shape[1],
        stop_token_ids=stop_token_ids,
        read=reading.quantities,
    )
    selection = sampler.select(step, state, noise)
    if selection.reopen is not None:
        raise RuntimeError(f"sampler {sampler} wants to reopen positions: an engine's loop does not remask")
    chosen = reading.proposal if selection.tokens is None else selection.tokens
    return Decision(selection.open & masked, chosen, selection.state)


def counted_noise(key: Tensor, steps: Tensor, places: Tensor) -> Noise:
    """A pure function of key [B], step [B] and place [B, W], all long: equal on every rank and for any neighbours."""
    return Noise(
        action=lambda: uniform(key, steps, places, ACTION),
        row=lambda: uniform(key, steps, places[:, :1], ROW)[:, 0],
    )


def drawn_noise(masked: Tensor, generator: torch.Generator | None = None) -> Noise:
    """From torch's generator, where the engine itself draws from it. masked [B, W]."""
    place = "cpu" if generator is None else generator.device

    def draw(shape: torch.Size) -> Tensor:
        return torch.rand(shape, generator=generator, device=place).to(masked.device)

    return Noise(action=lambda: draw(masked.shape), row=lambda: draw(masked.shape[:1]))


def require_usable(
    sampler: Any, host: str, *, whole_canvas: bool = False, memory: bool = False, stops: bool = False
) -> None:
    """Refuse a sampler that reads what ``host`` cannot give.

    Args:
        whole_canvas: the host hands out all positions to fill, not only the active block.
        memory: the host keeps a sampler's state between steps.
        stops: the host says which tokens end a text.

    Raises:
        ValueError: says what is missing, or which weights of a policy are not finite.
    """
    if isinstance(sampler, type) or not isinstance(sampler, SamplerProtocol):
        raise ValueError(f"`sampler` must be a sampler such as ThresholdSampler(0.9), got {sampler!r}")
    if "hidden" in sampler.needs.quantities:
        raise ValueError(f"sampler {sampler} reads hidden states, which {host} does not hand out")
    if sampler.needs.where == "canvas" and not whole_canvas:
        raise ValueError(
            f"sampler {sampler} reads the whole canvas, but {host} sees the active block only: "
            "use a policy with observation='block'"
        )
    if sampler.may_stall:
        raise ValueError(f"sampler {sampler} records rollouts for training, which {host} does not support")
    policy = getattr(getattr(sampler, "inner", sampler), "policy", None)
    if isinstance(policy, UnmaskingPolicy):
        require_finite(policy)
    inputs = getattr(getattr(policy, "config", None), "further_inputs", ())
    if not stops and (getattr(sampler, "name", None) == "eos_suppress" or "stop" in inputs):
        raise ValueError(f"sampler {sampler} asks for stop tokens, but {host} does not say which these are")
    if not memory and _remembers(sampler):
        raise ValueError(f"sampler {sampler} remembers earlier steps, for which {host} has no place: use another one")


def _remembers(sampler: SamplerProtocol) -> bool:
    """Whether a step leaves something for the next one, found out on one position."""
    masked, zero = torch.ones(1, 1, dtype=torch.bool), torch.zeros(1, dtype=torch.long)
    logits, noise = torch.zeros(1, 1, sampler.needs.top_k + 2), counted_noise(zero, zero, zero[:, None])
    state = sampler.init(1, 1, masked.device)
    return decide_block(sampler, logits, masked, noise, block_steps=zero, state=state).state is not None
