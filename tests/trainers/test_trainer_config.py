"""Settings of the trainer: the paper's defaults, clear refusals, and the way in from command line and YAML."""

from __future__ import annotations

import pytest
from settings import config
from trl import TrlParser

from hf_unmask.trainers import UnmaskingGRPOConfig

#: The recipe of https://arxiv.org/abs/2512.09106 and of the runs published with it.
PAPER = {
    "loss_type": "grpo",
    "scale_rewards": "none",
    "multi_objective_aggregation": "sum_then_normalize",
    "importance_sampling_level": "token",
    "epsilon": 0.5,
    "beta": 0.0,
    "num_generations": 8,
    "num_iterations": 2,
    "steps_per_generation": 1,
    "gradient_accumulation_steps": 1,
    "per_device_train_batch_size": 128,
    "learning_rate": 3e-5,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 100,
    "adam_beta1": 0.9,
    "adam_beta2": 0.99,
    "weight_decay": 0.1,
    "max_grad_norm": 0.2,
    "num_train_epochs": 1,
    "seed": 123,
    "bf16": False,
    "gradient_checkpointing": False,
    "max_completion_length": 256,
    "max_prompt_length": 200,
    "block_length": 32,
    "token_temperature": 0.0,
    "temperature": 1.0,
    "num_expert_rollouts": 0,
    "expert": "threshold:threshold=0.9@32",
}


def test_defaults_are_the_papers():
    """A default of TRL's, made for language models, that slips in."""
    made = config()
    assert {name: getattr(made, name) for name in PAPER} == PAPER
    assert made.group_size == 8 and made.steps_per_rollout == 2


REFUSED = {
    "use_vllm": True,
    "use_liger_kernel": True,
    "use_transformers_continuous_batching": True,
    "temperature": 0.7,
    "top_p": 0.9,
    "top_k": 5,
    "min_p": 0.1,
    "repetition_penalty": 1.1,
    "generation_kwargs": {"num_beams": 2},
    "cache_implementation": "static",
    "cast_lm_head_to_fp32": True,
    "mask_truncated_completions": True,
    "model_init_kwargs": {"dtype": "bfloat16"},
    "gradient_checkpointing": True,
    "activation_checkpointing": True,
    "bf16": True,
    "fp16": True,
    "sync_ref_model": True,
    "push_to_hub": True,
}


@pytest.mark.parametrize("name", REFUSED)
def test_settings_without_meaning_are_refused(name):
    """A setting that is accepted and does nothing, or fails deep inside TRL."""
    with pytest.raises(ValueError, match=rf"`{name}={REFUSED[name]!r}".replace("{", r"\{")) as caught:
        config(**{name: REFUSED[name]})
    assert "Leave it at" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_generations", 1),
        ("num_generations", 8.0),
        ("warm_start_batch_size", True),
        ("block_length", 2**70),
        ("max_completion_length", "256"),
        ("alpha", "1"),
        ("eval_policy_temperature", "1"),
        ("eval_speeds", ["0.5"]),
        ("alpha_range", ["0.3", "10"]),
        ("num_expert_rollouts", -1),
        ("warm_start_prompts", -1),
        ("warm_start_epochs", 0),
        ("alpha", -0.5),
        ("alpha", float("nan")),
        ("token_temperature", -1.0),
        ("block_length", -1),
        ("max_prompt_length", -1),
        ("rollout_batch_size", -2),
        ("max_completion_length", 0),
        ("max_completion_length", None),
        ("eval_policy_temperature", 0.0),
        ("eval_speeds", [0.5, 1.5]),
        ("eval_speeds", []),
        ("max_steps", 0),
        ("num_train_epochs", 0),
        ("num_train_epochs", float("nan")),
    ],
)
def test_values_out_of_range_are_named(name, value):
    """A typing error that shows after hours, or as an empty result."""
    with pytest.raises(ValueError, match=rf"`{name}` must be .* got") as caught:
        config(**{name: value})
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize("name", ["block_length", "max_prompt_length", "rollout_batch_size"])
def test_zero_stands_for_none(name):
    """Full diffusion that cannot be asked for on a command line."""
    assert getattr(config(**{name: 0}), name) is None and getattr(config(**{name: None}), name) is None


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"save_steps": 5}, "`save_steps=5` must be a multiple of 2"),
        ({"save_steps": 0.1}, "`save_steps=0.1` must be a multiple of 2"),
        ({"save_steps": 4, "num_iterations": 3}, "`save_steps=4` must be a multiple of 3"),
        ({"save_steps": 6, "steps_per_generation": 4}, "`save_steps=6` must be a multiple of 8"),
        ({"save_strategy": "best", "eval_strategy": "steps", "eval_steps": 3}, "`eval_steps=3` must be a multiple"),
        (
            {"steps_per_generation": 3, "num_iterations": 1, "gradient_accumulation_steps": 2},
            "`gradient_accumulation_steps=2`.*= 3 must",
        ),
    ],
)
def test_checkpoints_between_rollouts_only(settings, match):
    """A checkpoint in the middle of a batch of rollouts, which is not part of it."""
    with pytest.raises(ValueError, match=match):
        config(**{"metric_for_best_model": "eval_reward"} | settings)


@pytest.mark.parametrize(
    ("settings", "steps_per_rollout"),
    [
        ({"num_iterations": 1, "save_steps": 0.1}, 1),
        ({"num_iterations": 3, "save_strategy": "no"}, 3),
        ({"num_iterations": 3, "save_strategy": "epoch"}, 3),
        ({"steps_per_generation": 4, "gradient_accumulation_steps": 2, "save_steps": 8}, 4),
        ({"steps_per_generation": 1, "gradient_accumulation_steps": 4, "save_steps": 7}, 1),
    ],
)
def test_boundaries_of_rollouts(settings, steps_per_rollout):
    """A refusal of settings that are fine."""
    assert config(**settings).steps_per_rollout == steps_per_rollout


def test_groups_with_experts():
    """TRL's check of whole groups made without the expert's rows, or with them in evaluation."""
    made = config(num_expert_rollouts=1, per_device_train_batch_size=18, eval_strategy="steps", eval_steps=2)
    assert (made.num_generations, made.group_size) == (8, 9)
    with pytest.raises(ValueError, match="num_generations=8 \\+ num_expert_rollouts=1"):
        config(num_expert_rollouts=1)


def test_command_line_and_yaml(tmp_path):
    """Lists and None that cannot be given, or a value of the file that wins over the command line."""
    path = tmp_path / "run.yaml"
    path.write_text(
        "output_dir: there\nuse_cpu: true\nalpha: 0.3\nblock_length: null\nseed: 7\neval_speeds: [0.0, 1.0]\n"
        "warm_start_experts:\n  - confidence:k=2@full\n  - threshold:threshold=0.5..0.9/3@8\n"
    )
    (made,) = TrlParser(UnmaskingGRPOConfig).parse_args_and_config(["--config", str(path), "--alpha", "3"])
    assert (made.output_dir, made.alpha, made.block_length, made.seed) == ("there", 3.0, None, 7)
    assert made.eval_speeds == [0.0, 1.0]
    assert made.warm_start_experts == ["confidence:k=2@full", "threshold:threshold=0.5..0.9/3@8"]
    words = "--output_dir here --use_cpu --block_length 0 --max_prompt_length 0 --rollout_batch_size 4 --bf16 False"
    lists = ["--eval_speeds", "0", "0.25", "--warm_start_experts", "confidence:k=1", "confidence:k=4@full"]
    (made,) = TrlParser(UnmaskingGRPOConfig).parse_args_and_config(words.split() + lists)
    assert (made.block_length, made.max_prompt_length, made.rollout_batch_size) == (None, None, 4)
    assert made.eval_speeds == [0.0, 0.25] and made.warm_start_experts == ["confidence:k=1", "confidence:k=4@full"]
    assert made.learning_rate == PAPER["learning_rate"]
