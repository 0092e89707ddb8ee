"""Policies in the format of the seed release, made of ours."""

from __future__ import annotations

import torch

from hf_unmask.policy import UnmaskingPolicy, UnmaskingPolicyConfig

HEADS, WIDTH = 2, 16
LAYER = "transformer_blocks.0."
NAMES = {
    "confidence_projection.": "confidence_proj.", "modulation.": f"{LAYER}ada_conditioning.",
    "attention_norm.": f"{LAYER}norm1.", "feed_forward_norm.": f"{LAYER}norm2.", "query.": f"{LAYER}q_proj.",
    "key.": f"{LAYER}k_proj.", "value.": f"{LAYER}v_proj.", "attention_output.": f"{LAYER}out_proj.",
    "feed_forward.0.": f"{LAYER}linear1.", "feed_forward.2.": f"{LAYER}linear2.", "head.": "output_proj.",
}  # fmt: skip


def random_policy(**options) -> UnmaskingPolicy:
    sizes = {"hidden_size": WIDTH, "intermediate_size": 24, "num_heads": HEADS, "time_size": 6, **options}
    policy = UnmaskingPolicy(UnmaskingPolicyConfig(**sizes))
    for weights in policy.parameters():
        weights.data.normal_(0, 0.5)
    return policy.eval()


def theirs(policy: UnmaskingPolicy) -> dict[str, torch.Tensor]:
    """The weights under their names, with the two halves of a query's or key's head laid between each other."""
    found = {}
    for key, tensor in policy.state_dict().items():
        if key.startswith(("query.", "key.")):
            halves = tensor.reshape(HEADS, 2, WIDTH // HEADS // 2, *tensor.shape[1:])
            tensor = halves.transpose(1, 2).reshape(tensor.shape)
        name = next((key.replace(ours, other) for ours, other in NAMES.items() if key.startswith(ours)), key)
        found[name] = tensor.contiguous()
    return found
