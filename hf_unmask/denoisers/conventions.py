"""What is settled once about a model: the ids, and how it takes its inputs and gives its logits.

Each is looked up in this order: explicit argument, ``generation_config``, ``config``, tokenizer, family table. Nothing
is guessed: an unknown model is an error.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from hf_unmask.denoisers.caching import cache_argument
from hf_unmask.denoisers.families import (
    ATTENTIONS,
    CAUSAL,
    FAMILIES,
    OFFSET_POSITIONS,
    Attention,
    Family,
    known_family,
)
from hf_unmask.denoisers.values import is_whole, require_int, shown, token_id, token_ids


@dataclass(frozen=True, eq=False)
class Conventions:
    """How a model is asked and how its answer is read. ``settle`` finds them."""

    mask_token_id: int
    stop_token_ids: tuple[int, ...]
    pad_token_id: int | None  # None: nobody says, and no token of a prompt is taken for padding
    vocab_size: int
    shift: int  # 1 if the logits at position i - 1 predict position i
    attention: Attention
    position_offset: int  # position id of the first token
    max_length: int | None  # positions that the model holds
    accepts: frozenset[str]  # arguments of the model's forward
    block_length: int | None  # of a model that decodes in blocks of its own, counted from the first token
    whole_blocks: bool  # whether its last block is decoded whole and cut
    #: Why keys and values cannot be kept between passes, None if they can.
    cache_refusal: str | None
    #: The argument of the model's forward that takes them.
    cache_argument: str
    #: Arguments that must be True for the model's forward to keep them.
    cache_switches: tuple[str, ...]
    #: Whether ``attention_mask=None`` means to the model that there is no padding.
    maskless: bool

    def __post_init__(self) -> None:
        ids = {"mask_token_id": self.mask_token_id}
        if self.pad_token_id is not None:
            ids["pad_token_id"] = self.pad_token_id
        ids |= {f"stop_token_ids[{i}]": token for i, token in enumerate(self.stop_token_ids)}
        for name, token in ids.items():
            if not 0 <= token_id(name, token) < self.vocab_size:
                raise ValueError(
                    f"`{name}` {token} is outside the vocabulary of {self.vocab_size} tokens: pass the right id"
                )
        if self.attention in CAUSAL and self.block_length is None:
            raise ValueError(f"attention {self.attention!r} means blocks: pass block_length=..., got None")

    def conventions(self) -> dict[str, Any]:
        """What was settled about the model."""
        names = ("mask_token_id", "stop_token_ids", "pad_token_id", "shift", "attention", "block_length")
        return {name: getattr(self, name) for name in names}

    @property
    def filler_token_id(self) -> int:
        """What makes rows equally long, behind an attention mask of 0 or behind the end of a text: the padding token,
        else a stop token, as in transformers, else the mask token."""
        if self.pad_token_id is not None:
            return self.pad_token_id
        return self.stop_token_ids[0] if self.stop_token_ids else self.mask_token_id

    @property
    def paddable(self) -> bool:
        """Whether rows of unequal length can share a batch."""
        return self.attention != "own"

    @property
    def causal_block(self) -> int | None:
        """Positions per block if one sees its own block and those before it, None if it sees more."""
        return self.block_length if self.attention in CAUSAL else None


def settle(
    model: nn.Module,
    family: Family,
    *,
    tokenizer: Any,
    mask_token_id: int | None,
    stop_token_ids: Iterable[int] | None,
    pad_token_id: int | None,
    shift: Literal[0, 1] | None,
    attention: Attention | None,
    block_length: int | None,
    accepts: frozenset[str],
) -> Conventions:
    """The conventions of a model of ``family``; the arguments are those of ``Denoiser.from_model``, None: find out.

    accepts: arguments of the forward that reach the model.
    """
    config: Any = getattr(model, "config", None)
    sources = (getattr(model, "generation_config", None), config, tokenizer)
    vocab_size = vocab_size_of(model)
    if mask_token_id is None:
        mask_token_id = _first(sources, "mask_token_id", family.mask_token_id)
    if mask_token_id is None:
        raise ValueError(
            f"no mask token known for {type(model).__name__}: its generation_config, config and tokenizer have no "
            "`mask_token_id`; pass mask_token_id=... or tokenizer=..."
        )
    stops = _stops(sources, family, vocab_size) if stop_token_ids is None else stop_token_ids
    stops = tuple(dict.fromkeys(token_ids("stop_token_ids", stops)))
    if pad_token_id is None:
        pad_token_id = _first(sources, "pad_token_id", None)
    if tokenizer is not None and len(tokenizer) > vocab_size:
        raise ValueError(
            f"the tokenizer knows {len(tokenizer)} tokens, the model {vocab_size}: they do not belong together"
        )
    offset = _position_offset(model, config)
    limit = getattr(config, "max_position_embeddings", None)
    return Conventions(
        mask_token_id=token_id("mask_token_id", mask_token_id),
        stop_token_ids=stops,
        pad_token_id=None if pad_token_id is None else token_id("pad_token_id", pad_token_id),
        vocab_size=vocab_size,
        shift=family.shift if shift is None else shift,
        attention=family.attention if attention is None else attention,
        position_offset=offset,
        max_length=None if limit is None else int(limit) - offset,
        accepts=accepts,
        block_length=_block_length(family, config, block_length),
        whole_blocks=family.whole_blocks,
        cache_refusal=_cache_refusal(model, family, accepts),
        cache_argument=cache_argument(model, accepts),
        cache_switches=family.cache_switches,
        maskless=family.maskless and attention in (None, "2d"),
    )


class UnknownFamily(ValueError):
    """A model of which neither a row of the table nor the caller says how it predicts."""


def family_of(model: nn.Module, shift: int | None, attention: Attention | None) -> Family:
    """The family of a model; a stand-in if both conventions are given explicitly."""
    if shift is not None and not (is_whole(shift) and shift in (0, 1)):
        raise ValueError(f"`shift` must be 0 or 1, got {shown(shift)}")
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
        raise UnknownFamily(
            f"{type(model).__name__} (model_type {model_type!r}) is neither a native masked language model nor of a "
            f"known family ({', '.join(family.name for family in FAMILIES)}): say how it predicts with shift=0 or 1 "
            "and attention='2d' or '4d'; `hf-unmask check` finds out which"
        )
    return Family(type(model).__name__, mask_token_id=None, known=False, cache_refusal="it is of no known family")


def _first(sources: tuple[Any, ...], name: str, default: Any) -> Any:
    for source in sources:
        value = getattr(source, name, None)
        if value is not None:
            return value
    return default


def _stops(sources: tuple[Any, ...], family: Family, vocab_size: int) -> list[int]:
    """The ends of text that configs name, and those of the table, which also knows the end of a turn."""
    found = _first(sources, "eos_token_id", None)
    named = [] if found is None else token_ids("eos_token_id", found)
    return [*named, *(token for token in family.stop_token_ids if token < vocab_size)]


def _position_offset(model: nn.Module, config: Any) -> int:
    """Position id of the first token."""
    if getattr(config, "model_type", None) not in OFFSET_POSITIONS:
        return 0
    if config.pad_token_id is None:
        raise ValueError(
            f"{type(model).__name__} counts positions from behind `config.pad_token_id`, which is None: set it to what "
            "the checkpoint was trained with"
        )
    return int(config.pad_token_id) + 1


def _block_length(family: Family, config: Any, given: int | None) -> int | None:
    """Explicit, from the config, from the table."""
    if given is None and family.block_length_key is not None:
        given = getattr(config, family.block_length_key, None)
    return family.block_length if given is None else require_int("block_length", given, at_least=1)


def _cache_refusal(model: nn.Module, family: Family, accepts: frozenset[str]) -> str | None:
    """Why keys and values cannot be kept, None if they can."""
    kernel = getattr(getattr(model, "config", None), "_attn_implementation", "sdpa")
    if family.cache_refusal is None and not family.own_attention and kernel not in ("sdpa", "eager"):
        return f"attention {kernel!r} takes no mask [B, 1, Q, S]: load it with attn_implementation='sdpa' or 'eager'"
    if family.cache_refusal is None and "position_ids" not in accepts:
        return "its forward names no position_ids, so that it must be given all columns"
    return family.cache_refusal


def embeddings(model: nn.Module) -> nn.Embedding | None:
    """The token embeddings, None if the model does not tell."""
    try:
        found = getattr(model, "get_input_embeddings", lambda: None)()
    except NotImplementedError:  # transformers' default, where it does not find them
        return None
    return found if isinstance(found, nn.Embedding) else None


def home(module: nn.Module) -> torch.device:
    """Where a module computes. Off-loaded weights are on no device, and accelerate's hook says where they come to."""
    for part in module.modules():
        hook = getattr(part, "_hf_hook", None)
        for one in getattr(hook, "hooks", [hook]):  # several in one
            place = getattr(one, "execution_device", None)
            if place is not None:
                return torch.device(place)
    place = next((weight.device for weight in module.parameters()), torch.device("cpu"))
    if place.type == "meta":
        raise ValueError(
            f"the weights of {type(module).__name__} are on no device ('meta'): load them, e.g. by from_pretrained, or "
            "off-load them by accelerate's dispatch_model or device_map='auto'"
        )
    return place


def vocab_size_of(model: nn.Module) -> int:
    """Tokens that a model knows."""
    table = embeddings(model)
    if table is not None:
        return table.num_embeddings
    size = getattr(getattr(model, "config", None), "vocab_size", None)
    if size is None:
        raise ValueError(f"{type(model).__name__} has neither input embeddings nor `config.vocab_size`")
    return int(size)
