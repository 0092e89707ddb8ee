"""The embedded model and its problems are what the README says they are."""

import functools
import itertools
import json
from pathlib import Path

import pytest
import torch
from helpers import slow
from scripts import load, start
from transformers import AutoModelForMaskedLM, AutoTokenizer

import hf_unmask
from hf_unmask.cli.demo_measuring import Setting, measure
from hf_unmask.samplers import ConfidenceSampler
from hf_unmask.tiny import TASKS, HeldOut, answer_length, held_out, last_number
from hf_unmask.trainers import problems

FOLDER = Path(hf_unmask.__file__).parent / "tiny"


def test_loads_with_plain_transformers_and_is_small():
    model = AutoModelForMaskedLM.from_pretrained(FOLDER / "model")
    tokenizer = AutoTokenizer.from_pretrained(FOLDER / "model")
    assert type(model).__module__.startswith("transformers.")
    assert model.num_parameters() <= 4_000_000
    assert sum(path.stat().st_size for path in (FOLDER / "model").iterdir()) <= 8_000_000
    assert len(tokenizer) == model.config.vocab_size
    assert tokenizer.mask_token_id == model.config.mask_token_id


def test_load_tiny_is_attached_float32_and_in_eval_mode(tiny):
    model, tokenizer = tiny
    assert model.dtype == torch.float32 and not model.training
    prompt = tokenizer(["7+8-3="], return_tensors="pt")["input_ids"]
    output = model.generate(prompt, sampler=ConfidenceSampler(), max_new_tokens=answer_length("chain_sum"))
    assert output.shape == (1, prompt.shape[1] + answer_length("chain_sum"))


@pytest.mark.parametrize("text", ["7+8-3=", "sudoku _32_/1__4/_1_2/_41_=", "héllo wörld", ""])
def test_tokenizer_round_trips_any_text(tiny, text):
    _, tokenizer = tiny
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_numbers_and_cells_are_single_tokens(tiny):
    _, tokenizer = tiny
    assert all(len(tokenizer(f"={n}")["input_ids"]) == 2 for n in range(-27, 46))
    assert len(tokenizer("2143/4312/1234/3421")["input_ids"]) == 19


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """What the generator makes of the shipped problems."""
    folder = tmp_path_factory.mktemp("held-out")
    problems.write_held_out(folder)
    return folder


@pytest.mark.parametrize("task", TASKS)
def test_held_out_problems_are_disjoint(task):
    """No validation or test problem may be seen in training."""
    splits = {split: held_out(task, split) for split in ("validation", "test")}
    prompts = {split: {row.prompt for row in rows} for split, rows in splits.items()}
    assert len(prompts["test"]) >= 500 and len(prompts["validation"]) >= 200
    assert not prompts["test"] & prompts["validation"]
    train = problems.distinct(task, "train", 100, seed=1)
    assert not {row.prompt for row in train} & (prompts["test"] | prompts["validation"])
    if task == "mini_sudoku":  # disjoint by solution grid, not only by puzzle
        grids = [{row.answer for row in rows} for rows in splits.values()]
        seen = {row.answer for row in train}
        assert not grids[0] & grids[1] and not seen & (grids[0] | grids[1])


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_held_out_problems_are_what_the_generator_writes(task, written):
    train = problems.distinct(task, "train", 2000, seed=1)
    held = {row.prompt for split in ("validation", "test") for row in held_out(task, split)}
    assert not {row.prompt for row in train} & held
    for split in ("validation", "test"):
        name = f"{task}-{split}.jsonl"
        assert (written / name).read_text() == (FOLDER / name).read_text()


def test_there_are_288_grids():
    splits = problems._grid_split()
    assert len(splits) == 288


def test_worked_solutions_end_in_the_answer():
    for problem in problems.distinct("chain_sum", "train", 200, seed=3):
        assert last_number(problem.solution) == problem.answer
        expression = problem.metadata["expression"]
        assert eval(expression) == int(problem.answer)  # digits and signs only
        held = HeldOut(problem.task, problem.prompt, problem.answer, problem.metadata)
        assert held.well_formed(problem.solution) and held.well_formed(f" so the answer is {problem.answer}")
        assert not held.well_formed(problem.solution.replace("=", f"={problem.answer}1", 1))


def test_data_holds_no_worked_solution():
    row = json.loads((FOLDER / "chain_sum-test.jsonl").read_text().splitlines()[0])
    assert set(row) == {"task", "prompt", "answer", "metadata"}


@pytest.mark.parametrize(
    ("text", "number"),
    [("total -5", "-5"), ("7-3", "3"), ("", None), ("-0", "0"), ("3 apples", "3"), ("5-8=-3 giving 07", "7")],
)
def test_last_number(text, number):
    assert last_number(text) == number


def test_bad_requests_are_named():
    with pytest.raises(ValueError, match="'chess'"):
        held_out("chess", "test")
    with pytest.raises(ValueError, match="got 0"):
        held_out("chain_sum", "test", 0)
    with pytest.raises(ValueError, match="got 9999"):
        held_out("chain_sum", "test", 9999)


@pytest.mark.parametrize(("task", "least"), [slow("chain_sum", 0.65), slow("mini_sudoku", 0.8)])
def test_it_solves_held_out_problems(tiny, task, least):
    """A wrong checkpoint, tokenizer or prompt format would show here. The exact figures are in the README."""
    setting = Setting(task, answer_length(task) // 4, ConfidenceSampler())
    row = measure(*tiny, setting, held_out(task, "validation", 50))
    assert row.accuracy >= least and least - 0.1 <= row.well_formed <= row.accuracy


@pytest.fixture
def train(monkeypatch):
    """Calls the training script, whose tokenizer is made once: that takes longer than all the updates here."""
    script = load("train_tiny_denoiser")
    monkeypatch.setattr(script, "build_tokenizer", functools.cache(script.build_tokenizer))
    size = ["--batch-size", "10", "--hidden-size", "32", "--layers", "1"]

    def call(output: Path, *arguments: str) -> None:
        given = ["--output", str(output), "--updates", "4", "--save-every", "2", "--no-compile", *size, *arguments]
        start(monkeypatch, script, *given)

    return call


@pytest.mark.slow
def test_training_resumes_exactly(train, tmp_path):
    """A run that was stopped and resumed ends in the weights of an uninterrupted one, up to rounding.

    Lost momentum or another place in the stream of problems would move weights by whole updates (5e-3 and more).
    """
    train(tmp_path / "whole")
    train(tmp_path / "parts", "--stop-after", "2")
    train(tmp_path / "parts", "--export", str(tmp_path / "exported"))
    whole, parts = (torch.load(tmp_path / name / "checkpoint.pt") for name in ("whole", "parts"))
    assert whole["done"] == parts["done"] == 4
    torch.testing.assert_close(parts["model"], whole["model"], rtol=0, atol=2e-3)
    assert AutoModelForMaskedLM.from_pretrained(tmp_path / "exported").config.num_hidden_layers == 1


def test_more_problems_than_there_are(monkeypatch):
    """A search that never ends. What there is of the real ones takes hours to draw: three stand for them."""
    few = held_out("chain_sum", "test", 3)
    monkeypatch.setattr(problems, "problems", lambda *_, **__: itertools.cycle(few))
    assert problems.distinct("chain_sum", "test", 3, seed=0) == few
    with pytest.raises(ValueError, match="chain_sum has no 4 different problems in 'test', only 3: ask for fewer"):
        problems.distinct("chain_sum", "test", 4, seed=0)
