"""Where the time of a training step goes: rollouts (frozen denoiser, policy, rewards) or updates of the policy.

    python examples/benchmarks/measure_training.py         # a random denoiser of LLaDA's shape, 135 million parameters
    python examples/benchmarks/measure_training.py --tiny  # the embedded model, beside which the policy is not small

The times are those that the trainer logs as ``time/rollout`` and ``time/update``; the first batch of rollouts, which
pays for set-up, is left out.
"""

from __future__ import annotations

import argparse
import tempfile
from typing import Any

import torch
import trl
from datasets import Dataset
from transformers import EuroBertConfig, EuroBertForMaskedLM

from hf_unmask.evaluation.environment import environment, environment_line
from hf_unmask.policy import UnmaskingPolicyConfig
from hf_unmask.tiny import held_out, load_tiny
from hf_unmask.trainers import SpeedReward, UnmaskingGRPOConfig, UnmaskingGRPOTrainer

BATCHES = 3  # of rollouts
PROMPTS, ROLLOUTS = 2, 8


def random_denoiser(tokenizer: Any) -> torch.nn.Module:
    """LLaDA's vocabulary, few layers: 135 million parameters."""
    torch.manual_seed(0)
    config = EuroBertConfig(
        vocab_size=126_464,
        hidden_size=768,
        intermediate_size=3072,
        num_hidden_layers=4,
        num_attention_heads=12,
        num_key_value_heads=12,
        mask_token_id=tokenizer.mask_token_id,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=tokenizer.eos_token_id,
        tie_word_embeddings=True,
    )
    return EuroBertForMaskedLM(config).eval()


def some_are_right(completion_ids: list[list[int]], **columns: Any) -> list[float]:
    """A reward that differs within groups, so that every row of an update counts."""
    del columns
    return [float(sum(ids) % 2) for ids in completion_ids]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiny", action="store_true", help="the embedded model instead of a large random one")
    parser.add_argument("--positions", type=int, default=64, help="positions to fill")
    parser.add_argument("--block-length", type=int, default=32)
    args = parser.parse_args()
    model, tokenizer = load_tiny()
    if not args.tiny:
        model = random_denoiser(tokenizer)
    prompts = [problem.prompt for problem in held_out("chain_sum", "validation", PROMPTS * BATCHES)]
    with tempfile.TemporaryDirectory() as folder:
        settings = UnmaskingGRPOConfig(
            folder,
            per_device_train_batch_size=PROMPTS * ROLLOUTS,
            num_generations=ROLLOUTS,
            num_iterations=2,
            max_steps=2 * BATCHES,
            max_completion_length=args.positions,
            block_length=args.block_length,
            logging_steps=2,  # one batch of rollouts, two updates
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
        )
        trainer = UnmaskingGRPOTrainer(
            UnmaskingPolicyConfig(initial_bias=0.0),
            model,
            SpeedReward(some_are_right),
            settings,
            train_dataset=Dataset.from_dict({"prompt": prompts}),
            processing_class=tokenizer,
        )
        trainer.train()
        logs = [log for log in trainer.state.log_history if "time/update" in log][1:]
    rollout, update = (sum(log[f"time/{name}"] for log in logs) for name in ("rollout", "update"))
    size = sum(parameter.numel() for parameter in model.parameters())
    forwards = sum(log["nfe"] for log in logs) / len(logs)
    print(
        f"denoiser {size / 1e6:.1f} million parameters, policy {trainer.policy.num_parameters():,}; "
        f"{PROMPTS * ROLLOUTS} rollouts of {args.positions} positions, {forwards:.1f} forward passes each"
    )
    print(f"rollouts {rollout:.1f} s, updates {update:.1f} s: updates take {update / (rollout + update):.1%} of a step")
    here = environment(model.device)
    print(f"{environment_line(here)}, {here['threads']} threads, trl {trl.__version__}")


if __name__ == "__main__":
    main()
