"""DiffusionGemma, the diffusion language model inside transformers: our samplers in its own loop.

It has no mask token. Its canvas starts from random tokens; a step accepts the denoiser's tokens at some positions and
puts new random ones at all others. A sampler stands in for the part that accepts: "masked" reads as "not yet accepted".

* `REJUDGING` samplers judge every position anew at each step, as the model's own sampler does: what was accepted before
  may be renoised. With an equal bound ``entropy_bound`` accepts what the model's own sampler accepts.
* Others keep what they have accepted and are asked about the rest, because they count what is left.
* A learned policy was trained on masked canvases and reads other inputs here: experimental, and it warns.

Everything else is the model's own loop: prompts, caches, temperature schedule, early stopping, streamers and output.
Random numbers come from torch's global generator, so a row's result depends on its batch, as in the original.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hf_unmask.reading import TokenDraw, read
from hf_unmask.step import Noise, SamplerProtocol, State, Step

REJUDGING = frozenset({"entropy_bound", "threshold", "factor"})
#: What the model compiles once, around its first sampler, and would keep for every later one.
_COMPILED = ("_compiled_accept_canvas", "_compiled_renoise_canvas", "_compiled_diffusion_stopping_criteria")


class ExperimentalWarning(UserWarning):
    """A combination that runs but has not been shown to help."""


def is_canvas_model(model: nn.Module) -> bool:
    """Whether a model decodes random-token canvases by its own loop."""
    kind = type(model)
    return kind.__name__ == "DiffusionGemmaForBlockDiffusion" and hasattr(kind, "_prepare_sampler")


@dataclass(frozen=True)
class _Drawn(TokenDraw):
    """Tokens that the model's loop has drawn already."""

    tokens: Tensor | None = None

    def __call__(self, logits: Tensor, noise: Tensor | None) -> Tensor:
        del noise
        return logits.argmax(-1) if self.tokens is None else self.tokens


class AcceptingSampler:
    """What the model's loop expects of a sampler, answered by one of ours. Lives for one call of ``generate``."""

    def __init__(self, sampler: SamplerProtocol, canvas_length: int, vocab_size: int, stops: tuple[int, ...]):
        self.sampler = sampler
        self.canvas_length = canvas_length
        self.vocab_size = vocab_size
        self.stops = stops
        self.keeps = getattr(sampler, "name", None) not in REJUDGING
        self._accepted: Tensor | None = None  # [B, L] bool
        self._state: State = None
        self._steps = 0

    def _random(self, rows: int, device: torch.device) -> Tensor:
        """[B, L] long."""
        return torch.randint(low=0, high=self.vocab_size, size=(rows, self.canvas_length), device=device)

    def initialize_canvas(self, batch_size: int, device: torch.device) -> Tensor:
        """A new canvas of random tokens, [B, L] long; nothing on it is accepted."""
        self._accepted = torch.zeros(batch_size, self.canvas_length, dtype=torch.bool, device=device)
        self._state = self.sampler.init(batch_size, self.canvas_length, device)
        self._steps = 0
        return self._random(batch_size, device)

    def accept_canvas(self, current_canvas: Tensor, denoiser_canvas: Tensor, logits: Tensor, cur_step: Any) -> Tensor:
        """[B, L] long, the denoiser's tokens where the sampler opens, the current ones elsewhere. logits [B, L, V]."""
        del cur_step
        step = self._step(denoiser_canvas, logits)
        rows, device = len(logits), logits.device
        noise = Noise(
            action=lambda: torch.rand(rows, self.canvas_length, device=device),
            row=lambda: torch.rand(rows, device=device),
        )
        selection = self.sampler.select(step, self._state, noise)
        if selection.reopen is not None:
            raise RuntimeError(f"sampler {self.sampler} wants to reopen positions: this loop renoises by itself")
        self._state = selection.state
        tokens = denoiser_canvas if selection.tokens is None else selection.tokens
        opened = selection.open & step.eligible
        self._accepted = self._known() | opened if self.keeps else opened
        self._steps += 1
        return torch.where(opened, tokens, current_canvas)

    def renoise_canvas(self, accepted_canvas: Tensor, cur_step: Any) -> Tensor:
        """[B, L] long, new random tokens where nothing is accepted."""
        del cur_step
        random = self._random(len(accepted_canvas), accepted_canvas.device)
        return torch.where(self._known(), accepted_canvas, random)

    def _known(self) -> Tensor:
        if self._accepted is None:
            raise RuntimeError(f"sampler {self.sampler} was asked about a canvas that it has not initialised")
        return self._accepted

    def _step(self, tokens: Tensor, logits: Tensor) -> Step:
        reading = read(logits, self.sampler.needs, _Drawn(tokens=tokens), None, ())
        whole = torch.ones_like(tokens, dtype=torch.bool)
        waiting = ~self._known() if self.keeps else whole
        count = torch.full_like(tokens[:, 0], self._steps)
        return Step(
            proposal=tokens,
            masked=waiting,
            eligible=waiting,
            valid=whole,
            index=torch.arange(self.canvas_length, device=tokens.device).expand_as(tokens),
            length=torch.full_like(count, self.canvas_length),
            steps=count,
            block_steps=count,
            block_length=self.canvas_length,
            stop_token_ids=self.stops,
            read=reading.quantities,
        )


def check_sampler(sampler: Any) -> None:
    """Refuse what has no meaning on such a canvas, warn about what is not proven.

    Raises:
        ValueError: no sampler, a training recorder, or one that reads hidden states.
    """
    if isinstance(sampler, type) or not isinstance(sampler, SamplerProtocol):
        raise ValueError(f"`sampler` must be a sampler such as EntropyBoundSampler(0.1), got {sampler!r}")
    if "hidden" in sampler.needs.quantities:
        raise ValueError(f"sampler {sampler} reads hidden states, which this model's loop does not hand out")
    if sampler.may_stall:
        raise ValueError(f"sampler {sampler} records rollouts for training, which this model's loop does not support")
    if getattr(sampler, "policy", None) is not None:
        warnings.warn(
            f"{sampler}: experimental. The policy was trained on masked canvases; here it reads 'not yet accepted' "
            "for 'masked', on a canvas of random tokens",
            ExperimentalWarning,
            stacklevel=4,
        )


@contextmanager
def standing_in(model: Any, sampler: SamplerProtocol) -> Iterator[None]:
    """The model's own ``generate`` asks ``sampler`` for as long as this lasts.

    The model keeps compiled copies of the first sampler it met, and would go on with them; they are dropped before and
    after. Ours is not compiled.
    """

    def prepare(generation_config: Any) -> AcceptingSampler:
        end = generation_config.eos_token_id
        stops = () if end is None else (end,) if isinstance(end, int) else tuple(end)
        found = AcceptingSampler(sampler, model.config.canvas_length, model.config.text_config.vocab_size, stops)
        _forget(model)
        # the loop takes these instead of compiling its sampler's methods, if it compiles at all
        model.__dict__[_COMPILED[0]] = found.accept_canvas
        model.__dict__[_COMPILED[1]] = found.renoise_canvas
        return found

    before = model.__dict__.get("_prepare_sampler")
    model.__dict__["_prepare_sampler"] = prepare
    try:
        yield
    finally:
        del model.__dict__["_prepare_sampler"]
        if before is not None:
            model.__dict__["_prepare_sampler"] = before
        _forget(model)


def _forget(model: Any) -> None:
    for name in _COMPILED:
        model.__dict__.pop(name, None)
