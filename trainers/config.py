"""Settings of the trainer: TRL's, with this method's defaults, and what a rollout of a diffusion model needs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from trl import GRPOConfig

#: Settings of TRL that have no meaning here, and the only value that is let through.
_MEANINGLESS: dict[str, tuple[Any, str]] = {
    "use_vllm": (False, "rollouts run in the denoising loop of this package"),
    "use_liger_kernel": (False, "the policy has no vocabulary"),
    "use_transformers_continuous_batching": (False, "rollouts run in the denoising loop of this package"),
    "temperature": (1.0, "the policy is trained as it samples; `token_temperature` is that of the token draw"),
    "top_p": (1.0, "it would act on tokens; set it where the policy is used"),
    "top_k": (0, "it would act on tokens; set it where the policy is used"),
    "min_p": (None, "it would act on tokens"),
    "repetition_penalty": (1.0, "it would act on tokens"),
    "generation_kwargs": (None, "rollouts take `block_length`, `max_completion_length` and `token_temperature`"),
    "cache_implementation": (None, "rollouts use no cache"),
    "cast_lm_head_to_fp32": (False, "the policy is float32 already"),
    "mask_truncated_completions": (False, "an answer of a diffusion model is never cut off"),
    "model_init_kwargs": (None, "pass the policy as a path or a module, the denoiser as a module"),
    "gradient_checkpointing": (False, "the policy has one layer"),
    "bf16": (False, "the policy stays float32; the denoiser keeps its own dtype"),
    "fp16": (False, "the policy stays float32; the denoiser keeps its own dtype"),
}


@dataclass
class UnmaskingGRPOConfig(GRPOConfig):  # type: ignore[misc]
    """`GRPOConfig` for unmasking policies. The defaults are the recipe of https://arxiv.org/abs/2512.09106, with 16
    prompts x 8 rollouts per update on one device.

    TRL's token axis is the axis of denoising steps here, so ``loss_type``, ``epsilon``, ``scale_rewards``,
    ``num_iterations``, ``steps_per_generation``, ``importance_sampling_level`` and the KL term (``beta``) mean what TRL
    documents, with "step" in place of "token". ``max_completion_length`` is the number of positions to fill (a column
    ``max_new_tokens`` of the data set wins), and ``num_generations`` counts the policy's rollouts of a prompt.
    """

    # The paper's values where they differ from TRL's.
    learning_rate: float = field(default=3e-5, metadata={"help": "Peak learning rate of AdamW."})
    lr_scheduler_type: str = field(default="cosine", metadata={"help": "Schedule of the learning rate."})
    warmup_steps: float = field(default=100, metadata={"help": "Updates of linear warm-up."})
    adam_beta2: float = field(default=0.99, metadata={"help": "Second moment decay of AdamW."})
    weight_decay: float = field(default=0.1, metadata={"help": "Weight decay of AdamW."})
    max_grad_norm: float = field(default=0.2, metadata={"help": "Gradient norm is clipped to this."})
    per_device_train_batch_size: int = field(default=128, metadata={"help": "Rollouts per device and update."})
    num_iterations: int = field(default=2, metadata={"help": "Passes over each batch of rollouts."})
    loss_type: str = field(default="grpo", metadata={"help": "TRL's loss; `grpo` is the mean over steps, then rows."})
    scale_rewards: str = field(default="none", metadata={"help": "`none`, `group` or `batch` standard deviation."})
    epsilon: float = field(default=0.5, metadata={"help": "Clipping of the ratio per step; 0.2 with expert rollouts."})
    num_train_epochs: float = field(default=1.0, metadata={"help": "Passes over the prompts."})
    seed: int = field(default=123, metadata={"help": "Seed of initialisation, order of prompts and rollouts."})
    max_completion_length: int | None = field(default=256, metadata={"help": "Positions to fill, L."})
    gradient_checkpointing: bool = field(default=False, metadata={"help": "Not supported."})
    bf16: bool | None = field(default=False, metadata={"help": "Not supported: the policy stays float32."})
    disable_dropout: bool = field(default=False, metadata={"help": "The policy has no dropout."})

    # Rollouts.
    block_length: int | None = field(
        default=32, metadata={"help": "Positions per block; None (0 on the command line): full diffusion."}
    )
    max_prompt_length: int | None = field(default=200, metadata={"help": "Prompts keep their last so many tokens."})
    token_temperature: float = field(default=0.0, metadata={"help": "Of the token draw, not of the policy."})
    rollout_batch_size: int | None = field(
        default=None, metadata={"help": "Rows that the denoiser sees at once; None: all of the device's."}
    )

    # Expert steering.
    num_expert_rollouts: int = field(
        default=0, metadata={"help": "Rollouts of `expert` added to each group (beside `num_generations`)."}
    )
    expert: str = field(
        default="threshold:threshold=0.9@32",
        metadata={"help": "Sampler spec of the expert, @ its block length or `full`."},
    )

    # Imitation warm start.
    warm_start_prompts: int = field(
        default=0, metadata={"help": "Prompts whose best expert rollout is imitated first."}
    )
    warm_start_experts: list[str] = field(
        default_factory=lambda: ["threshold:threshold=0.9@32"],
        metadata={"help": "Specs of experts, sweeps expanded, each with @ its block length or `full`."},
    )
    warm_start_epochs: int = field(default=5, metadata={"help": "Passes over the imitated rollouts."})
    warm_start_learning_rate: float = field(default=1e-3, metadata={"help": "Peak learning rate of the warm start."})

    # One policy for the whole trade-off.
    alpha: float = field(
        default=1.0,
        metadata={"help": "Price of a step, the exponent in `SpeedReward`. A speed-conditioned policy draws its own."},
    )

    # Validation: the policy as it is used, with the fallback.
    eval_policy_temperature: float = field(default=1.0, metadata={"help": "Policy temperature in evaluation."})
    eval_speeds: list[float] = field(
        default_factory=lambda: [0.0, 0.5, 1.0],
        metadata={"help": "Speeds at which a speed-conditioned policy is evaluated."},
    )

    def __post_init__(self) -> None:
        self.block_length = self.block_length or None
        for name in ("num_expert_rollouts", "warm_start_prompts"):
            if getattr(self, name) < 0:
                raise ValueError(f"`{name}` must be at least 0, got {getattr(self, name)}")
        policy_rollouts = self.num_generations
        self.num_generations = policy_rollouts + self.num_expert_rollouts  # TRL's checks are about whole groups
        super().__post_init__()
        self.num_generations = policy_rollouts
        for name, (only, why) in _MEANINGLESS.items():
            if getattr(self, name) != only:
                raise ValueError(f"`{name}={getattr(self, name)!r}` has no meaning for an unmasking policy: {why}")
        for name in ("block_length", "max_prompt_length", "rollout_batch_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"`{name}` must be at least 1 or None, got {value}")
        if self.save_strategy == "steps" and self.save_steps % self.steps_per_rollout:
            raise ValueError(
                f"`save_steps={self.save_steps}` must be a multiple of {self.steps_per_rollout}, the updates per batch "
                "of rollouts (steps_per_generation * num_iterations / gradient_accumulation_steps): a checkpoint in "
                "between could not be resumed exactly"
            )

    @property
    def group_size(self) -> int:
        """Rollouts per prompt: the policy's and the expert's."""
        return int(self.num_generations + self.num_expert_rollouts)

    @property
    def steps_per_rollout(self) -> int:
        """Optimizer steps from one batch of rollouts to the next, at least 1."""
        return max(1, self.steps_per_generation * self.num_iterations // self.gradient_accumulation_steps)
