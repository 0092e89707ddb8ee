"""A policy against heuristics at equal budgets of forward passes, dials chosen on other problems than those compared.

The question a card answers: given so many forward passes per answer, which sampler solves more? Every method brings
the dial that was most accurate within the budget on validation problems; compared are accuracies on test problems.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from hf_unmask.results.best_per_budget import Scores
from hf_unmask.results.comparable import is_learned, label, regime
from hf_unmask.results.frontier import best_under_budget, method_of, plane
from hf_unmask.results.markdown import code, table
from hf_unmask.results.records import OperatingPoint
from hf_unmask.results.spec_text import pieces
from hf_unmask.results.statistics import Comparison, paired_comparison

#: Rules that know more than confidences, namely that texts are written from the left: rows of their own.
ORDERED = ("left_to_right", "eos_suppress")
_MARGIN = 0.97  # of a budget, on validation problems, so that a stochastic sampler keeps to it on others
_LEAST = 4.0  # forward passes of the smallest budget in full diffusion

Chosen = Mapping[str, OperatingPoint]  # by method


def budgets_of(length: int, block_length: int | None) -> tuple[float, ...]:
    """Mean forward passes per answer of ``length`` positions: 1/16, 1/8 and 1/4 of them in full diffusion (the first at
    least 4), else 1.5, 2 and 4 times the number of blocks."""
    if block_length is None or block_length >= length:
        return max(_LEAST, length / 16), length / 8, length / 4
    blocks = -(-length // block_length)
    return 1.5 * blocks, 2.0 * blocks, 4.0 * blocks


def dials_within(
    points: Iterable[OperatingPoint], budget: float, method: Callable[[str], str] = method_of
) -> dict[str, OperatingPoint]:
    """By method the most accurate of its ``points`` that keeps to the budget; a method without one is left out."""
    members: dict[str, list[OperatingPoint]] = defaultdict(list)
    for point in points:
        members[method(point.setting.sampler)].append(point)
    found = {}
    for name, own in members.items():
        place = best_under_budget(plane(own), _MARGIN * budget if is_learned(name) else budget)
        if place is not None:
            found[name] = own[place]
    return found


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
ANYWHERE = "best heuristic at any block length"


def contest(
    policy: str,
    tuning: Sequence[OperatingPoint],
    testing: Sequence[OperatingPoint],
    scores: Scores,
    *,
    method: Callable[[str], str] = method_of,
) -> list[Round]:
    """One `Round` per budget of the policy's regime.

    Args:
        policy: the method, e.g. ``learned:builtin:tiny-full``. It is compared in the regime in which it has points.
        tuning: points of one task on validation problems, of all regimes.
        testing: points of the dials chosen there, on test problems. Other dials do not take part.
        scores: by the key of a setting on test problems, score by prompt.
        method: names the method of a spec, where one policy is to appear under several names.

    Which method is the best heuristic is decided on the test problems, in its favour. "At any block length" means those
    that were measured; there is no such rival if it was but one.
    """
    mine = [point for point in tuning if method(point.setting.sampler) == policy]
    if not mine:
        raise ValueError(f"no points of {policy!r} on validation problems")
    home = regime(mine[0].setting)
    tested = {_spot(point): point for point in testing}
    known = [point for point in tuning if _spot(point) in tested]
    regimes = dict.fromkeys(regime(point.setting) for point in known)
    rounds = []
    for budget in budgets_of(mine[0].setting.max_new_tokens, mine[0].setting.block_length):
        by_regime: dict[str, dict[str, OperatingPoint]] = {home: {}}
        for name in regimes:
            chosen = dials_within([p for p in known if regime(p.setting) == name], budget, method)
            by_regime[name] = {key: tested[_spot(p)] for key, p in chosen.items()}
        point = by_regime[home].get(policy)
        found = () if point is None else tuple(_rivals(point, policy, by_regime, home, scores))
        rounds.append(Round(budget, point, found))
    return rounds


def _spot(point: OperatingPoint) -> tuple[str, int | None]:
    """What a point on validation problems shares with the one on test problems."""
    return point.setting.sampler, point.setting.block_length


def _rivals(
    point: OperatingPoint, policy: str, by_regime: Mapping[str, Chosen], home: str, scores: Scores
) -> Iterable[Rival]:
    here = by_regime[home]
    everywhere = [(name, p) for chosen in by_regime.values() for name, p in chosen.items()]
    roles = {
        HEURISTIC: [p for name, p in here.items() if _plain(name)],
        **{name: [p] for name, p in here.items() if name.startswith(ORDERED)},
        ANYWHERE: [p for name, p in everywhere if not is_learned(name)] if len(by_regime) > 1 else [],
        **{name: [p] for name, p in here.items() if is_learned(name) and name != policy},
    }
    for role, points in roles.items():
        if points:
            best = max(points, key=lambda p: p.accuracy)
            yield Rival(role, best, paired_comparison(scores[point.setting.key], scores[best.setting.key]))


def _plain(method: str) -> bool:
    return not is_learned(method) and not method.startswith(ORDERED)


def contest_table(title: str, rounds: Sequence[Round]) -> str:
    """Markdown: a line per sampler, a column per budget. Differences are the policy's lead in points."""
    roles = list(dict.fromkeys(rival.role for one in rounds for rival in one.rivals))
    lines = [["**policy**", *(_shown(one.point) for one in rounds)]]
    for role in roles:
        lines.append([role, *(_against(one.against(role)) for one in rounds)])
    return table([title, *(f"at most {one.budget:g} NFE" for one in rounds)], lines)


def contest_summary(rows: Iterable[tuple[str, str, Round]]) -> str:
    """Markdown: a line per policy, task and round, by policy; beside it the best heuristic of the same regime."""
    heads = ["policy", "task", "most NFE", "accuracy (NFE)", "best heuristic", "lead"]
    ordered = sorted(rows, key=lambda row: row[0])
    return table(heads, [[f"`{name}`", task, f"{one.budget:g}", *_summed_up(one)] for name, task, one in ordered])


def _summed_up(one: Round) -> list[str]:
    rival = one.against(HEURISTIC)
    if one.point is None or rival is None:
        return ["-", "-", "-"]
    return [
        f"{100 * one.point.accuracy:.1f} ({one.point.nfe_mean:.2f})",
        f"{100 * rival.point.accuracy:.1f} ({rival.point.nfe_mean:.2f}) `{rival.point.setting.sampler}`",
        lead_text(rival.comparison.difference, *rival.comparison.interval),
    ]


def lead_text(difference: float, low: float, high: float) -> str:
    """A paired difference of shares and its interval, in points."""
    return f"{100 * difference:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"


def _shown(point: OperatingPoint | None) -> str:
    if point is None:
        return "-"
    low, high = point.accuracy_interval
    dial = ";".join(pieces(label(point.setting))[1:]) or "default dials"
    return f"**{100 * point.accuracy:.1f}** ({point.nfe_mean:.2f}) [{100 * low:.1f}, {100 * high:.1f}] {code(dial)}"


def _against(rival: Rival | None) -> str:
    if rival is None:
        return "-"
    lead, name = lead_text(rival.comparison.difference, *rival.comparison.interval), label(rival.point.setting)
    return f"{100 * rival.point.accuracy:.1f} ({rival.point.nfe_mean:.2f}) {code(name)}, lead {lead}"
