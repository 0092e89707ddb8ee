"""Which operating points may be compared, and how they are called in reports."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from hf_unmask.results.frontier import method_of
from hf_unmask.results.records import OperatingPoint, Setting

FULL_DIFFUSION = "full diffusion"
_LONGEST = 100  # characters of a title in a file name


class Identity(NamedTuple):
    """What points must share to stand in one table: all of a setting but the sampler and its block length."""

    task: str
    dataset: str
    template: str
    model: str
    metric: str
    max_new_tokens: int
    temperature: float
    stop_at_eos: bool


@dataclass(frozen=True)
class Group:
    """Comparable operating points."""

    identity: Identity
    title: str  # the task, and what else tells the groups of a report apart
    slug: str  # the title as part of a file name, unique in a report
    points: tuple[OperatingPoint, ...]

    @property
    def length(self) -> int:
        """Positions to fill; a budget of that many forward passes opens one position at a time."""
        return self.identity.max_new_tokens

    @property
    def regimes(self) -> list[str]:
        """Blocks from short to long, then full diffusion."""
        by_length = {_block_size(point.setting): regime(point.setting) for point in self.points}
        return [by_length[size] for size in sorted(by_length)]

    def in_regime(self, name: str) -> list[OperatingPoint]:
        """The points of one regime, in order."""
        return [point for point in self.points if regime(point.setting) == name]


def identity(setting: Setting) -> Identity:
    """What a setting shares with those it may be compared with."""
    return Identity(*(getattr(setting, name) for name in Identity._fields))


def groups(points: Sequence[OperatingPoint]) -> list[Group]:
    """The groups of a report, in order of first appearance."""
    members: dict[Identity, list[OperatingPoint]] = {}
    for point in points:
        members.setdefault(identity(point.setting), []).append(point)
    titles = {key: _title(key, list(members)) for key in members}
    slugs = _slugs(list(titles.values()))
    return [
        Group(key, titles[key], slug, tuple(found)) for (key, found), slug in zip(members.items(), slugs, strict=True)
    ]


def regime(setting: Setting) -> str:
    """How the canvas is filled; one block as long as the answer is full diffusion."""
    if _block_size(setting) == setting.max_new_tokens:
        return FULL_DIFFUSION
    return f"blocks of {setting.block_length}"


def is_learned(spec: str) -> bool:
    """Whether a policy decides, alone or wrapped; all other samplers are heuristics."""
    return "learned:" in method_of(spec)


def label(setting: Setting) -> str:
    """The sampler as tables name it, with what is unusual about its generation."""
    heat = f", temperature {setting.temperature:g}" if setting.temperature else ""
    return setting.sampler + heat + (", stops at EOS" if setting.stop_at_eos else "")


def _block_size(setting: Setting) -> int:
    return min(setting.block_length or setting.max_new_tokens, setting.max_new_tokens)


def _title(key: Identity, others: list[Identity]) -> str:
    """The task, and the further fields in which some other group of the same task differs."""
    same = [other for other in others if other.task == key.task]
    names = {"max_new_tokens": "tokens"}
    parts = [
        f"{names.get(name, name)} {getattr(key, name)}"
        for name in Identity._fields[1:]
        if len({getattr(other, name) for other in same}) > 1
    ]
    return ", ".join([key.task, *parts])


def _slugs(titles: list[str]) -> list[str]:
    """File-name parts, of a length that every file system takes.

    A number keeps apart what becomes equal when odd characters are replaced or capitals do not count.
    """
    found: dict[str, str] = {}
    for title in titles:
        base = re.sub(r"[^A-Za-z0-9_-]+", "-", title)[:_LONGEST].strip("-") or "task"
        slug, number = base, 2
        while slug.lower() in found:
            slug, number = f"{base}-{number}", number + 1
        found[slug.lower()] = slug
    return list(found.values())
