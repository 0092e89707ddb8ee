"""Work that is judged step by step: known answers, and texts that try to take forever."""

from __future__ import annotations

import shutil
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from hf_unmask.evaluation.problems import load_problems
from hf_unmask.evaluation.scoring import Scorer
from hf_unmask.metrics import load_metric, metric_path
from hf_unmask.metrics.well_formed.written_work import read_expression, well_formed

SUM, BELOW = "5+9+3+7=", "2-7+3"

#: what is to be worked out, the answer, a text, and whether it is well formed with the expression and without
KNOWN = [
    (SUM, 24, "5+9=14 which means that 14+3=17 then 17+7=24 total 24", 1, 1),
    (SUM, 24, "5+9=14 so 14+3=17 and so 17+7=24 and that in turn gives us", 1, 1),  # ends in its last step
    (SUM, 24, "5 + 9 = 14, 14 + 3 + 7 = 24.", 1, 1),
    (SUM, 24, "so the answer is 24", 1, 1),
    (SUM, 24, "colourless green 24 sleep", 1, 1),  # words are free
    (SUM, 24, "so the answer is 23", 0, 0),
    (SUM, 24, "", 0, 0),
    (SUM, 24, "so the answer is", 0, 0),
    ("10+1", 11, "then 66441010after means we have 10+1=11", 0, 0),
    (SUM, 24, "5+9=13 so 14+3=17 then 17+7=24 total 24", 0, 0),  # a wrong step
    (SUM, 24, "5+9=14 so 15+3=18 then 18+6=24 total 24", 0, 0),  # one that does not go on from the one before
    (SUM, 24, "5+9=14 so 14+3=17 then 17+7=24 total 25", 0, 0),  # right steps, wrong end
    (SUM, 24, "5+9=14 so 14+3=17 then 17+8=25 total 25", 0, 0),
    (SUM, 24, "5+9=14 total 24", 0, 0),  # steps that do not lead there
    (SUM, 24, "5+3=8 so 8+9=17 then 17+7=24 total 24", 0, 1),  # another order
    (SUM, 24, "14+3=17 then 17+7=24 total 24", 0, 1),  # no beginning
    ("5+9+0", 14, "5+9=14 total 14", 0, 1),  # a term that is left out
    (SUM, 24, "17+7=24 then 5+9=14 so 14+3=17 total 24", 0, 0),  # steps out of order
    (SUM, 24, "5+9=14 so 14+3=17 17 then 17+7=24 total 24", 0, 0),  # a number too many
    (SUM, 24, "5+9=14=14 so 14+3=17 then 17+7=24", 0, 0),
    (SUM, 24, "5+9=14+3=17 then 17+7=24", 0, 0),
    (SUM, 24, "5+9=14 so =17 then 17+7=24", 0, 0),
    (SUM, 24, "5+9=14 so 14+=3 then 17+7=24", 0, 0),
    (SUM, 24, "5+9+3+7 total 24", 0, 0),
    (SUM, 24, "so 24=24", 0, 0),
    (SUM, 24, "the answer = 24", 0, 0),
    (BELOW, -2, "2-7=-5 so -5+3=-2 total -2", 1, 1),
    (BELOW, -2, "2−7=−5 so −5+3=−2 total −2", 1, 1),
    (BELOW, -2, "2 -7 = -5 so -5 + 3 = -2", 1, 1),
    (BELOW, -2, "2+-7=-5 so -5+3=-2", 1, 1),
    (BELOW, -2, "2-7=5 so 5+3=-2 total -2", 0, 0),
    (BELOW, -2, "2-7=-5 so -5+3=-2 total 2", 0, 0),
    ("48/2+48", 72, "48/2=24 clips in May and 24+48=72, altogether $72", 1, 1),
    ("1.5*4", 6, "1.5×4=6.0", 1, 1),
    ("2+3*4", 14, "2+3*4=14", 1, 1),
    ("5/0", 5, "5/0=5", 0, 0),
    ("1,000+5", 1005, "1,000+5=1005", 1, 1),
    ("48/2+48", 72, "48 friends, and 48/2=24 in May so 24+48=72", 0, 0),  # a number in prose
    ("48/2+48", 72, "48/2=<<48/2=24>>24 so 24+48=<<24+48=72>>72", 0, 0),  # GSM8K's form
]


@pytest.mark.parametrize(("expression", "answer", "text", "with_it", "without"), KNOWN)
def test_known_answers(expression: str, answer: int, text: str, with_it: int, without: int) -> None:
    assert well_formed(text, Fraction(answer), read_expression(expression)) == with_it
    assert well_formed(text, Fraction(answer)) == without


def test_the_metric_says_what_the_judge_says() -> None:
    """Another column's rows, an expression that only some rows have, right work to a wrong answer."""
    expressions, answers, texts, with_it, without = map(list, zip(*KNOWN, strict=True))
    metric, given = load_metric("well_formed"), {"predictions": texts, "references": list(map(str, answers))}
    result = metric.compute(**given, expression=expressions)
    assert result["per_sample"] == with_it and result["score"] == pytest.approx(sum(with_it) / len(KNOWN))
    assert metric.compute(**given)["per_sample"] == without
    assert metric.compute(**given, expression=[None, *expressions[1:]])["per_sample"] == [1, *with_it[1:]]
    assert result["answers"][:2] == ["24", "24"] and result["answers"][6] == "" and "-2" in result["answers"]
    right = load_metric("answer_match").compute(**given)["per_sample"]
    assert all(mine <= theirs for mine, theirs in zip(without, right, strict=True))
    assert metric.compute(predictions=["5+6=11"], references=["5+6=11\n#### 11"])["score"] == 1


@pytest.mark.parametrize(
    ("reference", "options", "says"),
    [
        ("eleven", {}, "the reference 'eleven' holds none: use answer_match"),
        ("11", {"expression": ["5 apples"]}, "e.g. 5\\+9-3, got '5 apples'"),
        ("11", {"expression": ["5+6=11"]}, "got '5\\+6=11'"),
        ("11", {"expression": [""]}, "got ''"),
        ("11", {"expression": []}, "`expression` must hold one per prediction, got 0 for 1"),
    ],
)
def test_what_it_cannot_judge(reference: str, options: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        load_metric("well_formed").compute(predictions=["5+6=11"], references=[reference], **options)


@pytest.mark.parametrize(
    "text",
    {
        "a long number": "9" * 200_000,
        "long numbers": ("9" * 100 + "+") * 1000 + "1=1",
        "a product": "9*" * 5000 + "9=9",
        "a sum of fractions": "+".join(f"1/{n}" for n in range(1, 3000)) + "=1",
        "thousands": "1,111," * 20_000,
        "signs": "-" * 100_000 + "=" * 100_000,
        "steps": "1+0=1 so " * 3000 + "1+1=3",
    }.items(),
    ids=lambda item: item[0],
)
def test_no_text_takes_long(text: tuple[str, str]) -> None:
    """Numbers that double their digits at every sign, and ones of which Python refuses to make an int."""
    began = time.process_time()
    assert not well_formed(text[1], Fraction(1))
    assert load_metric("answer_match").compute(predictions=[text[1]], references=["8"])["score"] == 0
    assert time.process_time() - began < 2


def test_a_prompt_may_be_the_expression() -> None:
    """Terms in any order that pass because the data set calls the expression otherwise."""
    rows = [{"prompt": "5+9=", "answer": "14"}] * 2
    scorer, texts = Scorer.of("well_formed", {}), ["5+9=14", "9+5=14"]
    assert scorer(texts, load_problems(rows, columns={"expression": "prompt"})) == ([1, 0], ["14", "14"])
    assert scorer(texts, load_problems(rows))[0] == [1, 1]


def test_a_copy_stands_alone_and_its_fingerprint_covers_the_judge(tmp_path: Path) -> None:
    """A metric that needs this package beside it; an evaluation that goes on with another judge."""
    copy = tmp_path / "well_formed"
    shutil.copytree(metric_path("well_formed"), copy, ignore=shutil.ignore_patterns("__pycache__"))
    packaged, copied = Scorer.of("well_formed", {}), Scorer.of(copy, {})
    assert copied.fingerprint == packaged.fingerprint != Scorer.of("answer_match", {}).fingerprint
    judge = copy / "written_work.py"
    assert "hf_unmask" not in judge.read_text() + (copy / "well_formed.py").read_text()
    judge.write_text(judge.read_text().replace("_LONGEST = 100 ", "_LONGEST = 90 "))
    assert Scorer.of(copy, {}).fingerprint != packaged.fingerprint
