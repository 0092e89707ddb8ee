"""A small evaluation."""

from __future__ import annotations

from typing import Any

import torch
from models import EOS, MASK, PAD, VOCAB, tiny_eurobert
from tokenizers import Regex, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from transformers import PreTrainedTokenizerFast

from hf_unmask.evaluation.running import evaluate_samplers

CHARACTERS = "0123456789+-=abcdefghijklmnopqrstuvwxyz {}:/?ABCDEFGHIJK"
ROWS = [
    {"prompt": f"{number}+{number + 1}=", "answer": str(2 * number + 1), "task": "even" if number % 2 == 0 else "odd"}
    for number in range(8)
]
SAMPLERS = ("random", "threshold:threshold=0.5", "confidence:k=2")
OPTIONS: dict[str, Any] = {
    "block_lengths": (4, "full"),
    "seeds": (0, 1),
    "batch_size": 2,
    "max_new_tokens": 8,
    "progress": False,
    "model_name": "random weights",
}


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """One token per character."""
    special = {"<pad>": PAD, "<eos>": EOS, "<unk>": 2, "<mask>": MASK}
    vocabulary = special | {character: 3 + place for place, character in enumerate(CHARACTERS)}
    assert len(set(vocabulary.values())) == len(vocabulary) <= VOCAB
    backend = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = Split(Regex("."), "isolated")
    names = {"pad_token": "<pad>", "eos_token": "<eos>", "unk_token": "<unk>", "mask_token": "<mask>"}
    return PreTrainedTokenizerFast(tokenizer_object=backend, clean_up_tokenization_spaces=False, **names)


def run(
    out: Any = None, rows: Any = None, metric: Any = "answer_match", samplers: Any = SAMPLERS, **options: Any
) -> Any:
    model = options.pop("model", None) or tiny_eurobert(torch.float64)
    rows = ROWS if rows is None else rows
    return evaluate_samplers(model, tiny_tokenizer(), rows, metric, samplers, out=out, **{**OPTIONS, **options})
