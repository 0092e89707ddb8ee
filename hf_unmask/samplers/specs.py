"""Samplers as text: ``name:key=value;key=value``, with sweeps ``a..b/n`` that stand for n evenly spaced points.

The first parameter needs no name: ``threshold:0.9`` is ``threshold:threshold=0.9``, as ``str(sampler)`` writes it.
Nothing heavy is imported before a spec is known to be well formed.

A policy's path and a value may stand in quotes, and must if they hold spaces or signs of a spec:
``learned:"my runs/x";speed=0.5``, see `hf_unmask.results.spec_text`. ``str(sampler)`` puts them there.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from hf_unmask.results.spec_text import pieces, unquoted, without_names, without_quotes
from hf_unmask.samplers.catalogue import HEURISTICS, LEARNED, LEARNED_PARAMETERS, Row

if TYPE_CHECKING:
    from hf_unmask.samplers.base import Sampler

_WRAPPER = "eos_suppress"

_NUMBER = r"[-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?"
_SWEEP = re.compile(rf"(?<=[=:])({_NUMBER})\.\.({_NUMBER})/(\d+)(?=[;)]|$)")
_SWEEP_LIKE = re.compile(rf"{_NUMBER}\.\.{_NUMBER}(/.*)?")
_WRAPPED = re.compile(r"(\w+)\((.*)\)", re.DOTALL)
#: The beginning of a spec: a sampler's name, perhaps in brackets of others.
_BEGINNING = re.compile(r"(?:\w+\()*(\w+)(?=[:();]|$)")


class SamplerRow(NamedTuple):
    """What a listing shows of one sampler."""

    name: str
    class_name: str
    parameters: str  # "threshold=0.9", comma separated, with defaults
    summary: str  # first line of the docstring
    source: str  # its link


def parse_sampler(spec: str) -> Sampler:
    """The sampler of one spec, e.g. ``threshold:0.8``. Undoes ``str(sampler)``.

    ``learned:NAME;key=value`` loads a policy (a path, a repository or ``builtin:NAME``), ``eos_suppress(SPEC)`` wraps
    another sampler. A spec that is not understood raises a ValueError that shows it and what is allowed.
    """
    text = spec.strip()
    if _SWEEP.search(without_names(text)):
        raise ValueError(f"{spec!r} is a sweep of several samplers; one is asked for here")
    try:
        return _parse(text)
    except ValueError as error:
        raise ValueError(f"sampler spec {spec!r}: {error}") from error


def as_sampler(sampler: Any) -> Any:
    """A sampler as it is, a spec as the sampler that it names."""
    return parse_sampler(sampler) if isinstance(sampler, str) else sampler


def parse_samplers(texts: Sequence[str]) -> list[Sampler]:
    """All samplers of the texts, in order: specs separated by spaces, sweeps expanded (several: all combinations)."""
    specs = [spec for text in ([texts] if isinstance(texts, str) else texts) for spec in _separated(text)]
    if not specs:
        raise ValueError(f"no sampler given; {_allowed(_names())}")
    return [parse_sampler(point) for spec in specs for point in _expand(spec)]


def sampler_table() -> list[SamplerRow]:
    """One row per sampler, in the order of names. Imports none of them."""
    rows = [
        SamplerRow(row.name, row.class_name, row.shown_parameters, row.summary, row.source)
        for row in HEURISTICS.values()
    ]
    rows.append(
        SamplerRow(
            LEARNED,
            "LearnedUnmaskingSampler",
            "NAME, policy_temperature, beta, speed, greedy, revision",
            "A trained policy: a path, a repository or `builtin:NAME`, and its dials.",
            "https://arxiv.org/abs/2512.09106",
        )
    )
    return sorted(rows)


def is_spec(text: object) -> bool:
    """Whether a text begins as a spec does: with a sampler's name, which no path or repository shares with it."""
    begins = _BEGINNING.match(text) if isinstance(text, str) else None
    return begins is not None and begins[1] in _names() and not os.path.exists(str(text))


def _names() -> list[str]:
    return sorted([*HEURISTICS, LEARNED])


def _allowed(names: Iterable[str], given: str = "") -> str:
    """ "allowed: a, b", with a guess at what was meant."""
    names = list(names)
    guess = difflib.get_close_matches(given, names, n=1)
    return (f"did you mean {guess[0]!r}? " if guess else "") + f"allowed: {', '.join(names) or 'none'}"


def _separated(text: str) -> list[str]:
    """The specs that stand in a text between spaces; a space inside a policy's path is none of these.

    That of a path in quotes, or one behind which no sampler's name comes.
    """
    spans: list[tuple[int, int]] = []
    for word in re.finditer(r"\S+", without_quotes(text)):
        begins = _BEGINNING.match(word[0])
        if spans and not (begins and begins[1] in _names()) and _ends_in_path(text[slice(*spans[-1])]):
            spans[-1] = (spans[-1][0], word.end())
        else:
            spans.append(word.span())
    return [text[start:end] for start, end in spans]


def _ends_in_path(spec: str) -> bool:
    begins = _BEGINNING.match(spec)
    return begins is not None and begins[1] == LEARNED and len(pieces(spec)) == 1


def _expand(spec: str) -> list[str]:
    """The specs that a spec with sweeps stands for, the last sweep running fastest."""
    sweep = _SWEEP.search(without_names(spec))
    if sweep is None:
        return [spec]
    first, last, count = Fraction(sweep[1]), Fraction(sweep[2]), int(sweep[3])
    if count < 2:
        raise ValueError(f"sampler spec {spec!r}: the sweep {sweep.group()!r} needs at least 2 points")
    points = (first + (last - first) * i / (count - 1) for i in range(count))
    head, tail = spec[: sweep.start()], spec[sweep.end() :]
    # exact fractions: 0.5..0.95/10 holds 0.55, and whole numbers stay ints
    values = (str(p.numerator) if p.denominator == 1 else repr(float(p)) for p in points)
    return [point for value in values for point in _expand(head + value + tail)]


def _parse(text: str) -> Sampler:
    wrapped = _WRAPPED.fullmatch(text)
    if wrapped is not None:
        if wrapped[1] != _WRAPPER:
            raise ValueError(f"{wrapped[1]!r} wraps no other sampler; {_allowed([_WRAPPER], wrapped[1])}")
        inner = _parse(wrapped[2])
        return HEURISTICS[_WRAPPER].load()(inner)  # type: ignore[call-arg]  # the wrapper's only parameter
    head, *parts = pieces(text)
    name, colon, first = head.partition(":")
    if parts and not colon:
        name = text
    if name == LEARNED:
        return _learned(first, parts)
    if name not in HEURISTICS:
        raise ValueError(f"unknown sampler {name!r}; {_allowed(_names(), name)}")
    values = _values(HEURISTICS[name], [first, *parts] if first or parts else [])
    return HEURISTICS[name].load()(**values)


def _values(row: Row, parts: list[str]) -> dict[str, Any]:
    """The parameters that the parts of a spec set."""
    known = {one.name: one for one in row.parameters}
    if parts and "=" not in without_quotes(f":{parts[0]}") and parts[0]:
        parts = [f"{row.parameters[0].name}={parts[0]}", *parts[1:]]
    options = _options(parts)
    for key in options:
        if key not in known:
            raise ValueError(f"unknown parameter {key!r} of {row.name}; {_allowed(known, key)}")
    values = {key: known[key].value(value) for key, value in options.items()}
    row.check(values)
    return values


def _learned(source: str, parts: list[str]) -> Sampler:
    name = unquoted(source)
    key, equals, _ = source.partition("=")
    known = [one.name for one in LEARNED_PARAMETERS]
    if not name or (equals and key in known):
        raise ValueError("name the policy first: learned:PATH, learned:ORG/REPO or learned:builtin:NAME")
    if name == source and len(words := name.split()) > 1 and not Path(name).expanduser().is_dir():
        raise ValueError(f"no folder {name!r}, and no sampler {words[1]!r}; {_allowed(_names(), words[1])}")
    options = {key: unquoted(value) for key, value in _options(parts).items()}
    for key in options:
        if key not in known:
            raise ValueError(f"unknown parameter {key!r} of {LEARNED}; {_allowed(sorted(known), key)}")
    from hf_unmask.samplers import LearnedUnmaskingSampler

    sampler: Sampler = LearnedUnmaskingSampler.from_spec(name, options)
    return sampler


def _options(parts: list[str]) -> dict[str, str]:
    """Keys and values, these as they stand, perhaps in quotes."""
    options: dict[str, str] = {}
    for part in parts:
        key, equals, value = part.partition("=")
        if not key or not equals or not value:
            raise ValueError(f"{part!r} is not key=value")
        if key in options:
            raise ValueError(f"{key!r} is given twice")
        if _SWEEP_LIKE.fullmatch(value):
            raise ValueError(f"{part!r} is not a sweep: write {key}=FIRST..LAST/POINTS")
        options[key] = value
    return options
