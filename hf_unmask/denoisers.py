"""Adapters: everything that a family of denoisers does differently ends here.

A ``Denoiser`` is asked for logits *at given positions* of left-padded sequences. Mask id, logit shift, attention
convention, positions, stop ids and dtype are settled when it is made, in this order: explicit argument,
``generation_config``, ``config``, tokenizer, family table. Nothing is guessed: an unknown model is an error.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from hf_unmask.families import (
    ATTENTIONS,
    FAMILIES,
    OFFSET_POSITIONS,
    Attention,
    Family,
    attention_input,
    known_family,
)


@dataclass(frozen=True, eq=False)
class Denoiser:
    """A frozen masked diffusion language model behind one calling convention.

    Make one with ``Denoiser.from_model``. Two adapters are the same if ``same_as`` says so.
    """

    model: nn.Module
    mask_token_id: int
    stop_token_ids: tuple[int, ...]
    pad_token_id: int
    vocab_size: int
    shift: int
    attention: Attention
    position_offset: int
    max_length: int | None
    accepts: frozenset[str]
    block_length: int | None  # of a model that decodes in blocks of its own, counted from the first token

    @classmethod
    def resolve(
        cls, model: nn.Module | Denoiser, *, tokenizer: Any = None, mask_token_id: int | None = None
    ) -> Denoiser:
        """The adapter that was passed or is attached to the model, else a new one."""
        if isinstance(model, Denoiser):
            return model
        attached = getattr(getattr(model, "generate", None), "denoiser", None)
        if isinstance(attached, Denoiser):
            return attached
        return cls.from_model(model, tokenizer=tokenizer, mask_token_id=mask_token_id)

    @classmethod
    def from_model(
        cls,
        model: nn.Module,
        *,
        tokenizer: Any = None,
        mask_token_id: int | None = None,
        stop_token_ids: Iterable[int] | None = None,
        pad_token_id: int | None = None,
        shift: Literal[0, 1] | None = None,
        attention: Attention | None = None,
        block_length: int | None = None,
    ) -> Denoiser:
        """Settle the conventions of ``model``.

        Args:
            model: any native ``*ForMaskedLM`` of transformers, a model of a known family, or any other whose
                ``forward(input_ids, attention_mask)`` returns ``logits`` if ``shift`` and ``attention`` are given.
            tokenizer: asked for ids that the model's configs do not hold.
            mask_token_id, stop_token_ids, pad_token_id: override what is found.
            shift: 1 if the logits at position i - 1 predict position i.
            attention: "2d" for a padding mask [B, S], "4d" for a boolean [B, 1, S, S], "block" or "block-additive" if
                a position sees its own block and those before it, "own" if the model takes no mask.
            block_length: positions per block of a model that decodes in blocks, counted from the first token.

        Raises:
            ValueError: unknown model, or an id that is missing or outside the vocabulary.
        """
        family = _family(model, shift, attention)
        config: Any = getattr(model, "config", None)
        sources = (getattr(model, "generation_config", None), config, tokenizer)
        vocab_size = _vocab_size(model)
        if mask_token_id is None:
            mask_token_id = _first(sources, "mask_token_id", family.mask_token_id)
        if mask_token_id is None:
            raise ValueError(
                f"no mask token known for {type(model).__name__}: its generation_config, config and tokenizer have no "
                "`mask_token_id`; pass mask_token_id=... or tokenizer=..."
            )
        if stop_token_ids is None:
            found = _first(sources, "eos_token_id", None)
            named = [] if found is None else [found] if isinstance(found, int) else list(found)
            # configs name one end of text, the table also the end of a turn
            stop_token_ids = [*named, *(token for token in family.stop_token_ids if token < vocab_size)]
        stops = tuple(dict.fromkeys(int(token) for token in stop_token_ids))
        if pad_token_id is None:
            pad_token_id = _first(sources, "pad_token_id", stops[0] if stops else 0)
        if tokenizer is not None and len(tokenizer) > vocab_size:
            raise ValueError(
                f"the tokenizer knows {len(tokenizer)} tokens, the model {vocab_size}: they do not belong together"
            )
        offset = 0
        if getattr(config, "model_type", None) in OFFSET_POSITIONS:
            offset = int(config.pad_token_id) + 1
        limit = getattr(config, "max_position_embeddings", None)
        return cls(
            model=model,
            mask_token_id=int(mask_token_id),
            stop_token_ids=stops,
            pad_token_id=int(pad_token_id),
            vocab_size=vocab_size,
            shift=family.shift if shift is None else shift,
            attention=family.attention if attention is None else attention,
            position_offset=offset,
            max_length=None if limit is None else int(limit) - offset,
            accepts=frozenset(inspect.signature(model.forward).parameters),
            block_length=_block_length(family, config, block_length),
        )

    def __post_init__(self) -> None:
        ids = {"mask_token_id": self.mask_token_id, "pad_token_id": self.pad_token_id}
        ids |= {f"stop_token_ids[{i}]": token for i, token in enumerate(self.stop_token_ids)}
        for name, token in ids.items():
            if not 0 <= token < self.vocab_size:
                raise ValueError(
                    f"`{name}` {token} is outside the vocabulary of {self.vocab_size} tokens: pass the right id"
                )
        if self.attention in ("block", "block-additive") and self.block_length is None:
            raise ValueError(f"attention {self.attention!r} means blocks: pass block_length=..., got None")

    def same_as(self, other: Denoiser) -> bool:
        """Whether both adapt the same model object by the same conventions."""
        return self.model is other.model and self.conventions() == other.conventions()

    def conventions(self) -> dict[str, Any]:
        """What was settled about the model."""
        names = ("mask_token_id", "stop_token_ids", "pad_token_id", "shift", "attention", "block_length")
        return {name: getattr(self, name) for name in names}

    @property
    def device(self) -> torch.device:
        """Where the embeddings live, and so where token ids go."""
        embeddings = _embeddings(self.model)
        return (next(self.model.parameters()) if embeddings is None else embeddings.weight).device

    def __call__(
        self, tokens: Tensor, attended: Tensor, positions: Tensor, *, hidden: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """One forward pass.

        tokens [B, S] long and attended [B, S] bool, left-padded; positions [B, W] long, places in the sequence ->
        logits [B, W, V] that predict these places, in the model's dtype, and with ``hidden`` the last hidden states
        [B, W, D] they were computed from (else None).
        """
        if self.model.training:
            warnings.warn(f"{type(self.model).__name__} is in training mode: call model.eval()", stacklevel=2)
        real = attended.long()
        places = (real.cumsum(-1) - 1).clamp(min=0)
        inputs: dict[str, Any] = {"input_ids": tokens} | self._masks(attended, places)
        if self.position_offset:
            places = places + self.position_offset
        extras = {"position_ids": places, "use_cache": False, "return_dict": True}
        inputs |= {name: value for name, value in extras.items() if name in self.accepts}
        if hidden:
            inputs["output_hidden_states"] = True
        output = self.model(**inputs)
        if self.shift:
            # the first real token has nothing before it and is read at itself, wherever padding puts it
            first = attended.int().argmax(-1, keepdim=True)
            positions = torch.maximum(positions - self.shift, first)
        if not hidden:
            return _at(output.logits, positions), None
        states = getattr(output, "hidden_states", None)
        if states is None:
            raise ValueError(
                f"{type(self.model).__name__} returns no hidden states with output_hidden_states=True: "
                "use a sampler that does not read them"
            )
        return _at(output.logits, positions), _at(states[-1], positions)

    @property
    def paddable(self) -> bool:
        """Whether rows of unequal length can share a batch."""
        return self.attention != "own"

    def _masks(self, attended: Tensor, places: Tensor) -> dict[str, Any]:
        """What the forward pass gets beside tokens and positions."""
        dtype = getattr(self.model, "dtype", torch.float32)
        mask = attention_input(self.attention, attended, places, self.block_length, dtype)
        if mask is not None:
            return {"attention_mask": mask}
        extras = {"block_size": self.block_length, "timesteps": torch.zeros(len(attended), device=attended.device)}
        return {name: value for name, value in extras.items() if name in self.accepts and value is not None}


def _at(values: Tensor, positions: Tensor) -> Tensor:
    return values.gather(1, positions[..., None].expand(-1, -1, values.shape[-1]))


def _family(model: nn.Module, shift: int | None, attention: Attention | None) -> Family:
    """The family of a model; a stand-in if both conventions are given explicitly."""
    if shift not in (None, 0, 1):
        raise ValueError(f"`shift` must be 0 or 1, got {shift!r}")
    if attention is not None and attention not in ATTENTIONS:
        raise ValueError(f"`attention` must be one of {', '.join(ATTENTIONS)}, got {attention!r}")
    family = known_family(model)
    if family is not None:
        if shift not in (None, family.shift):
            warnings.warn(
                f"{type(model).__name__} is of the family {family.name}, whose logits have shift {family.shift}, but "
                f"shift={shift} was passed: its tokens will be wrong unless this checkpoint was trained that way",
                stacklevel=4,
            )
        return family
    if shift is None or attention is None:
        model_type = getattr(getattr(model, "config", None), "model_type", None)
        raise ValueError(
            f"{type(model).__name__} (model_type {model_type!r}) is neither a native masked language model nor of a "
            f"known family ({', '.join(family.name for family in FAMILIES)}): say how it predicts with shift=0 or 1 "
            "and attention='2d' or '4d'"
        )
    return Family(type(model).__name__, mask_token_id=None)


def _block_length(family: Family, config: Any, given: int | None) -> int | None:
    """Explicit, from the config, from the table."""
    if given is not None and (isinstance(given, bool) or not isinstance(given, int) or given < 1):
        raise ValueError(f"`block_length` must be an int of at least 1, got {given!r}")
    if given is None and family.block_length_key is not None:
        given = getattr(config, family.block_length_key, None)
    return family.block_length if given is None else int(given)


def _first(sources: tuple[Any, ...], name: str, default: Any) -> Any:
    for source in sources:
        value = getattr(source, name, None)
        if value is not None:
            return value
    return default


def _embeddings(model: nn.Module) -> nn.Embedding | None:
    """The token embeddings, None if the model does not tell."""
    try:
        embeddings = getattr(model, "get_input_embeddings", lambda: None)()
    except NotImplementedError:  # transformers' default, where it does not find them
        return None
    return embeddings if isinstance(embeddings, nn.Embedding) else None


def _vocab_size(model: nn.Module) -> int:
    embeddings = _embeddings(model)
    if embeddings is not None:
        return embeddings.num_embeddings
    size = getattr(getattr(model, "config", None), "vocab_size", None)
    if size is None:
        raise ValueError(f"{type(model).__name__} has neither input embeddings nor `config.vocab_size`")
    return int(size)
