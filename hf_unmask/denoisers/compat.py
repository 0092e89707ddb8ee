"""Shims for checkpoints whose own code was written for transformers 4 and breaks on 5.

Each shim cures one documented breakage, says in which versions of transformers it is needed, and touches as little as
it can: library modules only while a checkpoint's code is imported and built, and then the checkpoint's own class and
model. Nothing happens when this module is imported; `hf_unmask.load_denoiser` applies the shims.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from accelerate import init_empty_weights  # type: ignore[import-untyped]
from packaging.version import Version
from torch import Tensor, nn
from transformers import GenerationConfig, PreTrainedModel

Names = dict[str, Any]
_ADDING = threading.RLock()


@dataclass(frozen=True)
class Window:
    """Versions of transformers, ``first`` included, ``end`` not."""

    first: str
    end: str

    def holds(self, version: str) -> bool:
        """Whether a version lies inside; pre-releases count as their release."""
        release = Version(Version(version).base_version)
        return Version(self.first) <= release < Version(self.end)


@dataclass(frozen=True)
class Shim:
    """One breakage and its cure."""

    name: str
    breakage: str
    window: Window
    library: Callable[[], list[tuple[Names, str, Any]]] | None = None  # names that the checkpoint's code expects
    config: Callable[[Any], None] | None = None  # changes the loaded config
    kind: Callable[[type], None] | None = None  # changes the checkpoint's class
    model: Callable[[nn.Module], None] | None = None  # changes the loaded model


def default_rope(config: Any = None, device: Any = None, seq_len: int | None = None, **given: Any) -> Any:
    """Inverse frequencies [D / 2] float of plain rotary positions, and their factor 1.

    transformers 4 kept this function in a table under "default"; 5 moved it into each model.
    """
    del seq_len
    base, size = given.get("base"), given.get("dim")
    if config is not None:
        stored = getattr(config, "rope_parameters", None) or {}
        base = getattr(config, "rope_theta", None) or stored.get("rope_theta", 10000.0)
        heads = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        size = int(heads * (getattr(config, "partial_rotary_factor", None) or 1.0))
    if base is None or size is None:
        raise ValueError(f"rotary positions need a config, or `base` and `dim`, got {sorted(given)}")
    steps: Tensor = torch.arange(0, size, 2, dtype=torch.int64).to(device=device, dtype=torch.float) / size
    return 1.0 / (float(base) ** steps), 1.0


def _rope_table() -> list[tuple[Names, str, Any]]:
    return [(importlib.import_module("transformers.modeling_rope_utils").ROPE_INIT_FUNCTIONS, "default", default_rope)]


def _no_torch_fx() -> bool:
    return False


def _torch_fx() -> list[tuple[Names, str, Any]]:
    modules = ("transformers.utils.import_utils", "transformers.utils")
    return [(vars(importlib.import_module(name)), "is_torch_fx_available", _no_torch_fx) for name in modules]


def _loss_kwargs() -> list[tuple[Names, str, Any]]:
    module = importlib.import_module("transformers.utils")
    return [(vars(module), "LossKwargs", module.TransformersKwargs)]


def _attention_masks() -> list[tuple[Names, str, Any]]:
    name = "transformers.modeling_attn_mask_utils"
    if name in sys.modules or importlib.util.find_spec(name) is not None:
        return []
    return [(sys.modules, name, importlib.import_module("hf_unmask.denoisers.old_masks"))]


def _is_native(kind: type) -> bool:
    return kind.__module__.startswith("transformers.")


#: What every config had in transformers 4, and what it then held.
_ONCE_IN_CONFIGS: Names = {
    **dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id", "sep_token_id", "decoder_start_token_id")),
    **dict.fromkeys(("is_decoder", "add_cross_attention", "tie_encoder_decoder", "torchscript"), False),
    "cross_attention_hidden_size": None,
}


def _once_in_configs(config: Any) -> None:
    for name, value in _ONCE_IN_CONFIGS.items():
        if not hasattr(config, name):
            setattr(config, name, value)


def _cache_off(config: Any) -> None:
    if getattr(config, "use_cache", None) is None:
        config.use_cache = False


def _tied_weights(kind: type) -> None:
    """``tie_weights`` that takes today's arguments, and the attribute that ``post_init`` would have set."""
    own: Any = vars(kind).get("tie_weights")
    if inspect.isfunction(own) and "recompute_mapping" not in inspect.signature(own).parameters:

        def tie_weights(self: Any, *args: Any, **kwargs: Any) -> None:
            del args, kwargs
            own(self)

        kind.tie_weights = tie_weights  # type: ignore[attr-defined]
    if not hasattr(kind, "all_tied_weights_keys"):
        kind.all_tied_weights_keys = {}  # type: ignore[attr-defined]


def _tied_lists(kind: type) -> None:
    """A list of tied parameters becomes a mapping to what they are tied to."""
    for base in kind.__mro__:
        names = vars(base).get("_tied_weights_keys")
        if isinstance(names, list | tuple):
            kind._tied_weights_keys = {name: _embedding_name(kind) for name in names}  # type: ignore[attr-defined]
            return


def _embedding_name(kind: type) -> str:
    """Where decoder-only models keep their input embeddings; read only if the config ties weights."""
    prefix = getattr(kind, "base_model_prefix", "") or "model"
    return f"{prefix}.embed_tokens.weight"


def _generation_configs(kind: type) -> set[Any]:
    """Those that the checkpoint's own code defines; its own loop makes and fills them."""
    modules = [sys.modules.get(base.__module__, object) for base in kind.__mro__]
    classes = {value for module in modules for value in vars(module).values() if inspect.isclass(value)}
    return {value for value in classes if issubclass(value, GenerationConfig) and not _is_native(value)}


def _lenient_validation(kind: type) -> None:
    """``validate`` that takes the arguments of any version and passes on those that it knows."""
    for config in _generation_configs(kind):
        known = inspect.signature(config.validate).parameters
        if all(parameter.kind is not parameter.VAR_KEYWORD for parameter in known.values()):
            config.validate = _knowing(config.validate, frozenset(known))


def _knowing(method: Any, names: frozenset[str]) -> Any:
    def lenient(self: Any, *args: Any, **kwargs: Any) -> Any:
        return method(self, *args, **{name: value for name, value in kwargs.items() if name in names})

    return lenient


def _settings_of_a_model(kind: type) -> None:
    for config in _generation_configs(kind):
        if "from_model_config" not in vars(config):
            config.from_model_config = classmethod(_from_model_config)


def _from_model_config(kind: Any, model_config: Any) -> Any:
    """As in transformers 4; 5 looks up each setting of the class in a plain generation config, which has fewer."""
    stored = model_config if isinstance(model_config, dict) else model_config.to_dict()
    values = {name: value for name, value in stored.items() if value is not None and name != "_from_model_config"}
    return kind.from_dict(values, return_unused_kwargs=False, _from_model_config=True)


def _layer_types(model: nn.Module) -> None:
    """What each layer attends to, which transformers 5 keeps in the config alone, and the cache by its old name."""
    _cache_by_its_old_name(model)
    types = getattr(model.config, "layer_types", None) or ()
    for module in model.modules():
        layers = getattr(module, "layers", None)
        if isinstance(layers, nn.ModuleList) and len(layers) == len(types):
            for layer, name in zip(layers, types, strict=True):
                if not hasattr(layer, "attention_type"):
                    layer.attention_type = name


def _cache_by_its_old_name(model: nn.Module) -> None:
    """A body written for transformers 4 inside a head of transformers 5.24, which calls a cache ``cache``."""
    body = getattr(model, getattr(model, "base_model_prefix", ""), model)
    taken = inspect.signature(body.forward).parameters
    if body is model or "cache" in taken or "past_key_values" not in taken:
        return
    forward = body.forward

    @functools.wraps(forward)
    def renamed(*args: Any, cache: Any = None, **options: Any) -> Any:
        return forward(*args, **options) if cache is None else forward(*args, past_key_values=cache, **options)

    body.forward = renamed


def _computed_buffers(model: nn.Module) -> None:
    """Values of buffers that are computed when a module is built and stored nowhere, rotary frequencies above all.

    transformers 5 builds a model without memory and fills in what the checkpoint holds; such buffers then hold whatever
    was there, unless the model's own ``_init_weights`` knows of them. A second model with real buffers alone is cheap.
    """
    computed = {
        f"{place}.{name}" if place else name: buffer
        for place, module in model.named_modules()
        for name, buffer in module.named_buffers(recurse=False)
        if name in module._non_persistent_buffers_set and not buffer.is_meta
    }
    if not computed:
        return
    with init_empty_weights(include_buffers=False):
        twin = dict(type(model)(model.config).named_buffers())
    with torch.no_grad():
        for name, buffer in computed.items():
            if name in twin and twin[name].shape == buffer.shape and not twin[name].is_meta:
                buffer.copy_(twin[name])


_FIVE = Window("5.0", "6.0")
_NEWER = Window("5.24", "6.0")
SHIMS = (
    Shim("default rope", "KeyError 'default' in ROPE_INIT_FUNCTIONS", _FIVE, library=_rope_table),
    Shim("torch fx", "ImportError is_torch_fx_available", _FIVE, library=_torch_fx),
    Shim("loss kwargs", "ImportError LossKwargs", _FIVE, library=_loss_kwargs),
    Shim("attention masks", "ModuleNotFoundError modeling_attn_mask_utils", _NEWER, library=_attention_masks),
    Shim("config defaults", "AttributeError pad_token_id of the config", _FIVE, config=_once_in_configs),
    Shim("use_cache", "AttributeError use_cache of the config", _FIVE, config=_cache_off),
    Shim("tie_weights", "all_tied_weights_keys is missing, tie_weights rejects arguments", _FIVE, kind=_tied_weights),
    Shim("tied lists", "_tied_weights_keys is a list, not a mapping", _FIVE, kind=_tied_lists),
    Shim("computed buffers", "rotary frequencies hold no values after from_pretrained", _FIVE, model=_computed_buffers),
    Shim("validate", "TypeError user_set_attributes of GenerationConfig", _FIVE, kind=_lenient_validation),
    Shim("generation config", "GenerationConfig has no attribute 'eps'", _FIVE, kind=_settings_of_a_model),
    Shim(
        "layer types",
        "AttributeError attention_type of a layer; a cache not used (5.24)",
        _FIVE,
        model=_layer_types,
    ),
)


def needed(version: str | None = None) -> tuple[Shim, ...]:
    """The shims whose window holds a version of transformers, the installed one by default."""
    return tuple(shim for shim in SHIMS if shim.window.holds(version or transformers.__version__))


@contextmanager
def library_names(shims: tuple[Shim, ...]) -> Iterator[None]:
    """Names that a checkpoint's code expects in transformers, for as long as it is imported and built.

    A name that is there stays as it is; one that was added is taken away again. Threads that load wait for each other:
    the first to end would take away what the second still needs.
    """
    with _ADDING, ExitStack() as undo:
        for shim in shims:
            for names, key, value in [] if shim.library is None else shim.library():
                if key not in names:
                    names[key] = value
                    undo.callback(names.pop, key, None)
        yield


def mend_config(config: Any, shims: tuple[Shim, ...]) -> None:
    """Settings that a checkpoint's code expects in its config."""
    for shim in shims:
        if shim.config is not None:
            shim.config(config)


def mend_class(kind: type, shims: tuple[Shim, ...]) -> None:
    """What a checkpoint's class needs to be loaded and saved. Classes of transformers itself are left alone."""
    if _is_native(kind) or not issubclass(kind, PreTrainedModel):
        return
    for shim in shims:
        if shim.kind is not None:
            shim.kind(kind)


def mend_model(model: nn.Module, shims: tuple[Shim, ...]) -> None:
    """What a loaded model needs to run its own loop."""
    for shim in shims:
        if shim.model is not None:
            shim.model(model)
