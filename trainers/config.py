"""Settings of the trainer: TRL's, with this method's defaults, and what a rollout of a diffusion model needs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from trl import GRPOConfig

from hf_unmask.denoisers.values import is_number, require, require_int

#: Settings of TRL that have no meaning here: the only value that is let through, and why.
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
    "activation_checkpointing": (False, "the policy has one layer"),
    "bf16": (False, "the policy stays float32; the denoiser keeps its own dtype"),
    "fp16": (False, "the policy stays float32; the denoiser keeps its own dtype"),
    "sync_ref_model": (False, "the reference is not part of a checkpoint, a resumed run would differ"),
    "push_to_hub": (False, "checkpoints stay here; after training, call `trainer.push_to_hub()` or `hf-unmask push`"),
}
#: Settings that may be None, for which 0 stands where None cannot be written.
_OPTIONAL = ("block_length", "max_prompt_length", "rollout_batch_size")
#: Least values.
_AT_LEAST = {
    "num_generations": 2,
    "max_completion_length": 1,
    "num_expert_rollouts": 0,
    "warm_start_prompts": 0,
    "warm_start_epochs": 1,
    "warm_start_batch_size": 1,
    "alpha": 0.0,
    "token_temperature": 0.0,
    "block_length": 1,
    "max_prompt_length": 1,
    "rollout_batch_size": 1,
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
    num_generations: int = field(default=8, metadata={"help": "Rollouts of the policy per prompt."})
    num_iterations: int = field(default=2, metadata={"help": "Passes over each batch of rollouts."})
    loss_type: str = field(default="grpo", metadata={"help": "TRL's loss; `grpo` is the mean over steps, then rows."})
    scale_rewards: str = field(default="none", metadata={"help": "`none`, `group` or `batch` standard deviation."})
    epsilon: float = field(default=0.5, metadata={"help": "Clipping of the ratio per step; 0.2 with expert rollouts."})
    num_train_epochs: float = field(default=1.0, metadata={"help": "Passes over the prompts."})
    seed: int = field(default=123, metadata={"help": "Seed of initialisation, order of prompts and rollouts."})
    max_completion_length: int = field(default=256, metadata={"help": "Positions to fill, L."})
    gradient_checkpointing: bool | None = field(default=None, metadata={"help": "Not supported."})
    activation_checkpointing: bool | None = field(default=False, metadata={"help": "Not supported."})
    bf16: bool | None = field(default=False, metadata={"help": "Not supported: the policy stays float32."})
    disable_dropout: bool = field(default=False, metadata={"help": "The policy has no dropout."})

    use_cpu: bool = field(default=False, metadata={"help": "Set where there is no accelerator."})

    # Rollouts.
    block_length: int | None = field(
        default=32, metadata={"help": "Positions per block; None (0 on the command line): full diffusion."}
    )
    max_prompt_length: int | None = field(default=200, metadata={"help": "Prompts keep their last so many tokens."})
    token_temperature: float = field(default=0.0, metadata={"help": "Of the token draw, not of the policy."})
    rollout_batch_size: int | None = field(
        default=None, metadata={"help": "Rows that the denoiser sees at once; None: a device's batch of rollouts."}
    )
    rollout_fallback: bool = field(
        default=False,
        metadata={
            "help": "Where the policy draws nothing, open the likeliest position in rollouts too, as it is in use. The "
            "paper opens nothing; in short blocks, with few steps each, that teaches haste."
        },
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
    warm_start_batch_size: int = field(default=16, metadata={"help": "Imitated rollouts per update."})
    warm_start_learning_rate: float = field(default=1e-3, metadata={"help": "Peak learning rate of the warm start."})

    # One policy for the whole trade-off.
    alpha: float = field(
        default=1.0,
        metadata={"help": "Price of a step, the exponent in `SpeedReward`. A speed-conditioned policy draws its own."},
    )
    alpha_range: list[float] | None = field(
        default=None,
        metadata={"help": "One policy for all speeds: the price of a step at speed 0 and at speed 1, e.g. 0.3 10."},
    )
    scale_prices: bool = field(
        default=False,
        metadata={"help": "Divide advantages by their group's mean speed factor: else high prices teach little."},
    )

    # Validation: the policy as it is used, with the fallback, one answer per prompt.
    num_generations_eval: int | None = field(default=1, metadata={"help": "Not used: one answer per prompt."})
    eval_policy_temperature: float = field(default=1.0, metadata={"help": "Policy temperature in evaluation."})
    eval_speeds: list[float] = field(
        default_factory=lambda: [0.0, 0.5, 1.0],
        metadata={"help": "Speeds at which a speed-conditioned policy is evaluated."},
    )

    def __post_init__(self) -> None:
        for name in _OPTIONAL:
            setattr(self, name, getattr(self, name) or None)
        self._check_values()
        self.bf16 = False  # None would turn it on
        # Without this, several processes that find no accelerator would each train a policy of their own.
        self.use_cpu = self.use_cpu or not torch.accelerator.is_available()
        policy_rollouts: int = self.num_generations
        self.num_generations = self.group_size  # TRL's checks are about whole groups
        try:
            super().__post_init__()
        except ValueError as error:
            if not self.num_expert_rollouts:
                raise
            groups = f"num_generations={policy_rollouts} + num_expert_rollouts={self.num_expert_rollouts}"
            raise ValueError(f"{error} A group is {groups} here.") from error
        self.num_generations = policy_rollouts
        self._check_boundaries()

    def _check_values(self) -> None:
        for name, (only, why) in _MEANINGLESS.items():
            value = getattr(self, name)
            if value != only and (value or only):
                raise ValueError(
                    f"`{name}={value!r}` has no meaning for an unmasking policy: {why}. Leave it at {only!r}"
                )
        for name, least in _AT_LEAST.items():
            value = getattr(self, name)
            if value is not None or name not in _OPTIONAL:
                check: Any = require_int if isinstance(least, int) else require
                check(name, value, at_least=least)
        if self.max_steps == 0:
            raise ValueError(f"`max_steps` must be at least 1, or -1 for `num_train_epochs`, got {self.max_steps!r}")
        if self.max_steps < 0 and not self.num_train_epochs > 0:
            raise ValueError(f"`num_train_epochs` must be above 0, got {self.num_train_epochs!r}")
        if self.alpha_range is not None and not (
            len(self.alpha_range) == 2
            and all(map(is_number, self.alpha_range))
            and 0 < self.alpha_range[0] < self.alpha_range[1]
        ):
            raise ValueError(f"`alpha_range` must be two numbers, 0 < low < high, got {self.alpha_range}")
        require("eval_policy_temperature", self.eval_policy_temperature, above=0)
        if not self.eval_speeds or not all(is_number(speed) and 0 <= speed <= 1 for speed in self.eval_speeds):
            raise ValueError(f"`eval_speeds` must be numbers from 0 to 1, at least one, got {self.eval_speeds!r}")

    def _check_boundaries(self) -> None:
        """A checkpoint inside a batch of rollouts could not be resumed exactly: TRL's buffer is not part of it."""
        passes, window = self.steps_per_generation * self.num_iterations, self.gradient_accumulation_steps
        if passes % window and window % passes:
            raise ValueError(
                f"`gradient_accumulation_steps={window}` and steps_per_generation * num_iterations = {passes} must "
                "divide one another, so that batches of rollouts begin with an update: change one of the three"
            )
        name = {"steps": "save_steps", "best": "eval_steps"}.get(str(self.save_strategy.value))
        if name and self.steps_per_rollout > 1 and getattr(self, name) % self.steps_per_rollout:
            raise ValueError(
                f"`{name}={getattr(self, name)}` must be a multiple of {self.steps_per_rollout}, the updates per batch "
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
        return max(1, int(self.steps_per_generation * self.num_iterations // self.gradient_accumulation_steps))

    def __repr__(self) -> str:  # the one that a dataclass makes would show tokens
        return str(self)
