"""Denoisers by folder or repository, attached and ready."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import transformers
from transformers import AutoConfig, AutoTokenizer, GenerationConfig, PreTrainedConfig
from transformers.dynamic_module_utils import get_class_from_dynamic_module

from hf_unmask.denoisers import compat
from hf_unmask.denoisers.adapter import Denoiser
from hf_unmask.denoisers.families import rows
from hf_unmask.doors.attaching import attach
from hf_unmask.doors.sources import check_source
from hf_unmask.results.places import naming, unreadable

_ENTRIES = ("AutoModelForMaskedLM", "AutoModelForCausalLM", "AutoModel")


def load_denoiser(
    name: str,
    *,
    trust_remote_code: bool = False,
    revision: str | None = None,
    code_revision: str | None = None,
    dtype: Any = "auto",
    device: Any = None,
    device_map: Any = None,
    attn_implementation: str | None = None,
    tokenizer: Any = None,
    **conventions: Any,
) -> Any:
    """A denoiser in evaluation mode whose ``generate`` takes ``sampler=``.

    Code that comes with a checkpoint and was written for transformers 4 is mended where it is known to break on 5; see
    `hf_unmask.denoisers.compat`. Models of transformers itself are loaded as they are.

    Args:
        name: folder or repository.
        trust_remote_code: run the code that comes with it.
        revision: branch, tag or commit of the weights, and of the code unless ``code_revision`` says otherwise.
        dtype: of the weights; "auto" takes the checkpoint's.
        device: where to put the model, "auto" for an accelerator if there is one; ``device_map`` spreads large ones.
        attn_implementation: of transformers' attention, such as "sdpa" or "eager". None: as the checkpoint says.
        tokenizer: asked for ids that the model's configs do not hold. None: the repository's own, if it has one.
        **conventions: as in `hf_unmask.attach`, for models of no known family.

    Raises:
        ValueError: neither a masked language model of transformers nor one with code of its own, code that is not
            trusted, conventions that are missing, or a device that is not there.
        OSError: no such folder or repository.
    """
    if device is not None:
        device = usable_device(device)
    check_source(name)
    checkpoint = _Checkpoint.open(name, trust_remote_code, revision, code_revision)
    options = {"device_map": device_map, "attn_implementation": attn_implementation}
    with compat.library_names(checkpoint.shims):
        checkpoint.mend_class()
        model = checkpoint.entry.from_pretrained(
            name,
            config=checkpoint.config,
            dtype=dtype,
            trust_remote_code=trust_remote_code,
            **checkpoint.source,
            **checkpoint.code,
            **{key: value for key, value in options.items() if value is not None},
        )
        compat.mend_model(model, checkpoint.shims)
    if getattr(model, "generation_config", None) is None:  # transformers reads it for models with a loop of its own
        checkpoint.read_settings(model)
    if device is not None:
        model = model.to(device)
    return attach(model.eval(), tokenizer=tokenizer or checkpoint.tokenizer(), **conventions)


def usable_device(device: Any = "auto") -> Any:
    """The device itself, looked at before gigabytes are loaded for it; of "auto" the machine's accelerator, else "cpu".

    Raises:
        ValueError: torch knows no such device, or this machine has none.
    """
    if device == "auto":
        found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        return "cpu" if found is None else found.type
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, TypeError) as error:  # a torch without CUDA asserts
        raise ValueError(f"the device {device!r} cannot be used: {str(error).partition(chr(10))[0]}") from error
    return device


def load_outline(name: str, *, trust_remote_code: bool = False, revision: str | None = None) -> Denoiser:
    """The adapter of a model without its weights: a comparison needs no gigabytes.

    Raises:
        ValueError, OSError: as `load_denoiser`.
    """
    check_source(name, weights=False)
    checkpoint = _Checkpoint.open(name, trust_remote_code, revision, None)
    with compat.library_names(checkpoint.shims), torch.device("meta"):
        checkpoint.mend_class()
        model = checkpoint.entry.from_config(checkpoint.config, trust_remote_code=trust_remote_code, **checkpoint.code)
    checkpoint.read_settings(model)
    return Denoiser.from_model(model, tokenizer=checkpoint.tokenizer())


@dataclass(frozen=True)
class _Checkpoint:
    """What is known of a repository before its model is built."""

    name: str
    config: Any
    entry: Any  # transformers' auto class
    own: str | None  # where the repository keeps the model's class
    trusted: bool  # to run
    source: dict[str, Any]  # arguments that say where files are
    code: dict[str, Any]  # and where code is
    shims: tuple[compat.Shim, ...]

    @classmethod
    def open(cls, name: str, trust_remote_code: bool, revision: str | None, code_revision: str | None) -> _Checkpoint:
        source: dict[str, Any] = {} if revision is None else {"revision": revision}
        # without it, code would come from the main branch whatever revision was named
        code: dict[str, Any] = {"code_revision": code_revision or revision} if code_revision or revision else {}
        with naming(name, unreadable("the model", name)), compat.library_names(compat.needed()):
            config = _config(name, trust_remote_code, source, code)
        entry = auto_class(config, name)
        own = (getattr(config, "auto_map", None) or {}).get(entry.__name__)
        if own is None:
            return cls(name, config, entry, own, trust_remote_code, source, {}, ())
        compat.mend_config(config, compat.needed())
        return cls(name, config, entry, own, trust_remote_code, source, code, compat.needed())

    def mend_class(self) -> None:
        if self.own is not None and self.trusted:
            mended = get_class_from_dynamic_module(self.own, self.name, **self.source, **self.code)
            compat.mend_class(mended, self.shims)

    def read_settings(self, model: Any) -> None:
        try:
            model.generation_config = GenerationConfig.from_pretrained(
                self.name, revision=self.source.get("revision", "main")
            )
        except OSError:  # most masked language models have none
            pass

    def tokenizer(self) -> Any:
        try:
            return AutoTokenizer.from_pretrained(
                self.name, config=self.config, trust_remote_code=self.trusted, **self.source
            )
        except (OSError, ValueError, KeyError):  # weights without one are in order if their configs name the ids
            return None


def _config(name: str, trust_remote_code: bool, source: dict[str, Any], code: dict[str, Any]) -> Any:
    """By the repository's own class if it is trusted, whatever another one registered for the same model type."""
    stored, _ = PreTrainedConfig.get_config_dict(name, **source)
    own = (stored.get("auto_map") or {}).get("AutoConfig")
    if own is None or not trust_remote_code:
        return AutoConfig.from_pretrained(name, trust_remote_code=trust_remote_code, **source, **code)
    kind: Any = get_class_from_dynamic_module(own, name, **source, **code)
    kind.register_for_auto_class()
    return kind.from_pretrained(name, name_or_path=name, **source)


def auto_class(config: Any, name: str) -> Any:
    """The masked-LM class where there is one, else the class that the repository's own code registers."""
    own = [entry for entry in _ENTRIES if entry in (getattr(config, "auto_map", None) or {})]
    native = type(config).__module__.startswith("transformers.")
    if type(config) in transformers.MODEL_FOR_MASKED_LM_MAPPING and (native or not own):
        return transformers.AutoModelForMaskedLM
    if own:
        return getattr(transformers, own[0])
    for family in rows():
        entry = getattr(transformers, family.auto_class)
        if config.model_type in family.model_types and type(config) in entry._model_mapping:
            return entry
    raise ValueError(
        f"{name!r} holds a {config.model_type!r} model, which is neither a masked language model of transformers nor "
        "one with code of its own"
    )
