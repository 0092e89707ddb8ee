"""Well formed: a prediction is right if its work is, not only its last number.

Every written step must be an equation that holds, begin with the result of the one before and lead to the answer, and
no number may stand elsewhere; the answer alone, without steps, is well formed too. Wording is free: words are not
judged, be they nonsense. `written_work` beside this file is the judge.

Made for sums worked out in one line of thought. Solutions that branch, tell a story with numbers in it, or carry the
``<<48/2=24>>`` of GSM8K are not of this form and count as wrong: judge those by ``answer_match``.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import datasets  # type: ignore[import-untyped]
import evaluate  # type: ignore[import-untyped]

from .written_work import last_number, read_expression, well_formed

_DESCRIPTION = "Share of predictions whose written steps are equations that hold, follow and end in the right answer."
_INPUTS = """predictions: list of str, the work: equations (numbers, + - * / and =) with any words between them, or the
answer alone. An equals or plus sign outside an equation and any number that stands neither in one nor last are wrong.
references: list of str; the answer is the last number of each.
expression: optional keyword argument, per prediction what is to be worked out from left to right, e.g. "5+9-3=", or
None. With it the steps must use its terms in order, all of them; without it each step but the first must begin with the
result of the one before.
Returns {"score": float in 0..1, "per_sample": one 0.0 or 1.0 per prediction, "answers": one str per prediction, its
last number in lowest terms}; the score of no predictions is 0."""


class WellFormed(evaluate.Metric):  # type: ignore[misc]
    """The right answer by steps that hold and follow."""

    def _info(self) -> evaluate.MetricInfo:
        text = datasets.Value("string")
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="",
            inputs_description=_INPUTS,
            features=datasets.Features({"predictions": text, "references": text}),
        )

    def _compute(
        self, predictions: list[str], references: list[str], expression: Sequence[str | None] | None = None
    ) -> dict[str, Any]:
        if expression is not None and len(expression) != len(predictions):
            raise ValueError(f"`expression` must hold one per prediction, got {len(expression)} for {len(predictions)}")
        terms = [None if one is None else read_expression(one) for one in expression or [None] * len(predictions)]
        wanted = [_answer(reference) for reference in references]
        scores = [float(well_formed(*row)) for row in zip(predictions, wanted, terms, strict=True)]
        answers = [_common_form(prediction) for prediction in predictions]
        return {"score": sum(scores) / max(len(scores), 1), "per_sample": scores, "answers": answers}


def _answer(reference: str) -> Fraction:
    found = last_number(reference)
    if found is None:
        raise ValueError(f"well_formed judges numbers, but the reference {reference!r} holds none: use answer_match")
    return found


def _common_form(text: str) -> str:
    number = last_number(text)
    return text.strip() if number is None else str(number)
