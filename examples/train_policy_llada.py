"""The recipe of https://arxiv.org/abs/2512.09106 for LLaDA-8B-Instruct: GSM8K and MATH, 256 positions, GRPO.

**Exercised at tiny scale only**: with a small random model of LLaDA's conventions and a few local problems. The 8B
weights have not been run, so expect to find out about memory and time yourself. Rollouts take nearly all of the time.

    # one GPU; the denoiser sees --rollout_batch_size rows at once. LLaDA comes with code of its own: read it, pin it,
    # and add to every command below: --trust_remote_code --revision COMMIT
    python examples/train_policy_llada.py --output runs/llada

    # the 8 GPUs of a machine: 16 rollouts each; either launcher
    torchrun --nproc_per_node 8 examples/train_policy_llada.py --output runs/llada
    accelerate launch --multi_gpu --num_processes 8 examples/train_policy_llada.py --output runs/llada

    # two machines of 8, this on each, with RANK 0 and 1 and a folder that both see
    torchrun --nnodes 2 --node_rank RANK --nproc_per_node 8 --rdzv_backend c10d --rdzv_endpoint HOST:29500 \\
        examples/train_policy_llada.py --output runs/llada
    accelerate launch --multi_gpu --num_machines 2 --machine_rank RANK --num_processes 16 \\
        --main_process_ip HOST --main_process_port 29500 examples/train_policy_llada.py --output runs/llada

    # the paper's other policies
    ... --alpha 0.3                                  # of 10, 3, 1, 0.3, 0: one policy each
    ... --block_length 0 --eval_policy_temperature 1 # full diffusion
    ... --expert_steering                            # the same with an expert's rollout in each group
    ... --alpha_range 0.3 10                         # beyond the paper: one policy for all speeds

    # without the Hub
    ... --model FOLDER --gsm8k gsm8k.jsonl --math math.jsonl    # columns question, answer and problem, solution

The same command goes on from the newest checkpoint. Every setting of the trainer is an option, also in YAML with
``--config``; the defaults below are those of the paper and its release. Differs from them in this: some problems are
held out to choose the checkpoint (the release takes the best training reward), and answers are compared by
`answer_match`, which takes the last box, then ``####``, then the answer tag, then the last number, and knows equal
mathematics.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import AutoModel, AutoTokenizer
from trl import TrlParser

from hf_unmask import UnmaskingPolicyConfig, attach
from hf_unmask.evaluation.problems import load_problems
from hf_unmask.trainers import EvaluateReward, SpeedReward, UnmaskingGRPOConfig, UnmaskingGRPOTrainer
from hf_unmask.trainers.checkpoints import newest_whole

ROLLOUTS, GROUP, EXPERTS = 128, 8, 1  # per update of all devices together; per prompt

#: One user turn each, through the chat template. The wording is ours.
LAYOUT = """Lay out your reply like this:
<reasoning>
the steps
</reasoning>
<answer>
the result
</answer>

"""
PROMPTS = {
    "gsm8k": LAYOUT + "{problem}",
    "math": "You are an expert in mathematics. Solve the problem step by step and write the final result in "
    "\\boxed{}.\n" + LAYOUT + "{problem}",
}
COLUMNS = {
    "gsm8k": {"prompt": "question", "answer": "answer"},
    "math": {"prompt": "problem", "answer": "solution"},
}

PAPER: dict[str, Any] = {
    # rollouts
    "max_completion_length": 256,
    "block_length": 32,
    "max_prompt_length": 200,
    "token_temperature": 0.0,
    "num_generations": GROUP,
    "num_iterations": 2,
    "gradient_accumulation_steps": 1,
    "steps_per_generation": 1,
    "alpha": 1.0,
    # updates
    "loss_type": "grpo",
    "scale_rewards": "none",
    "epsilon": 0.5,
    "beta": 0.0,
    "learning_rate": 3e-5,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 100,
    "adam_beta2": 0.99,
    "weight_decay": 0.1,
    "max_grad_norm": 0.2,
    "num_train_epochs": 1,
    "seed": 123,
    # speed decides the reward, correctness alone is logged
    "reward_weights": [1.0, 0.0],
    "eval_policy_temperature": 0.5,
    # ours: files, validation and memory
    "save_steps": 100,
    "eval_strategy": "steps",
    "eval_steps": 100,
    "load_best_model_at_end": True,
    "metric_for_best_model": "eval_reward",
    "greater_is_better": True,
    "logging_steps": 10,
    "rollout_batch_size": 16,
    "ddp_timeout": 7200,
}


@dataclass
class Arguments:
    """What is trained on what; everything else is a setting of the trainer."""

    output: str = field(default="runs/llada", metadata={"help": "Folder for checkpoints and the policy."})
    model: str = field(default="GSAI-ML/LLaDA-8B-Instruct", metadata={"help": "Folder or repository."})
    revision: str | None = field(default=None, metadata={"help": "Commit of the model: its code is executed."})
    dtype: str = field(default="bfloat16", metadata={"help": "Of the denoiser."})
    gsm8k: str = field(default="openai/gsm8k:main:train", metadata={"help": "A file, or NAME:CONFIG:SPLIT."})
    math: str = field(default="DigitalLearningGmbH/MATH-lighteval:train", metadata={"help": "A file, or NAME:SPLIT."})
    validation: int = field(default=32, metadata={"help": "Problems of each source kept for validation."})
    expert_steering: bool = field(default=False, metadata={"help": "An expert's rollout in each group."})
    policy: str | None = field(default=None, metadata={"help": "Policy to go on from; none: a fresh one."})


def defaults(run: Arguments, processes: int) -> dict[str, Any]:
    """The paper's settings for one of so many processes, which share the rollouts of an update."""
    rows = ROLLOUTS
    found = PAPER | {"output_dir": run.output}
    if run.expert_steering:
        rows = ROLLOUTS // GROUP * (GROUP + EXPERTS)
        found |= {"num_expert_rollouts": EXPERTS, "expert": "threshold:threshold=0.9@32", "epsilon": 0.2}
        found |= {"block_length": 0, "eval_policy_temperature": 1.0}
    return found | {"per_device_train_batch_size": max(rows // processes, 1)}


def parse() -> tuple[Arguments, UnmaskingGRPOConfig]:
    (run, *_) = TrlParser([Arguments], add_help=False).parse_args_and_config(return_remaining_strings=True)
    parser = TrlParser([Arguments, UnmaskingGRPOConfig], allow_abbrev=False)
    parser.set_defaults(**defaults(run, int(os.environ.get("WORLD_SIZE", "1"))))
    run, args = parser.parse_args_and_config()
    return run, args


def problems(run: Arguments) -> tuple[Dataset, Dataset]:
    """Training and validation prompts of both sources; the trainer shuffles."""
    parts: tuple[list[dict[str, Any]], list[dict[str, Any]]] = ([], [])
    for task, source in {"gsm8k": run.gsm8k, "math": run.math}.items():
        rows = [
            {
                "prompt": [{"role": "user", "content": PROMPTS[task].replace("{problem}", problem.prompt)}],
                "answer": problem.answer,
                "task": task,
            }
            for problem in load_problems(source, task=task, columns=COLUMNS[task])
        ]
        if not 0 < run.validation < len(rows):
            raise ValueError(f"--validation must be 1 to {len(rows) - 1} for {source}, got {run.validation}")
        parts[0].extend(rows[: -run.validation])
        parts[1].extend(rows[-run.validation :])
    return Dataset.from_list(parts[0]), Dataset.from_list(parts[1])


def main() -> None:
    run, args = parse()
    source = {"revision": run.revision, "trust_remote_code": args.trust_remote_code}
    tokenizer = AutoTokenizer.from_pretrained(run.model, **source)
    model = AutoModel.from_pretrained(run.model, dtype=run.dtype, **source)
    attach(model.to(args.device).eval(), tokenizer=tokenizer)
    train_dataset, eval_dataset = problems(run)
    correct = EvaluateReward("answer_match")
    trainer = UnmaskingGRPOTrainer(
        policy=run.policy or UnmaskingPolicyConfig(),
        denoiser=model,
        reward_funcs=[SpeedReward(correct), correct],
        args=args,
        train_dataset=train_dataset,
        eval_dataset=eval_dataset,
        processing_class=tokenizer,
    )
    newest, _ = newest_whole(Path(args.output_dir))
    trainer.accelerator.wait_for_everyone()
    trainer.train(resume_from_checkpoint=newest is not None)
    trainer.save_model()  # the best checkpoint: LearnedUnmaskingSampler.from_pretrained(output)
    trainer.accelerator.wait_for_everyone()
    trainer.accelerator.end_training()


if __name__ == "__main__":
    main()
