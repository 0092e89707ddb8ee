"""The sampler driven by a trained policy."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import ClassVar

import torch

from hf_unmask.denoisers.values import require, require_bool
from hf_unmask.generation.step import Needs, Noise, Selection, State, Step
from hf_unmask.policy.calibration import CalibrationMixin
from hf_unmask.policy.decision import decide
from hf_unmask.policy.hub.pretrained import DIALS, IN_MEMORY, PretrainedPolicyMixin
from hf_unmask.policy.model import UnmaskingPolicy
from hf_unmask.policy.observation import needs_of, observe
from hf_unmask.samplers.base import Sampler


@dataclass(frozen=True)
class LearnedUnmaskingSampler(PretrainedPolicyMixin, CalibrationMixin, Sampler):
    """Open what a trained policy draws, and always one position. Source: https://arxiv.org/abs/2512.09106.

    ``policy_temperature`` divides the policy's logits; ``beta`` scales opening probabilities, min(1, beta * s);
    ``greedy`` opens where that is at least one half instead of drawing; ``speed`` in [0, 1] is the dial of a
    speed-conditioned policy (None: 0.5), an error on any other. The policy is put in evaluation mode and follows the
    denoiser's device. Equality compares the policy object and the options. ``source`` is where the policy came from, a
    path or a name, and ``pinned`` what else of its spec finds it again (``revision=COMMIT``).
    """

    name: ClassVar[str] = "learned"
    policy: UnmaskingPolicy = field(repr=False)
    policy_temperature: float = 1.0
    beta: float = 1.0
    greedy: bool = False
    speed: float | None = None
    source: str = field(default=IN_MEMORY, compare=False, kw_only=True)
    pinned: tuple[str, ...] = field(default=(), compare=False, kw_only=True)

    def __post_init__(self) -> None:
        require("policy_temperature", self.policy_temperature, above=0.0, at_most=1e6)
        require_bool("greedy", self.greedy)
        require("beta", self.beta, above=0.0, at_most=1e30)
        if self.speed is not None:
            require("speed", self.speed, at_least=0.0, at_most=1.0)
            if not self.policy.config.speed_conditioned:
                raise ValueError(f"`speed` is set but this policy ({self.source}) is not speed-conditioned")
        if self.policy.dtype not in (torch.float32, torch.float64):
            raise ValueError(f"`policy` must stay float32 (or float64), got {self.policy.dtype}")
        self.policy.train(False)

    @property
    def needs(self) -> Needs:
        return needs_of(self.policy.config)

    @property
    def stochastic(self) -> bool:
        return not self.greedy

    @torch.no_grad()
    def select(self, step: Step, state: State, noise: Noise) -> Selection:
        if self.policy.device != step.masked.device:
            torch.nn.Module.to(self.policy, step.masked.device)  # in place
        seen, state = observe(self.policy.config, step, state)
        dials = {dial: getattr(self, dial) for dial in DIALS}
        return Selection(decide(self.policy, eligible=step.eligible, noise=noise, **dials, **seen), state)

    def __str__(self) -> str:
        defaults = {f.name: f.default for f in fields(self)}
        changed = [f"{key}={getattr(self, key)}" for key in DIALS if getattr(self, key) != defaults[key]]
        return ";".join([f"{self.name}:{self.named}", *changed])
