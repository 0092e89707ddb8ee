"""Metrics behind one call: scores per answer from any module of the ``evaluate`` library."""

from __future__ import annotations

import hashlib
import inspect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hf_unmask.evaluation.problems import Problem
from hf_unmask.metrics import load_metric

#: The metric of a packaged task.
TINY_METRICS = {"chain_sum": "answer_match", "mini_sudoku": "sudoku"}


@dataclass(frozen=True)
class Scorer:
    """A metric and the options of its ``compute``."""

    metric: Any
    options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, metric: Any, options: Mapping[str, Any]) -> Scorer:
        """From a module, or from the name or path of one. Options that the metric does not take are left out."""
        module = load_metric(metric) if isinstance(metric, str | Path) else metric
        if not hasattr(module, "compute"):
            raise ValueError(f"`metric` must be a name, a path or an evaluate module, got {metric!r}")
        return cls(module, {name: value for name, value in options.items() if name in _keywords(module)})

    @property
    def name(self) -> str:
        """Name of the module."""
        return str(getattr(self.metric, "name", type(self.metric).__name__))

    @property
    def fingerprint(self) -> str:
        """Hash of the module's source and options; of its name where there is no source."""
        try:
            source = inspect.getsource(inspect.getmodule(type(self.metric)) or type(self.metric))
        except (OSError, TypeError):
            source = self.name
        return hashlib.sha256(f"{source}{sorted(self.options.items())}".encode()).hexdigest()[:16]

    @property
    def isolation(self) -> str | None:
        """What keeps the programs in that the metric runs here; None for one that runs none, or does not say."""
        said = getattr(self.metric, "isolation", None)
        return None if said is None else str(said(self.options.get("isolation")))

    def __call__(self, texts: Sequence[str], problems: Sequence[Problem]) -> tuple[list[float], list[str | None]]:
        """Score of each text, and the answer in it where the metric extracts one.

        A foreign metric that gives no score per answer is computed answer by answer.

        Raises:
            ValueError: a score that is no finite number, or a column that is missing.
        """
        result = self._compute(texts, problems)
        answers = list(result.get("answers") or [None] * len(texts))
        if "per_sample" in result:
            return [self._finite(score) for score in result["per_sample"]], answers
        single = (self._compute([text], [problem]) for text, problem in zip(texts, problems, strict=True))
        return [self._finite(self._only_number(one)) for one in single], answers

    def _compute(self, texts: Sequence[str], problems: Sequence[Problem]) -> dict[str, Any]:
        columns: dict[str, Any] = {}
        for name, required in _keywords(self.metric).items():
            if name in self.options:
                columns[name] = self.options[name]
            elif all(name in problem.columns for problem in problems):
                columns[name] = [problem.columns[name] for problem in problems]
            elif required:
                raise ValueError(f"metric {self.name} needs a column {name!r}, which the data set does not have")
        references = [problem.answer for problem in problems]
        return dict(self.metric.compute(predictions=list(texts), references=references, **columns))

    def _finite(self, score: Any) -> float:
        if not math.isfinite(score):
            raise ValueError(f"metric {self.name} scores an answer {score!r}: a score is a finite number, 1.0 is right")
        return float(score)

    def _only_number(self, result: Mapping[str, Any]) -> float:
        numbers = [value for value in result.values() if isinstance(value, int | float)]
        if "score" not in result and len(numbers) != 1:
            raise ValueError(f"metric {self.name} returns {sorted(result)}, not one `score`")
        return float(result["score"] if "score" in result else numbers[0])


def metric_by_task(text: str) -> str | dict[str, str]:
    """A metric's name or path, or a mapping from ``task=metric,task=metric``. What exists as a path is one."""
    if "=" not in text or Path(text).exists():
        return text
    pairs = [part.partition("=") for part in text.split(",")]
    if not all(map(all, pairs)):
        raise ValueError(f"`--metric` takes NAME=VALUE,NAME=VALUE or one metric, got {text!r}")
    return {task: metric for task, _, metric in pairs}


def scorers(metric: Any, options: Mapping[str, Any], tasks: Sequence[str]) -> dict[str, Scorer]:
    """One scorer per task, from one metric for all or a mapping by task."""
    by_task = metric if isinstance(metric, Mapping) else dict.fromkeys(tasks, metric)
    missing = [task for task in tasks if task not in by_task]
    if missing:
        raise ValueError(f"`metric` names none for the task {', '.join(missing)}")
    found = {task: Scorer.of(by_task[task], options) for task in tasks}
    unknown = [name for name in options if not any(name in scorer.options for scorer in found.values())]
    if unknown:
        raise ValueError(f"`metric_options` holds {unknown[0]!r}, which no metric takes")
    return found


def _keywords(metric: Any) -> dict[str, bool]:
    """What ``compute`` takes besides predictions and references, and whether it has no default."""
    parameters = inspect.signature(getattr(metric, "_compute", metric.compute)).parameters
    return {
        name: parameter.default is parameter.empty
        for name, parameter in parameters.items()
        if name not in ("self", "predictions", "references")
        and parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    }
