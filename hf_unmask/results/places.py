"""Folders by what lies in them, names by what they look like: told apart before anything is read or written."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

EVALUATION, RUN, POLICY, MODEL, DATA = "an evaluation", "a training run", "a policy", "a model", "a data set"
#: Files of which one tells what a folder holds.
_SIGNS = {
    EVALUATION: ("manifest.json", "results.json", "samples.jsonl"),
    RUN: ("run.json", "checkpoint-*/trainer_state.json"),
    DATA: ("dataset_info.json", "dataset_dict.json"),
}
#: What data sets are read from.
DATA_FILES = (".jsonl", ".json", ".csv", ".parquet")
_POLICY = "unmask_policy"  # a policy's model type
_LARGEST = 2**20  # of a config


def looks_like_path(name: str) -> bool:
    """Whether a name cannot be one of a repository, ``org/name``."""
    return name.startswith((".", "/", "~")) or name.endswith("/") or "\\" in name or name.count("/") > 1


def kinds(folder: str | Path) -> list[str]:
    """What a folder holds, of the five. A finished run holds its policy, too."""
    place = Path(folder)
    if not place.is_dir():
        return []
    found = [kind for kind, signs in _SIGNS.items() if any(any(place.glob(sign)) for sign in signs)]
    config = config_of(place)
    if config is not None:
        found.append(POLICY if config.get("model_type") == _POLICY else MODEL)
    return found


def described(folder: str | Path) -> str:
    """``holds a training run``, ``is empty``, ``is not there``."""
    place = Path(folder)
    if not place.is_dir():
        return "is a file" if place.exists() else "is not there"
    if found := kinds(place):
        return f"holds {' and '.join(found)}"
    return "holds other files" if any(place.iterdir()) else "is empty"


def require_own(folder: str | Path, *allowed: str, option: str) -> None:
    """Refuse to write into a folder that holds something else.

    Raises:
        ValueError: it does, or is a file.
    """
    place = Path(folder)
    if place.exists() and not place.is_dir():
        raise ValueError(f"cannot write to {folder} (a file): give another folder as `{option}`")
    other = [kind for kind in kinds(place) if kind not in allowed]
    if other:
        raise ValueError(f"{folder} holds {other[0]}: give another folder as `{option}`")


def check_data_name(name: str) -> None:
    """Say of a data set's name that can only be a path, perhaps with ``:SPLIT`` behind it, that there is none.

    Raises:
        ValueError: there is none.
    """
    path = name.partition(":")[0]
    if Path(name).exists() or Path(path).exists():
        return
    if looks_like_path(path) or Path(path).suffix in DATA_FILES:
        raise ValueError(
            f"no file or folder {path!r}: a data set is {', '.join(DATA_FILES)}, a folder, or NAME:SPLIT of the Hub"
        )


def require_evaluation(folder: str | Path, *, finished: bool = True) -> None:
    """Refuse a folder without results; without ``finished`` an evaluation that was stopped will do.

    Raises:
        ValueError: says what it holds instead, and how results come about.
    """
    if EVALUATION not in kinds(folder):
        raise ValueError(
            f"{folder} {described(folder)}, not an evaluation: `hf-unmask evaluate --output DIR` writes one"
        )
    if finished and not (Path(folder) / "results.json").is_file():
        raise ValueError(f"{folder} holds an evaluation that is not finished: repeat its command")


def config_of(folder: Path) -> dict[str, Any] | None:
    """A folder's ``config.json`` as far as it is an object of usual size."""
    path = folder / "config.json"
    try:
        if not path.is_file() or path.stat().st_size > _LARGEST:
            return None
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


@contextmanager
def naming(name: str, what: str) -> Iterator[None]:
    """An error of a library that does not name a repository gets ``what`` as a note: it may say "the requested files".

    Raises:
        OSError, ValueError: those inside, unchanged but for the note.
    """
    try:
        yield
    except (OSError, ValueError) as error:
        if name not in str(error):
            error.add_note(what)
        raise


def unreadable(what: str, name: str) -> str:
    """The note about a repository from which something should have come."""
    return f"{what} {name!r} is no folder here, and its repository cannot be read"
