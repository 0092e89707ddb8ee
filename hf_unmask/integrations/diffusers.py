"""diffusers: any sampler, learned ones included, as the scheduler of ``LLaDA2Pipeline``.

    from hf_unmask.integrations.diffusers import LearnedUnmaskingScheduler

    scheduler = LearnedUnmaskingScheduler("learned:ORG/POLICY;speed=0.5")
    pipe = LLaDA2Pipeline(model=model, scheduler=scheduler, tokenizer=tokenizer)
    pipe(prompt="...", gen_length=256, block_length=32, num_inference_steps=32, temperature=0.0)

The scheduler is saved and loaded with the pipeline; its config holds the sampler's spec. What the pipeline passes to
``step`` is used as follows: ``temperature``, ``top_k``, ``top_p``, ``sampling_method`` and ``generator`` choose the
tokens, as in its own scheduler; the sampler alone decides where they are written, so ``threshold`` and ``minimal_topk``
are not read, and editing of decided tokens is not done. The pipeline makes ``num_inference_steps`` steps a block at
most: what is still masked at the last of them is opened then. It calls the model once more per finished block than it
needs to; ``forwards`` counts the calls that decided something.

For diffusers 0.42 alone. https://github.com/huggingface/diffusers/pull/14741 (open on 2026-12-01) gives all discrete
schedulers one interface; a release that holds it needs, in this file:

* time: ``timesteps`` in (0, 1], falling, and ``step`` is passed one of them. The step's number in its block, which is
  read off ``timestep`` here and starts a sampler's memory at 0, has to be counted by the scheduler itself.
* the output: ``DiscreteSchedulerOutput`` instead of ``BlockRefinementSchedulerOutput``; its ``pred_logits`` are those
  that tokens are drawn from, so shaped ones, where ours are the model's.
* the draw: ``temperature``, ``top_k`` and ``top_p`` belong to the scheduler, not to ``step``: they become settings that
  are registered like the sampler's spec, and what stands for ``_sample_from_logits`` has to be found anew.
* then the window here and in the extra ``diffusers``, and the tests against the pipeline itself.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hf_unmask.doors.block import Decision, decide_block, drawn_noise, require_usable
from hf_unmask.generation.step import SamplerProtocol, State
from hf_unmask.samplers.specs import parse_sampler

try:
    import diffusers
    from diffusers.configuration_utils import ConfigMixin, register_to_config
    from diffusers.schedulers.scheduling_block_refinement import (
        BlockRefinementScheduler,
        BlockRefinementSchedulerOutput,
    )
    from diffusers.schedulers.scheduling_utils import SchedulerMixin
    from packaging.version import Version
except ModuleNotFoundError as error:
    raise ImportError(f"this needs {error.name}: pip install 'hf_unmask[diffusers]'") from error

if not Version("0.42") <= Version(diffusers.__version__) < Version("0.43"):
    raise ImportError(
        f"hf_unmask.integrations.diffusers is written for diffusers>=0.42,<0.43, found {diffusers.__version__}: "
        "pip install 'hf_unmask[diffusers]'"
    )


class LearnedUnmaskingScheduler(SchedulerMixin, ConfigMixin):  # type: ignore[misc]  # diffusers is not typed
    """Opens the positions that a sampler of hf_unmask chooses. See the module's text for what it reads."""

    order = 1

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self, sampler: str, block_length: int = 32, num_inference_steps: int = 32, canvas_length: int | None = None
    ):
        """
        Args:
            sampler: spec, e.g. ``learned:ORG/POLICY;speed=0.5`` or ``threshold:threshold=0.9``.
            block_length: positions per block, where the pipeline is not told.
            num_inference_steps: steps per block at most.
            canvas_length: all positions to fill, over which a policy's clock runs; a scheduler is not told. None: the
                clock starts anew in each block, which is right for one block and an approximation for several.

        Raises:
            ValueError: a spec that does not parse, or a sampler that needs more than the active block.
        """
        del block_length, canvas_length  # registered, and read from the config
        self.sampler: SamplerProtocol = parse_sampler(sampler)
        require_usable(self.sampler, "a scheduler", memory=True)
        self.forwards: Tensor | None = None  # [B] long, of the running call
        self._state: State = None
        self.set_timesteps(num_inference_steps)

    def set_timesteps(self, num_inference_steps: int, device: Any = None, block_length: int | None = None) -> None:
        """Begin a call: at most so many steps per block."""
        if num_inference_steps < 1:
            raise ValueError(f"`num_inference_steps` must be at least 1, got {num_inference_steps}")
        if block_length is not None and block_length < 1:
            raise ValueError(f"`block_length` must be at least 1, got {block_length}")
        self.num_inference_steps = num_inference_steps
        self.timesteps = torch.arange(num_inference_steps - 1, -1, -1, device=device, dtype=torch.long)
        self.forwards, self._state = None, None

    def step(  # noqa: PLR0913 - the pipeline's own call
        self,
        model_output: Tensor,
        timestep: int | Tensor,
        sample: Tensor,
        *,
        mask_token_id: int | None = None,
        temperature: float = 0.0,
        top_p: float | None = None,
        top_k: int | None = None,
        sampling_method: str = "auto",
        threshold: float | None = None,
        editing_threshold: float | None = None,
        minimal_topk: int | None = None,
        prompt_mask: Tensor | None = None,
        generator: torch.Generator | None = None,
        return_dict: bool = True,
    ) -> Any:
        """One step of the active block: model_output [B, W, V] float, sample [B, W] long.

        Returns:
            ``BlockRefinementSchedulerOutput``, as a tuple with ``return_dict=False``.
        """
        del threshold, editing_threshold, minimal_topk
        if mask_token_id is None:
            raise ValueError(f"`mask_token_id` must be given, got None: {type(self).__name__} fills masked canvases")
        index = int(timestep)
        logits = model_output.index_fill(-1, torch.tensor([mask_token_id], device=sample.device), -torch.inf)
        tokens, probabilities = BlockRefinementScheduler._sample_from_logits(
            logits,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            generator=generator,
            use_multinomial=sampling_method == "multinomial" or (sampling_method == "auto" and temperature != 0.0),
        )
        masked = sample == mask_token_id
        canvas = None if prompt_mask is None else ~prompt_mask.to(masked.device).expand_as(masked)
        decision = self._decide(model_output, tokens, masked, canvas, index, mask_token_id, generator)
        opened = masked if index >= self.num_inference_steps - 1 else decision.opened
        result = BlockRefinementSchedulerOutput(
            prev_sample=torch.where(opened, decision.tokens, sample),
            transfer_index=opened,
            editing_transfer_index=torch.zeros_like(opened),
            sampled_tokens=decision.tokens,
            sampled_probs=probabilities,
            pred_logits=model_output,
        )
        return result if return_dict else result.to_tuple()

    def _decide(
        self,
        logits: Tensor,
        tokens: Tensor,
        masked: Tensor,
        canvas: Tensor | None,
        index: int,
        mask_token_id: int,
        generator: torch.Generator | None,
    ) -> Decision:
        """What the sampler opens at step ``index`` of the block."""
        if index == 0 or self._state is None:
            self._state = self.sampler.init(len(tokens), tokens.shape[1], tokens.device)
        before = torch.zeros_like(tokens[:, 0]) if self.forwards is None else self.forwards
        self.forwards = before + masked.any(-1)
        count = torch.full_like(before, index)
        total: int | None = self.config.canvas_length
        decision = decide_block(
            self.sampler,
            logits,
            masked,
            drawn_noise(masked, generator),
            block_steps=count,
            steps=before if total else None,
            length=torch.full_like(count, total) if total else None,
            canvas=canvas,
            tokens=tokens,
            banned=(mask_token_id,),
            state=self._state,
        )
        self._state = decision.state
        return decision

    @staticmethod
    def check_eos_finished(**state: Any) -> Tensor:
        """[B] bool, rows that have committed an end of text; as in diffusers' own scheduler."""
        found: Tensor = BlockRefinementScheduler.check_eos_finished(**state)
        return found

    def check_block_should_continue(
        self, *, step_idx: int, masks_remaining: Any, finished: Tensor, **rest: Any
    ) -> bool:
        """Whether the active block needs another step."""
        del rest
        return bool(masks_remaining) and not bool(finished.all()) and step_idx < self.num_inference_steps

    def add_noise(self, original_samples: Tensor, attention_mask: Tensor, **options: Any) -> Any:
        """The forward process of training, as in diffusers' own scheduler."""
        return BlockRefinementScheduler().add_noise(original_samples, attention_mask, **options)
