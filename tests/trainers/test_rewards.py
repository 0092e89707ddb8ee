"""Rewards: metrics of the ``evaluate`` library per completion, and what a step costs."""

from __future__ import annotations

import pytest

from hf_unmask.metrics import load_metric
from hf_unmask.trainers import EvaluateReward, SpeedReward
from hf_unmask.trainers.rewards import speed_factor

#: The published factor for 256 positions, to three digits. Source: https://arxiv.org/abs/2512.09106, n - 1 for n.
STEPS = (1, 8, 16, 32, 64, 128, 256)
FACTORS = {
    10: (1, 0.758, 0.547, 0.275, 0.059, 0.001, 0.000),
    3: (1, 0.920, 0.834, 0.679, 0.429, 0.128, 0.000),
    1: (1, 0.973, 0.941, 0.879, 0.754, 0.504, 0.004),
    0.3: (1, 0.992, 0.982, 0.962, 0.919, 0.814, 0.189),
    0: (1,) * 7,
}


def given(scores):
    """A correctness that is known beforehand."""

    def correctness(**columns):
        return scores

    return correctness


# Speed


@pytest.mark.parametrize("alpha", FACTORS)
def test_the_factor_is_the_published_one(alpha):
    """The other convention, n / L: a one-step answer would lose a part of its reward, the slowest all of it."""
    factors = [speed_factor(steps, 256, alpha) for steps in STEPS]
    assert factors == pytest.approx(FACTORS[alpha], abs=6e-4)
    assert factors[0] == 1 and factors == sorted(factors, reverse=True)


@pytest.mark.parametrize("steps", [0, 5])
def test_steps_that_cannot_be_are_refused(steps):
    """A factor above 1, or the root of a negative number, from a wrong count."""
    with pytest.raises(ValueError, match=f"1 to 4.*got {steps}"):
        speed_factor(steps, 4, 0.5)


def test_wrong_is_worth_nothing_at_any_speed_and_every_row_has_its_price():
    """A reward for fast wrong answers: the policy would collapse to one step."""
    reward = SpeedReward(given([1.0, 0.0, 1.0, 0.5, None]))
    found = reward(steps=[3, 1, 3, 2, 1], positions=[4, 4, 8, 4, 4], alpha=[1.0, 1.0, 2.0, 0.0, 1.0], completions=[])
    assert found == [pytest.approx(0.5), 0.0, pytest.approx(0.5625), 0.5, None]


def test_additive_form():
    """The ablation of the paper measured with another formula."""
    reward = SpeedReward(given([1.0, 0.0, None]), form="additive")
    assert reward(steps=[2, 4, 4], positions=[8, 8, 8], alpha=[1.0, 0.5, 1.0]) == [0.75, -0.25, None]


def test_an_unknown_form_is_refused():
    """A misspelt form that trains something else."""
    with pytest.raises(ValueError, match="got 'exponential'"):
        SpeedReward(given([]), form="exponential")


def test_names_in_the_logs():
    """Reward columns without a name, or with one that hides what is measured."""
    assert EvaluateReward("exact_match").__name__ == "exact_match"
    assert SpeedReward(EvaluateReward("exact_match")).__name__ == "fast_exact_match"
    assert EvaluateReward({"a": "exact_match", "b": "sudoku"}).__name__ == "exact_match_sudoku"


# Correctness


@pytest.mark.parametrize("chat", [False, True])
def test_a_packaged_metric_per_completion(chat):
    """A mean over the batch for everybody, or chat completions that are compared as lists."""
    texts = ["so 7", "8", "it is 9."]
    if chat:
        texts = [[{"role": "assistant", "content": text}] for text in texts]
    assert EvaluateReward("answer_match")(completions=texts, answer=["7", "7", "9"], steps=[1, 1, 1]) == [1, 0, 1]


def test_the_strict_metric_is_a_reward_that_reads_the_expression():
    """A policy that is paid for garbled work, because the column that tells is left out."""
    texts = ["5+9=14 so 14+3=17 total 17", "9+5=14 so 14+3=17 total 17", "5+9=14 so 143=17 total 17", "total 17"]
    columns = {"completions": texts, "answer": ["17"] * 4, "task": ["chain_sum"] * 4, "puzzle": [None] * 4}
    strict = EvaluateReward({"chain_sum": "well_formed", "mini_sudoku": "sudoku"})
    assert strict(**columns, expression=["5+9+3"] * 4) == [1, 0, 0, 1] and strict(**columns) == [1, 1, 0, 1]
    with pytest.raises(ValueError, match="must be one metric, got 'answer_match\\+well_formed'"):
        EvaluateReward("answer_match+well_formed")


def test_a_metric_per_task_gets_its_own_rows_and_columns():
    """Rows scored by another task's metric, in another order, or without the puzzle."""
    reward = EvaluateReward({"sum": "answer_match", "mini_sudoku": "sudoku"})
    puzzle = [[1, 2, 3, 4], [3, 4, 1, 2], [2, 1, 4, 3], [4, 3, 2, 0]]
    solved = "1234/3412/2143/4321"
    found = reward(
        completions=["total 7", solved, "8", "1234/3412/2143/4322"],
        answer=["7", solved, "7", solved],
        task=["sum", "mini_sudoku", "sum", "mini_sudoku"],
        puzzle=[None, puzzle, None, puzzle],
    )
    assert found == [1, 1, 0, 0]
    with pytest.raises(ValueError, match="no metric for the task 'code'"):
        reward(completions=["x"], answer=["y"], task=["code"])


FOREIGN = """
import datasets
import evaluate


class Shared(evaluate.Metric):
    def _info(self):
        features = datasets.Features({"predictions": datasets.Value("string"), "references": datasets.Value("string")})
        return evaluate.MetricInfo(description="", citation="", inputs_description="", features=features)

    def _compute(self, predictions, references, floor=0.0):
        shared = [len(set(p) & set(r)) / len(set(r)) for p, r in zip(predictions, references)]
        return {"shared": max(floor, sum(shared) / len(shared))}
"""


@pytest.fixture
def foreign(tmp_path):
    folder = tmp_path / "shared_letters"
    folder.mkdir()
    (folder / "shared_letters.py").write_text(FOREIGN)
    return folder


def test_a_foreign_metric_is_computed_completion_by_completion(foreign):
    """The mean of a batch as everybody's reward: all advantages of a group would vanish."""
    columns = {"completions": ["ab", "a", "x"], "answer": ["ab", "ab", "ab"]}
    assert EvaluateReward(foreign)(**columns) == [1, 0.5, 0]
    assert EvaluateReward(foreign, floor=0.25)(**columns) == [1, 0.5, 0.25]


def test_a_loaded_module_and_another_reference_column():
    """A metric that has to be loaded by us, and data sets that call the answer something else."""
    reward = EvaluateReward(load_metric("exact_match"), reference="solution")
    assert reward(completions=["a", "b"], solution=["a", "c"]) == [1, 0]


def test_a_missing_column_is_named():
    """A KeyError from inside a training step."""
    with pytest.raises(ValueError, match="no column 'answer'.*reference="):
        EvaluateReward("exact_match")(completions=["a"], solution=["a"])
    with pytest.raises(ValueError, match="`puzzle` must hold one puzzle"):
        EvaluateReward("sudoku")(completions=["1"], answer=["1"])


def test_a_metric_of_the_hub_needs_an_explicit_word():
    """Downloaded code that runs because a name was misspelt."""
    for options in ({}, {"trust_remote_code": True}, {"revision": "abc"}):
        with pytest.raises(ValueError, match="trust_remote_code=True and revision="):
            EvaluateReward("someone/metric", **options)


def test_no_metric_is_refused():
    """A run whose rewards are all zero."""
    with pytest.raises(ValueError, match="empty mapping"):
        EvaluateReward({})
