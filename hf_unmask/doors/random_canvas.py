"""DiffusionGemma, the diffusion language model inside transformers: our samplers in its own loop.

It has no mask token. Its canvas starts from random tokens; a step accepts the denoiser's tokens at some positions and
puts new random ones at all others. A sampler stands in for the part that accepts: "masked" reads as "not yet accepted".

* `REJUDGING` samplers judge every position anew at each step, as the model's own sampler does: what was accepted before
  may be renoised. With an equal bound ``entropy_bound`` accepts what the model's own sampler accepts.
* Others keep what they have accepted and are asked about the rest, because they count what is left.
* A learned policy was trained on masked canvases and reads other inputs here: experimental, and it warns.

Everything else is the model's own loop: prompts, caches, temperature schedule, early stopping, streamers and output.
Random numbers come from torch's global generator, so a row's result depends on its batch, as in the original. A sampler
is seen by its own call only: other threads may generate with the same model at the same time.
"""

from __future__ import annotations

import copy
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from hf_unmask.doors.block import decide_block, drawn_noise, require_usable
from hf_unmask.generation.step import SamplerProtocol, State

REJUDGING = frozenset({"entropy_bound", "threshold", "factor"})
#: What the model compiles once, around its first sampler, and would keep for every later one.
_COMPILED = ("_compiled_accept_canvas", "_compiled_renoise_canvas", "_compiled_diffusion_stopping_criteria")
#: What it compiles once and no sampler is part of.
_NETWORK = ("_compiled_encoder", "_compiled_decoder_forward")
#: Its static cache, which a call fills.
_CACHE = "_cache"


class ExperimentalWarning(UserWarning):
    """A combination that runs but has not been shown to help."""


def is_canvas_model(model: nn.Module) -> bool:
    """Whether a model decodes random-token canvases by its own loop."""
    kind = type(model)
    return kind.__name__ == "DiffusionGemmaForBlockDiffusion" and hasattr(kind, "_prepare_sampler")


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
        waiting = ~self._known() if self.keeps else torch.ones_like(self._known())
        decision = decide_block(
            self.sampler,
            logits,
            waiting,
            drawn_noise(waiting),
            block_steps=torch.full_like(denoiser_canvas[:, 0], self._steps),
            tokens=denoiser_canvas,
            stop_token_ids=self.stops,
            state=self._state,
        )
        self._state = decision.state
        self._accepted = self._known() | decision.opened if self.keeps else decision.opened
        self._steps += 1
        return torch.where(decision.opened, decision.tokens, current_canvas)

    def renoise_canvas(self, accepted_canvas: Tensor, cur_step: Any) -> Tensor:
        """[B, L] long, new random tokens where nothing is accepted."""
        del cur_step
        random = self._random(len(accepted_canvas), accepted_canvas.device)
        return torch.where(self._known(), accepted_canvas, random)

    def _known(self) -> Tensor:
        if self._accepted is None:
            raise RuntimeError(f"sampler {self.sampler} was asked about a canvas that it has not initialised")
        return self._accepted


def check_sampler(sampler: Any) -> None:
    """Refuse what has no meaning on such a canvas, warn about what is not proven.

    Raises:
        ValueError: no sampler, a training recorder, or one that reads hidden states.
    """
    require_usable(sampler, "this model's loop", whole_canvas=True, memory=True, stops=True)
    if getattr(sampler, "policy", None) is not None:
        warnings.warn(
            f"{sampler}: experimental. The policy was trained on masked canvases; here it reads 'not yet accepted' "
            "for 'masked', on a canvas of random tokens",
            ExperimentalWarning,
            stacklevel=4,
        )


def generate(model: Any, sampler: SamplerProtocol, *args: Any, **kwargs: Any) -> Any:
    """The model's own ``generate``, asking ``sampler``.

    It runs on a twin that shares the model's weights, hooks and settings and lives for this call. So nothing that the
    loop finds or keeps on its model is seen by another call: neither the sampler, nor what is compiled around it, nor a
    static cache. Ours is not compiled; the compiled network is the model's.
    """
    twin = _twin(model, sampler)
    try:
        return type(model).generate(twin, *args, **kwargs)
    finally:
        for name in _NETWORK:
            if name in twin.__dict__:
                model.__dict__.setdefault(name, twin.__dict__[name])


def _twin(model: Any, sampler: SamplerProtocol) -> Any:
    twin = copy.copy(model)  # of the module's attributes; its parameters and submodules are the same
    own = twin.__dict__
    for name in (*_COMPILED, _CACHE):
        own.pop(name, None)
    own["forward"] = model.forward  # so that what is compiled belongs to the model

    def prepare(generation_config: Any) -> AcceptingSampler:
        end = generation_config.eos_token_id
        stops = () if end is None else (end,) if isinstance(end, int) else tuple(end)
        found = AcceptingSampler(sampler, model.config.canvas_length, model.config.text_config.vocab_size, stops)
        # the loop takes these instead of compiling its sampler's methods, if it compiles at all
        own[_COMPILED[0]], own[_COMPILED[1]] = found.accept_canvas, found.renoise_canvas
        return found

    own["_prepare_sampler"] = prepare
    return twin


def forget_first_sampler(model: Any) -> None:
    """What the model compiled around the first sampler of its own goes; its next call compiles for the one it has."""
    for name in _COMPILED:
        model.__dict__.pop(name, None)
