"""The packaged metrics, through the ``evaluate`` library and offline."""

from __future__ import annotations

import threading
from typing import Any

import evaluate
import pytest

from hf_unmask.metrics import METRICS, load_metric, metric_path

GRID9 = "534678912/672195348/198342567/859761423/426853791/713924856/961537284/287419635/345286179"


def score(metric: str, prediction: str, reference: str, **options: Any) -> float:
    result = load_metric(metric).compute(predictions=[prediction], references=[reference], **options)
    assert result["score"] == result["per_sample"][0]
    return result["score"]


@pytest.mark.parametrize("name", METRICS)
def test_loads_by_path_and_takes_nothing(name):
    metric = evaluate.load(str(metric_path(name)), keep_in_memory=True)
    options = {"code_tests": {"allow_code_execution": True}, "sudoku": {"puzzle": []}}.get(name, {})
    assert metric.compute(predictions=[], references=[], **options)["score"] == 0.0


def test_score_is_the_mean():
    result = load_metric("exact_match").compute(predictions=[" a\n", "b", "c"], references=["a", "b", "d"])
    assert result["per_sample"] == [1.0, 1.0, 0.0] and result["score"] == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("prediction", "reference", "right"),
    [
        ("4+2=6 so 6+5=11 total 11", "11", 1),
        ("11 or 12", "11", 0),
        ("7-3", "3", 1),
        ("5-8=-3", "-3", 1),
        ("5-8=3", "-3", 0),
        ("5−8=−3", "-3", 1),
        ("\\boxed{−3}", "-3", 1),
        ("9" * 5000, "9", 0),  # Python makes no int of it
        ("it costs $1,234.50.", "1234.5", 1),
        ("", "3", 0),
        ("#### 72\nand 5 more", "She has 7 boxes\n#### 72", 1),
        ("<answer>72 eggs</answer>", "72", 1),
        ("72 <answer>no idea</answer>", "72", 0),
        ("\\boxed{3} or rather \\boxed{\\frac{1}{2}}", "0.5", 1),
        ("\\boxed{\\frac{1}{2}}", "2", 0),
        ("\\boxed{1+x}", "x+1", 1),
        ("\\boxed{1+x}", "the sum is \\boxed{x+1}", 1),
        ("\\boxed{x+2}", "x+1", 0),
        ("\\boxed{unclosed", "4", 0),
    ],
)
def test_answer_match(prediction, reference, right):
    assert score("answer_match", prediction, reference) == right


def test_answers_have_a_common_form():
    texts = ["total 07", "so 7.0", "#### 7", "\\boxed{x}", " none "]
    result = load_metric("answer_match").compute(predictions=texts, references=["7"] * 5)
    assert result["answers"] == ["7", "7", "7", "x", "none"]


def test_answer_match_works_in_a_thread():
    """math-verify's time limit is a signal, which only the main thread may set."""
    found: list[float] = []
    thread = threading.Thread(target=lambda: found.append(score("answer_match", "\\boxed{1+x}", "x+1")))
    thread.start()
    thread.join()
    assert found == [1.0]


@pytest.mark.parametrize(
    ("grid", "puzzle", "right"),
    [
        ("2134/3421/1342/4213", "2___/3__1/_342/_2__", 1),
        ("2134/3421/1342/4213", [[2, 0, 0, 0], [3, 0, 0, 1], [0, 3, 4, 2], [0, 2, 0, 0]], 1),
        ("2134\n3421\n1342\n4213\n", "2___/3__1/_342/_2__", 1),
        ("2134/3421/1342/4213", "1___/3__1/_342/_2__", 0),  # clue changed
        ("2134/3421/1342/421", "2___/3__1/_342/_2__", 0),
        ("2134/3421/1342/4213 done", "2___/3__1/_342/_2__", 0),
        ("1234/2341/3412/4123", "____/____/____/____", 0),  # rows and columns, but not boxes
        ("1234/3412/2143/4321", "____/____/____/____", 1),  # any solution
        ("4321/2143/3412/1234", "____/____/____/____", 1),
        ("2134/3421/1342/4215", "____/____/____/____", 0),
        ("", "____/____/____/____", 0),
        (GRID9, "." * 81, 1),
        (GRID9.replace("5", "1"), "." * 81, 0),
    ],
)
def test_sudoku(grid, puzzle, right):
    assert score("sudoku", grid, "another solution", puzzle=[puzzle]) == right


@pytest.mark.parametrize(
    ("puzzle", "says"),
    [
        (None, "`puzzle`"),
        ([], "`puzzle`"),
        (["12"], "square"),
        (["123456789"], "4x4 or 9x9"),
        (["5" * 16], "outside 0 to 4"),
    ],
)
def test_sudoku_refuses(puzzle, says):
    with pytest.raises(ValueError, match=says):
        score("sudoku", "1", "1", **({} if puzzle is None else {"puzzle": puzzle}))


@pytest.mark.parametrize("options", [{}, {"trust_remote_code": True}, {"revision": "abc"}])
def test_hub_metrics_are_opt_in(options):
    with pytest.raises(ValueError, match="trust_remote_code=True and revision"):
        load_metric("someone/metric", **options)


def test_a_folder_of_the_same_name_is_not_taken(tmp_path, monkeypatch):
    (tmp_path / "exact_match").mkdir()
    (tmp_path / "exact_match" / "exact_match.py").write_text("raise SystemError")
    monkeypatch.chdir(tmp_path)
    assert score("exact_match", "a", "a") == 1
    with pytest.raises(ValueError, match="no packaged metric 'bleu'; there are answer_match"):
        metric_path("bleu")
