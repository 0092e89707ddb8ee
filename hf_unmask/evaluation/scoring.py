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

#: The metrics of a packaged task, the first one decides. That of sudokus judges all that is written by itself.
TINY_METRICS = {"chain_sum": "answer_match+well_formed", "mini_sudoku": "sudoku"}
_AND = "+"


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
            source = "".join(map(inspect.getsource, _sources(type(self.metric))))
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


@dataclass(frozen=True)
class Scorers:
    """The metrics of a task: the first one decides, those beside it are recorded with it."""

    first: Scorer
    further: tuple[Scorer, ...] = ()

    @classmethod
    def of(cls, metric: Any, options: Mapping[str, Any]) -> Scorers:
        """From what `in_order` takes."""
        found = [Scorer.of(one, options) for one in in_order(metric)]
        names = [scorer.name for scorer in found]
        if len(set(names)) < len(names):
            raise ValueError(f"`metric` must name different metrics, got {', '.join(names)}")
        return cls(found[0], tuple(found[1:]))

    @property
    def all(self) -> tuple[Scorer, ...]:
        """The first one and the others."""
        return self.first, *self.further

    @property
    def fingerprint(self) -> str:
        """Of all of them."""
        return _AND.join(scorer.fingerprint for scorer in self.all)

    def beside(self, texts: Sequence[str], problems: Sequence[Problem]) -> list[dict[str, float]]:
        """For each text its scores by the further metrics, by name."""
        columns = {scorer.name: scorer(texts, problems)[0] for scorer in self.further}
        return [{name: scores[row] for name, scores in columns.items()} for row in range(len(texts))]


def in_order(metric: Any) -> list[Any]:
    """Metrics as they are asked for: one, a list, or text with ``+`` between names. What exists as a path is one."""
    if isinstance(metric, list | tuple):
        found = list(metric)
    else:
        several = isinstance(metric, str) and not Path(metric).exists()
        found = metric.split(_AND) if several else [metric]
    if not found or "" in found:
        raise ValueError(f"`metric` must be a name, a path, an evaluate module, or several of them, got {metric!r}")
    return found


def by_rank(metric: Any) -> list[Any]:
    """First what decides, then what is beside it, each as `hf_unmask.trainers.EvaluateReward` takes it.

    ``metric`` is what `evaluate_samplers` takes. A task that has fewer metrics than others is given its first again.
    """
    if not isinstance(metric, Mapping):
        return in_order(metric)
    tasks = {task: in_order(one) for task, one in metric.items()}
    most = max(map(len, tasks.values()), default=1)
    return [{task: (own[rank:] or own)[0] for task, own in tasks.items()} for rank in range(most)]


def metric_by_task(text: str) -> str | dict[str, str]:
    """Metrics by name or path, or a mapping from ``task=metric,task=metric``. What exists as a path is one."""
    if "=" not in text or Path(text).exists():
        return text
    pairs = [part.partition("=") for part in text.split(",")]
    if not all(map(all, pairs)):
        raise ValueError(f"`--metric` takes NAME=VALUE,NAME=VALUE or one metric, got {text!r}")
    return {task: metric for task, _, metric in pairs}


def scorers(metric: Any, options: Mapping[str, Any], tasks: Sequence[str]) -> dict[str, Scorers]:
    """The metrics of each task, from those for all tasks or a mapping by task."""
    by_task = metric if isinstance(metric, Mapping) else dict.fromkeys(tasks, metric)
    missing = [task for task in tasks if task not in by_task]
    if missing:
        raise ValueError(f"`metric` names none for the task {', '.join(missing)}")
    found = {task: Scorers.of(by_task[task], options) for task in tasks}
    taken = {name for metrics in found.values() for scorer in metrics.all for name in scorer.options}
    unknown = [name for name in options if name not in taken]
    if unknown:
        raise ValueError(f"`metric_options` holds {unknown[0]!r}, which no metric takes")
    return found


def _sources(kind: type) -> list[Any]:
    """The module of a metric, and those of its folder from which it takes functions and classes."""
    own = inspect.getmodule(kind)
    if own is None or not own.__package__:
        return [own or kind]
    taken = {inspect.getmodule(one) for one in vars(own).values() if inspect.isroutine(one) or inspect.isclass(one)}
    beside = [one for one in taken - {own, None} if one is not None and one.__package__ == own.__package__]
    return [own, *sorted(beside, key=lambda one: one.__name__)]


def _keywords(metric: Any) -> dict[str, bool]:
    """What ``compute`` takes besides predictions and references, and whether it has no default."""
    parameters = inspect.signature(getattr(metric, "_compute", metric.compute)).parameters
    return {
        name: parameter.default is parameter.empty
        for name, parameter in parameters.items()
        if name not in ("self", "predictions", "references")
        and parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    }
