"""Where an evaluation ran, for the record: versions, hardware, threads, commit, date."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hf_unmask import __version__

_PACKAGES = ("torch", "transformers", "accelerate", "evaluate", "math-verify", "scipy")
_NAMED = ("hf_unmask", "torch", "transformers")
_SHOWN = 16  # numbers of every parameter that go into a fingerprint


def environment(device: torch.device, processes: int = 1) -> dict[str, Any]:
    """Versions, hardware and the like, as JSON holds them."""
    versions = {"hf_unmask": __version__, "python": platform.python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    on_gpu = device.type == "cuda"
    return {
        "versions": versions,
        "hardware": torch.cuda.get_device_name(device) if on_gpu else _processor(),
        "device": device.type,
        "threads": torch.get_num_threads(),
        "processes": processes,
        "commit": _commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def environment_line(facts: Mapping[str, Any], *further: str) -> str:
    """What `environment` found, in a line for people: date, versions, hardware.

    ``further``: packages whose versions are named beside those of this one, torch and transformers.
    """
    versions = (f"{name} {facts['versions'][name]}" for name in (*_NAMED, *further))
    return ", ".join([facts["date"][:10], *versions, facts["hardware"]])


def weights_fingerprint(module: nn.Module) -> str:
    """Hash of names, shapes, dtypes and the first numbers of all parameters: quick, and other weights show."""
    digest = hashlib.sha256()
    for name, parameter in module.state_dict().items():
        first = _loaded(module, name, parameter).flatten()[:_SHOWN].to("cpu", torch.float64).tolist()
        digest.update(repr((name, tuple(parameter.shape), str(parameter.dtype), first)).encode())
    return digest.hexdigest()[:16]


def _loaded(module: nn.Module, name: str, weight: Tensor) -> Tensor:
    """A weight, fetched from where accelerate keeps it if it is off-loaded."""
    if weight.device.type != "meta":
        return weight.detach()
    from accelerate.utils import align_module_device  # type: ignore[import-untyped]

    owner, _, leaf = name.rpartition(".")
    holder = module.get_submodule(owner)
    with align_module_device(holder, torch.device("cpu")):
        found: Tensor = getattr(holder, leaf).detach().clone()
    return found


def sampler_fingerprint(sampler: Any) -> str:
    """Hash of the networks that a sampler holds, directly or in a sampler it wraps; "" if it holds none."""
    if not is_dataclass(sampler):
        return ""
    held = [getattr(sampler, f.name) for f in fields(sampler)]
    parts = [weights_fingerprint(one) if isinstance(one, nn.Module) else sampler_fingerprint(one) for one in held]
    return "".join(parts)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor() or platform.machine()}, {os.cpu_count()} cores"


def _commit() -> str | None:
    """Of the checkout this package runs from; None if it is installed."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    folder = Path(__file__).parent
    try:
        if not (folder.parents[1] / ".git").exists():
            return None
        found = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() or None
