"""Policies on disk: a folder with config.json and model.safetensors, read strictly and written atomically.

A folder may come from anybody. So at most `max_bytes` are read, from regular files inside the folder only; names, types
and shapes are compared before memory is spent on tensors; no other file is opened and nothing in them is executed.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
import shutil
import stat
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from hf_unmask.policy.config import (
    TRANSFORMERS_KEYS,
    PolicyLoadError,
    UnmaskingPolicyConfig,
    check_keys,
    own_keys,
    shown,
)
from hf_unmask.policy.hub import CONFIG, MAX_BYTES, WEIGHTS, download_policy
from hf_unmask.policy.model import UnmaskingPolicy

BUILTIN = "builtin:"
PACKAGED = Path(__file__).resolve().parent.parent / "policies"
# Largest JSON text, as a config or as the header of the weights: parsed JSON takes many times its size.
_MAX_JSON = 2**20
_HINT = {WEIGHTS: " (the argument `max_bytes` raises this limit)"}
_BOTH = f"a folder with {CONFIG} and {WEIGHTS}"


def find_policy(source: str | Path, **hub_options: Any) -> Path:
    """The folder that holds a policy: a local folder, a packaged policy ``builtin:NAME``, or else a Hub repository.

    Errors of the Hub pass unchanged. ``hub_options``: those of `download_policy`.
    """
    name = str(source)
    if name.startswith(BUILTIN):
        return _packaged(name.removeprefix(BUILTIN))
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise PolicyLoadError("path", f"a file, {name!r}", f"a folder with {CONFIG} and {WEIGHTS}")
    # Repository ids have at most one slash and no leading dot: anything else was meant as a path.
    if isinstance(source, Path) or name.startswith((".", "/", "~")) or name.count("/") != 1 or "\\" in name:
        raise PolicyLoadError("path", f"no folder {name!r}", "a local folder, builtin:NAME or a repository org/name")
    return download_policy(name, **hub_options)


def _packaged(name: str) -> Path:
    names = sorted(p.parent.name for p in PACKAGED.glob(f"*/{CONFIG}"))
    if name not in names:
        raise PolicyLoadError("builtin", f"{name!r}", f"one of the packaged policies {names or '(none are packaged)'}")
    return PACKAGED / name


def load_policy(folder: str | Path, *, max_bytes: int = MAX_BYTES) -> UnmaskingPolicy:
    """Read a policy from a folder, on the CPU, in float32 and in evaluation mode. Other files there are not read.

    Anything missing, unknown, of a wrong type, shape or dtype, not finite or larger than ``max_bytes`` is a
    ``PolicyLoadError``.
    """
    folder = Path(folder)
    weights = _read(folder, WEIGHTS, max_bytes)
    unfinished = _unfinished_config(weights)  # left by a save that was killed between its renames
    name = unfinished if (folder / unfinished).is_file() else CONFIG
    config = _parse_config(_read(folder, name, min(max_bytes, _MAX_JSON)))
    with torch.device("meta"):  # shapes are compared before any memory is spent
        policy = UnmaskingPolicy(config)
    policy.load_state_dict(_parse_weights(weights, policy.state_dict()), assign=True)
    policy.train(False)
    return policy


def _read(folder: Path, name: str, limit: int) -> bytes:
    """A regular file of at most ``limit`` bytes. Anything else is not even opened: a pipe would never end."""
    try:
        path = (folder / name).resolve(strict=True)
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise PolicyLoadError(name, f"something else ({stat.filemode(status.st_mode)})", "a regular file")
        if not any(path.is_relative_to(place) for place in _places(folder)):
            raise PolicyLoadError(name, "a link that leaves the folder", "a file in the folder")
        if status.st_size > limit:
            raise PolicyLoadError(name, f"{status.st_size:,} bytes", f"at most {limit:,}{_HINT.get(name, '')}")
        with path.open("rb") as file:
            data = file.read(status.st_size + 1)
    except FileNotFoundError as error:
        raise PolicyLoadError(name, f"no such file in {str(folder)!r}", _BOTH) from error
    except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle
        raise PolicyLoadError(name, f"an unreadable file ({error})", _BOTH) from error
    if len(data) != status.st_size:
        raise PolicyLoadError(name, "a file that changes while it is read", f"{status.st_size:,} bytes")
    return data


def _places(folder: Path) -> list[Path]:
    """Where the files may lie: in the folder or, for a snapshot in the Hub's cache, in the two stores it links to."""
    root = folder.resolve()
    repository = root.parent.parent
    if root.parent.name == "snapshots" and repository.name.startswith("models--"):
        return [root, repository / "blobs", repository.parent / "blobs"]
    return [root]


def _parse_json(text: bytes, name: str) -> dict[str, Any]:
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
    values = _parse_json(text, CONFIG)
    if values.get("model_type") != UnmaskingPolicyConfig.model_type:
        raise PolicyLoadError("model_type", shown(values.get("model_type")), repr(UnmaskingPolicyConfig.model_type))
    check_keys(set(values), own_keys() | TRANSFORMERS_KEYS)
    if values.get("dtype", "float32") != "float32":
        raise PolicyLoadError("dtype", shown(values["dtype"]), "'float32'")
    config: UnmaskingPolicyConfig = UnmaskingPolicyConfig.from_dict(values)
    return config


def _parse_weights(data: bytes, expected: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a safetensors file, which must be those of ``expected``, in float32 and finite."""
    _check_header(data, expected)
    try:
        tensors = load(data)
    except SafetensorError as error:  # offsets that leave holes, overlap or miss the file's end
        raise PolicyLoadError(WEIGHTS, f"an unreadable file ({error})", "a safetensors file") from error
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise PolicyLoadError(name, "values that are not finite", "finite values")
    return tensors


def _check_header(data: bytes, expected: dict[str, Tensor]) -> None:
    """Compare the tensors that the file declares: [length of the header, 8 bytes] [header, JSON] [values]."""
    length, most = int.from_bytes(data[:8], "little"), min(len(data) - 8, _MAX_JSON)
    if len(data) < 8 or length > most:
        raise PolicyLoadError(WEIGHTS, f"{len(data):,} bytes, of these {length:,} of header", "a safetensors file")
    found = _parse_json(data[8 : 8 + length], WEIGHTS)
    found.pop("__metadata__", None)
    for name in sorted(expected.keys() - found.keys()):
        raise PolicyLoadError(name, "no such tensor", f"shape {list(expected[name].shape)}")
    for name in sorted(found.keys() - expected.keys()):
        raise PolicyLoadError(name, "an unknown tensor", "no tensor of that name")
    for name, entry in found.items():
        shape, entry = list(expected[name].shape), entry if isinstance(entry, dict) else {}
        if entry.get("shape") != shape:
            raise PolicyLoadError(name, f"shape {shown(entry.get('shape'))}", f"shape {shape}")
        if entry.get("dtype") != "F32":
            raise PolicyLoadError(name, f"dtype {shown(entry.get('dtype'))}", "dtype 'F32', float32")


def save_policy(policy: UnmaskingPolicy, folder: str | Path) -> None:
    """Write config.json and model.safetensors. Whatever fails, an older policy in that folder stays as it was.

    Both files are complete, and have been read back, before either takes its place. Other files in the folder are left
    alone. A process killed at any moment leaves a folder that loads as the old or as the new policy, never as a mixture
    (and perhaps a hidden folder of unused files beside it).
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"cannot save a policy to {str(folder)!r}: it is a file")
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in policy.state_dict().items()}
    config = copy.deepcopy(policy.config)
    config.architectures, config.dtype = [type(policy).__name__], torch.float32
    config.validate()
    target = folder.resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    # Beside the target, so that the renames stay on one file system.
    work = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        new = work / "new"
        new.mkdir()
        try:
            (new / WEIGHTS).write_bytes(save(tensors, metadata={"format": "pt"}))  # save_file's errors are no OSError
            config.to_json_file(new / CONFIG)
        except OSError as error:
            raise OSError(error.errno, f"cannot save a policy to {str(folder)!r}: {error.strerror}") from error
        load_policy(new, max_bytes=max(MAX_BYTES, (new / WEIGHTS).stat().st_size))  # what cannot be read is not saved
        for name in (WEIGHTS, CONFIG):
            with (new / name).open("rb+") as file:
                os.fsync(file.fileno())  # else a power cut may keep the renames and lose the contents
        try:
            os.rename(new, target)
        except OSError:
            if not target.is_dir():
                raise
            # It holds files, perhaps only now: other processes of a training write into the same checkpoint.
            _replace_files(new, target, backup=work)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _unfinished_config(weights: bytes) -> str:
    """Name of a config that waits to become config.json once these weights are in place."""
    return f".config-{hashlib.sha256(weights).hexdigest()[:16]}.json"


def _replace_files(new: Path, target: Path, backup: Path) -> None:
    """Two renames are not atomic together, so the config is put beside the old one first, tied to the new weights."""
    old = [name for name in (WEIGHTS, CONFIG) if (target / name).exists()]
    for name in old:
        shutil.copy2(target / name, backup / name)
    unfinished = target / _unfinished_config((new / WEIGHTS).read_bytes())
    try:
        os.rename(new / CONFIG, unfinished)  # not read as long as the old weights are there
        os.replace(new / WEIGHTS, target / WEIGHTS)  # from here on a reader finds the new policy
        os.replace(unfinished, target / CONFIG)
    except BaseException:  # Ctrl-C as well
        for name in (WEIGHTS, CONFIG):
            if name in old:
                os.replace(backup / name, target / name)
            else:
                (target / name).unlink(missing_ok=True)
        unfinished.unlink(missing_ok=True)
        raise
    for left in target.glob(".config-*.json"):  # by saves that were killed
        left.unlink(missing_ok=True)
