"""Training of unmasking policies. Needs ``pip install hf_unmask[train]``.

Floor 8: may import everything below, `evaluation` with its problems and metrics included. Start in `trainer` (GRPO on
TRL's trainer), then `rollouts` (how its data is made) and `environment` (how the frozen denoiser answers).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .config import UnmaskingGRPOConfig
    from .rewards import EvaluateReward, SpeedReward
    from .trainer import UnmaskingGRPOTrainer

_NAMES = {
    "EvaluateReward": "rewards",
    "SpeedReward": "rewards",
    "UnmaskingGRPOConfig": "config",
    "UnmaskingGRPOTrainer": "trainer",
}
__all__ = ["EvaluateReward", "SpeedReward", "UnmaskingGRPOConfig", "UnmaskingGRPOTrainer"]


def __getattr__(name: str) -> Any:
    """TRL is loaded with the first use of a name (PEP 562)."""
    if name not in _NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(importlib.import_module(f".{_NAMES[name]}", __name__), name)
    except ModuleNotFoundError as error:
        raise ImportError(f"{__name__}.{name} needs {error.name}: pip install 'hf_unmask[train]'") from error
