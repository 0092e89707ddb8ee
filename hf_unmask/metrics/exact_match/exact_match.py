"""Exact match: a prediction is right if it equals its reference up to surrounding white space."""

from __future__ import annotations

from typing import Any

import datasets  # type: ignore[import-untyped]
import evaluate  # type: ignore[import-untyped]

_DESCRIPTION = "Share of predictions that equal their reference, white space at both ends aside."
_INPUTS = """predictions, references: lists of str.
Returns {"score": float in 0..1, "per_sample": one 0.0 or 1.0 per prediction}; the score of no predictions is 0."""


class ExactMatch(evaluate.Metric):  # type: ignore[misc]
    """Equality of stripped strings."""

    def _info(self) -> evaluate.MetricInfo:
        text = datasets.Value("string")
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="",
            inputs_description=_INPUTS,
            features=datasets.Features({"predictions": text, "references": text}),
        )

    def _compute(self, predictions: list[str], references: list[str]) -> dict[str, Any]:
        pairs = zip(predictions, references, strict=True)
        scores = [float(prediction.strip() == reference.strip()) for prediction, reference in pairs]
        return {"score": sum(scores) / max(len(scores), 1), "per_sample": scores}
