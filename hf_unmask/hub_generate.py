"""What ``custom_generate/generate.py`` in the repository of a policy calls.

A repository keeps calling ``generate_with`` as it did when it was pushed: its arguments may grow, not change.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from hf_unmask.denoisers.adapter import Denoiser
from hf_unmask.generation.loop import generate
from hf_unmask.generation.output import UnmaskOutput
from hf_unmask.policy.hub.pretrained import DIALS
from hf_unmask.samplers.learned import LearnedUnmaskingSampler

_LOADING = {"revision", "token", "cache_dir", "local_files_only", "max_bytes"}
#: For models whose conventions are not known; elsewhere they are said to `hf_unmask.attach`.
_CONVENTIONS = {"shift", "attention"}
#: Arguments of transformers that ask for nothing when they are empty or False; any other value is refused.
_EMPTY = {"logits_processor", "stopping_criteria", "synced_gpus"}


def generate_with(repo_id: str, model: nn.Module, **arguments: Any) -> Tensor | UnmaskOutput:
    """Decode as ``hf_unmask.generate`` does, with the policy of a repository.

    Args:
        repo_id: ``org/name`` of the policy.
        model: the denoiser on which ``generate`` was called; attaching it first is allowed and not needed.
        **arguments: what that call was given, as transformers hands it over: ``inputs`` or ``input_ids``, the options
            of `hf_unmask.generate`, and

            - ``revision``, ``token``, ``cache_dir``, ``local_files_only``, ``max_bytes``: where the policy is from;
            - ``policy_temperature``, ``beta``, ``greedy``, ``speed``: dials of the sampler;
            - ``shift``, ``attention``: conventions of a model that is not known, see ``Denoiser.from_model``.

            None counts as not given.

    Returns:
        What `hf_unmask.generate` returns.

    Raises:
        ValueError: no prompt, two prompts, or an option that is unknown or means nothing here.
        PolicyLoadError: the policy cannot be used.
        OSError: the Hub client's own, unchanged.
    """
    given = {name: value for name, value in arguments.items() if value is not None and (name not in _EMPTY or value)}
    prompt = _prompt(given)
    sampler = LearnedUnmaskingSampler.from_pretrained(repo_id, **_take(given, _LOADING | DIALS.keys()))
    denoiser: nn.Module | Denoiser = model
    if conventions := _take(given, _CONVENTIONS):
        ids = {"tokenizer": given.get("tokenizer"), "mask_token_id": given.get("mask_token_id")}
        denoiser = Denoiser.from_model(model, **ids, **conventions)
    return generate(denoiser, prompt, sampler=sampler, **given)


def _take(arguments: dict[str, Any], names: set[str]) -> dict[str, Any]:
    return {name: arguments.pop(name) for name in sorted(names & arguments.keys())}


def _prompt(arguments: dict[str, Any]) -> Tensor:
    found = _take(arguments, {"inputs", "input_ids"})
    if len(found) != 1:
        raise ValueError(f"pass the prompt as `input_ids`, once; got {', '.join(sorted(found)) or 'none'}")
    prompt: Tensor = next(iter(found.values()))
    return prompt
