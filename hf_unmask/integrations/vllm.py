"""vLLM: learned policies and the threshold family as a ``RemaskingPolicy`` of vllm-project's dllm-plugin.

    from hf_unmask.integrations.vllm import SamplerRemaskingPolicy

    policy = SamplerRemaskingPolicy("learned:ORG/POLICY;greedy=true", mask_token_id=156895)
    remask_after_block_forward(input_draft=draft, logits=logits, policy=policy,
                               remasking_config={"denoise_step_index": step})

The plugin has no option that names a policy: hand this one to ``remask_after_block_forward`` or to the worker's
``run_one_block`` in a worker of your own. Its batched GPU path decides by itself and asks no policy. The protocol works
on one request and on lists of tokens; a sampler must do with one block and without memory, and its clock runs over the
block. The random numbers of stochastic samplers are a function of seed, step and the block's tokens.

Written against the plugin's interface of 2026 and tested against a double of it: not yet run on a live engine.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from hf_unmask.denoisers.values import require_int
from hf_unmask.doors.block import counted_noise, decide_block, require_usable
from hf_unmask.generation.randomness import row_keys
from hf_unmask.policy.compatibility import warn_of_blocks
from hf_unmask.samplers.specs import parse_sampler


def _plugin(module: str) -> Any:
    """A module of the plugin, whose package was renamed in 2026."""
    for package in ("dllm_plugin", "vllm_dllm_plugin"):
        try:
            return importlib.import_module(f"{package}.{module}")
        except ModuleNotFoundError as error:
            if error.name != package:
                raise
    raise ImportError("this needs dllm_plugin: see https://github.com/vllm-project/dllm-plugin")


RemaskStepResult = _plugin("remasking").RemaskStepResult
DRAFT_SIZE: int = _plugin("config").DRAFT_SIZE


class SamplerRemaskingPolicy:
    """Any sampler that needs one block only, by its spec."""

    def __init__(self, sampler: str, *, mask_token_id: int, seed: int = 0):
        """
        Args:
            sampler: spec, e.g. ``learned:ORG/POLICY;speed=0.5`` or ``threshold:threshold=0.9``.
            mask_token_id: of the served model.
            seed: of stochastic samplers.

        Raises:
            ValueError: a spec that does not parse, or a sampler that needs more than one block.
        """
        require_int("mask_token_id", mask_token_id, at_least=0)
        require_int("seed", seed, at_least=0, at_most=2**63 - 1)
        self.sampler = parse_sampler(sampler)
        require_usable(self.sampler, "the plugin")
        warn_of_blocks(self.sampler, DRAFT_SIZE)
        self.mask_token_id = mask_token_id
        self.seed = seed

    def apply(
        self,
        *,
        input_draft: Sequence[int],
        logits: Any | None = None,
        remasking_config: Mapping[str, Any] | None = None,
    ) -> Any:
        """One step on one block.

        Args:
            input_draft: the block's tokens; ``DRAFT_SIZE`` of them.
            logits: [DRAFT_SIZE, V] float, a tensor or nested lists.
            remasking_config: ``denoise_step_index``, the steps made on this block, and possibly ``mask_token_id``.

        Returns:
            ``RemaskStepResult``: nothing committed and the block as it is now, or, once no mask is left, all of the
            block and a fresh one.

        Raises:
            ValueError: wrong shapes, no step, or a setting that belongs to the plugin's own rule.
        """
        mask, count = self._settings(dict(remasking_config or {}))
        if len(input_draft) != DRAFT_SIZE:
            raise ValueError(f"`input_draft` must have {DRAFT_SIZE} tokens, got {len(input_draft)}")
        values = torch.as_tensor([] if logits is None else logits)
        if values.ndim != 2 or len(values) != DRAFT_SIZE:
            raise ValueError(f"`logits` must be [{DRAFT_SIZE}, vocabulary], got {list(values.shape)}")
        tokens = torch.tensor([list(input_draft)], device=values.device)
        masked, everything = tokens == mask, tokens == tokens
        steps = torch.full_like(tokens[:, 0], count)
        key = row_keys(torch.full_like(steps, self.seed), tokens, everything, masked)
        noise = counted_noise(key, steps, everything.cumsum(-1))
        decision = decide_block(self.sampler, values[None], masked, noise, block_steps=steps, banned=(mask,))
        block = tuple(torch.where(decision.opened, decision.tokens, tokens)[0].tolist())
        if mask in block:
            return RemaskStepResult(committed_token_ids=(), next_input_block=block)
        return RemaskStepResult(committed_token_ids=block, next_input_block=(mask,) * DRAFT_SIZE)

    def _settings(self, config: dict[str, Any]) -> tuple[int, int]:
        """Mask token and step."""
        mask, count = config.pop("mask_token_id", self.mask_token_id), config.pop("denoise_step_index", None)
        meaningless = sorted(key for key, value in config.items() if value)
        if meaningless:
            raise ValueError(f"`{meaningless[0]}` is a setting of the plugin's own rule; {self.sampler} decides here")
        if mask != self.mask_token_id:
            raise ValueError(f"`mask_token_id` is {mask} here, but the policy was made with {self.mask_token_id}")
        require_int("denoise_step_index", count, at_least=0)
        return mask, count
