"""Small policies with random weights."""

from __future__ import annotations

import torch

from hf_unmask.policy import UnmaskingPolicy, UnmaskingPolicyConfig

SMALL = {"hidden_size": 8, "intermediate_size": 16, "num_heads": 2, "time_size": 4}


CONDITIONED = {"speed_conditioned": True, "log_alpha_range": [-2.0, 1.0]}


def make_policy(seed=0, **options):
    torch.manual_seed(seed)
    policy = UnmaskingPolicy(UnmaskingPolicyConfig(**SMALL | options))
    for p in policy.parameters():
        p.data.normal_(0, 0.5)
    return policy
