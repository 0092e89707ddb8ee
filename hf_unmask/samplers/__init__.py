"""Samplers: what decides which positions to open. Each loads when it is asked for.

Floor 4: may import `policy`, `generation`, `denoisers` and, for specs, `results`. Start in `base`; then one short file
per rule. `specs` turns text into samplers and back; `catalogue` names them all without loading one.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from hf_unmask.samplers.catalogue import HEURISTICS

if TYPE_CHECKING:
    from hf_unmask.samplers.base import Sampler
    from hf_unmask.samplers.confidence import ConfidenceSampler
    from hf_unmask.samplers.credit import CreditSampler
    from hf_unmask.samplers.dilated import DilatedSampler
    from hf_unmask.samplers.entropy import EntropySampler
    from hf_unmask.samplers.entropy_bound import EntropyBoundSampler
    from hf_unmask.samplers.eos_suppress import EosSuppressSampler
    from hf_unmask.samplers.factor import FactorSampler
    from hf_unmask.samplers.klass import KLASSSampler
    from hf_unmask.samplers.learned import LearnedUnmaskingSampler
    from hf_unmask.samplers.left_to_right import LeftToRightSampler
    from hf_unmask.samplers.margin import MarginSampler
    from hf_unmask.samplers.pc import PCSampler
    from hf_unmask.samplers.random import RandomSampler
    from hf_unmask.samplers.threshold import ThresholdSampler

__all__ = [
    "ConfidenceSampler",
    "CreditSampler",
    "DilatedSampler",
    "EntropyBoundSampler",
    "EntropySampler",
    "EosSuppressSampler",
    "FactorSampler",
    "KLASSSampler",
    "LearnedUnmaskingSampler",
    "LeftToRightSampler",
    "MarginSampler",
    "PCSampler",
    "RandomSampler",
    "Sampler",
    "ThresholdSampler",
]


#: Where they are defined.
_HOME = {row.class_name: name for name, row in HEURISTICS.items()} | {
    "LearnedUnmaskingSampler": "learned",
    "Sampler": "base",
}


def __getattr__(name: str) -> Any:
    """A sampler loads with its first use (PEP 562): torch for a heuristic, policy code for the learned one."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
