"""From samples to operating points."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hf_unmask.results.records import Accuracy, OperatingPoint, Sample, Setting, Timing
from hf_unmask.results.statistics import Array, bootstrap_interval, majority, pass_at_k


@dataclass
class _Answers:
    """What is kept of the samples of one setting; lists are parallel."""

    keys: list[tuple[int, int, int]] = field(default_factory=list)  # prompt id, seed, draw
    scores: list[float] = field(default_factory=list)
    further: list[dict[str, float]] = field(default_factory=list)
    nfe: list[int] = field(default_factory=list)
    opened: int = 0
    length: int = 0  # tokens before the first stop token, of all answers
    texts: list[str] = field(default_factory=list)

    def add(self, sample: Sample) -> None:
        self.keys.append((sample.prompt_id, sample.seed, sample.draw))
        self.scores.append(sample.score)
        self.further.append(sample.further)
        self.nfe.append(sample.nfe)
        self.opened += sum(step >= 0 for step in sample.step_map)
        self.length += sample.answer_length
        self.texts.append(sample.text.strip() if sample.answer is None else sample.answer)


def aggregate(
    samples: Iterable[Sample], timings: Iterable[Timing] = (), environment: Mapping[str, Any] | None = None
) -> list[OperatingPoint]:
    """One record per setting, in order of first appearance.

    Accuracy is the mean over prompts of the mean over a prompt's seeds and draws, its interval from a bootstrap over
    prompts. Tokens per forward pass and per second are ratios of sums. Several answers of a prompt, over seeds and
    draws, give pass@k (for metrics that say right or wrong) and the majority vote.

    Raises:
        ValueError: prompts of a setting have different numbers of answers, or answers were scored by other metrics.
    """
    answers: dict[Setting, _Answers] = {}
    for sample in samples:
        answers.setdefault(sample.setting, _Answers()).add(sample)
    times: dict[Setting, list[Timing]] = {}
    for timing in timings:
        times.setdefault(timing.setting, []).append(timing)
    return [
        _point(setting, found, times.get(setting, []), dict(environment or {})) for setting, found in answers.items()
    ]


def _point(setting: Setting, found: _Answers, times: list[Timing], environment: dict[str, Any]) -> OperatingPoint:
    prompts = sorted({key[0] for key in found.keys})
    seeds = sorted({key[1] for key in found.keys})
    draws = 1 + max(key[2] for key in found.keys)
    order = sorted(range(len(found.keys)), key=found.keys.__getitem__)
    if len(set(found.keys)) != len(order) or len(order) != len(prompts) * len(seeds) * draws:
        raise ValueError(
            f"{setting.key}: {len(order)} answers for {len(prompts)} prompts, {len(seeds)} seeds, {draws} draws"
        )
    scores = np.array([found.scores[place] for place in order]).reshape(len(prompts), len(seeds), draws)
    nfe = np.array(found.nfe)
    seconds = _seconds(times, len(order))
    total = seconds.get("total", 0.0) * len(order)
    several = scores.reshape(len(prompts), -1)
    own = _accuracy(several)
    texts = [found.texts[place] for place in order]
    return OperatingPoint(
        setting=setting,
        prompts=len(prompts),
        seeds=seeds,
        draws=draws,
        accuracy=own.accuracy,
        accuracy_interval=own.accuracy_interval,
        accuracy_per_seed={str(seed): float(scores[:, place].mean()) for place, seed in enumerate(seeds)},
        nfe_mean=float(nfe.mean()),
        nfe_p50=float(np.percentile(nfe, 50)),
        nfe_p95=float(np.percentile(nfe, 95)),
        tokens_per_forward=found.opened / max(int(nfe.sum()), 1),
        tokens_per_forward_to_eos=found.length / max(int(nfe.sum()), 1),
        seconds_per_sequence=seconds,
        tokens_per_second=found.length / total if total else 0.0,
        pass_at_k=_pass_at_k(several),
        majority=_majority(texts, several),
        environment=environment,
        further=_further(setting, [found.further[place] for place in order], len(prompts)),
    )


def _accuracy(scores: Array) -> Accuracy:
    """Scores [prompts, answers]."""
    by_prompt = scores.mean(1)
    return Accuracy(float(by_prompt.mean()), bootstrap_interval(by_prompt))


def _further(setting: Setting, scores: list[dict[str, float]], prompts: int) -> dict[str, Accuracy]:
    """By metric. ``scores``: of each answer, by prompt."""
    names = list(dict.fromkeys(name for one in scores for name in one))
    lacking = next((one for one in scores if len(one) < len(names)), None)
    if lacking is not None:
        raise ValueError(f"{setting.key}: answers were scored by {', '.join(names)}, but one by {list(lacking)} only")
    columns = {name: np.array([one[name] for one in scores]).reshape(prompts, -1) for name in names}
    return {name: _accuracy(column) for name, column in columns.items()}


def _seconds(times: list[Timing], answers: int) -> dict[str, float]:
    """Mean seconds per answer; empty where nothing was timed."""
    if not times:
        return {}
    parts = {name: sum(getattr(timing, name) for timing in times) / answers for name in ("denoiser", "sampler", "rest")}
    return {**parts, "total": sum(parts.values())}


def _pass_at_k(scores: Array) -> dict[str, float]:
    """pass@k for powers of two and all answers; scores [prompts, answers]. Empty for one answer or graded scores."""
    answers = scores.shape[1]
    if answers == 1 or not np.isin(scores, (0, 1)).all():
        return {}
    powers = [2**power for power in range(answers.bit_length()) if 2**power < answers]
    return {str(k): pass_at_k(scores > 0, k) for k in [*powers, answers]}


def _majority(texts: list[str], scores: Array) -> float | None:
    answers = scores.shape[1]
    if answers == 1:
        return None
    rows = [texts[start : start + answers] for start in range(0, len(texts), answers)]
    return majority(rows, scores.tolist())
