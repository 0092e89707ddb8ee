"""Samplers: what decides which positions to open. Heuristics load at once, the learned sampler when it is asked for.

Floor 4: may import `policy`, `generation`, `denoisers` and, for specs, `results`. Start in `base`; then one short file
per rule. `specs` turns text into samplers and back, and names them all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hf_unmask.samplers.base import Sampler
from hf_unmask.samplers.confidence import ConfidenceSampler
from hf_unmask.samplers.credit import CreditSampler
from hf_unmask.samplers.dilated import DilatedSampler
from hf_unmask.samplers.entropy import EntropySampler
from hf_unmask.samplers.entropy_bound import EntropyBoundSampler
from hf_unmask.samplers.eos_suppress import EosSuppressSampler
from hf_unmask.samplers.factor import FactorSampler
from hf_unmask.samplers.klass import KLASSSampler
from hf_unmask.samplers.left_to_right import LeftToRightSampler
from hf_unmask.samplers.margin import MarginSampler
from hf_unmask.samplers.pc import PCSampler
from hf_unmask.samplers.random import RandomSampler
from hf_unmask.samplers.threshold import ThresholdSampler

if TYPE_CHECKING:
    from hf_unmask.samplers.learned import LearnedUnmaskingSampler

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


def __getattr__(name: str) -> Any:
    """Policy code loads with the first use of the learned sampler (PEP 562)."""
    if name == "LearnedUnmaskingSampler":
        from hf_unmask.samplers.learned import LearnedUnmaskingSampler

        return LearnedUnmaskingSampler
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
