"""The command line, on the embedded model."""

from __future__ import annotations

import importlib
import json
import math
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from commands import call
from old_code import old_checkpoint
from torch.nn.modules.module import register_module_forward_pre_hook
from training import tiny_tokenizer
from typer.main import get_command

from hf_unmask import __version__
from hf_unmask.cli.demo_measuring import Setting, answer, typical
from hf_unmask.cli.main import app
from hf_unmask.cli.vocabulary import OLDER, Words, settled
from hf_unmask.evaluation import pace, running
from hf_unmask.generation.configuration import DEFAULTS
from hf_unmask.results.records import read_samples
from hf_unmask.samplers import LeftToRightSampler, ThresholdSampler
from hf_unmask.tiny import answer_length, held_out, load_tiny

demo = importlib.import_module("hf_unmask.cli.demo")  # `hf_unmask.cli.main` has a function of that name
GENERATE = ["generate", "--model", "tiny", "--max-new-tokens", "12", "--sampler", "left_to_right:k=4"]
DEMO = ["demo", "--limit", "2", "--sampler", "left_to_right:k=48"]


pytestmark = pytest.mark.usefixtures("library_logging")


def test_version() -> None:
    assert call("--version").stdout.strip() == __version__


def test_help_is_quick() -> None:
    """Help, the list of samplers and what is misspelt must not wait seconds for torch."""
    asked = (
        ["--help"],
        ["samplers"],
        ["generat"],
        ["generate", "--model", "tiny", "--prompt", "a", "--sampler", "thresold"],
        ["evaluate", "--sampler", "threshold:high"],
        ["generate", "--model", "tiny", "--prompt", "a", "--sampler", "threshold:2"],
        ["demo", "--sampler", "klass:0.9;x=2"],
        ["evaluate", "--output", __file__],
        ["train", "--output", "o", "--learning-rat", "1"],
        ["train", "--output", "o", "--max_new_tokens", "many"],
        ["train", "--output", "o", "--dataset", "./no.jsonl", "--metric", "sudoku"],
    )
    code = (
        f"import sys\nfrom hf_unmask.cli.main import main\nfor asked in {asked!r}:\n"
        "    sys.argv = ['hf-unmask', *asked]\n    try:\n        main()\n    except SystemExit as end:\n"
        "        print('code', end.code)\n"
        "print('heavy:', {'torch', 'transformers', 'tokenizers', 'numpy', 'trl'} & set(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "heavy: set()" in result.stdout and "generate" in result.stdout
    assert [line for line in result.stdout.splitlines() if line[:4] == "code"] == ["code 0"] * 2 + ["code 2"] * 9
    assert result.stderr.count("error: ") == 9


def test_samplers() -> None:
    text = call("samplers").stdout
    assert "threshold=0.9" in text and "https://arxiv.org/abs/2505.22618" in text
    rows = json.loads(call("samplers", "--json").stdout)["samplers"]
    assert {"threshold", "learned"} <= {row["name"] for row in rows}


def test_models() -> None:
    """A family that is listed without saying what its support rests on."""
    text = call("models").stdout
    rows = json.loads(call("models", "--json").stdout)["models"]
    assert all(f"cache {row['cache']}" in text for row in rows)
    assert {row["tested on"] for row in rows} <= {"real weights", "native class", "double", "expected"}
    assert all(f"{row['family']}  (tested on: {row['tested on']})" in text for row in rows) and len(rows) > 8


def test_generate_prints_one_text_per_prompt() -> None:
    result = call(*GENERATE, "--prompt", "3+4-2=", "--prompt", "5+8+1+1=")
    lines = result.stdout.splitlines()
    assert len(lines) == 2 and lines[0].startswith("3+4")
    cost = r"2 answers: 3 forward passes, 4\.00 tokens per forward pass on average, \d+\.\d\d s together\n"
    assert re.fullmatch(cost, result.stderr)


def test_generate_json() -> None:
    result = call(*GENERATE, "--prompt", "3+4-2=", "--prompt", "5+8+1+1=", "--json", "--watch", "--seed", "3")
    value = json.loads(result.stdout)
    assert value["sampler"] == "left_to_right:k=4" and value["seed"] == 3
    first, second = value["results"]
    assert first["nfe"] == 3 and first["complete"] and len(second["tokens"]) == len(second["step_map"]) == 12
    assert "step   1" in result.stderr


def test_generate_takes_every_option_of_generate() -> None:
    """One that is left out can only be had in Python."""
    taken = {one.name for one in get_command(app).commands["generate"].params}  # type: ignore[attr-defined]
    # masks are named by the prompt's own mask tokens, and what is returned is printed
    assert set(DEFAULTS) - taken == {"fill_mask", "return_dict_in_generate"}


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ("`block_length` must be 1, got 0", "`--block_length` must be 1, got 0"),
        (
            "allow more with max_bytes=8; `seed=3` and `top_k=2`",
            "allow more with --max-bytes 8; `--seed 3` and `top_k=2`",
        ),
        ("use --block-length 2 or --out", "use --block_length 2 or --output"),
        ("a folder 'my seed=5' and /x/--out", "a folder 'my seed=5' and /x/--out"),
        ("sampler spec 'a:seed=5': `seed` must be 1", "sampler spec 'a:seed=5': `seed` must be 1"),
    ],
)
def test_errors_speak_of_options(message: str, said: str) -> None:
    """As they were typed, and of nothing that is only called so: a folder, a sampler's own parameter."""
    assert Words.of(["seed", "output", "max-bytes", "block-length"], ["--block_length", "0"]).say(message) == said


def test_one_thing_has_one_name() -> None:
    """Options of all commands: none is the older name of another, and names that differ mean different things."""
    commands = get_command(app).commands  # type: ignore[attr-defined]
    names = {name for command in commands.values() for one in command.params for name in one.opts if name[:2] == "--"}
    assert {f"--{settled(name[2:])}" for name in names} == names
    assert not names & {f"--{older}" for older in OLDER}


def test_generate_fills_gaps() -> None:
    assert "<mask>" not in call(*GENERATE, "--max-new-tokens", "0", "--prompt", "3+4=<mask>").stdout


def test_greedy_is_greedy_whatever_the_model_says(tmp_path: Path) -> None:
    """A checkpoint whose own config draws tokens, or decodes in blocks, where the command does not."""
    drawing = "generation_config = GenerationConfig(do_sample=True, temperature=3.0, block_length=2)"
    folders = [old_checkpoint(tmp_path / "bare", None), old_checkpoint(tmp_path / "drawing", None, attributes=drawing)]
    found, evaluated = [], []
    (tmp_path / "rows.jsonl").write_text(json.dumps({"prompt": "abc", "answer": "d"}))
    data = ["--dataset", str(tmp_path / "rows.jsonl"), "--metric", "answer_match", "--block-lengths", "full,2"]
    for folder in folders:
        tiny_tokenizer().save_pretrained(folder)
        asked = ["--model", folder, "--trust-remote-code", "--max-new-tokens", "8"]
        prompt = ["--prompt", "abc", "--json"]
        results = [json.loads(call("generate", *asked, *prompt, *more).stdout) for more in ([], ["--temperature", "3"])]
        found.append([result["results"] for result in results])
        call("evaluate", *asked, *data, "--sampler", "threshold", "--out", f"{folder}-out")
        evaluated.append([sample.tokens for sample in read_samples(Path(f"{folder}-out", "samples.jsonl"))])
    (bare, _), (greedy, hot) = found
    assert greedy == bare != hot
    assert evaluated[0] == evaluated[1] and len(evaluated[0]) == 2


def test_generate_dtype_and_device() -> None:
    call(*GENERATE, "--prompt", "3+4-2=", "--dtype", "bfloat16", "--device", "cpu", "--temperature", "0.5")


@pytest.mark.slow
def test_watch_in_a_pipe_is_plain() -> None:
    """A real pipe: no escape codes, one line per step."""
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "hf_unmask.cli.main", *GENERATE, "--prompt", "3+4-2=", "--watch"]
    result = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert "\x1b" not in result.stdout
    assert [line[:8] for line in result.stdout.splitlines()[:3]] == ["step   1", "step   2", "step   3"]


def test_demo() -> None:
    text = call(*DEMO).stdout
    assert f"chain_sum, blocks of {answer_length('chain_sum') // 4}" in text and "mini_sudoku, full diffusion" in text
    assert "forward passes; the answer is" in text and "\x1b" not in text


def test_the_answer_that_the_demo_shows_is_typical() -> None:
    """The first problem is no choice, but neither is it typical: here it takes more than the median."""
    model, tokenizer = load_tiny()
    setting = Setting("chain_sum", 10, ThresholdSampler(0.9))
    problems = held_out("chain_sum", "validation", 6)
    _, output = answer(model, tokenizer, setting, [problem.prompt for problem in problems])
    found = problems.index(typical(model, tokenizer, setting, problems))
    spent = output.nfe.tolist()
    assert spent[found] == sorted(spent)[2] < spent[0] and spent.index(spent[found]) == found


def test_long_work_says_how_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What will be done, what of it is there already and what is left, on stderr."""
    monkeypatch.setattr(running, "WORTH_SAYING", 0.0)
    command = ["evaluate", "--dataset", "tiny:chain_sum", "--samplers", "left_to_right:k=40", "--out", tmp_path / "out"]
    command += ["--limit", "2", "--batch-size", "1", "--json"]
    said = call(*command).stderr.splitlines()
    assert said == ["1 setting on 2 prompts: 2 batches", "1 of 2 batches done, about 5 s to go"]
    again = call(*command).stderr
    assert again == f"1 setting on 2 prompts: 2 batches, 2 of them already in {tmp_path / 'out'}\n"
    monkeypatch.setattr(pace, "WORTH_SAYING", 0.0)
    monkeypatch.setattr(demo, "_MUCH", 0)
    said = call(*DEMO).stderr.splitlines()
    assert said[0] == "1 sampler on 4 problems; the first tells how long it takes" and said[1] == "about 5 s to go"


def test_times_are_round() -> None:
    assert [pace.duration(seconds) for seconds in (0.1, 41, 89, 100, 5300, 8000)] == [
        *("5 s", "45 s", "90 s", "2 min", "88 min", "2 h 10 min")
    ]
    assert [expected(k, 10) for k in (1, 3, 40)] == [40, 16, 4] and expected(None, 10) == 12
    half = pace.Pace(4.0)
    assert half.left == math.inf
    half.began -= 6
    half.add(3)
    assert half.left == pytest.approx(2, abs=0.1)


def expected(k: int | None, block_length: int) -> float:
    rule = ThresholdSampler() if k is None else LeftToRightSampler(k=k)
    return pace.expected_forwards(rule, 40, block_length)


def test_demo_json() -> None:
    value = json.loads(call(*DEMO, "--split", "test", "--json").stdout)
    assert value["finished"] and value["split"] == "test" and len(value["rows"]) == 4
    row = value["rows"][0]
    assert row["nfe"] == 4 and row["tokens_per_forward"] == answer_length("chain_sum") / 4 and 0 <= row["accuracy"] <= 1


def test_demo_ends_cleanly_with_ctrl_c() -> None:
    """The rows so far are printed, not lost."""
    calls = 0

    def press(module: Any, inputs: Any) -> None:
        nonlocal calls
        calls += type(module).__name__.endswith("ForMaskedLM")
        if calls == 5:  # the first row takes 4
            calls += 1
            signal.raise_signal(signal.SIGINT)

    hook = register_module_forward_pre_hook(press)
    # a test run started in the background may ignore the signal
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        result = call(*DEMO, "--json", code=130)
    finally:
        signal.signal(signal.SIGINT, before)
        hook.remove()
    value = json.loads(result.stdout)
    assert len(value["rows"]) == 1 and not value["finished"]
    assert result.stderr.strip() == "interrupted"


@pytest.mark.parametrize(
    "arguments, says",
    [
        ([*GENERATE[:5], "--sampler", "thresold", "--prompt", "a"], "did you mean 'threshold'"),
        (["generate", "--model", "./no/such/folder", "--prompt", "a"], "no/such/folder"),
        ([*GENERATE, "--prompt", "1+1=", "--temperature", "-1"], "temperature"),
        (
            [*GENERATE, "--prompt", "1+1=", "--block-length", "0"],
            "`--block-length` must be at least 1, or full, got",
        ),
        ([*GENERATE, "--prompt", "1+1=", "--dtype", "int3"], "int3"),
        ([*GENERATE, "--prompt", "1+1=", "--device", "nowhere"], "nowhere"),
        ([*GENERATE, "--prompt", "1+1=", "--chat"], "no chat template"),
        ([*GENERATE, "--max-new-tokens", "9999", "--prompt", "1+1="], "lower `--max-new-tokens 9999`"),
        ([*GENERATE, "--max_new_tokens", "9999", "--prompt", "1+1="], "lower `--max_new_tokens 9999`"),
        (["demo", "--limit", "1000000"], "1000000"),
        (["demo", "--split", "train"], "train"),
    ],
)
def test_errors_are_one_line(arguments: list[str], says: str) -> None:
    result = call(*arguments, code=2)
    assert result.stdout == "" and len(result.stderr.strip().splitlines()) == 1
    assert result.stderr.startswith("error: ") and says in result.stderr


def test_traceback_on_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_UNMASK_TRACEBACK", "1")
    result = call(*GENERATE, "--prompt", "a", "--sampler", "nope", code=1)
    assert isinstance(result.exception, ValueError)


def test_a_policy_is_shown_in_the_regime_it_was_trained_for() -> None:
    """A demo in which a policy for blocks of 8 runs in full diffusion, with a warning instead of what it can do."""
    from hf_unmask.cli.demo_measuring import settings
    from hf_unmask.policy import UnmaskingPolicy, UnmaskingPolicyConfig
    from hf_unmask.samplers import LearnedUnmaskingSampler, LeftToRightSampler

    def learned(**trained_for: Any) -> LearnedUnmaskingSampler:
        return LearnedUnmaskingSampler(UnmaskingPolicy(UnmaskingPolicyConfig(trained_for=trained_for)))

    samplers = [LeftToRightSampler(), learned(block_length=8), learned(block_length=None), learned()]
    found = [(samplers.index(one.sampler), one.block_length) for one in settings(samplers, ["chain_sum"])]
    assert found == [(0, 10), (3, 10), (1, 8), (0, None), (2, None), (3, None)]


@pytest.mark.slow
def test_a_reader_who_has_enough_is_no_error() -> None:
    program = [sys.executable, "-m", "hf_unmask.cli.main", "models"]
    with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 1
