"""The learned unmasking policy. Importing this registers it with transformers' Auto classes.

Floor 3: may import `generation`, `denoisers` and, for cards, `results`. Start in `model` (the network), `decision`
(what it decides, as a pure function of tensors), `observation` (what it reads) and `config`; `hub/` is files and
repositories, `card/` model cards.
"""

from transformers import AutoConfig, AutoModel

from hf_unmask.policy.compatibility import PolicyMismatchWarning
from hf_unmask.policy.config import PolicyLoadError, UnmaskingPolicyConfig
from hf_unmask.policy.decision import decide, distribution
from hf_unmask.policy.distribution import BernoulliUnmask, PlackettLuceUnmask, UnmaskDistribution
from hf_unmask.policy.hub.folders import load_policy, save_policy
from hf_unmask.policy.hub.importing import import_policy
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
    "import_policy",
    "load_policy",
    "save_policy",
]
