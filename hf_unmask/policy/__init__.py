"""The learned unmasking policy. Importing this registers it with transformers' Auto classes."""

from transformers import AutoConfig, AutoModel

from hf_unmask.policy.compatibility import PolicyMismatchWarning
from hf_unmask.policy.config import PolicyLoadError, UnmaskingPolicyConfig
from hf_unmask.policy.decision import decide, distribution
from hf_unmask.policy.distribution import BernoulliUnmask, PlackettLuceUnmask, UnmaskDistribution
from hf_unmask.policy.loading import load_policy, save_policy
from hf_unmask.policy.model import UnmaskingPolicy

AutoConfig.register(UnmaskingPolicyConfig.model_type, UnmaskingPolicyConfig, exist_ok=True)
AutoModel.register(UnmaskingPolicyConfig, UnmaskingPolicy, exist_ok=True)

__all__ = [
    "BernoulliUnmask",
    "PlackettLuceUnmask",
    "PolicyLoadError",
    "PolicyMismatchWarning",
    "UnmaskDistribution",
    "UnmaskingPolicy",
    "UnmaskingPolicyConfig",
    "decide",
    "distribution",
    "load_policy",
    "save_policy",
]
