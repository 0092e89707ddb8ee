"""The two files of a policy, read strictly.

A folder may come from anybody. So at most `max_bytes` are read, from regular files inside the folder only; names, types
and shapes are compared before memory is spent on tensors; no other file is opened and nothing in them is executed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from hf_unmask.denoisers.values import require_int
from hf_unmask.policy.config import (
    TRANSFORMERS_KEYS,
    PolicyLoadError,
    UnmaskingPolicyConfig,
    check_keys,
    own_keys,
)
from hf_unmask.policy.hub.opening import read_inside
from hf_unmask.results.foreign_text import shown

CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"
#: Largest policy without asking. The main policy has 1.3 MB; only one that reads hidden states is far larger.
MAX_BYTES = 16 * 2**20
#: Largest JSON text, as a config or as the header of the weights: parsed JSON takes many times its size.
MAX_JSON = 2**20
_HINT = " (the argument `max_bytes` raises this limit)"
_BOTH = f"a folder with {CONFIG} and {WEIGHTS}"


def check_max_bytes(max_bytes: int) -> None:
    """Raise ValueError unless it is a positive integer."""
    require_int("max_bytes", max_bytes, at_least=1, at_most=2**63 - 1)


def read_files(folder: Path, max_bytes: int) -> tuple[UnmaskingPolicyConfig, bytes]:
    """The config, checked, and the content of the weights, not yet looked at.

    Raises:
        PolicyLoadError: a file is missing, unreadable or no regular file of the folder, the config is not what it must
            be, or a file is larger than ``max_bytes``.
        ValueError: ``max_bytes`` is no positive integer.
    """
    check_max_bytes(max_bytes)
    weights, limit = _read(folder, WEIGHTS, max_bytes), min(max_bytes, MAX_JSON)
    # left by a save that was killed between its renames
    config = read_inside(folder, unfinished_config(weights), limit)
    return _parse_config(_read(folder, CONFIG, limit) if config is None else config), weights


def unfinished_config(weights: bytes) -> str:
    """Name of a config that waits to become config.json once these weights are in place."""
    return f".config-{hashlib.sha256(weights).hexdigest()[:16]}.json"


def _read(folder: Path, name: str, limit: int) -> bytes:
    content = read_inside(folder, name, limit, _HINT if name == WEIGHTS or limit < MAX_JSON else "")
    if content is None:
        raise PolicyLoadError(name, f"no such file in {str(folder)!r}", _BOTH)
    return content


def parse_json(text: bytes, name: str) -> dict[str, Any]:
    """The JSON object that a file holds. Raises PolicyLoadError where it holds none."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        """Readers differ in which of two equal keys counts."""
        values: dict[str, Any] = {}
        for key, value in pairs:
            if key in values:
                raise PolicyLoadError(key, f"twice in {name}", "each key once")
            values[key] = value
        return values

    try:
        values = json.loads(text.decode("utf-8"), object_pairs_hook=once)
    except PolicyLoadError:
        raise
    except (ValueError, RecursionError) as error:  # ValueError: also no UTF-8, or an integer of thousands of digits
        raise PolicyLoadError(name, f"no readable JSON ({error})", "a JSON object") from error
    if not isinstance(values, dict):
        raise PolicyLoadError(name, type(values).__name__, "a JSON object")
    return values


def _parse_config(text: bytes) -> UnmaskingPolicyConfig:
    values = parse_json(text, CONFIG)
    if values.get("model_type") != UnmaskingPolicyConfig.model_type:
        raise PolicyLoadError("model_type", shown(values.get("model_type")), repr(UnmaskingPolicyConfig.model_type))
    check_keys(set(values), own_keys() | TRANSFORMERS_KEYS)
    if values.get("dtype", "float32") != "float32":
        raise PolicyLoadError("dtype", shown(values["dtype"]), "'float32'")
    config: UnmaskingPolicyConfig = UnmaskingPolicyConfig.from_dict(values)
    return config


def parse_weights(
    data: bytes,
    expected: dict[str, Tensor],
    names: Callable[[str], str] = str,
    dtypes: Sequence[str] = ("F32",),
) -> dict[str, Tensor]:
    """The tensors of a safetensors file, which must be those of ``expected``, of these dtypes and finite.

    ``names`` says what a tensor of the file is called in ``expected``; '' is passed over.
    """
    _check_header({name: entry for key, entry in _header(data).items() if (name := names(key))}, expected, dtypes)
    try:
        tensors = load(data)
    except SafetensorError as error:  # offsets that leave holes, overlap or miss the file's end
        raise PolicyLoadError(WEIGHTS, f"an unreadable file ({error})", "a safetensors file") from error
    tensors = {name: tensor for key, tensor in tensors.items() if (name := names(key))}
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise PolicyLoadError(name, "values that are not finite", "finite values")
    return tensors


def declared_shapes(data: bytes) -> dict[str, Any]:
    """Shapes by name, as a safetensors file declares them; they may be anything."""
    return {name: entry.get("shape") for name, entry in _header(data).items()}


def _header(data: bytes) -> dict[str, dict[str, Any]]:
    """What the file says of its tensors: [length of the header, 8 bytes] [header, JSON] [values]."""
    length, most = int.from_bytes(data[:8], "little"), min(len(data) - 8, MAX_JSON)
    if len(data) < 8 or length > most:
        raise PolicyLoadError(WEIGHTS, f"{len(data):,} bytes, of these {length:,} of header", "a safetensors file")
    found = parse_json(data[8 : 8 + length], WEIGHTS)
    found.pop("__metadata__", None)
    return {name: entry if isinstance(entry, dict) else {} for name, entry in found.items()}


def _check_header(found: dict[str, dict[str, Any]], expected: dict[str, Tensor], dtypes: Sequence[str]) -> None:
    """Compare the tensors that the file declares."""
    for name in sorted(expected.keys() - found.keys()):
        raise PolicyLoadError(name, "no such tensor", f"shape {list(expected[name].shape)}")
    for name in sorted(found.keys() - expected.keys()):
        raise PolicyLoadError(name, "an unknown tensor", "no tensor of that name")
    for name, entry in found.items():
        shape = list(expected[name].shape)
        if entry.get("shape") != shape:
            raise PolicyLoadError(name, f"shape {shown(entry.get('shape'))}", f"shape {shape}")
        if entry.get("dtype") not in dtypes:
            wanted = " or ".join(f"{one!r}" for one in dtypes)
            raise PolicyLoadError(name, f"dtype {shown(entry.get('dtype'))}", f"dtype {wanted}")
