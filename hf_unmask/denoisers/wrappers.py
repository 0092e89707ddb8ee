"""Models inside others: adapters of PEFT, compiled modules, data-parallel and any other wrapper.

A wrapper is what is called, so that what it adds stays active; what it hides (family, config, layers, the names of its
arguments) is read from the model inside.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from hf_unmask.denoisers.families import known_family


def unwrapped(model: nn.Module) -> nn.Module:
    """The innermost model, ``model`` itself if it wraps none.

    Raises:
        ValueError: a wrapper that puts positions of its own before the text.
    """
    while (inner := _inside(model)) is not None:
        model = inner
    return model


def accepted(model: nn.Module) -> frozenset[str]:
    """Names of the arguments that reach the forward of the innermost model."""
    inner = _inside(model)
    if inner is None:
        return _taken(model)
    parameters = inspect.signature(model.forward).parameters
    return accepted(inner) if _hands_on(parameters.values()) else accepted(inner) & parameters.keys()


def _taken(model: nn.Module) -> frozenset[str]:
    """What a forward names, and where it hands on what it does not name, what those that it replaces name."""
    names: set[str] = set()
    of_class = (kind.__dict__["forward"] for kind in type(model).__mro__ if "forward" in kind.__dict__)
    for forward in (model.forward, *of_class):
        parameters = inspect.signature(forward).parameters
        names |= parameters.keys()
        if not _hands_on(parameters.values()):
            break
    return frozenset(names)


def _hands_on(parameters: Iterable[inspect.Parameter]) -> bool:
    return any(one.kind is one.VAR_KEYWORD for one in parameters)


def is_compiled(model: nn.Module | None) -> bool:
    """Whether the model or one on the way to it is compiled: hooks that come and go are not seen by compiled code."""
    while model is not None:
        if "_orig_mod" in model._modules or getattr(model, "_compiled_call_impl", None) is not None:
            return True
        if hasattr(model.forward, "_torchdynamo_orig_callable"):
            return True
        model = _inside(model)
    return False


def _inside(model: nn.Module) -> nn.Module | None:
    """What a module wraps, None if it is a model itself."""
    kind: Any = type(model)
    if "_orig_mod" in model._modules:  # compiled
        return model._modules["_orig_mod"]
    if hasattr(kind, "get_base_model"):  # with adapters of PEFT
        return _without_adapters(model)
    if isinstance(model, PreTrainedModel) or hasattr(kind, "get_input_embeddings"):
        return None  # it says itself where its layers are
    children = [*model.children()]
    if len(children) > 1 or _names(model):  # it may compute: only around a model that is known
        children = [child for child in children if _is_known(unwrapped(child))]
    own = getattr(model, "config", None)  # one that is not the inner model's is another model's
    inner = children[0] if len(children) == 1 else None
    return inner if own is None or inner is None or own is getattr(unwrapped(inner), "config", None) else None


def _without_adapters(model: Any) -> nn.Module | None:
    adapter: Any = getattr(model, "active_peft_config", None)  # none where several are mixed
    if getattr(adapter, "is_prompt_learning", False):
        raise ValueError(
            f"{type(model).__name__} puts {adapter.num_virtual_tokens} virtual tokens before the text, so that its "
            "logits are of other positions: use an adapter such as LoRA, or the model without it"
        )
    base: nn.Module = model.get_base_model()
    return base


def _names(model: nn.Module) -> bool:
    """Whether a forward names any of its arguments."""
    parameters = inspect.signature(model.forward).parameters.values()
    return any(one.kind not in (one.VAR_KEYWORD, one.VAR_POSITIONAL) for one in parameters)


def _is_known(model: nn.Module) -> bool:
    try:
        return known_family(model) is not None
    except ValueError:  # known, and of no use
        return True
