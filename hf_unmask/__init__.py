"""Learned unmasking policies and samplers for diffusion language models.

Everything public is named here and loaded on first use, so that ``import hf_unmask`` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "AttachedGenerate": "doors.attaching",
    "Denoiser": "denoisers.adapter",
    "LearnedUnmaskingSampler": "samplers.learned",
    "Needs": "generation.step",
    "Noise": "generation.step",
    "PolicyLoadError": "policy.config",
    "Sampler": "samplers.base",
    "Selection": "generation.step",
    "Step": "generation.step",
    "StepEvent": "generation.output",
    "RowStream": "generation.loop",
    "StreamedRow": "generation.output",
    "Trajectory": "generation.output",
    "UnmaskOutput": "generation.output",
    "UnmaskingGenerationConfig": "generation.configuration",
    "UnmaskingPolicy": "policy",
    "UnmaskingPolicyConfig": "policy",
    "attach": "doors.attaching",
    "check": "doors.check",
    "detach": "doors.attaching",
    "encode_prompts": "denoisers.texts",
    "evaluate_samplers": "evaluation.running",
    "generate": "doors.generating",
    "generate_stream": "doors.generating",
    "load_denoiser": "doors.loading",
    "load_tiny": "tiny",
    "parse_sampler": "samplers.specs",
    "samplers": "samplers",
}
__all__ = [
    "AttachedGenerate",
    "Denoiser",
    "LearnedUnmaskingSampler",
    "Needs",
    "Noise",
    "PolicyLoadError",
    "RowStream",
    "Sampler",
    "Selection",
    "Step",
    "StepEvent",
    "StreamedRow",
    "Trajectory",
    "UnmaskOutput",
    "UnmaskingGenerationConfig",
    "UnmaskingPolicy",
    "UnmaskingPolicyConfig",
    "__version__",
    "attach",
    "check",
    "detach",
    "encode_prompts",
    "evaluate_samplers",
    "generate",
    "generate_stream",
    "load_denoiser",
    "load_tiny",
    "parse_sampler",
    "samplers",
]

if TYPE_CHECKING:
    from hf_unmask import samplers
    from hf_unmask.denoisers.adapter import Denoiser
    from hf_unmask.denoisers.texts import encode_prompts
    from hf_unmask.doors.attaching import AttachedGenerate, attach, detach
    from hf_unmask.doors.check import check
    from hf_unmask.doors.generating import generate, generate_stream
    from hf_unmask.doors.loading import load_denoiser
    from hf_unmask.evaluation.running import evaluate_samplers
    from hf_unmask.generation.configuration import UnmaskingGenerationConfig
    from hf_unmask.generation.loop import RowStream
    from hf_unmask.generation.output import StepEvent, StreamedRow, Trajectory, UnmaskOutput
    from hf_unmask.generation.step import Needs, Noise, Selection, Step
    from hf_unmask.policy import UnmaskingPolicy, UnmaskingPolicyConfig
    from hf_unmask.policy.config import PolicyLoadError
    from hf_unmask.samplers.base import Sampler
    from hf_unmask.samplers.learned import LearnedUnmaskingSampler
    from hf_unmask.samplers.specs import parse_sampler
    from hf_unmask.tiny import load_tiny


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'hf_unmask' has no attribute {name!r}")
    module = importlib.import_module(f"hf_unmask.{_HOME[name]}")
    value = module if name == "samplers" else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
