"""Small training runs: a random denoiser of 60 tokens, a policy of width 16, a reward that depends on the order."""

from __future__ import annotations

import functools
import string
from collections.abc import Sequence
from typing import Any

import torch
from datasets import Dataset
from models import EOS, MASK, PAD, VOCAB, tiny_eurobert
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from hf_unmask.policy import UnmaskingPolicy, UnmaskingPolicyConfig
from hf_unmask.trainers import UnmaskingGRPOConfig, UnmaskingGRPOTrainer

#: Token ids of the characters; the ids between are never written in a test's prompts.
_CHARACTERS = dict(zip(string.ascii_letters, range(2, VOCAB - 1), strict=False))
SMALL = {"hidden_size": 16, "intermediate_size": 32, "num_heads": 2, "time_size": 8}
CONDITIONED = {"speed_conditioned": True, "log_alpha_range": [-2.0, 1.5]}
SETTINGS: dict[str, Any] = {
    "per_device_train_batch_size": 8,
    "num_generations": 4,
    "max_completion_length": 6,
    "block_length": 3,
    "max_steps": 2,
    "learning_rate": 1e-2,
    "lr_scheduler_type": "constant",
    "warmup_steps": 0,
    "weight_decay": 0.0,
    "logging_steps": 1,
    "save_strategy": "no",
    "use_cpu": True,
    "disable_tqdm": True,
    "seed": 3,
}
#: Four batches of rollouts over two epochs, with checkpoints.
LONG: dict[str, Any] = {
    "max_steps": 8,
    "save_strategy": "steps",
    "save_steps": 2,
    "lr_scheduler_type": "cosine",
    "token_temperature": 0.3,
}


#: Trainers leave it as it is, which a test shows.
_denoiser = functools.cache(tiny_eurobert)


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """One token per letter; the special ones of `models`."""
    vocabulary = {"<pad>": PAD, "<eos>": EOS, **_CHARACTERS, "<mask>": MASK}
    vocabulary |= {f"<{i}>": i for i in set(range(VOCAB)) - set(vocabulary.values())}
    core = Tokenizer(WordLevel(vocabulary, unk_token="<pad>"))
    core.pre_tokenizer = Split("", "isolated")
    return PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", eos_token="<eos>", mask_token="<mask>", padding_side="left"
    )


def letters(completions: Sequence[Any], **columns: Any) -> list[float]:
    """How many of the letters come from the first half of the alphabet: differs with the order of opening."""
    texts = [text if isinstance(text, str) else text[-1]["content"] for text in completions]
    return [sum(letter.lower() < "n" for letter in text) / 6 for text in texts]


def rows(count: int = 8, **columns: Any) -> Dataset:
    prompts = ["".join(string.ascii_lowercase[(5 * i + j) % 26] for j in range(1 + i % 4)) for i in range(count)]
    return Dataset.from_dict({"prompt": prompts, "answer": prompts, **columns})


def random_policy(seed: int = 0, spread: float = 0.3, **config: Any) -> UnmaskingPolicy:
    """A policy whose logits depend on everything it reads."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        policy = UnmaskingPolicy(UnmaskingPolicyConfig(**SMALL | config))
        for parameter in policy.parameters():
            parameter.data.normal_(0, spread)
    return policy


class Watched(UnmaskingGRPOTrainer):
    """A trainer that keeps what went into each loss, and came out."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.seen: list[dict[str, Any]] = []
        super().__init__(*args, **kwargs)

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        loss = super()._compute_loss(model, inputs)
        self.seen.append({**inputs, "loss": loss.detach(), "replayed": self._current["replayed"].detach()})
        return loss


def make_trainer(output: Any, policy: Any = None, reward: Any = letters, **options: Any) -> Watched:
    """``options``: arguments of the trainer by their names, everything else is a setting."""
    parts = ("denoiser", "train_dataset", "eval_dataset", "processing_class", "callbacks", "policy_revision")
    given = {name: options.pop(name) for name in parts if name in options}
    made = {"train_dataset": rows(4), "processing_class": tiny_tokenizer(), **given}
    made.setdefault("denoiser", _denoiser())
    return Watched(
        UnmaskingPolicyConfig(**SMALL) if policy is None else policy,
        reward_funcs=reward,
        args=UnmaskingGRPOConfig(str(output), **SETTINGS | options),
        **made,
    )


def weights(policy: UnmaskingPolicy) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in policy.state_dict().items()}


def same_weights(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
