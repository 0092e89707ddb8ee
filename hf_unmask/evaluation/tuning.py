"""Dials: which to try on validation problems and which of them to keep, for fair comparisons on the packaged problems.

A `Cell` is one task at one block length. A family is a rule or a policy. Grids are equally fine if every family brings
as many candidates for each range of forward passes (`spread`), out of a ladder of dials (`ladders`, `policy_dials`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from hf_unmask.evaluation.pace import expected_forwards
from hf_unmask.evaluation.running import evaluate_samplers
from hf_unmask.evaluation.scoring import TINY_METRICS
from hf_unmask.results.best_per_budget import SHARES
from hf_unmask.results.frontier import best_under_budget, plane
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
FINE_BETAS = (0.25, 0.35, 0.5, 0.7, 1.0, 1.4, 2.0, 2.8, 4.0, 5.7, 8.0, 11.3, 16.0)  # without speeds, all there is
SPEEDS = tuple(i / 20 for i in range(21))
MIDDLE = 0.5  # speed at which beta is tried
#: Ladders of the rules whose dials are not whole numbers, some forty each, as many as a policy has.
_EVEN = tuple(i / 40 for i in range(4, 38))
FINE_THRESHOLDS = (*_EVEN, 0.94, 0.95, 0.96, 0.97, 0.98, 0.985, 0.99, 0.995, 0.999)
FINE_GAMMAS = tuple(float(f"{0.0005 * 1.3**i:.2g}") for i in range(40))  # 0.0005 to 14
FINE_FACTORS = tuple(float(f"{0.02 * 1.15**i:.2g}") for i in range(40))  # 0.02 to 4.7
FINE_KLASS = tuple((i / 10, eps) for i in range(1, 10) for eps in (0.001, 0.01, 0.1, 1.0))


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
        return expected_forwards(parse_sampler(spec), self.length, self.block_length)

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
    counts, bases = ([value for value in values if value <= width] for values in (COUNTS, BASES))
    found = _specs(counts, bases, THRESHOLDS, FACTORS, GAMMAS, KLASS)
    return {rule: specs[::stride] for rule, specs in found.items()}


def ladders(width: int) -> dict[str, list[str]]:
    """As `heuristic_dials`, but every dial that makes a difference, or some forty of those without steps."""
    return _specs(_distinct(width), range(2, width + 1), FINE_THRESHOLDS, FINE_FACTORS, FINE_GAMMAS, FINE_KLASS)


def _specs(
    counts: Iterable[int],
    bases: Iterable[int],
    thresholds: Sequence[float],
    factors: Iterable[float],
    gammas: Iterable[float],
    klass: Iterable[tuple[float, float]],
) -> dict[str, list[str]]:
    """By rule the specs of its dials."""
    found = {rule: [f"{rule}:k={k}" for k in counts] for rule in COUNTED}
    found["dilated"] = [f"dilated:base={base}" for base in bases]
    found["threshold"] = [f"threshold:threshold={value}" for value in thresholds]
    found["eos_suppress(threshold)"] = [f"eos_suppress(threshold:threshold={value})" for value in thresholds]
    found["factor"] = [f"factor:factor={value}" for value in factors]
    found["entropy_bound"] = [f"entropy_bound:gamma={value}" for value in gammas]
    found["klass"] = [f"klass:tau={tau};eps={eps}" for tau, eps in klass]
    found["credit"] = [f"credit:threshold={value}" for value in thresholds]
    return {rule: [str(parse_sampler(spec)) for spec in specs] for rule, specs in found.items()}


def _distinct(width: int) -> list[int]:
    """Of the tokens per step that need equally many steps in a block the fewest, which are never the worse choice."""
    fewest: dict[int, int] = {}
    for k in range(1, width + 1):
        fewest.setdefault(math.ceil(width / k), k)
    return list(fewest.values())


def spread(points: Sequence[OperatingPoint], budgets: Sequence[float], count: int) -> list[str]:
    """The dials of one family to try: ``count`` in each range between two budgets, spread evenly over it.

    Only forward passes are looked at, not accuracy, so a few problems are enough for ``points``. Fewer where the family
    has fewer that differ; the quickest of all if none keeps to the largest budget.
    """
    by_cost: dict[float, str] = {}
    for point in points:
        by_cost.setdefault(point.nfe_mean, point.setting.sampler)
    found: list[float] = []
    for low, high in pairwise((0.0, *sorted(set(budgets)))):
        inside = sorted(cost for cost in by_cost if low < cost <= high)
        if len(inside) > count:
            start = max(low, inside[0])
            inside = _nearest(inside, [start + (high - start) * (number + 0.5) / count for number in range(count)])
        found += inside
    return [by_cost[cost] for cost in found or [min(by_cost)]]


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
        dials = [{"policy_temperature": heat, "beta": beta} for heat in TEMPERATURES for beta in FINE_BETAS]
    return [str(replace(sampler, **dial)) for dial in dials[::stride]]


def kept_dials(points: Sequence[OperatingPoint]) -> dict[str, float]:
    """The dials of one rule to keep, with their mean forward passes: the most accurate one within each budget of
    `SHARES`, those of a report's tables."""
    found = {}
    for share in sorted(SHARES):
        place = best_under_budget(plane(points), float(share * points[0].setting.max_new_tokens))
        if place is not None:
            found[points[place].setting.sampler] = points[place].nfe_mean
    return found


def _nearest(costs: Sequence[float], targets: Sequence[float]) -> list[float]:
    """For each target the nearest cost that no earlier target took, in order."""
    left = list(costs)
    for target in targets:
        left.remove(min(left, key=lambda cost: abs(cost - target)))
    return [cost for cost in costs if cost not in left]
