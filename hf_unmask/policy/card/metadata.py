"""A card's metadata, read as text. A card may be anybody's, and YAML has ways to make much out of little.

So no value is converted, whatever its tag says, and nothing is read that repeats or merges what stands elsewhere; size
and depth are bounded. The Hub client's own reader, which does all of that, never sees a card that we did not render.
"""

from __future__ import annotations

import math
from itertools import islice
from typing import Any

import yaml  # type: ignore[import-untyped]
from huggingface_hub.repocard import REGEX_YAML_BLOCK

from hf_unmask.policy.card.seal import is_rendered, seal

_MOST_CHARACTERS, _MOST_PARTS, _DEEPEST = 256 * 1024, 20_000, 20
_ROOT = 2  # place of the content among the events
_NULLS = ("", "~", "null", "Null", "NULL")
_Loader = getattr(yaml, "CBaseLoader", yaml.BaseLoader)  # libyaml's is twenty times as fast


def read_metadata(card: str) -> Any:
    """The metadata at the head of a card, as `read_yaml` reads them; None if there are none.

    Raises:
        ValueError: they cannot be read.
    """
    found = REGEX_YAML_BLOCK.search(card)
    return read_yaml(found[2]) if found else None


def read_yaml(text: str) -> Any:
    """A YAML document as dicts with text as keys, lists, text, and None where nothing is said.

    Raises:
        ValueError: it is no YAML, too large or too deep, has aliases, or keys that are no text; the message says where.
    """
    events = _events(text)
    return _value(events, _ROOT)[0] if len(events) > _ROOT else None


def retagged(card: str, tag: str, *, wanted: bool) -> str:
    """The card with, or without, a tag in its metadata. One that has none, or is right already, stays as it is.

    Only the list of tags is written anew. A card that nobody has edited still counts as such.

    Raises:
        ValueError: the metadata cannot be read.
    """
    found = REGEX_YAML_BLOCK.search(card)
    if not found or not (wanted or tag in card):
        return card
    try:
        tags = _tags(read_yaml(found[2]))
        if (tag in tags) == wanted:
            return card
        changed = _with_tags(found[2], [*(one for one in tags if one != tag), *([tag] if wanted else [])])
    except ValueError as error:
        raise ValueError(f"the metadata of the card cannot be read: {error}") from error
    text = card[: found.start(2)] + changed + card[found.end(2) :]
    return seal(text) if is_rendered(card) else text


def _tags(metadata: Any) -> list[str]:
    if not isinstance(metadata, dict | None):
        raise ValueError(f"metadata must be keys and values, got {type(metadata).__name__}")
    tags = (metadata or {}).get("tags") or []
    tags = [tags] if isinstance(tags, str) else tags
    if not isinstance(tags, list) or not all(isinstance(one, str) for one in tags):
        raise ValueError(f"`tags` must be a list of text, got {type(tags).__name__}")
    return tags


def _with_tags(block: str, tags: list[str]) -> str:
    """The YAML with another list of tags, in the form that the old one has; the rest as it is."""
    events = _events(block)
    place, stop = _ROOT + 1, len(events) - 2  # of the first key, of the mapping's end
    old: list[Any] = []
    while place < stop:
        _, end = _value(events, place + 1)
        if events[place].value == "tags":
            old = events[place + 1 : end]  # of two equal keys the last one counts
        place = end
    if old:
        return _replaced(block, old, tags)
    if len(events) > _ROOT and (getattr(events[_ROOT], "flow_style", True) or events[_ROOT].start_mark.column):
        raise ValueError(f"no lines of `key: value` {_where(events[_ROOT])}")
    return f"{block.rstrip()}\ntags:\n{_dumped(tags, flow=False)}".lstrip("\n")


def _replaced(block: str, old: list[Any], tags: list[str]) -> str:
    first, last, text = old[0].start_mark, old[-1].end_mark, _dumped(tags, flow=True)
    if isinstance(old[0], yaml.SequenceStartEvent) and not old[0].flow_style:
        last = old[-2].end_mark  # the end of a list in lines lies behind comments
        if tags and block[first.index] == "-":  # no anchor or type before it
            text = _dumped(tags, flow=False).replace("\n", "\n" + " " * first.column)
    space = " " if text[0] == "[" and block[first.index - 1] in ":\n" else ""
    return f"{block[: first.index]}{space}{text}{block[last.index :]}"


def _dumped(tags: list[str], *, flow: bool) -> str:
    text: str = yaml.safe_dump(tags, default_flow_style=flow, allow_unicode=True, width=math.inf)
    return text.rstrip()


def _events(text: str) -> list[Any]:
    """The parts of the text's only document, where it has one: starts of stream and document, content, and ends."""
    if len(text) > _MOST_CHARACTERS:
        raise ValueError(f"{len(text):,} characters of YAML, at most {_MOST_CHARACTERS:,} are read")
    try:
        events = list(islice(yaml.parse(text, Loader=_Loader), _MOST_PARTS + 1))
    except yaml.YAMLError as error:
        raise ValueError(f"no YAML ({error})") from error
    if len(events) > _MOST_PARTS:
        raise ValueError(f"YAML of more than {_MOST_PARTS:,} parts")
    if sum(isinstance(event, yaml.DocumentStartEvent) for event in events) > 1:
        raise ValueError(f"more than one YAML document, the last one {_where(events[-2])}")
    return events[:-1]


def _where(event: Any) -> str:
    return f"in line {event.start_mark.line + 1}"


def _value(events: list[Any], place: int, depth: int = 0) -> tuple[Any, int]:
    """What begins at a place, and the place behind it."""
    event, place = events[place], place + 1
    if depth > _DEEPEST:
        raise ValueError(f"YAML of more than {_DEEPEST} levels {_where(event)}")
    if isinstance(event, yaml.ScalarEvent):
        return (None if event.implicit[0] and event.value in _NULLS else event.value), place
    if isinstance(event, yaml.AliasEvent):
        raise ValueError(f"the alias *{event.anchor} {_where(event)}: write out what it stands for")
    items, pairs = [], {}
    while not isinstance(events[place], yaml.CollectionEndEvent):
        if isinstance(event, yaml.SequenceStartEvent):
            item, place = _value(events, place, depth + 1)
            items.append(item)
            continue
        if not isinstance(events[place], yaml.ScalarEvent):
            raise ValueError(f"a key that is no text {_where(event)}")
        key = events[place].value
        pairs[key], place = _value(events, place + 1, depth + 1)
    return (items if isinstance(event, yaml.SequenceStartEvent) else pairs), place + 1
