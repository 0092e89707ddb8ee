"""The training scripts in examples/: their real recipes parse, and each runs at the smallest scale."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import doubles
import pytest
from evaluation_run import tiny_tokenizer
from scripts import load, start

from hf_unmask.samplers.learned import LearnedUnmaskingSampler
from hf_unmask.trainers.experts import parse_experts
from hf_unmask.trainers.script import parse

QUICK = [
    *("--num_prompts", "8", "--eval_limit", "2", "--hidden_size", "16", "--per_device_train_batch_size", "8"),
    *("--num_generations", "4", "--max_steps", "2", "--save_steps", "2", "--warm_start_prompts", "2"),
    *("--warm_start_epochs", "1", "--initial_bias", "0", "--eval_speeds", "1"),
]


pytestmark = pytest.mark.usefixtures("library_logging")


@pytest.mark.parametrize("name", ["semi-ar", "full", "speed", "block", "price"])
def test_recipes_of_the_shipped_policies_are_understood(name: str) -> None:
    recipes = load("train_policy_tiny")
    script, args = parse(["--output", "o"], recipes.COMMON | recipes.RECIPES[name])
    assert args.block_length == {"semi-ar": 10, "block": 10}.get(name)
    assert args.seed == 0 and args.load_best_model_at_end
    assert (args.alpha_range is None) == (name in ("full", "price"))
    assert args.warm_start_prompts and (script.policy is None) == (name != "semi-ar")
    assert script.read_hidden == (name in ("full", "speed", "price"))
    assert script.observation == ("block" if name == "block" else None)
    experts = parse_experts(args.warm_start_experts, args.block_length)
    assert {expert.block_length for expert in experts} <= ({10} if args.block_length else {10, None})


@pytest.mark.slow
def test_the_tiny_recipe_trains_goes_on_and_is_fine_tuned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, folder = load("train_policy_tiny"), tmp_path / "speed"
    given = ["--policy", "speed", "--output", folder, *QUICK]
    start(monkeypatch, recipe, *given)
    assert LearnedUnmaskingSampler.from_pretrained(folder, speed=0.3).policy.config.observation == "canvas"
    assert "going on" not in capsys.readouterr().err
    start(monkeypatch, recipe, *given, "--max_steps", "4")
    assert "going on from" in capsys.readouterr().err and (folder / "checkpoint-4").is_dir()

    tuned = tmp_path / "tuned"
    fresh_only = ("--hidden_size", "--initial_bias")
    kept = [text for i, text in enumerate(QUICK) if not {text, QUICK[i - 1]} & set(fresh_only)]
    start(monkeypatch, load("finetune_policy"), "--policy", folder, "--output", tuned, *kept)
    assert f"{tuned} comes from {folder.name}" in capsys.readouterr().out
    record = json.loads((tuned / "config.json").read_text())["trained_for"]
    assert record["lineage"] == [folder.name] and record["block_length"] is None


def test_a_mistake_ends_a_script_with_the_code_of_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        start(monkeypatch, load("finetune_policy"), "--policy", "./nowhere")
    assert end.value.code == 2 and "nowhere" in capsys.readouterr().err


# LLaDA


@pytest.fixture(scope="module")
def llada(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with code of its own, and both sources as files."""
    folder = tmp_path_factory.mktemp("llada")
    model = doubles.llada_double()
    model.config.auto_map = {"AutoConfig": "doubles.LladaDoubleConfig", "AutoModel": "doubles.LladaDouble"}
    model.save_pretrained(folder / "model")
    (folder / "model" / "doubles.py").write_text(Path(doubles.__file__).read_text())
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}A:"
    tokenizer.save_pretrained(folder / "model")
    sums = [{"question": f"{n}+1", "answer": f"think #### {n + 1}"} for n in range(6)]
    boxes = [{"problem": f"{n}-1", "solution": f"so \\boxed{{{n - 1}}}", "level": "1"} for n in range(6)]
    for name, rows in {"gsm8k": sums, "math": boxes}.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def tiny_llada(folder: Path, output: Path) -> list[Any]:
    return [
        *("--model", folder / "model", "--trust_remote_code", "--dtype", "float32", "--output", output),
        *("--gsm8k", folder / "gsm8k.jsonl", "--math", folder / "math.jsonl", "--validation", "2"),
        *("--max_completion_length", "8", "--block_length", "4", "--max_prompt_length", "16"),
        *("--max_steps", "2", "--save_steps", "2", "--eval_steps", "2", "--use_cpu", "--disable_tqdm", "true"),
    ]


@pytest.mark.slow
def test_the_llada_recipe_runs_and_goes_on(llada: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script, output = load("train_policy_llada"), tmp_path / "run"
    given = [*tiny_llada(llada, output), "--per_device_train_batch_size", "16"]
    start(monkeypatch, script, *given)
    start(monkeypatch, script, *given, "--max_steps", "4")
    state = json.loads((output / "checkpoint-4" / "trainer_state.json").read_text())
    assert [log["step"] for log in state["log_history"] if "eval_reward" in log] == [2, 4]
    record = LearnedUnmaskingSampler.from_pretrained(output).policy.config
    assert record.trained_for["mask_token_id"] == doubles.MASK and record.hidden_size == 128


def test_the_llada_recipe_is_the_papers(tmp_path: Path) -> None:
    """Group 8, 128 rollouts over all devices; with expert steering nine rollouts a group and a tighter clip."""
    script = load("train_policy_llada")

    def settings(processes: int = 8, **options: Any) -> Any:
        return script.UnmaskingGRPOConfig(**script.defaults(script.Arguments(str(tmp_path), **options), processes))

    args = settings()
    assert (args.per_device_train_batch_size, args.group_size, args.epsilon, args.block_length) == (16, 8, 0.5, 32)
    assert (args.learning_rate, args.warmup_steps, args.max_grad_norm, args.adam_beta2) == (3e-5, 100, 0.2, 0.99)
    assert (args.scale_rewards, args.loss_type, args.num_iterations, args.seed) == ("none", "grpo", 2, 123)
    args = settings(expert_steering=True)
    assert (args.per_device_train_batch_size, args.group_size, args.epsilon, args.block_length) == (18, 9, 0.2, None)
    assert (args.num_generations, args.eval_policy_temperature) == (8, 1.0)
    assert settings(processes=1).per_device_train_batch_size == 128


def test_the_llada_prompts_and_their_references(llada: Path) -> None:
    script = load("train_policy_llada")
    run = script.Arguments(gsm8k=str(llada / "gsm8k.jsonl"), math=str(llada / "math.jsonl"), validation=1)
    train, validation = script.problems(run)
    assert len(train) == 10 and validation["task"] == ["gsm8k", "math"]
    (turn,) = train[0]["prompt"]
    assert turn["role"] == "user" and turn["content"].endswith("0+1") and "<reasoning>" in turn["content"]
    assert "boxed" not in turn["content"] and "\\boxed{}" in train[5]["prompt"][0]["content"]
    correct = script.EvaluateReward("answer_match")
    texts = ["<answer>1</answer>", "1", "so \\boxed{-1}", "\\boxed{3}"]
    answers = [train[0]["answer"], train[0]["answer"], train[5]["answer"], train[5]["answer"]]
    assert correct(prompts=texts, completions=texts, answer=answers) == [1.0, 1.0, 1.0, 0.0]
    with pytest.raises(ValueError, match="--validation must be 1 to 5"):
        script.problems(script.Arguments(gsm8k=run.gsm8k, math=run.math, validation=6))
