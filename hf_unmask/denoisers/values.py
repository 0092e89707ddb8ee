"""What a number or a token id that somebody passed may be, and what is said if it is something else.

Every option, parameter and setting of the package is checked here: one rule for whole numbers, one for others, one for
ids. numpy's numbers count; bools do not, nor texts that look like numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from numbers import Integral, Real
from typing import Any, TypeGuard

#: Largest count, of positions, rows or steps.
MOST = 2**31 - 1
_LONGEST = 100  # characters of a value that are shown


def shown(value: Any) -> str:
    """A value on one line."""
    text = " ".join(repr(value).split())
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def is_whole(value: Any) -> TypeGuard[int]:
    return isinstance(value, Integral) and not isinstance(value, bool)


def is_number(value: Any) -> TypeGuard[float]:
    """Whether a value is a real number; NaN is none."""
    return isinstance(value, Real) and not isinstance(value, bool) and value == value


def require_int(name: str, value: Any, *, at_least: int, at_most: int = MOST) -> int:
    """``value`` as an int.

    Raises:
        ValueError: it is none, or out of its range.
    """
    if not is_whole(value):
        raise ValueError(f"`{name}` must be an int, got {shown(value)}")
    if not at_least <= value <= at_most:
        side, bound = ("least", at_least) if value < at_least else ("most", at_most)
        raise ValueError(f"`{name}` must be an int of at {side} {bound}, got {shown(value)}")
    return int(value)


def require(
    name: str, value: Any, *, above: float = -math.inf, at_least: float = -math.inf, at_most: float = math.inf
) -> None:
    """Raise a ValueError unless ``value`` is a number in its range."""
    bounds = [f"> {above}"] * (above > -math.inf) + [f">= {at_least}"] * (at_least > -math.inf)
    bounds += [f"<= {at_most}"] * (at_most < math.inf)
    if not is_number(value) or not (value > above and at_least <= value <= at_most):
        raise ValueError(f"`{name}` must be {' and '.join(bounds) or 'a number'}, got {shown(value)}")


def require_bool(name: str, value: Any) -> None:
    """Raise a ValueError unless ``value`` is True or False: any other would be taken for True."""
    if not isinstance(value, bool):
        raise ValueError(f"`{name}` must be True or False, got {shown(value)}")


def token_ids(name: str, value: Any) -> list[int]:
    """Ids as ints, from one, or from a list, an array or a tensor [N] of them. Whether a model knows them is not asked.

    Raises:
        ValueError: something is no id.
    """
    values = plain(value)
    listed = [plain(token) for token in values] if is_listed(values) else [values]
    for token in listed:
        if not is_whole(token) or not -(2**63) <= token < 2**63:
            raise ValueError(
                f"`{name}` holds {shown(token)}, which is no token id: ids are ints, as tokenizer(text)['input_ids'] "
                "or tokenizer.convert_tokens_to_ids(token) gives them"
            )
    return listed


def token_id(name: str, value: Any) -> int:
    """The same for one id."""
    found = token_ids(name, value)
    if len(found) != 1:
        raise ValueError(f"`{name}` must be one token id, got {shown(value)}")
    return found[0]


def plain(value: Any) -> Any:
    """What an array or a tensor holds, as Python's own."""
    return value.tolist() if hasattr(value, "tolist") else value


def is_listed(value: Any) -> bool:
    """Whether a value is several, and no text."""
    return isinstance(value, Iterable) and not isinstance(value, str | bytes | Mapping)
