"""A policy against heuristics at equal budgets of forward passes, dials chosen on other problems than those compared.

The question a card answers: given so many forward passes per answer, which sampler solves more? Every method, the
policy and each heuristic in blocks of any length, brings the dial that was most accurate within the budget on
validation problems; compared are accuracies on test problems. What spends more on either does not count.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from hf_unmask.results.best_per_budget import Scores
from hf_unmask.results.comparable import is_learned, label, regime
from hf_unmask.results.frontier import best_under_budget, method_of, plane
from hf_unmask.results.markdown import code, table
from hf_unmask.results.records import OperatingPoint
from hf_unmask.results.several_metrics import percentages
from hf_unmask.results.spec_text import pieces
from hf_unmask.results.statistics import Comparison, paired_comparison

#: Rules that know more than confidences, namely that texts are written from the left: rows of their own as well.
ORDERED = ("left_to_right", "eos_suppress")
#: Follows the name of a policy in that of the same recipe trained with another seed.
SEED = ", training seed "
_SHARES = (1.0, 0.97)  # of a budget: if the best dial within all of it overspends on test problems, the next one counts
_LEAST = 4.0  # forward passes of the smallest budget in full diffusion

Method = Callable[[str], str]  # names the method of a spec


def budgets_of(length: int, block_length: int | None) -> tuple[float, ...]:
    """Mean forward passes per answer of ``length`` positions: 1/16, 1/8 and 1/4 of them in full diffusion (the first at
    least 4), else 1.5, 2 and 4 times the number of blocks."""
    if block_length is None or block_length >= length:
        return max(_LEAST, length / 16), length / 8, length / 4
    blocks = -(-length // block_length)
    return 1.5 * blocks, 2.0 * blocks, 4.0 * blocks


def dials_within(
    points: Iterable[OperatingPoint], budget: float, method: Method = method_of
) -> dict[str, OperatingPoint]:
    """By method the most accurate of its ``points`` that keeps to the budget; a method without one is left out."""
    members: dict[str, list[OperatingPoint]] = defaultdict(list)
    for point in points:
        members[method(point.setting.sampler)].append(point)
    best = {name: most_accurate(own, budget) for name, own in members.items()}
    return {name: point for name, point in best.items() if point is not None}


def most_accurate(points: Sequence[OperatingPoint], budget: float = math.inf) -> OperatingPoint | None:
    """The most accurate point that keeps to the budget; of equally accurate ones the quickest."""
    place = best_under_budget(plane(points), budget)
    return None if place is None else points[place]


def to_be_tested(
    tuning: Sequence[OperatingPoint], budgets: Iterable[float], method: Method = method_of
) -> list[OperatingPoint]:
    """Of the points of one task on validation problems those whose dials are worth running on test problems.

    For every budget, whichever regime it comes from: the best dial of each method over all regimes, and of each regime
    the best heuristic; and the same for a little less than the budget.
    """
    found: dict[tuple[str, int | None], OperatingPoint] = {}
    heuristics: dict[str, list[OperatingPoint]] = defaultdict(list)
    for point in tuning:
        if not is_learned(point.setting.sampler):
            heuristics[regime(point.setting)].append(point)
    for budget in [share * budget for budget in budgets for share in _SHARES]:
        of_regimes = (most_accurate(own, budget) for own in heuristics.values())
        best = [*dials_within(tuning, budget, method).values(), *of_regimes]
        found |= {_spot(point): point for point in best if point is not None}
    return list(found.values())


@dataclass(frozen=True)
class Rival:
    """Another sampler at the same budget, and how the policy compares with it on the same prompts."""

    role: str
    point: OperatingPoint
    comparison: Comparison  # of the policy against this


@dataclass(frozen=True)
class Round:
    """A policy at one budget, on test problems."""

    budget: float
    point: OperatingPoint | None  # None: no dial keeps to the budget
    rivals: tuple[Rival, ...] = ()

    def against(self, role: str) -> Rival | None:
        """The rival of that role."""
        return next((rival for rival in self.rivals if rival.role == role), None)


#: Roles of rivals.
HEURISTIC = "best heuristic"
AFTERWARDS = "most accurate heuristic on the test problems"
TWIN = "other training seeds"


def contest(
    policy: str,
    tuning: Sequence[OperatingPoint],
    testing: Sequence[OperatingPoint],
    scores: Scores,
    *,
    method: Method = method_of,
) -> list[Round]:
    """One `Round` per budget of the policy's regime.

    Args:
        policy: the method, e.g. ``learned:builtin:tiny-full``. It is compared in the regime in which it has points.
        tuning: points of one task on validation problems, of all regimes.
        testing: points of the dials chosen there (`to_be_tested`), on test problems. Other dials do not take part.
        scores: by the key of a setting on test problems, score by prompt.
        method: names the method of a spec, where one policy is to appear under several names.

    Every choice is made on validation problems, but for one rival that is chosen on the test problems, in its favour.
    """
    mine = [point for point in tuning if method(point.setting.sampler) == policy]
    if not mine:
        raise ValueError(f"no points of {policy!r} on validation problems")
    home = mine[0].setting
    tested = {_spot(point): point for point in testing}
    rounds = []
    for budget in budgets_of(home.max_new_tokens, home.block_length):
        known = [p for p in tuning if _spot(p) in tested and max(p.nfe_mean, tested[_spot(p)].nfe_mean) <= budget]
        best = {name: tested[_spot(point)] for name, point in dials_within(known, budget, method).items()}
        point = best.pop(policy, None)
        found: Iterable[Rival] = ()
        if point is not None:
            found = _compared(point, _rivals(policy, best, known, tested, regime(home)), scores)
        rounds.append(Round(budget, point, tuple(found)))
    return rounds


def _spot(point: OperatingPoint) -> tuple[str, int | None]:
    """What a point on validation problems shares with the one on test problems."""
    return point.setting.sampler, point.setting.block_length


def _compared(point: OperatingPoint, rivals: Mapping[str, OperatingPoint], scores: Scores) -> Iterable[Rival]:
    for role, rival in rivals.items():
        yield Rival(role, rival, paired_comparison(scores[point.setting.key], scores[rival.setting.key]))


def _rivals(
    policy: str,
    best: Mapping[str, OperatingPoint],
    known: Sequence[OperatingPoint],
    tested: Mapping[tuple[str, int | None], OperatingPoint],
    home: str,
) -> dict[str, OperatingPoint]:
    """By role. ``best``: of each method on test problems. ``known``: points that keep to the budget, on validation."""
    heuristics = [point for point in known if not is_learned(point.setting.sampler)]
    here = [point for point in heuristics if regime(point.setting) == home]
    shown = [tested[_spot(point)] for point in heuristics]
    chosen = {
        HEURISTIC: most_accurate(heuristics),
        f"{HEURISTIC} in {home}": most_accurate(here),
        AFTERWARDS: most_accurate(shown),
    }
    found = {role: tested[_spot(point)] for role, point in chosen.items() if point is not None}
    found |= {name: point for name, point in best.items() if name.startswith(ORDERED)}
    own = policy + SEED
    found |= {name.replace(own, f"{TWIN}: "): point for name, point in best.items() if name.startswith(own)}
    return found | {name: point for name, point in best.items() if is_learned(name) and SEED not in name}


def contest_table(title: str, rounds: Sequence[Round]) -> str:
    """Markdown: a line per sampler, a column per budget. Differences are the policy's lead in points."""
    roles = list(dict.fromkeys(rival.role for one in rounds for rival in one.rivals))
    lines = [["**policy**", *(_shown(one.point) for one in rounds)]]
    for role in roles:
        lines.append([role, *(_against(one.against(role)) for one in rounds)])
    return table([title, *(f"at most {one.budget:g} NFE" for one in rounds)], lines)


def contest_summary(rows: Iterable[tuple[str, str, str, Round]]) -> str:
    """Markdown: a line per policy, task, metric that decides and round, by policy; beside it the heuristics at the same
    budget."""
    heads = ["policy", "task", "metric", "most NFE", "accuracy (NFE)", TWIN, HEURISTIC, "lead", AFTERWARDS]
    ordered = sorted(rows, key=lambda row: row[0])
    lines = [[code(p), task, metric, f"{r.budget:g}", *_summed_up(r)] for p, task, metric, r in ordered]
    return table([*heads, *map(code, ORDERED)], lines)


def _summed_up(one: Round) -> list[str]:
    twins = ", ".join(_number(rival.point) for rival in one.rivals if rival.role.startswith(TWIN))
    ordered = [next((r.point for r in one.rivals if r.role.startswith(rule)), None) for rule in ORDERED]
    best, afterwards = one.against(HEURISTIC), one.against(AFTERWARDS)
    return [
        _number(one.point),
        twins or "-",
        "-" if best is None else f"{_number(best.point)} {_where(best.point)}",
        "-" if best is None else lead_text(best.comparison.difference, *best.comparison.interval),
        _number(None if afterwards is None else afterwards.point),
        *map(_number, ordered),
    ]


def _number(point: OperatingPoint | None) -> str:
    return "-" if point is None else f"{percentages(point)} ({point.nfe_mean:.2f})"


def _where(point: OperatingPoint) -> str:
    """Sampler and regime."""
    return f"{code(label(point.setting))}, {regime(point.setting)}"


def lead_text(difference: float, low: float, high: float) -> str:
    """A paired difference of shares and its interval, in points."""
    return f"{100 * difference:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"


def _shown(point: OperatingPoint | None) -> str:
    if point is None:
        return "-"
    low, high = point.accuracy_interval
    dial = ";".join(pieces(label(point.setting))[1:]) or "default dials"
    return f"**{percentages(point)}** ({point.nfe_mean:.2f}) [{100 * low:.1f}, {100 * high:.1f}] {code(dial)}"


def _against(rival: Rival | None) -> str:
    if rival is None:
        return "-"
    lead = lead_text(rival.comparison.difference, *rival.comparison.interval)
    return f"{_number(rival.point)} {_where(rival.point)}, lead {lead}"
