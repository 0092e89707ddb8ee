"""Files of folders that may be anybody's, opened such that no link leads out of the folder and no pipe is waited for.

Names may change between a look and an opening. So what is checked is what was opened, and the way to it is walked by
descriptors that follow no link.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hf_unmask.policy.config import PolicyLoadError

_NO_LINK = getattr(os, "O_NOFOLLOW", 0)
#: Non-blocking: else the opening of a pipe waits for a writer.
_SAFE = _NO_LINK | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
_FOLDER = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0)
_BY_PARENT = {os.open, os.stat, os.unlink} <= os.supports_dir_fd  # not on Windows


def read_inside(folder: Path, name: str, limit: int | None = None, hint: str = "") -> bytes | None:
    """Content of a regular file in a folder.

    Links are taken if they stay in the folder or, in a snapshot of the Hub's cache, lead to the cache's own stores.

    Args:
        folder: where the file lies.
        name: its path in the folder.
        limit: bytes above which it is not read. None: any size.
        hint: how to raise the limit, for the error.

    Returns:
        The content; None if there is no such file.

    Raises:
        PolicyLoadError: it is no regular file, lies elsewhere, is too large, unreadable or changes meanwhile.
    """
    try:
        target = (folder / name).resolve(strict=True)
        place = next((one for one in _places(folder) if target.is_relative_to(one)), None)
        if place is None:
            raise PolicyLoadError(name, "a link that leaves the folder", "a file in the folder")
        opened = open_inside(place, target.relative_to(place))
    except FileNotFoundError:
        return None
    except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle
        raise PolicyLoadError(name, f"an unreadable file ({error})", "a readable file in the folder") from error
    try:
        return _content(opened, name, limit, hint)
    except OSError as error:
        raise PolicyLoadError(name, f"an unreadable file ({error})", "a readable file") from error
    finally:
        os.close(opened)


def remove_inside(root: Path, inner: Path) -> None:
    """Remove a file, link or folder ``root/inner`` if it is there. No link on the way below ``root`` is followed.

    Raises:
        OSError: there is such a link, or it cannot be removed.
    """
    try:
        with _parent(root, inner) as (name, parent):
            if stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
                shutil.rmtree(name, dir_fd=parent)
            else:
                os.unlink(name, dir_fd=parent)
    except FileNotFoundError:
        pass


def open_inside(root: Path, inner: Path, flags: int = os.O_RDONLY) -> int:
    """Descriptor of ``root/inner``, which is no link and reached through none below ``root``.

    Raises:
        OSError: there is a link, or it cannot be opened.
    """
    with _parent(root, inner) as (name, parent):
        opened = os.open(name, flags | _SAFE, dir_fd=parent)
    if parent is None and not os.path.samestat(os.fstat(opened), os.lstat(name)):
        os.close(opened)
        raise OSError(errno.ELOOP, "a link took its place")
    return opened


def _content(opened: int, name: str, limit: int | None, hint: str) -> bytes:
    status = os.fstat(opened)
    if not stat.S_ISREG(status.st_mode):
        raise PolicyLoadError(name, f"something else ({stat.filemode(status.st_mode)})", "a regular file")
    if limit is not None and status.st_size > limit:
        raise PolicyLoadError(name, f"{status.st_size:,} bytes", f"at most {limit:,}{hint}")
    with open(opened, "rb", closefd=False) as file:
        data = file.read(status.st_size + 1)
    if len(data) != status.st_size:
        raise PolicyLoadError(name, "a file that changes while it is read", f"{status.st_size:,} bytes")
    return data


@contextmanager
def _parent(root: Path, inner: Path) -> Iterator[tuple[str, int | None]]:
    """Last name of ``root/inner`` and descriptor of its folder; where there are no such calls the path, and None."""
    if not _BY_PARENT:
        yield str(root / inner), None
        return
    folder = os.open(root, _FOLDER)
    try:
        for name in inner.parts[:-1]:
            below = os.open(name, _FOLDER | _NO_LINK, dir_fd=folder)
            os.close(folder)
            folder = below
        yield inner.name, folder
    finally:
        os.close(folder)


def _places(folder: Path) -> list[Path]:
    """Where the files may lie: in the folder or, for a snapshot in the Hub's cache, in the two stores it links to."""
    root = folder.resolve()
    repository = root.parent.parent
    if root.parent.name == "snapshots" and repository.name.startswith("models--"):
        return [root, repository / "blobs", repository.parent / "blobs"]
    return [root]
