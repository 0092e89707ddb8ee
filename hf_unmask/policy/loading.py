"""Policies on disk: a folder with config.json and model.safetensors, read strictly and written atomically."""

from __future__ import annotations

import copy
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from hf_unmask.policy.config import TRANSFORMERS_KEYS, PolicyLoadError, UnmaskingPolicyConfig, check_keys, own_keys
from hf_unmask.policy.model import UnmaskingPolicy

CONFIG, WEIGHTS = "config.json", "model.safetensors"
BUILTIN = "builtin:"
PACKAGED = Path(__file__).resolve().parent.parent / "policies"


def find_policy(source: str | Path, **hub_options: Any) -> Path:
    """The folder that holds a policy: a local folder, a packaged policy ``builtin:NAME``, or else a Hub repository.

    Errors of the Hub pass unchanged. ``hub_options``: revision, token, cache_dir, local_files_only.
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
    return Path(snapshot_download(name, allow_patterns=[CONFIG, WEIGHTS], **hub_options))


def _packaged(name: str) -> Path:
    names = sorted(p.parent.name for p in PACKAGED.glob(f"*/{CONFIG}"))
    if name not in names:
        raise PolicyLoadError("builtin", f"{name!r}", f"one of the packaged policies {names or '(none are packaged)'}")
    return PACKAGED / name


def load_policy(folder: str | Path) -> UnmaskingPolicy:
    """Read a policy from a folder, on the CPU, in float32 and in evaluation mode. Other files there are not read.

    Anything missing, unknown, of a wrong type, shape or dtype, or not finite is a ``PolicyLoadError``.
    """
    folder = Path(folder)
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise PolicyLoadError(name, f"no such file in {str(folder)!r}", f"a folder with {CONFIG} and {WEIGHTS}")
    config = _read_config(folder / CONFIG)
    with torch.device("meta"):  # shapes are compared before any memory is spent
        policy = UnmaskingPolicy(config)
    try:
        found = load_file(folder / WEIGHTS)
    except (SafetensorError, OSError) as error:
        raise PolicyLoadError(WEIGHTS, f"an unreadable file ({error})", "a safetensors file") from error
    _check_tensors(found, policy.state_dict())
    policy.load_state_dict(found, assign=True)
    policy.train(False)
    return policy


def _read_config(path: Path) -> UnmaskingPolicyConfig:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # also a UnicodeDecodeError
        raise PolicyLoadError(CONFIG, f"no JSON ({error})", "a JSON object") from error
    if not isinstance(values, dict):
        raise PolicyLoadError(CONFIG, type(values).__name__, "a JSON object")
    if values.get("model_type") != UnmaskingPolicyConfig.model_type:
        raise PolicyLoadError("model_type", repr(values.get("model_type")), repr(UnmaskingPolicyConfig.model_type))
    check_keys(set(values), own_keys() | TRANSFORMERS_KEYS)
    if values.get("dtype", "float32") != "float32":
        raise PolicyLoadError("dtype", repr(values["dtype"]), "'float32'")
    config: UnmaskingPolicyConfig = UnmaskingPolicyConfig.from_dict(values)
    return config


def _check_tensors(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    for name in sorted(expected.keys() - found.keys()):
        raise PolicyLoadError(name, "no such tensor", f"shape {list(expected[name].shape)}")
    for name in sorted(found.keys() - expected.keys()):
        raise PolicyLoadError(name, f"a tensor of shape {list(found[name].shape)}", "no tensor of that name")
    for name, tensor in found.items():
        if tensor.shape != expected[name].shape:
            raise PolicyLoadError(name, f"shape {list(tensor.shape)}", f"shape {list(expected[name].shape)}")
        if tensor.dtype != torch.float32:
            raise PolicyLoadError(name, str(tensor.dtype), "torch.float32")
        if not tensor.isfinite().all():
            raise PolicyLoadError(name, "values that are not finite", "finite values")


def save_policy(policy: UnmaskingPolicy, folder: str | Path) -> None:
    """Write config.json and model.safetensors. Whatever fails, an older policy in that folder stays as it was.

    Both files are complete before either takes its place. Other files in the folder are left alone. Only a kill of the
    process between the two renames can leave the new weights beside the old config; loading such a pair works if the
    two policies have the same shape and is refused otherwise.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"cannot save a policy to {str(folder)!r}: it is a file")
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in policy.state_dict().items()}
    _check_tensors(tensors, policy.state_dict())
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
        save_file(tensors, new / WEIGHTS, metadata={"format": "pt"})
        config.to_json_file(new / CONFIG)
        if target.exists():
            _replace_files(new, target, backup=work)
        else:
            os.rename(new, target)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _replace_files(new: Path, target: Path, backup: Path) -> None:
    names = (WEIGHTS, CONFIG)
    old = [name for name in names if (target / name).exists()]
    for name in old:
        shutil.copy2(target / name, backup / name)
    try:
        for name in names:
            os.replace(new / name, target / name)
    except BaseException:  # Ctrl-C as well
        for name in names:
            if name in old:
                os.replace(backup / name, target / name)
            else:
                (target / name).unlink(missing_ok=True)
        raise
