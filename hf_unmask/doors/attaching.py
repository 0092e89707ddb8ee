"""``model.generate(input_ids, sampler=...)``, literally, on one model instance."""

from __future__ import annotations

import copy
import functools
import threading
from typing import Any, Literal, NoReturn

from torch import nn

from hf_unmask.denoisers.adapter import Denoiser
from hf_unmask.denoisers.families import Attention
from hf_unmask.denoisers.wrappers import unwrapped
from hf_unmask.doors import random_canvas
from hf_unmask.doors.generating import generate
from hf_unmask.samplers.specs import as_sampler, is_spec


class AttachedGenerate:
    """The ``generate`` of an attached model: ours with ``sampler=``, the model's own without."""

    def __init__(self, denoiser: Denoiser, own: Any):
        self.denoiser = denoiser
        self.own = own  # a generate that sat on the instance before, None if there was none

    def __call__(self, *args: Any, sampler: Any = None, **kwargs: Any) -> Any:
        model = self.denoiser.model
        if sampler is None:
            return _own_generate(model, self.own)(*args, **_with_sampler(kwargs))
        for name in ("input_ids", "inputs"):
            if not args and name in kwargs:
                args = (kwargs.pop(name),)
        return generate(model, *args, sampler=sampler, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> AttachedGenerate:
        return AttachedGenerate(copy.deepcopy(self.denoiser, memo), copy.deepcopy(self.own, memo))

    def __reduce__(self) -> tuple[Any, ...]:
        return (LostGenerate, ())


class AttachedCanvas(AttachedGenerate):
    """The ``generate`` of a model whose own loop we ask to let a sampler accept: every other argument is its own."""

    def __init__(self, model: nn.Module, own: Any):
        self.model = model
        self.own = own  # as above: asked without a sampler
        self._running = 0  # calls without a sampler, in any thread
        self._lock = threading.Lock()

    def __call__(self, *args: Any, sampler: Any = None, **kwargs: Any) -> Any:
        if sampler is None:
            return self._without(*args, **kwargs)
        sampler = as_sampler(sampler)
        random_canvas.check_sampler(sampler)
        try:
            return random_canvas.generate(self.model, sampler, *args, **kwargs)
        finally:
            with self._lock:
                if not self._running:  # one that runs may be reading them
                    random_canvas.forget_first_sampler(self.model)

    def _without(self, *args: Any, **kwargs: Any) -> Any:
        with self._lock:
            self._running += 1
        try:
            return _own_generate(self.model, self.own)(*args, **kwargs)
        finally:
            with self._lock:
                self._running -= 1

    def __deepcopy__(self, memo: dict[int, Any]) -> AttachedCanvas:
        return AttachedCanvas(copy.deepcopy(self.model, memo), copy.deepcopy(self.own, memo))


def _with_sampler(options: dict[str, Any]) -> dict[str, Any]:
    """``custom_generate="threshold:0.9"`` as the sampler it names; transformers would look for such a repository."""
    given = options.get("custom_generate")
    return options | ({"custom_generate": as_sampler(given)} if is_spec(given) else {})


def _own_generate(model: nn.Module, present: Any) -> Any:
    """What a model generates with where there is no sampler: ``present`` on the instance, else its class's, else what
    it wraps."""
    if present is not None:
        return present
    for one in (model, unwrapped(model)):
        own = getattr(type(one), "generate", None)
        if own is not None:
            return functools.partial(own, one)
    raise TypeError(f"{type(model).__name__} has no generate of its own: pass sampler=ThresholdSampler()")


class LostGenerate:
    """What an attached ``generate`` becomes by pickling: it says so instead of decoding in another way."""

    def __call__(self, *args: Any, **kwargs: Any) -> NoReturn:
        del args, kwargs
        raise RuntimeError(
            "this model was attached when it was pickled, which does not survive: call hf_unmask.attach(model) again, "
            "or hf_unmask.detach(model) for its own generate"
        )


def attach(
    model: nn.Module,
    *,
    tokenizer: Any = None,
    mask_token_id: int | None = None,
    stop_token_ids: list[int] | None = None,
    pad_token_id: int | None = None,
    shift: Literal[0, 1] | None = None,
    attention: Attention | None = None,
    block_length: int | None = None,
) -> nn.Module:
    """Make ``model.generate(input_ids, sampler="threshold:0.9")`` work on this instance, and return it.

    A sampler is an object or its spec. Works on models without a ``generate`` and on remote-code ones that swallow
    unknown arguments. Without ``sampler`` the model's own ``generate`` runs. The arguments are those of
    `Denoiser.from_model`; a model without a mask token takes none, and its own loop runs with the sampler in it.
    Attaching again the same way, or with no arguments, does nothing. Copies stay attached; an unpickled model must be
    attached again.

    Raises:
        ValueError: the model is attached with other conventions (``detach`` it first), or cannot be adapted.
    """
    given: dict[str, Any] = {
        "tokenizer": tokenizer,
        "mask_token_id": mask_token_id,
        "stop_token_ids": stop_token_ids,
        "pad_token_id": pad_token_id,
        "shift": shift,
        "attention": attention,
        "block_length": block_length,
    }
    present = model.__dict__.get("generate")
    if isinstance(present, AttachedGenerate) and all(value is None for value in given.values()):
        return model
    own = None if isinstance(present, LostGenerate) else present
    if random_canvas.is_canvas_model(unwrapped(model)):
        return _attach_canvas(model, own, given)
    denoiser = _adapted(model, given)
    if isinstance(present, AttachedGenerate):
        if not present.denoiser.same_as(denoiser):
            raise ValueError(
                f"{type(model).__name__} is attached with {present.denoiser.conventions()}, not "
                f"{denoiser.conventions()}: call hf_unmask.detach(model) first"
            )
        return model
    model.__dict__["generate"] = AttachedGenerate(denoiser, own)
    return model


def _adapted(model: nn.Module, given: dict[str, Any]) -> Denoiser:
    """A model may have been attached before it was wrapped."""
    if all(value is None for value in given.values()):
        return Denoiser.resolve(model)
    return Denoiser.from_model(model, **given)


def _attach_canvas(model: nn.Module, own: Any, given: dict[str, Any]) -> nn.Module:
    """A tokenizer may be passed and is not needed; the other conventions are about masks, of which there are none."""
    meaningless = sorted(name for name, value in given.items() if value is not None and name != "tokenizer")
    if meaningless:
        raise ValueError(f"{type(model).__name__} has no mask token: {', '.join(meaningless)} has no meaning, drop it")
    if not isinstance(own, AttachedCanvas):
        model.__dict__["generate"] = AttachedCanvas(unwrapped(model), own)
    return model


def detach(model: nn.Module) -> nn.Module:
    """Undo ``attach``; does nothing on a model that is not attached."""
    present = model.__dict__.get("generate")
    if isinstance(present, AttachedGenerate | LostGenerate):
        del model.__dict__["generate"]
        if isinstance(present, AttachedGenerate) and present.own is not None:
            model.__dict__["generate"] = present.own
    return model
