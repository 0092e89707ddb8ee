"""From texts or chats to a left-padded batch, and from tokens back to texts."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

Chat = Sequence[Mapping[str, str]]


def encode_prompts(
    tokenizer: Any, prompts: Sequence[str | Chat], *, chat: bool | None = None, system: str | None = None
) -> dict[str, Tensor]:
    """Left-padded ``input_ids`` [B, P] long and ``attention_mask`` [B, P] long.

    Args:
        tokenizer: of the denoiser. Without a padding token its end-of-text token pads, without either the token 0.
        prompts: a text is one turn of the user; a chat is a list of ``{"role": ..., "content": ...}``.
        chat: wrap prompts in the tokenizer's chat template. None: if it has one.
        system: first turn of every prompt.

    Raises:
        ValueError: a chat, ``chat=True`` or ``system`` without a template, a text that is no UTF-8, or nothing to
            encode.
    """
    if isinstance(prompts, str) or not prompts:
        raise ValueError(f"`prompts` must be a list with at least one prompt, got {prompts!r}")
    has_template = getattr(tokenizer, "chat_template", None) is not None
    templated = has_template if chat is None else chat
    needs = [name for name, wanted in (("chat=True", chat), ("system", system)) if wanted]
    needs += ["a list of turns"] * any(not isinstance(prompt, str) for prompt in prompts)
    if needs and not (has_template and templated):
        state = "has no chat template" if not has_template else "must not use its chat template (chat=False)"
        raise ValueError(f"{needs[0]} was given, but the tokenizer {state}")
    texts: Any = list(prompts)
    if templated:
        first = [] if system is None else [{"role": "system", "content": system}]
        turns = [first + _turns(prompt) for prompt in prompts]
        texts = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
    for place, text in enumerate(texts):
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise ValueError(f"prompt {place} holds half a character, which is no UTF-8: {text!r}")
    # a template writes the special tokens itself
    rows = tokenizer(texts, add_special_tokens=not templated)["input_ids"]
    known = (token for token in (tokenizer.pad_token_id, tokenizer.eos_token_id) if token is not None)
    input_ids, attention_mask = left_padded(rows, next(known, 0))
    return {"input_ids": input_ids, "attention_mask": attention_mask}


def left_padded(rows: Sequence[Sequence[int]], filler: int) -> tuple[Tensor, Tensor]:
    """Ids [B, P] long, with ``filler`` before shorter rows, and attention mask [B, P] long."""
    width = max(map(len, rows))
    ids = [[filler] * (width - len(row)) + list(row) for row in rows]
    mask = [[0] * (width - len(row)) + [1] * len(row) for row in rows]
    shape = len(rows), width  # given because a list of empty rows has none
    tokens, attended = (torch.tensor(each, dtype=torch.long).reshape(shape) for each in (ids, mask))
    return tokens, attended


def texts_of(tokenizer: Any, tokens: Tensor, stop_token_ids: Sequence[int]) -> list[str]:
    """Text of each row [B, N] long up to its first stop token."""
    rows = (row[: text_length(row, stop_token_ids)] for row in tokens.tolist())
    return [str(tokenizer.decode(row, skip_special_tokens=True)) for row in rows]


def text_length(tokens: Sequence[int], stop_token_ids: Container[int]) -> int:
    """Tokens before the first stop token of a finished row."""
    return next((place for place, token in enumerate(tokens) if token in stop_token_ids), len(tokens))


def _turns(prompt: str | Chat) -> list[dict[str, str]]:
    if isinstance(prompt, str):
        return [{"role": "user", "content": prompt}]
    return [dict(turn) for turn in prompt]
