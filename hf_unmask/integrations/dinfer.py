"""dInfer: learned policies and the threshold family as one of its ``ParallelDecoder``.

    from hf_unmask.integrations.dinfer import SamplerDecoder

    decoder = SamplerDecoder("learned:ORG/POLICY;speed=0.5", mask_id=126336, eos_id=126081)
    BlockWiseDiffusionLLM(model, decoder, BlockIteratorFactory(True), ...).generate(prompt, gen_length, block_length)

A sampler must do with the active block and without memory, and its clock starts anew in each block. dInfer's own
thresholds are not read. Tokens are the most probable ones; random numbers are a function of seed, step and place.

Written against dInfer of November 2025 and tested against a double of its interface: not yet run beside it. It pins
vllm 0.10.2, which comes from the time of transformers 4, while this package needs transformers 5.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hf_unmask.denoisers.values import require_int
from hf_unmask.doors.block import counted_noise, decide_block, require_usable
from hf_unmask.samplers.specs import parse_sampler

try:
    from dinfer.decoding.parallel_strategy import ParallelDecoder
except ModuleNotFoundError as error:
    raise ImportError(f"this needs {error.name}: see https://github.com/inclusionAI/dInfer") from error


class SamplerDecoder(ParallelDecoder):  # type: ignore[misc]  # dInfer is not installed where types are checked
    """Any sampler that needs the active block only, by its spec."""

    def __init__(self, sampler: str, *, mask_id: int, eos_id: int, seed: int = 0):
        """
        Args:
            sampler: spec, e.g. ``threshold:threshold=0.9``.
            mask_id, eos_id: of the model.
            seed: of stochastic samplers.

        Raises:
            ValueError: a spec that does not parse, or a sampler that needs more than the active block.
        """
        super().__init__(temperature=0.0, mask_id=mask_id)
        require_int("seed", seed, at_least=0, at_most=2**63 - 1)
        self.sampler = parse_sampler(sampler)
        require_usable(self.sampler, "a decoder", stops=True)
        self.eos_id = eos_id  # dInfer asks its decoder for it
        self.seed = seed
        self.block_init(None, 0)

    def block_init(self, block_x: Any, block_id: int) -> None:
        """A block begins: block_x [B, W] long."""
        del block_id
        self._steps = 0
        self._canvas = None if block_x is None else block_x == self.mask_id

    def decode(self, logits: Tensor, block_start: int, block_end: int, x: Any, iter_threshold: Any = None) -> None:
        """One step: writes into ``x[:, block_start:block_end]`` [B, W]; logits [B, W, V]."""
        del iter_threshold
        tokens = x[:, block_start:block_end]
        masked = tokens == self.mask_id
        steps = torch.full_like(tokens[:, 0], self._steps)
        places = torch.arange(block_start, block_end, device=tokens.device).expand_as(tokens)
        known = (
            self._canvas is not None and self._canvas.shape == masked.shape
        )  # some of its loops decode wider windows
        decision = decide_block(
            self.sampler,
            logits,
            masked,
            counted_noise(torch.full_like(steps, self.seed), steps, places),
            block_steps=steps,
            canvas=self._canvas if known else None,
            banned=(self.mask_id,),
            stop_token_ids=(self.eos_id,),
        )
        self._steps += 1
        x[:, block_start:block_end] = torch.where(decision.opened, decision.tokens, tokens)
