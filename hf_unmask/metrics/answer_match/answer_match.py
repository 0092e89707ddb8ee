"""Answer match: the final answer of a text against that of a reference, for arithmetic and GSM8K-style answers.

The answer of a text is, whichever comes first in this list: its last ``\\boxed{...}``, what follows its last ``####``,
what its last ``<answer>...</answer>`` holds, its last number. Two plain numbers are compared exactly, everything else
by the math-verify library (https://github.com/huggingface/Math-Verify).
"""

from __future__ import annotations

import re
import threading
from fractions import Fraction
from typing import Any

import datasets  # type: ignore[import-untyped]
import evaluate  # type: ignore[import-untyped]

_DESCRIPTION = "Share of predictions whose final answer is mathematically equal to that of their reference."
_INPUTS = """predictions, references: lists of str. Both may hold working before the answer; a reference without a mark
(\\boxed{}, ####, <answer>) is the answer as a whole.
Returns {"score": float in 0..1, "per_sample": one 0.0 or 1.0 per prediction, "answers": one str per prediction, the
answer that was compared, numbers in lowest terms}; the score of no predictions is 0."""

#: The minus of "7-3" is a subtraction, that of "=-3" a sign.
_NUMBER = re.compile(r"(?:(?<![\w).])-)?(?:(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)")
_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
_BOX = "\\boxed{"
_MINUS = "\N{MINUS SIGN}"
_LONGEST = 1000  # characters of a number; Python's int() refuses some thousands
_TIME_LIMIT = 5  # seconds for parsing, and again for comparing, one pair


class AnswerMatch(evaluate.Metric):  # type: ignore[misc]
    """Equality of final answers."""

    def _info(self) -> evaluate.MetricInfo:
        text = datasets.Value("string")
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="",
            inputs_description=_INPUTS,
            features=datasets.Features({"predictions": text, "references": text}),
        )

    def _compute(self, predictions: list[str], references: list[str]) -> dict[str, Any]:
        scores, answers = [], []
        for prediction, reference in zip(predictions, references, strict=True):
            wanted = marked(reference)
            scores.append(float(matches(prediction, reference if wanted is None else wanted)))
            answers.append(common_form(prediction))
        return {"score": sum(scores) / max(len(scores), 1), "per_sample": scores, "answers": answers}


def matches(prediction: str, wanted: str) -> bool:
    """Whether the answer of ``prediction`` equals the answer ``wanted``."""
    number, found = plain_number(wanted), marked(prediction)
    if found is None:
        if number is None:
            return _equal(wanted, prediction)
        return last_number(prediction) == number
    if number is not None:
        given = plain_number(found)
        if given is None and "\\" not in found:  # "72 eggs", but not "\frac{1}{2}", whose last number says nothing
            return _equal(wanted, _boxed(found)) or last_number(found) == number
        if given is not None:
            return given == number
    return _equal(wanted, _boxed(found))


def marked(text: str) -> str | None:
    """The answer that a text marks as such, None if it marks none."""
    box = _last_box(text)
    if box is not None:
        return box
    if "####" in text:
        return text.rpartition("####")[2].strip().partition("\n")[0]
    found = _ANSWER.findall(text)
    return str(found[-1]).strip() if found else None


def common_form(text: str) -> str:
    """The answer of a text for votes: equal numbers become equal strings."""
    found = marked(text)
    number = last_number(text) if found is None else plain_number(found)
    return str(number) if number is not None else (text if found is None else found).strip()


def plain_number(text: str) -> Fraction | None:
    """The number that the whole text is, thousands separators, currency and a closing full stop aside."""
    bare = text.strip().strip("$").removesuffix(".").strip().replace(_MINUS, "-")
    return _fraction(bare) if _NUMBER.fullmatch(bare) else None


def last_number(text: str) -> Fraction | None:
    """The last number in a text; None if there is none, or it is too long to be one."""
    found = _NUMBER.findall(text.replace(_MINUS, "-"))
    return _fraction(found[-1]) if found else None


def _fraction(number: str) -> Fraction | None:
    return Fraction(number.replace(",", "")) if len(number) <= _LONGEST else None


def _last_box(text: str) -> str | None:
    """Content of the last complete ``\\boxed{...}``; braces may nest."""
    start = text.rfind(_BOX)
    while start >= 0:
        depth = 1
        for place in range(start + len(_BOX), len(text)):
            depth += (text[place] == "{") - (text[place] == "}")
            if not depth:
                return text[start + len(_BOX) : place].strip()
        start = text.rfind(_BOX, 0, start)
    return None


def _boxed(answer: str) -> str:
    return f"{_BOX}{answer}}}"


def _equal(wanted: str, given: str) -> bool:
    """math-verify's verdict; ``given`` may be a whole text, of which it finds the answer itself."""
    from math_verify import parse, verify  # type: ignore[import-untyped]

    # its time limit is an alarm signal, which only the main thread can set
    limit = _TIME_LIMIT if threading.current_thread() is threading.main_thread() else 0
    gold = parse(_boxed(wanted), parsing_timeout=limit)
    return bool(verify(gold, parse(given, parsing_timeout=limit), timeout_seconds=limit))
