"""Processes that begin as copies of this one, so that none spends seconds on importing torch.

For tests of what happens to a process: one that is killed, interrupted, or one of several. Where the imports or the
environment of a fresh interpreter are the point (loads of a module, a client with a Hub and a cache of its own), it is
`subprocess`.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from typing import Any

from accelerate import PartialState
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

_FORK = multiprocessing.get_context("fork")


class Forked:
    """A process that calls a function. A context: the process does not outlive it.

    It has what a script has at its start: Ctrl-C raises ``KeyboardInterrupt``, and nothing is left of pytest's filters
    of warnings, handlers of logs and captured output.
    """

    def __init__(self, function: Callable[..., object], *arguments: Any) -> None:
        self._out, self._err = tempfile.TemporaryFile(), tempfile.TemporaryFile()
        self._process = _FORK.Process(target=self._run, args=(function, arguments))
        self._process.start()
        self.pid: int = self._process.pid

    def _run(self, function: Callable[..., object], arguments: tuple[Any, ...]) -> None:
        os.dup2(self._out.fileno(), 1)
        os.dup2(self._err.fileno(), 2)
        sys.stdout, sys.stderr = (open(number, "w", buffering=1, closefd=False) for number in (1, 2))
        logging.getLogger().handlers.clear()
        warnings.resetwarnings()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        function(*arguments)

    def __enter__(self) -> Forked:
        return self

    def __exit__(self, *error: object) -> None:
        self._process.kill()
        self._process.join()
        self._process.close()
        self._out.close()
        self._err.close()

    @property
    def out(self) -> str:
        """What it has written to its standard output so far."""
        return _text(self._out.fileno())

    @property
    def err(self) -> str:
        return _text(self._err.fileno())

    @property
    def code(self) -> int | None:
        """Its exit code, -N after signal N, None while it runs."""
        return self._process.exitcode

    def wait_until(self, ready: Callable[[], bool]) -> None:
        """Until a condition holds; an error if the process ends before."""
        while not ready():
            assert self.code is None, f"it ended before: {self.code}, {self.err}"
            time.sleep(0.002)

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def wait(self, timeout: float = 300) -> int:
        """Wait for its end. Returns its exit code."""
        self._process.join(timeout)
        assert self.code is not None, f"it still runs after {timeout} s: {self.err}"
        return self.code


def launch(function: Callable[..., object], *arguments: Any, processes: int = 2) -> None:
    """Call a function in several processes, started by torchrun's own launcher."""
    standalone = {"rdzv_backend": "c10d", "rdzv_endpoint": "localhost:0", "run_id": "test", "max_restarts": 0}
    config = LaunchConfig(1, 1, processes, start_method="fork", **standalone)
    with Forked(elastic_launch(config, _as_one_of_several), function, *arguments) as launcher:
        assert launcher.wait() == 0, launcher.err


def _as_one_of_several(function: Callable[..., object], *arguments: Any) -> None:
    PartialState._reset_state()  # accelerate settles once how many processes there are
    function(*arguments)


def _text(number: int) -> str:
    return os.pread(number, os.fstat(number).st_size, 0).decode(errors="replace")
