"""Adapters: everything that a family of denoisers does differently ends here.

A ``Denoiser`` is asked for logits *at given positions* of left-padded sequences, and computes them nowhere else where
the model allows it: its output layer is a module of its own, and what it returns is what the model returns. That is
checked in every pass, and a model that goes on computing with its logits is run whole. Mask id, logit shift, attention
convention, positions, stop ids and dtype are settled when it is made, in this order: explicit argument,
``generation_config``, ``config``, tokenizer, family table. Nothing is guessed: an unknown model is an error.
"""

from __future__ import annotations

import inspect
import warnings
import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from hf_unmask.denoisers import head
from hf_unmask.denoisers.caching import RowCache
from hf_unmask.denoisers.families import (
    ATTENTIONS,
    CAUSAL,
    FAMILIES,
    OFFSET_POSITIONS,
    Attention,
    Family,
    attention_input,
    known_family,
)
from hf_unmask.denoisers.head import Prediction, held_back

#: Models found to compute with the logits of their output layer, or without calling it as a module.
_WHOLE_LOGITS: weakref.WeakSet[nn.Module] = weakref.WeakSet()


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
    #: Runs on the positions asked for only. None (and in unknown models): the model's logits are taken as they come.
    output_layer: nn.Module | None
    #: Why keys and values cannot be kept between passes, None if they can.
    cache_refusal: str | None
    #: Arguments that must be True for the model's forward to keep them.
    cache_switches: tuple[str, ...]
    #: Whether ``attention_mask=None`` means to the model that there is no padding.
    maskless: bool

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
            output_layer=_output_layer(model) if family.known else None,
            cache_refusal=_cache_refusal(model, family),
            cache_switches=family.cache_switches,
            maskless=family.maskless and attention in (None, "2d"),
        )

    def __post_init__(self) -> None:
        ids = {"mask_token_id": self.mask_token_id, "pad_token_id": self.pad_token_id}
        ids |= {f"stop_token_ids[{i}]": token for i, token in enumerate(self.stop_token_ids)}
        for name, token in ids.items():
            if not 0 <= token < self.vocab_size:
                raise ValueError(
                    f"`{name}` {token} is outside the vocabulary of {self.vocab_size} tokens: pass the right id"
                )
        if self.attention in CAUSAL and self.block_length is None:
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
        self,
        tokens: Tensor,
        attended: Tensor | None,
        positions: Tensor,
        *,
        hidden: bool = False,
        cache: RowCache | None = None,
    ) -> Prediction:
        """One forward pass.

        Args:
            tokens: [B, S] long, left-padded.
            attended: [B, S] bool, not padding. None: there is none, which saves the model looking for it.
            positions: [B, W] long, places in the sequence whose logits are wanted.
            hidden: also the last hidden states that these logits are computed from.
            cache: keys and values of the columns that the pass leaves out, and what these are.

        Returns:
            Logits [B, W, V] that predict the positions, in the model's dtype, and hidden states [B, W, D].

        Raises:
            ValueError: hidden states that the model does not return.
        """
        if self.model.training:
            warnings.warn(f"{type(self.model).__name__} is in training mode: call model.eval()", stacklevel=2)
        cells = self.sources(positions, attended)
        columns = None if cache is None else cache.columns
        inputs = self._inputs(tokens, attended, columns)
        if cache is not None:
            inputs |= {"past_key_values": cache, "use_cache": True, **dict.fromkeys(self.cache_switches, True)}
        if columns is not None:
            query = torch.arange(columns.shape[1], device=columns.device).expand_as(columns)
            cells = torch.zeros_like(tokens).scatter(1, columns, query).gather(1, cells)
        if hidden:
            inputs["output_hidden_states"] = True
        output, source, project = self._forward(inputs)
        states = self._hidden(output, cells) if hidden else None
        if len(tokens) > 1:
            first = torch.arange(0, source.shape[:2].numel(), source.shape[1], device=tokens.device)
            cells = first[:, None] + cells
        return Prediction(source.flatten(0, 1), cells, self.vocab_size, project, states)

    def _hidden(self, output: Any, cells: Tensor) -> Tensor:
        """[B, W, D], last hidden states at ``cells`` [B, W] of the columns that were computed."""
        states = getattr(output, "hidden_states", None)
        if states is None:
            raise ValueError(
                f"{type(self.model).__name__} returns no hidden states with output_hidden_states=True: "
                "use a sampler that does not read them"
            )
        return _at(states[-1], cells)

    def sources(self, positions: Tensor, attended: Tensor | None) -> Tensor:
        """Columns whose logits predict ``positions``, both [B, W] long."""
        if not self.shift:
            return positions
        if attended is None:
            return (positions - self.shift).clamp(min=0)
        # the first real token has nothing before it and is read at itself, wherever padding puts it
        first = attended.int().argmax(-1, keepdim=True)
        return torch.maximum(positions - self.shift, first)

    @property
    def paddable(self) -> bool:
        """Whether rows of unequal length can share a batch."""
        return self.attention != "own"

    @property
    def causal_block(self) -> int | None:
        """Positions per block if one sees its own block and those before it, None if it sees more."""
        return self.block_length if self.attention in CAUSAL else None

    def _inputs(self, tokens: Tensor, attended: Tensor | None, columns: Tensor | None) -> dict[str, Any]:
        """Arguments of the model's forward for all columns, or for ``columns`` [B, Q] long."""
        if attended is not None:
            places = (attended.cumsum(-1) - 1).clamp(min=0)
        else:
            places = torch.arange(tokens.shape[1], device=tokens.device).expand(tokens.shape)
            if not self.maskless or (columns is not None and self._adds_mask):
                attended = tokens.new_ones(1, dtype=torch.bool).expand(tokens.shape)
        keys = places
        if columns is not None:
            tokens, places = tokens.gather(1, columns), places.gather(1, columns)
        if attended is None:
            masks: dict[str, Any] = {"attention_mask": None}
        elif columns is None or self.causal_block is not None:
            masks = self._masks(attended, keys, places)
        else:
            masks = {"attention_mask": self._rectangle(attended, columns.shape[1])}
        if self.position_offset:
            places = places + self.position_offset
        extras = {"position_ids": places, "use_cache": False, "return_dict": True}
        return {"input_ids": tokens, **masks, **{name: extras[name] for name in extras if name in self.accepts}}

    def _masks(self, attended: Tensor, keys: Tensor, queries: Tensor) -> dict[str, Any]:
        """What the forward pass gets beside tokens and positions; places [B, S] of the keys, [B, Q] of the queries."""
        dtype = getattr(self.model, "dtype", torch.float32)
        mask = attention_input(self.attention, attended, keys, queries, self.block_length, dtype)
        if mask is not None:
            return {"attention_mask": mask}
        extras = {"block_size": self.block_length, "timesteps": torch.zeros(len(attended), device=attended.device)}
        return {name: value for name, value in extras.items() if name in self.accepts and value is not None}

    @property
    def _adds_mask(self) -> bool:
        """Whether a mask [B, 1, Q, S] holds numbers to add, as a native class wants it."""
        kernel = getattr(getattr(self.model, "config", None), "_attn_implementation", None)
        return self.attention == "2d" and bool(kernel == "eager")

    def _rectangle(self, attended: Tensor, queries: int) -> Tensor:
        """[B, 1, Q, S], the mask of a pass over some columns that see all."""
        mask = attended[:, None, None, :].expand(-1, 1, queries, -1)
        if self._adds_mask:
            dtype = next(self.model.parameters()).dtype
            return torch.zeros_like(mask, dtype=dtype).masked_fill(~mask, torch.finfo(dtype).min)
        return mask

    def _forward(self, inputs: dict[str, Any]) -> tuple[Any, Tensor, Callable[[Tensor], Tensor] | None]:
        """The model's output, and what logits are made of: [B, S, D] and how, or the logits [B, S, V] and None."""
        few = inputs["input_ids"].numel() * self.vocab_size <= head.FEW
        layer = None if few or self.model in _WHOLE_LOGITS else self.output_layer
        with held_back(layer, inputs["input_ids"].shape) as held:
            output = self.model(**inputs)
        if held.states is None:
            return output, output.logits, None
        if held.is_answer(output.logits):
            return output, held.states, self.project
        _WHOLE_LOGITS.add(self.model)
        return self._forward(inputs)

    def project(self, states: Tensor) -> Tensor:
        """Logits [N, V] of what goes into the output layer [N, D]."""
        if self.output_layer is None:
            raise ValueError(f"{type(self.model).__name__} has no output layer that can be run on its own")
        logits: Tensor = self.output_layer(states)
        return logits


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
    return Family(type(model).__name__, mask_token_id=None, known=False, cache_refusal="it is of no known family")


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


def _cache_refusal(model: nn.Module, family: Family) -> str | None:
    """Why keys and values cannot be kept, None if they can."""
    kernel = getattr(getattr(model, "config", None), "_attn_implementation", "sdpa")
    if family.cache_refusal is None and kernel not in ("sdpa", "eager"):
        return f"attention {kernel!r} takes no mask [B, 1, Q, S]: load it with attn_implementation='sdpa' or 'eager'"
    return family.cache_refusal


def _output_layer(model: nn.Module) -> nn.Module | None:
    """The layer that makes logits, None if the model does not tell."""
    layer = getattr(model, "get_output_embeddings", lambda: None)()
    return layer if isinstance(layer, nn.Module) and not isinstance(layer, nn.Embedding) else None


def _vocab_size(model: nn.Module) -> int:
    embeddings = _embeddings(model)
    if embeddings is not None:
        return embeddings.num_embeddings
    size = getattr(getattr(model, "config", None), "vocab_size", None)
    if size is None:
        raise ValueError(f"{type(model).__name__} has neither input embeddings nor `config.vocab_size`")
    return int(size)
