"""Texts and chats become left-padded batches, through the tokenizer's own template."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoTokenizer

import hf_unmask.tiny
from hf_unmask import encode_prompts

TEMPLATE = (
    "{% for message in messages %}{{ message['role'][0] | upper }}{{ message['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}={% endif %}"
)


@pytest.fixture
def tokenizer():
    return AutoTokenizer.from_pretrained(Path(hf_unmask.tiny.__file__).parent / "model")


def texts(tokenizer, encoded):
    return [
        tokenizer.decode(row[mask.bool()]).replace(" ", "")
        for row, mask in zip(encoded["input_ids"], encoded["attention_mask"], strict=True)
    ]


def test_plain_texts_are_padded_on_the_left(tokenizer):
    """Right padding, which leaves a gap between prompt and canvas."""
    encoded = encode_prompts(tokenizer, ["1+2=", "1+2+3+4+5="])
    assert encoded["attention_mask"][0, 0] == 0 and encoded["attention_mask"][:, -1].all()
    assert [text[-4:] for text in texts(tokenizer, encoded)] == ["1+2=", "4+5="]


def test_what_pads_changes_no_tokenizer(tokenizer):
    """Prevents a padding token that stays in the caller's tokenizer, and batches that cannot be made without one."""
    for end in (tokenizer.eos_token, None):
        tokenizer.pad_token, tokenizer.eos_token = None, end
        encoded = encode_prompts(tokenizer, ["1+2=", "1+2+3="])
        assert encoded["attention_mask"][0].tolist() == [0, 0, 1, 1, 1, 1] and tokenizer.pad_token is None
        assert encoded["input_ids"][0, 0] == (tokenizer.eos_token_id if end else 0)


def test_a_template_is_used_if_there_is_one(tokenizer):
    """A chat model that is asked without its template, or with special tokens written twice."""
    tokenizer.chat_template = TEMPLATE
    assert texts(tokenizer, encode_prompts(tokenizer, ["1+2"])) == ["U1+2="]
    assert texts(tokenizer, encode_prompts(tokenizer, ["1+2"], system="3")) == ["S3U1+2="]
    turns = [{"role": "user", "content": "1"}, {"role": "assistant", "content": "2"}, {"role": "user", "content": "3"}]
    assert texts(tokenizer, encode_prompts(tokenizer, ["1", turns])) == ["U1=", "U1A2U3="]
    assert "U" not in texts(tokenizer, encode_prompts(tokenizer, ["1+2"], chat=False))[0]


def test_what_needs_a_template_is_refused_without_one(tokenizer):
    """Turns that are silently dropped or joined."""
    turns = [{"role": "user", "content": "1"}]
    for given, options in (("chat=True", {"chat": True}), ("system", {"system": "3"})):
        with pytest.raises(ValueError, match=f"{given} was given, but the tokenizer has no chat template"):
            encode_prompts(tokenizer, ["1"], **options)
    with pytest.raises(ValueError, match="a list of turns was given, but the tokenizer has no chat template"):
        encode_prompts(tokenizer, [turns])
    tokenizer.chat_template = TEMPLATE
    with pytest.raises(ValueError, match=r"a list of turns was given, .*must not use its chat template"):
        encode_prompts(tokenizer, [turns], chat=False)
    with pytest.raises(ValueError, match="must be a list with at least one prompt, got '1'"):
        encode_prompts(tokenizer, "1")
