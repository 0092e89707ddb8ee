"""One writer at a time: a lock file that is gone when nobody holds it."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

#: Of file systems that have no locks.
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}
_held: set[tuple[int, int, Path]] = set()  # process (a fork inherits this), thread, lock file


@contextmanager
def locked(path: Path, refusal: str, wait: float = 0.0) -> Iterator[None]:
    """Hold the lock file ``path``. The thread that holds it may enter again.

    The system frees the lock of a process however that ends, its file is then left over and taken by the next one.
    Where there are no locks, none is held.

    Args:
        path: the lock file, in a folder that exists.
        refusal: what to say if another process, or thread, holds it.
        wait: seconds to wait for it.

    Raises:
        ValueError: another one holds it.
        OSError: the file cannot be written.
    """
    key = os.getpid(), threading.get_ident(), path.resolve()
    if key in _held:
        yield
        return
    lock = FileLock(path)
    try:
        lock.acquire(timeout=wait)
    except Timeout:
        raise ValueError(refusal) from None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
    _held.add(key)
    try:
        yield
    finally:
        _held.discard(key)
        if lock.is_locked:
            with suppress(OSError):  # Windows removes no file that is open
                path.unlink()  # while it is held: who has opened it meanwhile sees that it is gone
            lock.release()


@contextmanager
def only_writer(folder: Path, what: str) -> Iterator[None]:
    """Keep others out of a folder while ``what`` (an evaluation, a training) writes to it.

    The folder is made if it is not there, and removed again if nothing came into it.

    Raises:
        ValueError: another one is at work there, or the folder cannot be written to.
    """
    made = not folder.exists()
    try:
        with ExitStack() as stack:
            try:
                folder.mkdir(parents=True, exist_ok=True)
                refusal = f"another {what} is writing to {folder}: wait for it, or give another folder"
                stack.enter_context(locked(folder / ".lock", refusal))
            except OSError as error:
                raise ValueError(f"cannot write to {folder} ({error.strerror}): give another folder") from error
            yield
    finally:
        if made:
            with suppress(OSError):  # it holds something
                folder.rmdir()
