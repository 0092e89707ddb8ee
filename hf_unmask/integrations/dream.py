"""Dream's own loop with our samplers inside, through its two hooks. For comparing quality: it saves no forward pass.

    from hf_unmask.integrations.dream import native_hooks

    hooks = native_hooks(sampler, steps=64, mask_token_id=151666, attention_mask=attention_mask)
    model.diffusion_generate(input_ids, attention_mask=attention_mask, max_new_tokens=64, steps=64, **hooks)

The loop makes ``steps`` forward passes whatever happens, and what is still masked at the last of them is opened then.
Each step, what the loop has committed by its own rule is taken back and the sampler's choice written instead. So its
options ``alg``, ``alg_temp``, ``temperature``, ``top_p`` and ``top_k`` have no effect; tokens are the most probable
ones. For fewer forward passes use ``hf_unmask.attach``.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from hf_unmask.denoisers.values import require_int
from hf_unmask.doors.block import counted_noise, decide_block, require_usable
from hf_unmask.generation.randomness import row_keys
from hf_unmask.generation.step import SamplerProtocol, State
from hf_unmask.samplers.specs import as_sampler


def native_hooks(
    sampler: SamplerProtocol | str,
    *,
    steps: int,
    mask_token_id: int,
    attention_mask: Tensor | None = None,
    seed: int = 0,
) -> dict[str, Callable[..., Tensor]]:
    """The two hooks, as keyword arguments of ``diffusion_generate``.

    Args:
        sampler: any that reads no hidden states, or its spec.
        steps: as passed to ``diffusion_generate``.
        mask_token_id: of the model.
        attention_mask: [B, P], as passed to ``diffusion_generate``; random numbers do not depend on padding then.
        seed: of stochastic samplers.

    Raises:
        ValueError: a sampler or number that cannot be used.
    """
    rule: SamplerProtocol = as_sampler(sampler)
    require_usable(rule, "this model's loop", whole_canvas=True, memory=True)
    require_int("steps", steps, at_least=1)
    require_int("seed", seed, at_least=0, at_most=2**63 - 1)
    loop = _NativeLoop(rule, steps, mask_token_id, attention_mask, seed)
    return {"generation_tokens_hook_func": loop.tokens, "generation_logits_hook_func": loop.logits}


class _NativeLoop(threading.local):
    """What is remembered between the hooks of one call; a new call begins with step None, each thread has its own."""

    def __init__(
        self, sampler: SamplerProtocol, steps: int, mask_token_id: int, attention_mask: Tensor | None, seed: int
    ):
        self.sampler, self.steps, self.mask_token_id, self.seed = sampler, steps, mask_token_id, seed
        self.attention_mask = attention_mask
        self.start = 0  # of the canvas, the columns at the end that no row has a prompt in
        self.key = torch.zeros(0, dtype=torch.long)  # [B] long
        self.before = torch.zeros(0, 0, dtype=torch.long)  # [B, S] long, the sequence before the loop's own commit
        self.state: State = None

    def begin(self, x: Tensor) -> None:
        """x [B, S] long, prompts and canvas."""
        written = (x != self.mask_token_id).any(0).nonzero()
        self.start = int(written[-1]) + 1 if len(written) else 0
        prompt = x[:, : self.start]
        attended = torch.ones_like(prompt) if self.attention_mask is None else self.attention_mask
        # as in our own loop, so that equal seeds give equal draws
        self.key = row_keys(torch.full_like(x[:, 0], self.seed), prompt, attended != 0, prompt < 0)
        self.state = self.sampler.init(len(x), x.shape[1] - self.start, x.device)

    def logits(self, step: int, x: Tensor, logits: Tensor) -> Tensor:
        """Called before the loop commits, in place."""
        del step
        self.before = x.clone()
        return logits

    def tokens(self, step: int | None, x: Tensor, logits: Any) -> Tensor:
        """Called with step None before the loop, and after each step with the logits [B, S, V] it used."""
        if step is None:
            self.begin(x)
            return x
        canvas = self.before[:, self.start :]
        masked = canvas == self.mask_token_id
        count = torch.full_like(self.key, step)
        places = torch.arange(canvas.shape[1], device=x.device).expand_as(canvas)
        decision = decide_block(
            self.sampler,
            logits[:, self.start :],
            masked,
            counted_noise(self.key, count, places),
            block_steps=count,
            banned=(self.mask_token_id,),
            state=self.state,
        )
        self.state = decision.state
        opened = masked if step == self.steps - 1 else decision.opened
        result = torch.where(opened, decision.tokens, canvas)
        return torch.cat([self.before[:, : self.start], result], dim=1)
