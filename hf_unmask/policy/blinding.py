"""Policies without one of their inputs, to see what that input is good for."""

from __future__ import annotations

from typing import Any

import torch

from hf_unmask.policy.config import PORTABLE
from hf_unmask.policy.model import UnmaskingPolicy

#: What `make_blind` can take away. "revealed positions": their confidences and hidden states. The last are those of
#: `UnmaskingPolicyConfig.further_inputs`.
INPUTS = ("confidences", "mask bits", "time", "hidden states", "revealed positions", *PORTABLE)


def make_blind(policy: UnmaskingPolicy, name: str) -> bool:
    """Take an input away in place, by weights of zero or of one constant value, or by the config.

    Args:
        policy: changed; it stays one that can be saved.
        name: one of `INPUTS`.

    Returns:
        False if the policy does not read that input; then nothing is changed.

    Raises:
        ValueError: another name.
    """
    if name not in INPUTS:
        raise ValueError(f"a policy can be made blind to {', '.join(INPUTS)}, not to {name!r}")
    with torch.no_grad():
        if name == "confidences":
            policy.confidence_projection.weight.zero_()
        elif name == "mask bits":
            policy.mask_embedding.weight[1] = policy.mask_embedding.weight[0]
        elif name == "time":
            first: Any = policy.time_mlp[0]
            half = policy.config.time_size // 2
            first.bias += first.weight[:, :half].sum(-1)  # cosines at time 0; the sines are 0
            first.weight.zero_()
        elif name == "hidden states" and policy.hidden_projection is not None:
            policy.hidden_projection.weight.zero_()
        elif name in policy.config.further_columns and policy.further_projection is not None:
            policy.further_projection.weight[:, policy.config.further_columns[name]] = 0.0
        elif name == "calibration" and policy.calibration_projection is not None:
            policy.calibration_projection.weight.zero_()
        elif name == "revealed positions" and policy.config.reads_revealed:
            policy.config.reads_revealed = False
        else:
            return False
    return True
