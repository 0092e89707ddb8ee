"""Rewards: correctness from the ``evaluate`` library, and what a denoising step costs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from hf_unmask.evaluation.problems import Problem
from hf_unmask.evaluation.scoring import Scorer, in_order
from hf_unmask.metrics import load_metric

#: Arguments of TRL that are no columns of the data set.
_OF_TRL = {"prompts", "completions", "completion_ids", "trainer_state", "log_extra", "log_metric", "environments"}


class EvaluateReward:
    """Correctness of each completion by a metric of the ``evaluate`` library, as a reward function of TRL.

    Args:
        metric: name of a packaged metric, path of a local one, a loaded module, or a mapping from task (the data set's
            column ``task``) to such. A metric of the Hub runs code that is downloaded: only with
            ``trust_remote_code=True`` and a ``revision``. A reward is one figure, so of several metrics each makes
            a reward function of its own; TRL logs those of weight 0.
        reference: column of the data set that holds the reference.
        revision: commit of a metric on the Hub.
        trust_remote_code: allow one.
        **options: further keywords of the metric's ``compute``. Columns it asks for are taken from the data set.

    A metric that returns ``per_sample`` is computed once per batch, another one once per completion.
    """

    def __init__(
        self,
        metric: Any,
        *,
        reference: str = "answer",
        revision: str | None = None,
        trust_remote_code: bool = False,
        **options: Any,
    ) -> None:
        def load(one: Any) -> Scorer:
            if len(in_order(one)) > 1:
                raise ValueError(f"`metric` must be one metric, got {one!r}: each of several is a reward of its own")
            named = isinstance(one, str | Path)
            return Scorer.of(load_metric(one, revision, trust_remote_code) if named else one, options)

        tasks = metric if isinstance(metric, Mapping) else {None: metric}
        if not tasks:
            raise ValueError(f"`metric` is an empty mapping, {metric!r}: name a metric per task")
        self._scorers = {task: load(one) for task, one in tasks.items()}
        self.reference = reference
        # TRL logs reward functions by this name.
        self.__name__ = "_".join(dict.fromkeys(scorer.name for scorer in self._scorers.values()))

    def __call__(self, *, completions: Sequence[Any], **columns: Any) -> list[float]:
        """One score per completion; chat completions are scored by the text of their last message."""
        texts = [text if isinstance(text, str) else str(text[-1]["content"]) for text in completions]
        if self.reference not in columns:
            raise ValueError(f"the data set has no column {self.reference!r}: name the one with reference=...")
        kept = {name: values for name, values in columns.items() if name not in _OF_TRL}
        tasks = kept.get("task", [None] * len(texts)) if None not in self._scorers else [None] * len(texts)
        scores = [0.0] * len(texts)
        for task in dict.fromkeys(tasks):
            if task not in self._scorers:
                raise ValueError(f"no metric for the task {task!r}; there are metrics for {list(self._scorers)}")
            rows = [row for row, of in enumerate(tasks) if of == task]
            problems = [self._problem(row, kept) for row in rows]
            found, _ = self._scorers[task]([texts[row] for row in rows], problems)
            for row, score in zip(rows, found, strict=True):
                scores[row] = score
        return scores

    def _problem(self, row: int, columns: Mapping[str, Any]) -> Problem:
        values = {name: column[row] for name, column in columns.items()}
        return Problem(row, str(values.get("task", "")), "", str(values[self.reference]), values)


class SpeedReward:
    """Correctness and speed in one reward, because TRL can only add rewards and the paper multiplies.

    With r the correctness, n the row's denoising steps, L its positions to fill and alpha the price of a step
    (``UnmaskingGRPOConfig.alpha``, or what a speed-conditioned policy's group has drawn):

    * ``multiplicative``: r * (1 - (n - 1) / L) ** alpha. One step costs nothing, a wrong answer is worth nothing.
    * ``additive``: r - alpha * n / L, the paper's ablation. It collapses to one wrong step: among wrong answers the
      fastest wins.

    Source: https://arxiv.org/abs/2512.09106 (with n - 1 in place of n, as in the authors' experiments).

    Args:
        correctness: a reward function of TRL, e.g. an `EvaluateReward`.
        form: "multiplicative" or "additive".
    """

    def __init__(
        self,
        correctness: Callable[..., Sequence[float | None]],
        form: Literal["multiplicative", "additive"] = "multiplicative",
    ) -> None:
        if form not in ("multiplicative", "additive"):
            raise ValueError(f"`form` must be 'multiplicative' or 'additive', got {form!r}")
        self.correctness, self.form = correctness, form
        self.__name__ = f"fast_{getattr(correctness, '__name__', type(correctness).__name__)}"

    def __call__(
        self, *, steps: Sequence[int], positions: Sequence[int], alpha: Sequence[float], **columns: Any
    ) -> list[float | None]:
        """One reward per completion; None (not scored) stays None."""
        scores = self.correctness(**columns)
        if self.form == "additive":
            costs = [a * n / most for n, most, a in zip(steps, positions, alpha, strict=True)]
            return [None if r is None else r - cost for r, cost in zip(scores, costs, strict=True)]
        factors = [speed_factor(n, most, a) for n, most, a in zip(steps, positions, alpha, strict=True)]
        return [None if r is None else r * factor for r, factor in zip(scores, factors, strict=True)]


def speed_factor(steps: int, positions: int, alpha: float) -> float:
    """(1 - (n - 1) / L) ** alpha, for n = 1 .. L denoising steps and L positions to fill; 1 for alpha = 0."""
    if not 1 <= steps <= positions:
        raise ValueError(f"`steps` must be 1 to {positions}, the positions to fill, got {steps}")
    return float((1 - (steps - 1) / positions) ** alpha)
