"""Dials: which to try on validation problems and which of them to keep, for fair comparisons on the packaged problems.

A `Cell` is one task at one block length. Every cell is tuned by itself.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from hf_unmask.evaluation.running import evaluate_samplers
from hf_unmask.evaluation.scoring import TINY_METRICS
from hf_unmask.results.frontier import pareto_front
from hf_unmask.results.policy_against_heuristics import budgets_of
from hf_unmask.results.records import OperatingPoint
from hf_unmask.samplers.learned import LearnedUnmaskingSampler
from hf_unmask.samplers.specs import parse_sampler
from hf_unmask.tiny import Split, answer_length

SEEDS = (0, 1, 2)
COUNTED = ("confidence", "margin", "entropy", "pc", "random", "left_to_right")
COUNTS = (1, 2, 3, 4, 5, 6, 8, 10)
THRESHOLDS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
FACTORS = (0.1, 0.3, 0.5, 0.7, 1.0, 1.3, 1.6, 1.9)
GAMMAS = (0.001, 0.01, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6)
KLASS = tuple((tau, eps) for tau in (0.3, 0.6, 0.9) for eps in (0.001, 0.01, 0.1))
BASES = (2, 3, 4, 6, 8)
TEMPERATURES = (0.5, 1.0, 2.0)
BETAS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
SPEEDS = tuple(i / 20 for i in range(21))
MIDDLE = 0.5  # speed at which beta is tried
_ADAPTIVE = 0.3  # forward passes per position that are expected of rules whose dial does not fix them


@dataclass(frozen=True)
class Cell:
    """One task of the embedded model at one block length."""

    task: str
    block_length: int | None  # None: full diffusion

    @property
    def name(self) -> str:
        """The block length as part of a file name."""
        return "full" if self.block_length is None else f"blocks-{self.block_length}"

    @property
    def key(self) -> str:
        """Task and block length."""
        return f"{self.task}/{self.name}"

    @property
    def length(self) -> int:
        """Positions to fill."""
        return answer_length(self.task)

    @property
    def width(self) -> int:
        """Positions of a block."""
        return self.block_length or self.length

    @property
    def budgets(self) -> tuple[float, ...]:
        """Forward passes per answer, see `budgets_of`."""
        return budgets_of(self.length, self.block_length)

    def expected_forwards(self, spec: str) -> float:
        """Forward passes per answer, as far as the dial tells; else a guess."""
        k = getattr(parse_sampler(spec), "k", None)
        return _ADAPTIVE * self.length if k is None else self.length / self.width * math.ceil(self.width / k)

    def evaluate(
        self,
        model: Any,
        tokenizer: Any,
        split: Split,
        specs: Sequence[str],
        *,
        seeds: Sequence[int] | None = None,
        **options: Any,
    ) -> list[OperatingPoint]:
        """Samplers on the held-out problems.

        Args:
            model, tokenizer: the embedded ones.
            split: its problems.
            specs: the samplers.
            seeds: of stochastic ones. None: `SEEDS` on test problems, the first of them on validation problems.
            options: others of `evaluate_samplers`.
        """
        return evaluate_samplers(
            model,
            tokenizer,
            f"tiny:{self.task}:{split}",
            TINY_METRICS[self.task],
            list(specs),
            block_lengths=[self.block_length],
            seeds=seeds or (SEEDS if split == "test" else SEEDS[:1]),
            max_new_tokens=self.length,
            model_name="tiny",
            **options,
        )


def heuristic_dials(width: int, stride: int = 1) -> dict[str, list[str]]:
    """Specs to try, by rule, in blocks of ``width``: more tokens per step than a block has are no other dial.

    ``stride``: every how many-th dial is taken.
    """
    found = {rule: [f"{rule}:k={k}" for k in COUNTS if k <= width] for rule in COUNTED}
    found["dilated"] = [f"dilated:base={base}" for base in BASES if base <= width]
    found["threshold"] = [f"threshold:threshold={value}" for value in THRESHOLDS]
    found["eos_suppress(threshold)"] = [f"eos_suppress(threshold:threshold={value})" for value in THRESHOLDS]
    found["factor"] = [f"factor:factor={value}" for value in FACTORS]
    found["entropy_bound"] = [f"entropy_bound:gamma={value}" for value in GAMMAS]
    found["klass"] = [f"klass:tau={tau};eps={eps}" for tau, eps in KLASS]
    found["credit"] = [f"credit:threshold={value}" for value in THRESHOLDS]
    return {rule: [str(parse_sampler(spec)) for spec in specs[::stride]] for rule, specs in found.items()}


def policy_dials(source: str, stride: int = 1) -> list[str]:
    """Specs of a policy to try, as `heuristic_dials`: speeds, or temperatures and betas of a policy without speeds.

    ``source``: a folder, a repository or ``builtin:NAME``.
    """
    sampler = LearnedUnmaskingSampler.from_pretrained(source)
    config = sampler.policy.config
    if config.speed_conditioned:
        dials: list[dict[str, Any]] = [{"speed": speed} for speed in SPEEDS]
        dials += [{"speed": speed, "policy_temperature": 0.5} for speed in SPEEDS]
        if config.trained_for.get("block_length") is None:
            dials += [{"speed": MIDDLE, "beta": beta} for beta in BETAS if beta != 1]
    else:
        dials = [{"policy_temperature": heat, "beta": beta} for heat in TEMPERATURES for beta in BETAS]
    return [str(replace(sampler, **dial)) for dial in dials[::stride]]


def kept_dials(points: Sequence[OperatingPoint], count: int) -> dict[str, float]:
    """The dials of one rule to keep, with their mean forward passes: its Pareto set (accuracy against forward passes).

    Where that has more than ``count``, those nearest to a spread in equal steps of forward passes.
    """
    distinct: dict[tuple[float, float], str] = {}
    for point in points:
        distinct.setdefault((point.nfe_mean, point.accuracy), point.setting.sampler)
    measured = list(distinct)
    front = [measured[place] for place in pareto_front(measured)]
    if len(front) > count:
        low, high = front[0][0], front[-1][0]
        front = _nearest(front, [low + (high - low) * number / (count - 1) for number in range(count)])
    return {distinct[point]: point[0] for point in front}


def _nearest(front: Sequence[tuple[float, float]], targets: Sequence[float]) -> list[tuple[float, float]]:
    """For each target the point of nearest cost that no earlier target took, by rising cost."""
    left = list(front)
    for target in targets:
        left.remove(min(left, key=lambda point: abs(point[0] - target)))
    return [point for point in front if point not in left]
