"""Whether written work is well formed, from its text alone. Imports nothing but Python's own.

Read are numbers and what stands between two of them. A sign of calculation joins them, anything else is wording, which
is free and not judged. So a text is a row of *steps* (``5+9=14``) and of numbers by themselves. Any other row of joined
numbers (``5+9``, ``3=17``, ``5+9=14=14``) and an ``=`` or ``+`` in the wording are garbled.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

#: The minus of "7-3" is a subtraction, that of "=-3" a sign.
_NUMBER = re.compile(r"(?:(?<![\w).])-)?(?:(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)")
_ALIKE = str.maketrans(
    {
        "\N{MINUS SIGN}": "-",
        "\N{FULLWIDTH HYPHEN-MINUS}": "-",
        "\N{MULTIPLICATION SIGN}": "*",
        "\N{DIVISION SIGN}": "/",
        "$": None,
    }
)
_JOINTS = ("+", "-", "*", "/", "=")
_NEVER_WORDING = re.compile("[=+]")
_NO_EXPRESSION = re.compile(r"[^\d\s.,+*/-]")
_LONGEST = 100  # characters of a number
_MOST_BITS = 2_000  # of numerator and denominator in between, so that no text takes long

Term = tuple[str, Fraction]  # the sign before a number, "" before the first, and the number


@dataclass(frozen=True)
class Step:
    """One written equation: terms on its left, a number on its right."""

    terms: tuple[Term, ...]
    result: Fraction

    @property
    def holds(self) -> bool:
        """Whether both sides are equal."""
        return value_of(self.terms) == self.result


Work = tuple[Step | Fraction, ...]


def well_formed(text: str, answer: Fraction, expression: Sequence[Term] | None = None) -> bool:
    """Whether the work in a text is well formed and ends in the answer.

    That is: every step is an equation that holds and begins with the result of the one before; the last one results in
    the answer. Behind the steps the answer may stand once more. The answer alone, without a step, is well formed too.

    Args:
        text: what was written.
        answer: what it must end in.
        expression: what is to be worked out, see `read_expression`. Then the steps must take its terms in order,
            each one or several, and all of them. None: the first step may begin with anything.
    """
    work = read_work(text)
    if not work:
        return False
    steps = [part for part in work if isinstance(part, Step)]
    closing = work[-1] if isinstance(work[-1], Fraction) else None
    if len(steps) + (closing is not None) < len(work):
        return False  # a number that is neither in an equation nor the closing answer
    ends = [step.result for step in steps[-1:]] + ([] if closing is None else [closing])
    return all(end == answer for end in ends) and follows(steps, expression)


def follows(steps: Sequence[Step], expression: Sequence[Term] | None = None) -> bool:
    """Whether every step holds and goes on from the one before, with an expression through all of its terms in order.

    No steps follow whatever the expression is.
    """
    left = list(expression or ())  # what is still to be worked out
    for before, step in zip([None, *steps], steps, strict=False):
        first, count = step.terms[0], len(step.terms)
        if not step.holds or (before is not None and first[1] != before.result):
            return False
        if expression is not None and list(step.terms) != left[:count]:
            return False
        left[:count] = [("", step.result)]
    return not steps or len(left) == 1


def read_work(text: str) -> Work | None:
    """The steps in a text and the numbers by themselves, in order; none without a number, None if it is garbled."""
    rows = _rows(text)
    parts = [] if rows is None else [_part(row) for row in rows]
    if rows is None or None in parts:
        return None
    return tuple(part for part in parts if part is not None)


def read_expression(text: str) -> tuple[Term, ...]:
    """The terms of what is to be worked out from left to right, e.g. ``5+9-3``; an ``=`` may stand at its end.

    Raises:
        ValueError: anything else.
    """
    bare = text.strip().removesuffix("=").translate(_ALIKE)
    rows = None if _NO_EXPRESSION.search(bare) else _rows(bare)
    if rows is None or len(rows) != 1:
        raise ValueError(f"an expression is numbers with signs between them, e.g. 5+9-3, got {text!r}")
    return tuple(rows[0])


def last_number(text: str) -> Fraction | None:
    """The last number in a text; None if there is none, or it is too long to be one."""
    found = _NUMBER.findall(text.translate(_ALIKE))
    return _fraction(found[-1]) if found and len(found[-1]) <= _LONGEST else None


def value_of(terms: Sequence[Term]) -> Fraction | None:
    """What the terms give, products before sums; None: a division by zero, or numbers beyond all bounds."""
    total, product = Fraction(0), terms[0][1]
    for sign, number in terms[1:]:
        if sign == "/" and not number:
            return None
        if sign in ("+", "-"):
            total, product = total + product, number if sign == "+" else -number
        else:
            product = product * number if sign == "*" else product / number
        if any(max(n.numerator.bit_length(), n.denominator.bit_length()) > _MOST_BITS for n in (total, product)):
            return None
    return total + product


def _rows(text: str) -> list[list[Term]] | None:
    """Numbers in rows, as far as signs join them; None where a sign that is no wording joins nothing."""
    text = text.translate(_ALIKE)
    rows: list[list[Term]] = []
    end = 0
    for number in _NUMBER.finditer(text):
        between, written = text[end : number.start()].strip(), number[0]
        end = number.end()
        if len(written) > _LONGEST:
            return None
        if rows and not between and written.startswith("-"):  # 7 -3
            between, written = "-", written[1:]
        if rows and between in _JOINTS:
            rows[-1].append(_term(between, _fraction(written)))
        elif _NEVER_WORDING.search(between):
            return None
        else:
            rows.append([("", _fraction(written))])
    return None if _NEVER_WORDING.search(text, end) else rows


def _part(row: Sequence[Term]) -> Step | Fraction | None:
    """A number by itself, a step, or nothing that one could write."""
    *terms, (sign, number) = row
    if not terms:
        return number
    signs = [sign for sign, _ in terms]
    return Step(tuple(terms), number) if sign == "=" and len(terms) > 1 and "=" not in signs else None


def _term(sign: str, number: Fraction) -> Term:
    """To add -3 is to subtract 3, and the other way round."""
    if sign in ("+", "-") and number < 0:
        return "-" if sign == "+" else "+", -number
    return sign, number


def _fraction(number: str) -> Fraction:
    return Fraction(number.replace(",", ""))
