"""What a policy was trained for, against what it is used on. They may differ: policies transfer, not always well."""

from __future__ import annotations

import warnings
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from hf_unmask.denoisers.adapter import Denoiser
from hf_unmask.policy.config import UnmaskingPolicyConfig

_EMBEDDED = Path(__file__).resolve().parent.parent / "tiny" / "model"


class PolicyMismatchWarning(UserWarning):
    """A policy is used on another model or block length than it was trained for."""


class Difference(NamedTuple):
    """One quantity in which the use of a policy differs from its training."""

    name: str
    trained: Any
    here: Any

    def __str__(self) -> str:
        return f"{self.name} {_shown(self.trained)}, here {_shown(self.here)}"


def _shown(value: Any) -> str:
    return "none (full diffusion)" if value is None else str(value)


def model_name(model: nn.Module) -> str:
    """What a policy's config calls a denoiser: its repository, the name of a local folder, or else its class."""
    name = str(getattr(getattr(model, "config", None), "_name_or_path", "") or type(model).__name__)
    if not Path(name).is_dir():
        return name
    folder = Path(name).resolve()
    return "tiny" if folder == _EMBEDDED else folder.name


def model_differences(config: UnmaskingPolicyConfig, denoiser: Denoiser) -> list[Difference]:
    """In what ``denoiser`` differs from the one the policy was trained on. What is not recorded is not compared."""
    record = config.trained_for
    width = getattr(getattr(denoiser.core, "config", None), "hidden_size", None)
    found = []
    trained, here = record.get("base_model"), model_name(denoiser.core)
    if trained is not None and not _same_model(trained, here):
        found.append(Difference("base_model", trained, here))
    trained = record.get("mask_token_id")
    if trained is not None and trained != denoiser.mask_token_id:
        found.append(Difference("mask_token_id", trained, denoiser.mask_token_id))
    if config.hidden_input_size is not None and width is not None and width != config.hidden_input_size:
        found.append(Difference("hidden_input_size", config.hidden_input_size, width))
    return found


def _same_model(trained: str, here: str) -> bool:
    """A local folder counts as the repository whose name it bears: nothing else about it is known."""
    if "/" in trained and "/" in here:
        return trained == here
    return trained.rsplit("/")[-1] == here.rsplit("/")[-1]


def block_differences(
    config: UnmaskingPolicyConfig, block_length: int | None, canvas: int | None = None
) -> list[Difference]:
    """Whether blocks differ; at most one entry. A block that holds the whole answer also counts as full diffusion.

    ``block_length``: positions of a block, None for full diffusion; ``canvas``: positions to fill, None if unknown.
    """
    record = config.trained_for
    if "block_length" not in record:
        return []
    trained = _readings(record["block_length"], record.get("max_new_tokens"))
    if trained & _readings(block_length, canvas):
        return []
    return [Difference("block_length", record["block_length"], block_length)]


def _readings(block_length: int | None, canvas: int | None) -> set[int | None]:
    whole = block_length is not None and canvas is not None and block_length >= canvas
    return {block_length, None} if whole else {block_length}


def warn_of(differences: list[Difference], source: str) -> None:
    """Warn of them, in one `PolicyMismatchWarning`; once per process for the same policy and differences."""
    if differences:
        _warn(
            f"the policy {source} was trained for {'; '.join(map(str, differences))}. It can be used, but what was "
            "measured for it need not hold"
        )


def warn_of_blocks(sampler: Any, block_length: int) -> None:
    """Warn if the sampler holds a policy that was trained for another block length; for engines, whose is fixed."""
    policy = getattr(sampler, "policy", None)
    if policy is not None:
        warn_of(block_differences(policy.config, block_length), sampler.named)


@cache
def _warn(text: str) -> None:
    # Python's own memory of shown warnings is forgotten whenever a library changes a filter.
    warnings.warn(text, PolicyMismatchWarning, stacklevel=2)
