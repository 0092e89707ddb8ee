"""GRPO for unmasking policies, on TRL's trainer."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import CommitInfo
from torch import Tensor, nn
from transformers import GenerationConfig, Trainer
from transformers.trainer_callback import TrainerCallback, TrainerControl
from trl import GRPOTrainer

from hf_unmask.denoisers.adapter import Denoiser
from hf_unmask.policy.config import UnmaskingPolicyConfig
from hf_unmask.policy.model import UnmaskingPolicy

from .callbacks import BestIsWhole, OwnConfig, StopAtRolloutBoundary
from .checkpoints import in_hiding, only_run, to_resume
from .config import UnmaskingGRPOConfig
from .environment import Environment, row_seeds
from .experts import parse_experts
from .imitation import imitate
from .parts import PromptSampler, check_prompts, may_be_moved, policy_to_train, record_purpose
from .publishing import push, save
from .rollouts import Rollouts, Trajectory, replay
from .speeds import gradient_norms, price_scales
from .validation import validate

#: What is overridden below must exist in the parent: TRL renames private methods between minor versions.
_OVERRIDDEN = (
    "_calculate_rewards",
    "_compute_loss",
    "_generate_and_score_completions",
    "_generate_single_turn",
    "_get_per_token_logps_and_entropies",
    "_get_train_sampler",
    "_save_checkpoint",
)
_OF_TRANSFORMERS = ("_get_output_dir", "_save")
_missing = [f"GRPOTrainer.{name}" for name in _OVERRIDDEN if name not in vars(GRPOTrainer)]
_missing += [f"Trainer.{name}" for name in _OF_TRANSFORMERS if name not in vars(Trainer)]
if _missing:
    raise ImportError(f"TRL and transformers have no {_missing[0]}: install trl>=1.16,<1.17 and transformers>=5.23,<6")

_PREFIX = "trajectory/"


class UnmaskingGRPOTrainer(GRPOTrainer):  # type: ignore[misc]
    """Trains an unmasking policy with a frozen diffusion language model as its environment.

    The policy is TRL's model and a denoising step takes the place of a token, so losses, clipping, advantages, the
    sampler of prompts, logging, checkpoints and resume are TRL's. Source: https://arxiv.org/abs/2512.09106.

    Args:
        policy: what is trained: a module, a config for a fresh one, or a folder, a ``builtin:`` name or a repository to
            go on from (its lineage is recorded).
        denoiser: the diffusion language model, or a `Denoiser`. It is frozen, and kept out of optimizer, checkpoints
            and the distributed wrapper.
        reward_funcs: TRL's reward functions, called with the columns ``steps``, ``positions`` and ``alpha`` besides the
            data set's, e.g. ``SpeedReward(EvaluateReward("answer_match"))``.
        args: the settings.
        train_dataset: column ``prompt`` (text or chat messages); a column ``max_new_tokens`` gives the positions to
            fill, other columns go to the rewards.
        eval_dataset: prompts on which ``evaluate`` runs the policy as it will be used.
        processing_class: the denoiser's tokenizer.
        callbacks, optimizers: as in TRL.
        policy_revision: branch, tag or commit of a policy on the Hub.

    Raises:
        ValueError: settings without meaning here, or a model parallel scheme (the policy is too small for one).
    """

    _tag_names = ["trl", "grpo", "unmasking-policy"]  # noqa: RUF012  (a class attribute of TRL's)
    _name = "GRPO for unmasking policies"
    control: TrainerControl

    def __init__(
        self,
        policy: UnmaskingPolicy | UnmaskingPolicyConfig | str | Path,
        denoiser: nn.Module | Denoiser,
        reward_funcs: Any,
        args: UnmaskingGRPOConfig,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: Any = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: tuple[Any, Any] = (None, None),
        policy_revision: str | None = None,
    ) -> None:
        if processing_class is None:
            raise ValueError("pass the denoiser's tokenizer: processing_class=..., got None")
        policy = policy_to_train(policy, args, policy_revision)
        self.denoiser = Denoiser.resolve(denoiser, tokenizer=processing_class)
        self.denoiser.model.eval().requires_grad_(False)
        expert = parse_experts([args.expert], args.block_length)[0] if args.num_expert_rollouts else None
        check_prompts(train_dataset, eval_dataset, args)
        self.environment = Environment(self.denoiser, policy, args, expert)
        self._rows: Sequence[Mapping[str, Any]] = []
        self._current: Trajectory = {}
        self._seconds = {"rollout": 0.0}
        self._hiding: str | None = None  # where a checkpoint is written
        self._batches = (0, 0)  # an update, and how many batches of rollouts were made for it
        # TRL writes the tokenizer's ids into the config, patches `forward` for a language model's head and builds its
        # reference model by name: all of it is for models with a vocabulary.
        self._own_config, beta = OwnConfig(policy.config), args.beta
        policy.generation_config, args.beta = GenerationConfig(), 0.0
        try:
            super().__init__(
                policy,
                reward_funcs,
                args=args,
                train_dataset=train_dataset,
                eval_dataset=eval_dataset,
                processing_class=processing_class,
                callbacks=callbacks,
                optimizers=optimizers,
            )
        finally:
            args.beta = beta
            self._own_config.restore()
            policy.__dict__.pop("forward", None)
            del policy.generation_config
        if self.is_deepspeed_enabled or self.is_fsdp_enabled:
            scheme = self.accelerator.distributed_type.value
            raise ValueError(f"the policy is too small to be sharded by {scheme}: use plain data parallelism (DDP)")
        self.policy = policy
        self.num_generations = args.group_size
        self.beta = beta
        if beta:
            self.ref_model = self.accelerator.prepare_model(UnmaskingPolicy(policy.config), evaluation_mode=True)
            self._refer_to_policy()
        if may_be_moved(self.denoiser.model):
            self.denoiser.model.to(self.accelerator.device)
        record_purpose(policy, self.denoiser, args)
        self.add_callback(self._own_config)
        self.add_callback(BestIsWhole())
        self._stop = StopAtRolloutBoundary(args.steps_per_rollout)
        self.add_callback(self._stop)

    def _refer_to_policy(self) -> None:
        """Make the policy as it is now the reference of the KL term."""
        self.ref_model.load_state_dict(self.policy.state_dict())
        self.ref_model.requires_grad_(False)

    # Rollouts

    def _get_train_sampler(self, dataset: Any = None) -> PromptSampler:
        whole = super()._get_train_sampler(dataset)
        names = ("data_source", "mini_repeat_count", "batch_size", "repeat_count", "shuffle", "seed")
        options = {name: getattr(whole, name) for name in names}
        return PromptSampler(**options, epoch=lambda: int(self.state.epoch or 0))

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        began = time.perf_counter()
        self._rows = inputs
        batch: dict[str, Any] = super()._generate_and_score_completions(inputs)
        trajectory = self._current
        batch["old_per_token_logps"] = trajectory["logps"]
        batch["num_items_in_batch"] = self.accelerator.gather(trajectory["mask"].sum()).sum()
        batch |= {_PREFIX + name: value for name, value in trajectory.items() if name != "logps"}
        if self.args.scale_prices:
            batch["advantages"] = batch["advantages"] / price_scales(self._rows, self.args.group_size, self.accelerator)
        self._seconds["rollout"] += time.perf_counter() - began
        return batch

    def _generate_single_turn(self, prompt_ids: list[list[int]], *args: Any, **kwargs: Any) -> tuple[Any, None]:
        """The rollouts of this process, in place of TRL's generation."""
        del args, kwargs
        first = self.accelerator.process_index * len(prompt_ids)
        number = torch.arange(first, first + len(prompt_ids), device=self.accelerator.device)
        rollouts, speeds = self.environment.groups(prompt_ids, self._rows, number, self._rollout_number())
        self._current = rollouts.trajectory
        self._rows = self.environment.with_costs(self._rows, rollouts, speeds)
        for name, value in rollouts.statistics(~rollouts.trajectory["expert"]).items():
            self._log_metric(name, value)
        return self.environment.completions(rollouts), None

    def run(
        self,
        rows: Sequence[Mapping[str, Any]],
        sampler: Any,
        number: Tensor,
        block_length: int | None,
        speeds: Tensor | None,
    ) -> tuple[Rollouts, Tensor]:
        """Answer rows of a data set with any sampler and score the answers: rollouts, and rewards [B, functions].

        ``number`` [B] long seeds each row. Every process must bring as many rows.
        """
        prompts = [row["prompt"] for row in rows]
        ids, *_ = self._tokenize_prompts(prompts)
        rollouts = self.environment.roll_out(sampler, ids, rows, row_seeds(self.args.seed, 0, number), block_length)
        completion_ids = self.environment.completions(rollouts)
        texts = self.processing_class.batch_decode(completion_ids, skip_special_tokens=True)
        chat = isinstance(prompts[0], list)
        completions = [[{"role": "assistant", "content": text}] for text in texts] if chat else texts
        scored = self.environment.with_costs(rows, rollouts, speeds)
        rewards = super()._calculate_rewards(scored, prompts, completions, completion_ids)
        self._pending_metrics.clear()
        self._pending_extra_logs.clear()
        first = self.accelerator.process_index * len(rows)
        return rollouts, rewards[first : first + len(rows)]

    def _rollout_number(self) -> int:
        """A new number for every batch of rollouts: the same after a resume, unlike TRL's own counter."""
        update, before = self._batches
        before = before + 1 if update == self.state.global_step else 1
        self._batches = (self.state.global_step, before)
        return int(self.state.global_step * self.args.gradient_accumulation_steps + before - 1)

    def _calculate_rewards(self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any) -> Tensor:
        del inputs  # without the costs
        rewards: Tensor = super()._calculate_rewards(self._rows, prompts, completions, completion_ids_list)
        if self.environment.expert is not None and self.model.training:
            position = torch.arange(len(rewards), device=rewards.device) % self.args.group_size
            mine = (rewards * self.reward_weights.to(rewards.device)).nansum(-1)[position < self.args.num_generations]
            self._log_metric("policy_reward", mine.mean().item())
        return rewards

    # Updates

    def _get_per_token_logps_and_entropies(
        self, model: nn.Module, *args: Any, compute_entropy: bool = False, **kwargs: Any
    ) -> tuple[Tensor, Tensor | None, None]:
        """Per denoising step of the current trajectories, in place of TRL's per token."""
        del args, kwargs
        current = self._current
        if model is not self.ref_model and not torch.is_grad_enabled():
            return current["logps"], None, None  # TRL asks for the old ones while it generates: kept when sampling
        logps, entropies = replay(model, self.policy, current, compute_entropy=compute_entropy)
        logps = self.environment.behaviour(logps, current["expert"])
        current["replayed"] = logps
        return logps, entropies, None

    def _compute_loss(self, model: nn.Module, inputs: dict[str, Any]) -> Tensor:
        self._current = {
            name.removeprefix(_PREFIX): value for name, value in inputs.items() if name.startswith(_PREFIX)
        }
        mask = self._current["mask"].long()
        nothing = mask.new_zeros(len(mask), 0)
        steps = {"prompt_ids": nothing, "prompt_mask": nothing, "completion_ids": mask, "completion_mask": mask}
        loss: Tensor = super()._compute_loss(model, {**inputs, **steps})
        if "speed" in self._current and (self.state.global_step + 1) % self.state.logging_steps == 0:
            norms = gradient_norms(self.policy, self._current, inputs["advantages"], inputs["old_per_token_logps"])
            for name, norm in norms.items():
                self._metrics["train"][name].append(norm)
        return loss

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """TRL's training, after the imitation warm start that the settings ask for (not repeated on resume).

        ``resume_from_checkpoint=True`` is the newest checkpoint that is whole.

        Raises:
            ValueError: another training in this folder, no checkpoint to resume, or data for not a single update.
        """
        with only_run(self.args):
            checkpoint = to_resume(self.args, resume_from_checkpoint)
            # A resumed run needs it only for the reference: its policy comes from the checkpoint.
            if self.args.warm_start_prompts and (self.beta or not checkpoint):
                imitate(self, parse_experts(self.args.warm_start_experts, self.args.block_length))
                if self.beta:
                    self._refer_to_policy()
            self._own_config.lend_ids_of(self.processing_class)
            self._step, self._buffered_inputs, self._batches = 0, None, (0, 0)  # an earlier call may have been stopped
            try:
                result = super().train(checkpoint, *args, **kwargs)
            finally:
                self._own_config.restore()
                self._stop.release()
        if not self.state.global_step:  # data without a length, which nobody could count before
            size = self.args.generation_batch_size
            raise ValueError(f"no update was made: there are fewer prompts than a batch of {size} rollouts takes")
        return result

    # Validation, logs and files

    @torch.no_grad()
    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Run the policy as it will be used, with the fallback, on every prompt once per speed.

        The seeds are those of the prompts, so that two evaluations of a run differ by the policy alone. Returns the
        mean reward of each reward function and their weighted sum ``{prefix}_reward``, the mean ``{prefix}_nfe``, and
        for a speed-conditioned policy the same per speed.
        """
        del ignore_keys
        dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        if dataset is None:
            raise ValueError("evaluation needs prompts: pass eval_dataset=...")
        check_prompts(None, dataset, self.args)
        if isinstance(dataset, dict):
            parts = [self.evaluate(one, None, f"{metric_key_prefix}_{name}") for name, one in dataset.items()]
            return {name: value for part in parts for name, value in part.items()}
        training = self.model.training
        self.model.eval()
        found = validate(self, [dict(row) for row in dataset])
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in found.items()}
        self.log(dict(metrics))
        self.model.train(training)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """TRL's logs, with the time of rollouts (denoiser, policy and rewards) and updates told apart."""
        step_times = self._metrics["train"].get("step_time")
        if self.model.training and step_times:
            total, rollout = sum(step_times), self._seconds["rollout"]
            self._seconds["rollout"] = 0.0
            logs |= {"time/rollout": rollout, "time/update": total - rollout, "time/update_share": 1 - rollout / total}
        super().log(logs, start_time)

    def _get_output_dir(self, trial: Any) -> str:
        """Of the run, or where its checkpoint is written at the moment."""
        return self._hiding or str(super()._get_output_dir(trial))

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        with in_hiding(self, Path(self._get_output_dir(trial))) as folder:
            self._hiding = str(folder)
            try:
                super()._save_checkpoint(model, trial)
            finally:
                self._hiding = None

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """The policy's two files and the settings as text: no tokenizer, no pickle, no token."""
        del state_dict
        if self.args.should_save:  # one process of all, as in transformers
            save(self.accelerator.unwrap_model(self.model), self.args, Path(output_dir or self.args.output_dir))

    def push_to_hub(self, commit_message: str | None = None, *args: Any, **kwargs: Any) -> CommitInfo | None:
        """Save the policy and push it, with its card and nothing else; see `hf_unmask.trainers.publishing.push`."""
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        self.save_model(_internal_call=True)
        if not self.is_world_process_zero():
            return None
        return push(self.accelerator.unwrap_model(self.model), self.args, commit_message, *args, **kwargs)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: a checkpoint has no card, and `push_to_hub` renders one."""
        del args, kwargs
