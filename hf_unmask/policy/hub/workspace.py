"""A hidden folder beside a target, in which something is prepared; what killed processes left of theirs is removed."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from hf_unmask.policy.hub.opening import open_inside, remove_inside

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_LOCK = "in-use.lock"
_NAMED = ".saving-"
_OLD = 24 * 3600.0  # seconds after which a folder counts as left behind where locks say nothing


@contextmanager
def workspace(target: Path) -> Iterator[Path]:
    """An empty folder on the target's file system, removed at the end.

    Its owner holds a lock, which the system releases however the process ends. So the next one knows which folders are
    left over, and takes none from a process that is still at work.

    Args:
        target: what is going to be written. Its parent must exist.

    Yields:
        The folder, ``.TARGET.saving-*`` beside the target.
    """
    prefix = f".{target.name}{_NAMED}"
    for folder in _named(target.parent, prefix):
        if _left_behind(folder):
            _remove(folder)
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=target.parent))
    lock = _locked(folder)
    try:
        yield folder
    finally:
        _remove(folder)
        if lock is not None:
            lock.close()


def _remove(folder: Path) -> None:
    """The lock goes last: whoever is killed in between leaves a folder that the next one knows for left behind."""
    with suppress(OSError):
        for child in folder.iterdir():
            if child.name != _LOCK:
                remove_inside(folder.parent, Path(folder.name, child.name))  # a link may have taken the folder's place
    shutil.rmtree(folder, ignore_errors=True)


def _named(parent: Path, prefix: str) -> list[Path]:
    with suppress(OSError):  # a folder that may be written but not listed
        return [entry for entry in parent.iterdir() if entry.name.startswith(prefix) and not entry.is_symlink()]
    return []


def _locked(folder: Path) -> IO[bytes] | None:
    """The folder's lock, held; None where there are no locks. It gets its name only when it is held."""
    if fcntl is None:
        return None
    new = folder / f"{_LOCK}.new"
    file = new.open("wb")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.rename(new, folder / _LOCK)
    except OSError:  # a file system without locks
        file.close()
        return None
    return file


def _left_behind(folder: Path) -> bool:
    """Whether nobody works in the folder: its lock is free or, without one, it is old."""
    try:
        if fcntl is None or not (folder / _LOCK).is_file():
            return time.time() - folder.stat().st_mtime > _OLD
        with open(open_inside(folder.parent, Path(folder.name, _LOCK), os.O_RDWR), "rb+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # held, or gone meanwhile
        return False
    return True
