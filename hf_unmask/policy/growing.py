"""Policies with more inputs than the one they start from."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor

from hf_unmask.policy.config import PORTABLE, UnmaskingPolicyConfig
from hf_unmask.policy.model import UnmaskingPolicy


def extended(
    policy: UnmaskingPolicy,
    *,
    top_k: int | None = None,
    further_inputs: Sequence[str] | None = None,
    hidden_input_size: int | None = None,
) -> UnmaskingPolicy:
    """A policy that reads more and decides the same, until it is trained.

    Args:
        policy: the one to start from; it stays as it is.
        top_k: probabilities per position, at least as many as now. None: as many.
        further_inputs: see `UnmaskingPolicyConfig`; those it has already are kept.
        hidden_input_size: width of the denoiser's hidden states, for a policy that reads none. None: as it is.

    Returns:
        A new policy of the same dtype, whose weights for the new inputs are zero.

    Raises:
        ValueError: fewer probabilities, or other hidden states, than it reads now.
        PolicyLoadError: an input that nobody knows.
    """
    old, config = policy.config, copy.deepcopy(policy.config)
    config.top_k = top_k or old.top_k
    config.hidden_input_size = old.hidden_input_size or hidden_input_size
    wanted = PORTABLE if further_inputs == "portable" else further_inputs or ()
    config.further_inputs = [*old.further_inputs, *(name for name in wanted if name not in old.further_inputs)]
    config.validate()
    if config.top_k < old.top_k or (hidden_input_size and config.hidden_input_size != hidden_input_size):
        raise ValueError(
            f"a policy that reads {old.top_k} probabilities and hidden states of width {old.hidden_input_size} cannot "
            f"become one that reads {config.top_k}, and {hidden_input_size or old.hidden_input_size}"
        )
    found = UnmaskingPolicy(config)
    torch.nn.Module.to(found, policy.dtype)  # in place
    weights = policy.state_dict()
    with torch.no_grad():
        for name, tensor in found.state_dict().items():
            if name == "confidence_projection.weight":
                tensor.zero_()[:, : old.top_k] = weights[name]
            elif name == "further_projection.weight":
                _copy_columns(tensor.zero_(), config, weights.get(name), old)
            else:
                tensor.copy_(weights[name]) if name in weights else tensor.zero_()
    found.train(policy.training)
    return found


def _copy_columns(
    target: Tensor, config: UnmaskingPolicyConfig, source: Tensor | None, old: UnmaskingPolicyConfig
) -> None:
    """The columns of inputs that both have; log-odds are as many as probabilities."""
    places = config.further_columns
    for name, columns in old.further_columns.items():
        if source is not None:
            start, width = places[name].start, columns.stop - columns.start
            target[:, start : start + width] = source[:, columns]
