"""SGLang: learned policies and the threshold family as the algorithm ``HfUnmask`` of its diffusion engine.

    sglang serve --model-path ORG/MODEL --trust-remote-code \\
        --dllm-algorithm HfUnmask --dllm-algorithm-config policy.yaml

SGLang finds it through the entry point ``sglang.srt.plugins`` of the installed package. ``policy.yaml`` names a policy
and its dials, or any other sampler by its spec::

    policy: ORG/POLICY            # or a folder; trained with observation="block"
    speed: 0.5                    # as policy_temperature, beta, greedy and revision: optional

    sampler: threshold:threshold=0.9

``seed`` (default 0) is that of stochastic samplers, ``block_size`` is read by SGLang itself. A fault in the file ends
the server at launch, before a model is loaded. A sampler must do with the active block and without memory. Its clock
starts anew in each block, because the engine keeps nothing of a request between blocks: exact for a policy trained on
one block, an approximation for the others. Tokens are the most probable ones, as in SGLang's own algorithms; a mask
token inside a prompt is text, as in our own loop.

Random numbers are a function of seed, step and place in the sequence. So all ranks of a tensor-parallel server decide
alike, and a request's answer depends on no other request; equal requests get equal answers.

Written against SGLang 0.5.23. ``make engines`` serves tiny models on its CPU engine and compares their tokens with
those of our own loop; examples/serve_sglang.md says what it found.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hf_unmask.denoisers.values import require_int
from hf_unmask.doors.block import counted_noise, decide_block, require_usable
from hf_unmask.policy.compatibility import warn_of_blocks
from hf_unmask.policy.hub.pretrained import DIALS
from hf_unmask.results.spec_text import quoted
from hf_unmask.samplers.base import Sampler
from hf_unmask.samplers.specs import parse_sampler

try:
    from sglang.srt.dllm.algorithm import algo_name_to_cls
    from sglang.srt.dllm.algorithm.base import DllmAlgorithm
except ModuleNotFoundError as error:
    raise ImportError(f"this needs {error.name}: see https://docs.sglang.io, and examples/serve_sglang.md") from error

_OF_POLICY = (*DIALS, "revision")
_KEYS = ("policy", "sampler", "seed", "block_size", *_OF_POLICY)


def sampler_of(config: Mapping[str, Any]) -> Sampler:
    """The sampler that the YAML file asks for.

    Raises:
        ValueError: an unknown key, none or both of ``policy`` and ``sampler``, or one that the engine cannot serve.
    """
    unknown = sorted(set(config) - set(_KEYS), key=str)
    if unknown:
        raise ValueError(f"unknown key {unknown[0]!r} in the algorithm's config; allowed: {', '.join(_KEYS)}")
    if (config.get("policy") is None) == (config.get("sampler") is None):
        raise ValueError(f"the algorithm's config needs `policy` or `sampler`, and not both; it has {sorted(config)}")
    dials = {key: config[key] for key in _OF_POLICY if config.get(key) is not None}
    spec = config.get("sampler")
    if spec is not None and dials:
        raise ValueError(f"`{next(iter(dials))}` goes with `policy`; write it into the spec {spec!r}")
    if spec is None:
        spec = ";".join(
            [f"learned:{quoted(str(config['policy']))}", *(f"{key}={value}" for key, value in dials.items())]
        )
    sampler = parse_sampler(str(spec))
    require_usable(sampler, "the engine")
    return sampler


class RowState(NamedTuple):
    """What the engine carries for a request while it works on one of its blocks."""

    steps: Tensor  # [] long
    canvas: Tensor  # [W] bool, masked when the block began


class HfUnmask(DllmAlgorithm):  # type: ignore[misc]  # SGLang is not installed where types are checked
    """Lets a sampler decide, in both of the engine's modes (whole batches, and first done first out)."""

    def __init__(self, config: Any):
        super().__init__(config)
        if config.mask_id < 0:
            raise ValueError(
                f"this needs a model with a mask token, got mask_id {config.mask_id}: use its own algorithm"
            )
        settings = config.algorithm_config or {}
        require_int("block_size", self.block_size, at_least=1)
        self.sampler = sampler_of(settings)
        warn_of_blocks(self.sampler, self.block_size)
        self.seed = settings.get("seed", 0)
        require_int("seed", self.seed, at_least=0, at_most=2**63 - 1)

    @classmethod
    def configure_server_args(cls, server_args: Any) -> None:
        """Called at launch: a config that cannot be used ends here, and not in a process that has loaded the model."""
        cls.from_server_args(server_args)

    def init_step_state(self, forward_batch: Any) -> list[RowState]:
        """One state per request, for blocks that begin now."""
        canvas = self.undecided(forward_batch)
        return [RowState(*row) for row in zip(torch.zeros_like(canvas[:, 0], dtype=torch.long), canvas, strict=True)]

    def undecided(self, forward_batch: Any) -> Tensor:
        """[B, W] bool, mask tokens that are not text. The engine says which are where a request's text has some."""
        ids: Tensor = forward_batch.input_ids.view(forward_batch.batch_size, self.block_size)
        masked: Tensor = ids == self.mask_id
        text: Tensor | None = forward_batch.dllm_prompt_mask  # [B, W] bool, prompt and what is decided before the block
        return masked if text is None else masked & ~text

    def step(self, forward_batch: Any, logits_output: Any, states: list[RowState]) -> list[bool]:
        """Open positions in ``forward_batch.input_ids`` [B * W], in place.

        ``logits_output`` holds ``full_logits`` [B * W, V], or is that tensor. Returns which blocks were complete before
        this step, so that the forward pass just made has stored their final tokens. That list, which the engine wants
        on the host, is the step's only read from the device.
        """
        tokens = forward_batch.input_ids.view(forward_batch.batch_size, self.block_size)
        logits = getattr(logits_output, "full_logits", logits_output)
        if logits is None:
            raise ValueError(f"`full_logits` is missing in {type(logits_output).__name__}: the engine must keep them")
        places = forward_batch.positions.view_as(tokens)
        masked = self.undecided(forward_batch)
        result, done = self.advance(tokens, masked, logits.view(*tokens.shape, -1), places, states)
        tokens.copy_(result)  # the engine's graphs hold this very tensor
        return list(done.tolist())

    def advance(
        self, tokens: Tensor, masked: Tensor, logits: Tensor, places: Tensor, states: list[RowState]
    ) -> tuple[Tensor, Tensor]:
        """The step on the device: tokens [B, W], undecided ones [B, W] bool, logits [B, W, V], their places [B, W].

        Moves ``states`` on and returns the new tokens [B, W] and which rows had nothing left to open [B] bool.
        """
        steps = torch.stack([state.steps for state in states])
        decision = decide_block(
            self.sampler,
            logits,
            masked,
            counted_noise(torch.full_like(steps, self.seed), steps, places.long()),
            block_steps=steps,
            canvas=torch.stack([state.canvas for state in states]),
            banned=(self.mask_id,),
        )
        states[:] = [state._replace(steps=count) for state, count in zip(states, steps + 1, strict=True)]
        return torch.where(decision.opened, decision.tokens, tokens), ~masked.any(-1)


def register() -> None:
    """Called by SGLang in each of its processes."""
    algo_name_to_cls[HfUnmask.__name__] = HfUnmask
