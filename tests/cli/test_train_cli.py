"""``hf-unmask train`` on the embedded model, at the smallest scale: real runs, interrupted, resumed, misused."""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import call
from safetensors.torch import load_file
from torch.nn.modules.module import register_module_forward_pre_hook

from hf_unmask.cli.train import rewards
from hf_unmask.cli.train_arguments import known_fields
from hf_unmask.evaluation.scoring import metric_by_task
from hf_unmask.policy.config import PORTABLE
from hf_unmask.policy.hub.locking import only_writer
from hf_unmask.samplers.learned import LearnedUnmaskingSampler
from hf_unmask.tiny import answer_length, held_out, load_tiny
from hf_unmask.trainers.arguments import ScriptArguments
from hf_unmask.trainers.config import UnmaskingGRPOConfig
from hf_unmask.trainers.data import fresh_problems
from hf_unmask.trainers.progress import log_line
from hf_unmask.trainers.run_folder import changed_settings, checkpoint_to_resume
from hf_unmask.trainers.script import parse

QUICK: dict[str, Any] = {
    "dataset": "tiny:mini_sudoku",
    "num_prompts": 8,
    "eval_limit": 4,
    "hidden_size": 16,
    "per_device_train_batch_size": 8,
    "num_generations": 4,
    "max_steps": 4,
    "save_steps": 2,
    "logging_steps": 1,
    "warm_start_prompts": 4,
    "warm_start_epochs": 1,
    "initial_bias": 0,
    "seed": 5,
}


pytestmark = pytest.mark.usefixtures("library_logging")


def options(output: Path, **changed: Any) -> list[str]:
    found = ["train", "--output", str(output)]
    for name, value in (QUICK | changed).items():
        if value is not None:
            found += [f"--{name}", *(map(str, value) if isinstance(value, list) else [str(value)])]
    return found


def follow(said: str, *more: str) -> list[dict[str, Any]]:
    """Do what a run proposes, as it is printed: the records of the evaluation, once Python has loaded the policy."""
    lines = said.partition("\nnext")[2].splitlines()[1:]
    assert [line.split()[0] for line in lines] == ["hf-unmask", "python:"]
    exec(lines[1].partition(":")[2].strip(), {})
    command = shlex.split(lines[0])
    records: list[dict[str, Any]] = json.loads(call(*command[1:], *more, "--json").stdout)["records"]
    return records


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run that nothing disturbed, and what it said."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    return folder, call(*options(folder)).stderr


def test_a_run_leaves_a_policy_and_says_what_to_do_next(finished: tuple[Path, str]) -> None:
    folder, said = finished
    sampler = LearnedUnmaskingSampler.from_pretrained(folder)
    record = sampler.policy.config.trained_for
    assert (record["base_model"], record["dataset"], record["block_length"]) == ("tiny", "tiny:mini_sudoku", 8)
    model, tokenizer = load_tiny()
    prompt = tokenizer(["sudoku _32_/1__4/_1_2/_41_="], return_tensors="pt")["input_ids"]
    output = model.generate(prompt, sampler=sampler, max_new_tokens=24, block_length=8, return_dict_in_generate=True)
    assert output.complete.all()
    assert f"learned:{folder} " in said and "--block-length 8" in said
    assert "warm start" in said and "update 3/4" in said and "validation at 4/4" in said
    assert "\n4 updates, validation every 2; the first tells how long they take\n" in said
    assert re.search(r"\nupdate 1/4, about \d+ (s|min) to go\n", said) and "update share of time" in said


def test_the_best_checkpoint_is_the_policy(finished: tuple[Path, str]) -> None:
    folder, said = finished
    state = json.loads((folder / "checkpoint-4" / "trainer_state.json").read_text())
    best = max((log for log in state["log_history"] if "eval_reward" in log), key=lambda log: log["eval_reward"])
    chosen = Path(state["best_model_checkpoint"])
    assert chosen.name == f"checkpoint-{best['step']}" and f"of {chosen.name} " in said
    kept, there = (load_file(place / "model.safetensors") for place in (folder, chosen))
    assert all(torch.equal(kept[name], there[name]) for name in kept)
    # correctness alone is logged beside the reward
    strict, loose = (best[f"eval_rewards/{name}_sudoku"] for name in ("well_formed", "answer_match"))
    assert 0 <= strict == loose  # of sudokus there is one metric


def test_a_finished_run_is_left_as_it_is(finished: tuple[Path, str]) -> None:
    """It was loaded, its model too, and its policy saved again."""

    def state() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in finished[0].rglob("*") if path.name != ".lock"}

    before = state()
    said = call(*options(finished[0]), "--resume").stderr
    assert said == f"finished: {finished[0]} holds the policy after 4 updates, there is nothing to go on with\n"
    assert {path: time for path, time in state().items() if path.is_file()} == {
        path: time for path, time in before.items() if path.is_file()
    }


@pytest.mark.slow
def test_ctrl_c_leaves_a_checkpoint_from_which_the_run_ends_the_same(
    tmp_path: Path, finished: tuple[Path, str]
) -> None:
    """Interrupted in the middle of the first rollouts, it finishes them, saves and exits as interrupted programs do."""
    forwards = 0

    def press(module: Any, inputs: Any) -> None:
        nonlocal forwards
        if type(module).__name__ == "UnmaskingPolicy" and torch.is_grad_enabled():
            forwards += 1  # the update that follows a rollout
            if forwards == 2:
                for _ in range(2):  # torchrun sends its processes what they have from the terminal already
                    signal.raise_signal(signal.SIGINT)

    folder = tmp_path / "run"
    hook = register_module_forward_pre_hook(press)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background run may ignore it
    try:
        said = call(*options(folder), code=130).stderr
    finally:
        signal.signal(signal.SIGINT, before)
        hook.remove()
    assert "again Ctrl-C" in said and f"{folder / 'checkpoint-2'} is saved" in said and "--resume" in said
    assert not (folder / "model.safetensors").exists()
    said = call(*options(folder), "--resume").stderr
    assert f"going on from {folder / 'checkpoint-2'}\n" in said and "warm start" not in said
    whole, resumed = (load_file(place / "checkpoint-4" / "model.safetensors") for place in (finished[0], folder))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_ctrl_c_before_any_checkpoint_says_so(tmp_path: Path) -> None:
    def press(module: Any, inputs: Any) -> None:
        if type(module).__name__ == "UnmaskingPolicy":
            raise KeyboardInterrupt

    hook = register_module_forward_pre_hook(press)
    try:
        said = call(*options(tmp_path / "run"), code=130).stderr
    finally:
        hook.remove()
    assert "nothing was kept" in said
    assert "no checkpoint" in call(*options(tmp_path / "run"), "--resume", code=2).stderr


def test_the_folder_of_another_run_is_left_alone(finished: tuple[Path, str], tmp_path: Path) -> None:
    folder, _ = finished
    assert "holds a run (checkpoint-4): go on with --resume" in call(*options(folder), code=2).stderr
    other = call(*options(folder, dataset="tiny:chain_sum"), "--resume", code=2).stderr
    assert "--dataset tiny:mini_sudoku (now tiny:chain_sum)" in other
    LearnedUnmaskingSampler.from_pretrained(folder).save_pretrained(tmp_path / "policy")
    assert "holds a policy" in call(*options(tmp_path / "policy"), code=2).stderr


def test_a_damaged_checkpoint_is_told_and_an_older_one_taken(finished: tuple[Path, str], tmp_path: Path) -> None:
    """Also where the newest one lost its optimizer, which transformers does without in silence."""
    folder = shutil.copytree(finished[0], tmp_path / "copy")
    (folder / "checkpoint-4" / "optimizer.pt").unlink()
    said = call(*options(folder), "--resume").stderr
    assert said.startswith("checkpoint-4 is damaged: optimizer.pt is missing\n")
    assert f"going on from {folder / 'checkpoint-2'}\n" in said
    for name in ("model.safetensors", "checkpoint-4/model.safetensors"):
        whole, resumed = (load_file(place / name) for place in (finished[0], folder))
        assert all(torch.equal(whole[key], resumed[key]) for key in whole)
    assert not list(folder.glob(".*"))


def test_what_lies_in_a_folder_decides_what_may_start_there(finished: tuple[Path, str], tmp_path: Path) -> None:
    folder = shutil.copytree(finished[0], tmp_path / "copy")
    fresh, resumed = parse(options(folder)[1:]), parse([*options(folder)[1:], "--resume"])
    (folder / "checkpoint-4" / "checkpoint.json").unlink()
    with pytest.raises(ValueError, match=r"holds a run \(checkpoint-2\)"):
        checkpoint_to_resume(*fresh)
    told = ["checkpoint-4 is damaged: checkpoint.json is missing"]
    assert checkpoint_to_resume(*resumed) == (str(folder / "checkpoint-2"), told)
    listed = json.loads((folder / "checkpoint-2" / "checkpoint.json").read_text())
    (folder / "checkpoint-2" / "checkpoint.json").write_text(json.dumps(listed | {"processes": 2}))
    assert changed_settings(folder / "checkpoint-2", fresh[1]) == ["processes 2 -> 1"]
    (folder / "run.json").write_text('{"version": ')
    with pytest.raises(ValueError, match=r"run\.json is damaged"):
        checkpoint_to_resume(*resumed)
    (folder / "checkpoint-2" / "rng_state.pth").unlink()
    with pytest.raises(ValueError, match="checkpoint-4 is damaged: .*; checkpoint-2 is damaged: .*start without --res"):
        checkpoint_to_resume(*resumed)
    with pytest.raises(ValueError, match="holds a policy"):
        checkpoint_to_resume(*fresh)
    (folder / "model.safetensors").unlink()
    assert checkpoint_to_resume(*fresh) == (None, [*told, "checkpoint-2 is damaged: rng_state.pth is missing"])


def test_a_folder_in_use_is_left_alone(finished: tuple[Path, str], tmp_path: Path) -> None:
    """A run whose checkpoints and policy another one overwrites, while both say that they saved it."""
    entered, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with only_writer(finished[0], "training"):
            entered.set()
            leave.wait(60)

    other = threading.Thread(target=hold)
    other.start()
    entered.wait(60)
    before = sorted(finished[0].rglob("*"))
    try:
        for more in ([], ["--resume"]):
            said = call(*options(finished[0]), *more, code=2).stderr
            assert said == f"error: another training is writing to {finished[0]}: wait for it, or give another folder\n"
    finally:
        leave.set()
        other.join()
    assert [path for path in before if path.name != ".lock"] == sorted(finished[0].rglob("*"))


@pytest.mark.slow
def test_of_two_commands_one_trains(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hf_unmask.cli.main", *options(tmp_path / "run")]
    both = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate()[1] for process in both]
    assert sorted(process.returncode for process in both) == [0, 2], said
    assert sum("saved the policy" in one for one in said) == 1
    assert sum(one.startswith("error: another training is writing to") for one in said) == 1
    LearnedUnmaskingSampler.from_pretrained(tmp_path / "run")


@pytest.mark.slow
def test_experts_may_be_policies_of_any_shape(tmp_path: Path) -> None:
    """An expert that is handed as many probabilities as the policy reads, and fails for it."""
    start = {"warm_start_experts": ["learned:builtin:tiny-full@full", "threshold@8"], "max_steps": 2, "eval_limit": 1}
    expert = {"num_generations": 3, "num_expert_rollouts": 1, "expert": "learned:builtin:tiny-speed;speed=0.3@full"}
    said = call(*options(tmp_path / "run", policy_top_k=8, policy_inputs="portable", **start, **expert)).stderr
    assert "policy's reward" in said
    config = LearnedUnmaskingSampler.from_pretrained(tmp_path / "run").policy.config
    assert config.top_k == 8 and config.further_inputs == list(PORTABLE)


def test_resuming_with_other_settings_names_them_and_goes_on(finished: tuple[Path, str]) -> None:
    folder, _ = finished
    said = call(*options(folder, max_steps=6, learning_rate=1e-4), "--resume").stderr
    assert "changed settings: learning_rate 0.0007 -> 0.0001; max_steps 4 -> 6" in said
    assert (folder / "checkpoint-6").is_dir()


@pytest.mark.slow
def test_yaml_own_data_tensorboard_and_a_conditioned_block_policy(tmp_path: Path) -> None:
    """Settings from YAML, overridden by arguments; prompts, metric and columns of one's own; no validation."""
    pytest.importorskip("tensorboard")
    rows = [{"question": f"{a}+{b}=", "result": str(a + b), "task": "sums"} for a in range(3) for b in range(3)]
    data, config = tmp_path / "my rows=1;.jsonl", tmp_path / "run.yaml"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config.write_text(
        f"dataset: '{data}'\ncolumns: [prompt=question, answer=result]\nmetric: sums=answer_match\n"
        "alpha_range: [0.3, 10]\nobservation: block\nlearning_rate: 1e-3\nmax_steps: 8\nlog_completions: true\n"
    )
    output = tmp_path / "it's lr=1e-3; seed@5 0..1"
    given = options(
        output, dataset=None, max_steps=2, block_length=4, max_completion_length=8, report_to="tensorboard",
        template="question", eval_limit=None, warm_start_prompts=0,
    )  # fmt: skip
    said = call(*given, "--config", str(config)).stderr
    assert "after update 2" in said and ";speed=0..1/5" in said and "--metric sums=answer_match" in said
    assert json.loads((output / "training_args.json").read_text())["learning_rate"] == 1e-3  # text in YAML
    policy = LearnedUnmaskingSampler.from_pretrained(output, speed=1.0).policy.config
    assert policy.log_alpha_range == pytest.approx([-1.204, 2.303], abs=1e-3) and policy.observation == "block"
    assert list((output / "runs").rglob("events.out.tfevents*"))
    (completions,) = (output / "completions").glob("*2.parquet")
    assert completions.stat().st_size > 0
    assert "training prompts" in said
    found = follow(said)
    assert [one["setting"]["sampler"].rpartition(";")[2] for one in found[:5]] == [
        f"speed={speed}" for speed in (0.0, 0.25, 0.5, 0.75, 1.0)
    ]
    assert {(one["prompts"], one["setting"]["max_new_tokens"], one["setting"]["block_length"]) for one in found} == {
        (9, 8, 4)
    }


def test_going_on_from_a_policy_takes_its_block_length(finished: tuple[Path, str], tmp_path: Path) -> None:
    folder, _ = finished
    start = tmp_path / "start"
    sampler = LearnedUnmaskingSampler.from_pretrained(folder)
    sampler.policy.config.trained_for["block_length"] = None
    sampler.save_pretrained(start)
    output = tmp_path / 'a "tuned" $HOME;x=2'
    more = {"policy_top_k": 2, "policy_inputs": ["stop", "rank"], "max_steps": 2}
    given = options(output, policy=start, hidden_size=None, initial_bias=None, warm_start_prompts=0, **more)
    found = follow(call(*given).stderr, "--limit", "1")
    assert [(one["setting"]["task"], one["setting"]["block_length"]) for one in found] == [("mini_sudoku", None)] * 4
    config = LearnedUnmaskingSampler.from_pretrained(output).policy.config
    assert config.top_k == 2 and config.further_inputs == ["rank", "stop"]  # extended
    record = config.trained_for
    assert record["block_length"] is None and record["lineage"] == ["start"]


@pytest.mark.slow
def test_two_processes_train_one_policy(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    arguments = options(tmp_path / "run", per_device_train_batch_size=4)
    done = subprocess.run(
        [*command, "-m", "hf_unmask.cli.main", *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("saved the policy") == 1 and done.stderr.count("the first tells how long") == 1
    LearnedUnmaskingSampler.from_pretrained(tmp_path / "run")


# Options


def test_help_shows_what_matters_and_on_request_everything() -> None:
    short, long = (call("train", flag).stdout for flag in ("--help", "--help-all"))
    assert "--warm-start-experts" in short and "--alpha-range" in short and "--max-steps" in short
    assert "--adam-epsilon" not in short and "--adam-epsilon" in long
    assert "--block-length 8" in short  # of the embedded problems


def test_every_setting_is_an_option_and_the_weakest_are_those_that_follow() -> None:
    script, args = parse(["--output", "o", "--adam-epsilon", "1e-7", "--save_steps", "40"])
    assert script.on_tiny and script.validation == "tiny" and args.output_dir == "o"
    assert args.adam_epsilon == 1e-7 and args.eval_steps == 40 and args.block_length == 8
    assert args.load_best_model_at_end and args.metric_for_best_model == "eval_reward"
    script, args = parse(["--output_dir", "o", "--model", "m", "--dataset", "d.jsonl", "--metric", "sudoku"])
    assert script.output == "o" and script.validation is None and args.eval_strategy == "no"
    assert (args.block_length, args.learning_rate) == (32, 3e-5)
    _, args = parse(["--output", "o", "--block_length", "0", "--eval_dataset", "none"], {"block_length": 4})
    assert args.block_length is None and not args.load_best_model_at_end
    _, args = parse(["--output", "o"], {"block_length": 4})
    assert args.block_length == 4


def test_options_have_the_names_of_other_commands(tmp_path: Path) -> None:
    """Dashes, underscores, lists in pieces, and ``full``; TRL's own names as well."""
    own = ["--dataset", "d.jsonl", "--metric=sudoku", "--columns", "prompt=a", "--columns", "answer=b", "task=c"]
    typed = ["--max-new-tokens", "12", "--temperature=0.5", "--block-length", "full", "--learning-rate", "1e-4"]
    script, args = parse(["--output", "o", *own, *typed])
    assert script.columns == ["prompt=a", "answer=b", "task=c"] and args.learning_rate == 1e-4
    assert (args.max_completion_length, args.token_temperature, args.temperature) == (12, 0.5, 1.0)
    assert args.block_length is None
    _, args = parse(["--output", "o", "--max_completion_length", "13", "--token_temperature", "0.25"])
    assert (args.max_completion_length, args.token_temperature) == (13, 0.25)
    (tmp_path / "c.yaml").write_text("max-new-tokens: 14\nblock_length: full\ntemperature: 1.0\n")
    _, args = parse(["--output", "o", "--config", str(tmp_path / "c.yaml")])
    assert (args.max_completion_length, args.block_length, args.token_temperature) == (14, None, 0.0)


def test_options_are_known_before_trl_is_loaded() -> None:
    """They are read from its source, which other versions may keep elsewhere."""
    fields = {one.name for kind in (ScriptArguments, UnmaskingGRPOConfig) for one in dataclasses.fields(kind)}
    assert set(known_fields()) - {"config"} == fields


@pytest.mark.parametrize(
    "arguments, says",
    [
        ([], "--output FOLDER"),
        (["--output", "o", "--learning_rat", "1"], "did you mean --learning-rate?"),
        (["--output", "o", "--what-is-this"], "--help-all"),
        (["--output", "o", "--learning_rate", "fast"], "fast"),
        (["--output", "o", "--observation", "all"], "observation"),
        (["--output", "o", "--output_dir", "p"], "two names"),
        (["--output", "o", "--use_vllm"], "use_vllm"),
        (["--output", "o", "--save_steps", "3"], "save_steps"),
        (["--output", "o", "--report_to", "nowhere"], "nowhere"),
        (["--output", "o", "--model", "org/model"], "needs --dataset"),
        (["--output", "o", "--dataset", "d.jsonl"], "needs --metric"),
        (["--output", "o", "--num_prompts", "0"], "num_prompts"),
        (["--output", "o", "--num_prompts", "15"], "has 15 prompts, but a batch of rollouts takes 16"),
        (["--output", "o", "--max_steps", "0"], "max_steps"),
        (["--output", "o", "--policy", "./nowhere"], "nowhere"),
        (["--output", "o", "--policy", "builtin:nothing"], "nothing"),
        (["--output", "o", "--config"], "name of a YAML file"),
        (["--output", "o", "--config=no.yaml"], "no.yaml"),
        (["--output", __file__], "is a file"),
        (["--output", "o", "--resume"], "no checkpoint in o: start without --resume"),
        (["--output", "o", "--resume_from_checkpoint", "x"], "no checkpoint x"),
        (["--output", "o", "--dataset", "./no/such.jsonl", "--metric", "exact_match"], "no/such.jsonl"),
        (["--output", "o", "--metric", "nonsense"], "'nonsense' is neither a packaged metric"),
        (["--output", "o", "--metric", "chain_sum="], "NAME=VALUE"),
        (["--output", "o", "--dataset", "tiny:chain_sum:test"], "tiny:TASK"),
        (["--output", "o", "--eval_dataset", "tiny:chain_sum:test"], "final tables"),
        (["--output", "o", "--task_mix", "sums=1"], "chain_sum"),
        (["--output", "o", "--task_mix", "chain_sum=much"], "much"),
        (["--output", "o", "--template", "math_boxed.chat"], "begins the model's reply"),
        (["--output", "o", "--template", "nowhere.txt"], "nowhere.txt"),
        (["--output", "o", "--alpha_range", "3", "1"], "0 < low < high"),
        (["--output", "o", "--alpha_range", "1"], "two numbers"),
        (["--output", "o", "--hidden_size", "7"], "hidden_size"),
        (["--output", "o", "--expert", "nobody", "--num_expert_rollouts", "8"], "nobody"),
    ],
)
def test_errors_are_one_line(arguments: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = call("train", "--num_prompts", "16", *arguments, code=2)
    assert result.stdout == "" and len(result.stderr.strip().splitlines()) == 1, result.stderr
    assert result.stderr.startswith("error: ") and says in result.stderr
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    "text, says",
    [
        ("- a\n- b\n", "mapping"),
        ("a: [1\n", "no YAML"),
        ("learning_rat: 1\n", "learning_rat"),
        ("", "mapping"),
        ("seed: !!bool maybe\n", "KeyError('maybe')"),
        ("seed: !!int ''\n", "c.yaml"),
        ("seed: !!timestamp a\n", "c.yaml"),
        ("seed: 2026-13-45\n", "month must be in 1..12"),
        ("a: &a [1]\nb: *a\n", "the alias *a in line 2"),
        ("a: " + "x" * 70_000, "more than 65,536 characters"),
    ],
)
def test_bad_yaml(text: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(text)
    assert says in call("train", "--output", str(tmp_path / "o"), "--config", str(tmp_path / "c.yaml"), code=2).stderr


def test_a_policy_of_its_own_shape_cannot_be_given_another(finished: tuple[Path, str], tmp_path: Path) -> None:
    said = call("train", "--output", str(tmp_path / "o"), "--policy", str(finished[0]), "--action", "bernoulli", code=2)
    assert "belong to a fresh policy" in said.stderr


# Parts


def test_fresh_problems_are_none_of_the_held_out_ones() -> None:
    rows = fresh_problems({"chain_sum": 3, "mini_sudoku": 1}, 40, seed=0)
    assert [row["task"] for row in rows].count("chain_sum") == 30
    assert {row["max_new_tokens"] for row in rows} == {answer_length(task) for task in ("chain_sum", "mini_sudoku")}
    known = {one.prompt for task in ("chain_sum", "mini_sudoku") for one in held_out(task, "validation")}
    assert len({row["prompt"] for row in rows} - known) == 40
    for count in (1, 15):
        assert len(fresh_problems({"chain_sum": 1, "mini_sudoku": 1}, count, seed=0)) == count


def test_metrics_by_task(tmp_path: Path) -> None:
    (tmp_path / "v=1,x").mkdir()
    assert metric_by_task(str(tmp_path / "v=1,x")) == str(tmp_path / "v=1,x")
    assert metric_by_task("sudoku") == "sudoku"
    assert metric_by_task("a=sudoku,b=answer_match") == {"a": "sudoku", "b": "answer_match"}


@pytest.mark.parametrize(
    ("given", "names", "weights"),
    [
        ([], ["fast_answer_match_sudoku", "answer_match_sudoku", "well_formed_sudoku"], [1, 0, 0]),
        (["--dataset", "tiny:chain_sum", "--metric", "well_formed"], ["fast_well_formed", "well_formed"], [1, 0]),
        (["--reward", "correctness"], ["answer_match_sudoku", "well_formed_sudoku"], [1, 0]),
        (["--reward", "correctness", "--metric", "well_formed"], ["well_formed"], None),
        (
            ["--metric", "chain_sum=well_formed+answer_match,mini_sudoku=sudoku"],
            ["fast_well_formed_sudoku", "well_formed_sudoku", "answer_match_sudoku"],
            [1, 0, 0],
        ),
    ],
)
def test_the_first_metric_is_rewarded_and_the_others_logged(given: list[str], names: list[str], weights: Any) -> None:
    script, args = parse(["--output", "o", *given], {})
    assert [reward.__name__ for reward in rewards(script)] == names and args.reward_weights == weights


def test_log_lines_are_short() -> None:
    logs = {
        "reward": 0.5,
        "rewards/fast_sudoku/mean": 0.5,
        "rewards/sudoku/mean": 0.75,
        "rewards/sudoku/std": 0.1,
        "nfe": 9.0,
    }
    assert log_line(2, 10, logs) == "update 2/10  reward 0.5  forward passes 9  accuracy 0.75"
    both = logs | {"rewards/answer_match/mean": 0.8}
    assert log_line(2, 10, both).endswith("accuracy (sudoku) 0.75  accuracy (answer_match) 0.8")
    assert log_line(4, 10, {"eval_reward": 1.0, "eval_nfe_at_speed_0": 3.0}) == "validation at 4/10  reward 1"
    assert log_line(4, 10, {"train_runtime": 1.0}) is None
