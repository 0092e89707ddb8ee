"""What a trainer is made of, from what the user passes: the policy, the order of prompts."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn
from trl.trainer.utils import RepeatSampler

from hf_unmask.policy.config import UnmaskingPolicyConfig
from hf_unmask.policy.loading import find_policy, load_policy
from hf_unmask.policy.model import UnmaskingPolicy

from .config import UnmaskingGRPOConfig


def policy_to_train(
    policy: UnmaskingPolicy | UnmaskingPolicyConfig | str | Path, args: UnmaskingGRPOConfig
) -> UnmaskingPolicy:
    """The module to train: the one given, a fresh one of a config, or a loaded one with its origin in its lineage.

    Raises:
        ValueError: settings that do not go with this policy.
    """
    found = _module(policy, args.seed)
    if found.config.action != "bernoulli" and (args.entropy_coef or args.use_adaptive_entropy):
        raise ValueError(
            f"`entropy_coef={args.entropy_coef}` and `use_adaptive_entropy={args.use_adaptive_entropy}` need a policy "
            f"with action='bernoulli', this one has {found.config.action!r}: its entropy is estimated without gradient"
        )
    return found


def _module(policy: UnmaskingPolicy | UnmaskingPolicyConfig | str | Path, seed: int) -> UnmaskingPolicy:
    if isinstance(policy, UnmaskingPolicy):
        return policy
    if isinstance(policy, UnmaskingPolicyConfig):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return UnmaskingPolicy(copy.deepcopy(policy))
    loaded = load_policy(find_policy(policy))
    record = loaded.config.trained_for
    loaded.config.trained_for = {**record, "lineage": [*(record.get("lineage") or []), str(policy)]}
    return loaded


def may_be_moved(model: nn.Module) -> bool:
    """Whether the model's placement is free: neither dispatched by a device map nor quantised."""
    return getattr(model, "hf_device_map", None) is None and getattr(model, "hf_quantizer", None) is None


class PromptSampler(RepeatSampler):  # type: ignore[misc]
    """TRL's order of prompts, with each epoch's permutation a function of seed and epoch.

    TRL draws all of them from one generator, so that a run resumed in a later epoch would repeat the first one's.
    """

    def __init__(self, *args: Any, epoch: Callable[[], int], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        if self.shuffle:
            self.generator.manual_seed(self.seed + self.epoch())
        yield from super().__iter__()
