"""What a rendered card leaves open until a push, and the mark by which one is known that nobody has edited."""

from __future__ import annotations

import hashlib
import re

#: What a rendered card says instead of the repository and the revision, until a push fills them in.
REPOSITORY, REVISION = "<org/name>", "<revision>"

_SEAL = re.compile(r"\n<!-- rendered by hf_unmask, [^\n]*-->\n\Z")


def seal(card: str) -> str:
    """The card with a last line by which `is_rendered` knows that nobody has edited it."""
    body = _SEAL.sub("", card).rstrip() + "\n"
    digest = hashlib.sha256(body.encode()).hexdigest()[:12]
    return f"{body}\n<!-- rendered by hf_unmask, unedited as long as this fits: {digest} -->\n"


def is_rendered(card: str) -> bool:
    """Whether a card is as it was rendered."""
    return seal(card) == card


def filled(card: str, repo_id: str, revision: str) -> str:
    """The card with its placeholders filled in."""
    filled = card.replace(REPOSITORY, repo_id).replace(REVISION, revision)
    return seal(filled) if is_rendered(card) else filled
