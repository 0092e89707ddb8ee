"""Denoisers by folder or repository, attached and ready."""

from __future__ import annotations

from typing import Any

import transformers
from transformers import AutoConfig, AutoTokenizer
from transformers.dynamic_module_utils import get_class_from_dynamic_module

from hf_unmask.denoisers import compat
from hf_unmask.denoisers.families import rows
from hf_unmask.doors.attaching import attach

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
        device: where to put the model; ``device_map`` spreads large ones.
        tokenizer: asked for ids that the model's configs do not hold. None: the repository's own, if it has one.
        **conventions: as in `hf_unmask.attach`, for models of no known family.

    Raises:
        ValueError: neither a masked language model of transformers nor one with code of its own, code that is not
            trusted, or conventions that are missing.
        OSError: no such folder or repository.
    """
    source: dict[str, Any] = {"trust_remote_code": trust_remote_code}
    if revision is not None:
        source["revision"] = revision
    # without it, code would come from the main branch whatever revision was named
    code = {"code_revision": code_revision or revision} if code_revision or revision else {}
    config = AutoConfig.from_pretrained(name, **source, **code)
    entry = auto_class(config, name)
    own = (getattr(config, "auto_map", None) or {}).get(entry.__name__)
    shims = () if own is None else compat.needed()
    code = {} if own is None else code
    compat.mend_config(config, shims)
    with compat.library_names(shims):
        if own is not None and trust_remote_code:
            place: dict[str, Any] = {**code, **({} if revision is None else {"revision": revision})}
            compat.mend_class(get_class_from_dynamic_module(own, name, **place), shims)
        spread = {} if device_map is None else {"device_map": device_map}
        model = entry.from_pretrained(name, config=config, dtype=dtype, **source, **code, **spread)
        compat.mend_model(model, shims)
    if device is not None:
        model = model.to(device)
    return attach(model.eval(), tokenizer=tokenizer or _own_tokenizer(name, source), **conventions)


def auto_class(config: Any, name: str) -> Any:
    """The masked-LM class where there is one, else the class that the repository's own code registers."""
    if type(config) in transformers.MODEL_FOR_MASKED_LM_MAPPING:
        return transformers.AutoModelForMaskedLM
    for entry in _ENTRIES:
        if entry in (getattr(config, "auto_map", None) or {}):
            return getattr(transformers, entry)
    for family in rows():
        native = getattr(transformers, family.auto_class)
        if config.model_type in family.model_types and type(config) in native._model_mapping:
            return native
    raise ValueError(
        f"{name!r} holds a {config.model_type!r} model, which is neither a masked language model of transformers nor "
        "one with code of its own"
    )


def _own_tokenizer(name: str, source: dict[str, Any]) -> Any:
    try:
        return AutoTokenizer.from_pretrained(name, **source)
    except (OSError, ValueError, KeyError):  # weights without a tokenizer are in order if their configs name the ids
        return None
