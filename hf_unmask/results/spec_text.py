"""Specs of samplers as text: where one is cut, and what stands in quotes.

A spec is ``name:key=value;key=value``, for a policy ``learned:NAME;key=value``. A policy's name and a value may stand
in quotes, "..." or '...', and must if they hold a space, a ``;``, an ``@`` or a quote, or could be read as something
else (a sweep ``0..1/5``, ``None``, ``speed=1`` in the place of a name). A quote inside is doubled:
``learned:"my runs/x";speed=0.5``. So every path can be written, whatever is in it.
"""

from __future__ import annotations

import re

POLICY = "learned:"

_QUOTED = re.compile(r'"(?:[^"]|"")*"' + "|" + r"'(?:[^']|'')*'")
#: A policy's name or a value as it stands; anything else is quoted.
_PLAIN = re.compile(r"""(?!None$)(?!\w+=)(?![-+]?\d[^/]*\.\.)[^\s;@"']+""")
_POLICY_NAME = re.compile(rf"(?<![^(]){POLICY}([^;]*)")


def quoted(text: str) -> str:
    """A policy's name or a value as a spec holds it."""
    return text if _PLAIN.fullmatch(text) else '"' + text.replace('"', '""') + '"'


def unquoted(text: str) -> str:
    """The inverse of `quoted`; text without quotes stays as it is.

    Raises:
        ValueError: a quote that is not closed, or text behind one that is.
    """
    if not text.startswith(('"', "'")):
        return text
    if _QUOTED.fullmatch(text) is None:
        raise ValueError(f"the quote in {text!r} must end where the value does (a quote inside is doubled)")
    return text[1:-1].replace(2 * text[0], text[0])


def without_quotes(text: str) -> str:
    """The text with an x for each character in quotes, for finding out where it is cut."""
    return re.sub(rf"(?<=[:=])(?:{_QUOTED.pattern})", lambda found: "x" * len(found[0]), text)


def pieces(spec: str) -> list[str]:
    """The parts of a spec between its ``;``."""
    ends = [found.start() for found in re.finditer(r";|\Z", without_quotes(spec))]
    return [spec[start:end] for start, end in zip([0, *(end + 1 for end in ends)], ends, strict=False)]


def without_names(spec: str) -> str:
    """The spec with an x for each character in quotes or of a policy's name: what a sweep may stand in."""
    return _POLICY_NAME.sub(lambda found: "x" * len(found[0]), without_quotes(spec))


def policy_of(spec: str) -> str | None:
    """The policy of a spec, also of one that another sampler wraps; None for a heuristic."""
    found = _POLICY_NAME.search(without_quotes(spec))
    if found is None:
        return None
    name = spec[found.start(1) : found.end(1)]
    closing = spec.count("(", 0, found.start())  # of the samplers around it
    return unquoted(name[: len(name) - closing] if closing and found.end() == len(spec) else name)
