"""Other people's programs with our samplers inside. One module per program; none is imported unless asked for.

Floor 10: may import everything; nothing imports it. Start in the module of your program. A new engine that keeps its
own loop calls `hf_unmask.doors.block`, which ``from hf_unmask.integrations import block`` finds too.
"""

from __future__ import annotations

import importlib
from typing import Any

_ELSEWHERE = {"block": "doors.block", "random_canvas": "doors.random_canvas"}


def __getattr__(name: str) -> Any:
    """Modules that live in another room (PEP 562)."""
    if name not in _ELSEWHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return importlib.import_module(f"hf_unmask.{_ELSEWHERE[name]}")
