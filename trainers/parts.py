"""What a trainer is made of, from what the user passes: the policy, the order of prompts."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn
from trl.trainer.utils import RepeatSampler

from hf_unmask import __version__
from hf_unmask.denoisers.adapter import Denoiser
from hf_unmask.policy.compatibility import model_name
from hf_unmask.policy.config import UnmaskingPolicyConfig, extended_lineage
from hf_unmask.policy.hub.client import is_repository
from hf_unmask.policy.hub.download import commit_of
from hf_unmask.policy.hub.folders import find_policy, load_policy
from hf_unmask.policy.model import UnmaskingPolicy

from .config import UnmaskingGRPOConfig


def policy_to_train(
    policy: UnmaskingPolicy | UnmaskingPolicyConfig | str | Path, args: UnmaskingGRPOConfig, revision: str | None = None
) -> UnmaskingPolicy:
    """The module to train: the one given, a fresh one of a config, or a loaded one with its origin in its lineage.

    Raises:
        ValueError: settings that do not go with this policy; a revision of what is in no repository.
    """
    if revision is not None and not (isinstance(policy, str) and is_repository(policy)):
        shown = policy if isinstance(policy, str | Path) else f"a {type(policy).__name__}"
        raise ValueError(f"`policy_revision={revision!r}` is for a policy ORG/NAME on the Hub, not for {shown}")
    found = _module(policy, args, revision)
    if found.config.action != "bernoulli" and (args.entropy_coef or args.use_adaptive_entropy):
        raise ValueError(
            f"`entropy_coef={args.entropy_coef}` and `use_adaptive_entropy={args.use_adaptive_entropy}` need a policy "
            f"with action='bernoulli', this one has {found.config.action!r}: its entropy is estimated without gradient"
        )
    return found


def _module(
    policy: UnmaskingPolicy | UnmaskingPolicyConfig | str | Path, args: UnmaskingGRPOConfig, revision: str | None
) -> UnmaskingPolicy:
    if isinstance(policy, UnmaskingPolicyConfig):
        config = copy.deepcopy(policy)
        config.speed_conditioned |= args.alpha_range is not None
        _set_prices(config, args)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(args.seed)
            return UnmaskingPolicy(config)
    if not isinstance(policy, UnmaskingPolicy):
        policy = loaded_policy(policy, revision)
    _set_prices(policy.config, args)
    return policy


def _set_prices(config: UnmaskingPolicyConfig, args: UnmaskingGRPOConfig) -> None:
    if args.alpha_range is None:
        return
    if not config.speed_conditioned:
        raise ValueError(f"`alpha_range={args.alpha_range}` is for policies with speed_conditioned=True")
    config.log_alpha_range = [math.log(alpha) for alpha in args.alpha_range]


def loaded_policy(policy: str | Path, revision: str | None) -> UnmaskingPolicy:
    """One from a folder, the package or the Hub, with its origin in its lineage."""
    folder = find_policy(policy, revision=revision)
    loaded = load_policy(folder)
    record = loaded.config.trained_for
    lineage = extended_lineage(record.get("lineage"), _origin(policy, folder))
    loaded.config.trained_for = {**record, "lineage": lineage}
    return loaded


def _origin(policy: str | Path, folder: Path) -> str:
    """What a lineage calls a policy: packaged name, repository at a commit, or the bare name of a local folder.

    Not its path: lineages are published.
    """
    if not Path(policy).expanduser().is_dir():
        commit = commit_of(folder)
        return f"{policy}@{commit}" if commit else str(policy)
    return folder.resolve().name


def record_purpose(policy: UnmaskingPolicy, denoiser: Denoiser, args: UnmaskingGRPOConfig) -> None:
    """Write into the policy's config what it is trained for, and by which version."""
    policy.config.trained_for = {
        **policy.config.trained_for,
        "base_model": model_name(denoiser.core),
        "base_model_revision": getattr(getattr(denoiser.core, "config", None), "_commit_hash", None),
        "mask_token_id": denoiser.mask_token_id,
        "block_length": args.block_length,
        "max_new_tokens": args.max_completion_length,
        "hf_unmask_version": __version__,
    }
    policy.config.validate()


def may_be_moved(model: nn.Module) -> bool:
    """Whether the model's placement is free: neither dispatched by a device map nor quantised."""
    return getattr(model, "hf_device_map", None) is None and getattr(model, "hf_quantizer", None) is None


def check_prompts(train: Any, validation: Any, args: UnmaskingGRPOConfig) -> None:
    """Whether there are prompts enough to train on and to evaluate on; data sets without a length are not looked at.

    Raises:
        ValueError: fewer training prompts than one batch of rollouts takes, or a validation set without any.
    """
    needed = int(args.generation_batch_size // args.group_size)
    if hasattr(train, "__len__") and len(train) < needed:
        rows, slices = len(train) * args.group_size, args.world_size * args.steps_per_generation
        fitting = [batch for batch in range(1, rows // slices + 1) if not batch * slices % args.group_size]
        lower = f", or lower `per_device_train_batch_size` to {fitting[-1]}" if fitting else ""
        raise ValueError(
            f"the training data has {len(train)} prompts, but a batch of rollouts takes {needed} different ones "
            f"(`per_device_train_batch_size={args.per_device_train_batch_size}`, {args.generation_batch_size} rollouts "
            f"in groups of {args.group_size}): pass more prompts{lower}"
        )
    parts = validation if isinstance(validation, dict) else {"eval_dataset": validation}
    for name, part in parts.items():
        if hasattr(part, "__len__") and not len(part):
            raise ValueError(f"the validation data `{name}` has {len(part)} prompts: pass some, or none of it")


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
