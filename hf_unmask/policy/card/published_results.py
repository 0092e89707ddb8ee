"""What a card's metadata claim about results. A card may be anybody's: nothing about its form is taken for granted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from itertools import islice
from pathlib import Path
from typing import Any

from hf_unmask.policy.card.metadata import read_metadata
from hf_unmask.policy.config import PolicyLoadError
from hf_unmask.policy.hub.download import download_card, fetched_commit
from hf_unmask.policy.hub.files import CARD
from hf_unmask.policy.hub.folders import BUILTIN
from hf_unmask.policy.hub.opening import read_inside
from hf_unmask.results.foreign_text import printable

#: Bytes above which a card is not read.
MAX_CARD_BYTES = 256 * 1024
_MOST, _LONGEST, _LARGEST = 200, 200, 1e15  # results that are shown, characters of a name, value of a number


@dataclass(frozen=True)
class PublishedResult:
    """One entry of a card's ``model-index``."""

    task: str
    metric: str
    value: str


def find_card(policy: str, folder: Path) -> str | None:
    """The card of a policy.

    Args:
        policy: what the user called it: a folder, a repository or a ``builtin:`` name.
        folder: where ``find_policy`` found it.

    Returns:
        Its text; None if there is none, or one above `MAX_CARD_BYTES`, or no file of the folder.

    Raises:
        OSError: the Hub client's own, unchanged.
    """
    if policy.startswith(BUILTIN):
        card = resources.files("hf_unmask.model_cards").joinpath(f"{policy.removeprefix(BUILTIN)}.md")
        return card.read_text("utf-8") if card.is_file() else None
    commit = fetched_commit(policy, folder)
    if commit is None:
        path: Path | None = folder / CARD
    else:
        path = download_card(policy, revision=commit, max_bytes=MAX_CARD_BYTES)
    try:
        content = None if path is None else read_inside(path.parent, path.name, MAX_CARD_BYTES)
    except PolicyLoadError:
        return None
    return None if content is None else content.decode("utf-8", errors="replace")


def published_results(card: str) -> list[PublishedResult]:
    """The entries of a card's ``model-index``, as far as they have the form that the Hub documents."""
    try:
        return list(islice(_entries(read_metadata(card)), _MOST))
    except ValueError:
        return []


def _entries(metadata: Any) -> Iterator[PublishedResult]:
    for model in _items(metadata, "model-index"):
        for result in _items(model, "results"):
            dataset = result.get("dataset") if isinstance(result, dict) else None
            for metric in _items(result, "metrics"):
                if isinstance(metric, dict):
                    name = metric.get("name") or metric.get("type")
                    yield PublishedResult(_text(dataset, "name"), _shown(name), _number(metric.get("value")))


def _items(parent: Any, key: str) -> list[Any]:
    children = parent.get(key) if isinstance(parent, dict) else None
    return children if isinstance(children, list) else []


def _text(parent: Any, key: str) -> str:
    return _shown(parent.get(key)) if isinstance(parent, dict) else "-"


def _number(value: Any) -> str:
    """A number as it is shown, "-" for one beyond use; any other text as it is."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return _shown(value)
    return f"{number:.4g}" if abs(number) < _LARGEST else "-"


def _shown(value: Any) -> str:
    return printable(value, longest=_LONGEST) if isinstance(value, str) else "-"
