"""JSON that was damaged or tampered with: every field with every odd value, and files that are not whole."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

GONE = object()
HUGE = "an integer of 5000 digits"
#: In place of a field: gone, other types, numbers without a value or beyond all bounds, texts of any kind.
ODD: tuple[Any, ...] = (
    *(GONE, None, True, -1, 0, 1.5, 2**31, 2**70, HUGE, 1e300, float("nan"), float("inf"), -float("inf")),
    *("", "x", "-1", "\ud800", "\x1b[2J\n<img>|`", "\0", "~root/x", "x" * 5000, [], [None], [[]], [-1], [2**70], ["x"]),
    *({}, {"a": 1}, {"": {"": []}}, [float("nan")]),
)

#: Whole files, and ends of files.
BYTES = (
    *(b"", b"\n", b"[]", b"{}", b"null", b"12", b'"x"', b"{", b"[" * 100_000, b"\xff\xfe{\x00}\x00", b"\x00" * 100),
    *(b"na\xefve", b'{"a": "\xe9"}', b"1" * 5000, b"NaN", b'{"schema_version": [2]}'),
)


def places(document: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where something stands in a document: keys and indices, containers before their contents."""
    inner = (
        document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    )
    for key, value in inner:
        yield (*path, key)
        if not (isinstance(document, list) and key > 0):  # of a list the first element stands for all
            yield from places(value, (*path, key))


def variants(document: Any) -> Iterator[tuple[str, str]]:
    """Every field with every odd value: what was done, and the JSON."""
    for path in places(document):
        for odd in ODD:
            changed = copy.deepcopy(document)
            parent = changed
            for key in path[:-1]:
                parent = parent[key]
            if odd is GONE:
                del parent[path[-1]]
            else:
                parent[path[-1]] = odd
            shown = "gone" if odd is GONE else repr(odd)[:20]
            yield f"{'.'.join(map(str, path))} = {shown}", json.dumps(changed).replace(f'"{HUGE}"', "1" + "0" * 5000)
