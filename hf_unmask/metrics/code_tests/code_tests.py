"""Code by unit tests: a prediction is right if its tests pass, in a separate process with limits.

Every candidate runs in a fresh, isolated interpreter in an empty folder, with limits on wall and CPU time, memory, file
size and open files; it may start no process or thread and gets no environment variable of the caller. POSIX only.

``isolation`` says what else keeps it in. "bwrap", wherever bubblewrap is installed and works: namespaces of its own. No
network, no other process to see or to end, no file but the interpreter's, and these cannot be written; what it writes
lies in memory and is gone with it. "process", else: THIS IS NO SANDBOX. Programs that a model wrote can read every file
that their user can read, write wherever that user may write, end that user's processes, read their environment, and
open network connections. For programs that nobody has looked at, install bubblewrap (``isolation="bwrap"`` insists on
it), or run the whole evaluation in a container without network and without anything worth stealing.

The verdict is given by the calling process, and nothing of it is in the candidate's: neither the tests, until the
program has run to its end, nor a secret that could be looked up, until the tests have. So leaving early, printing,
looking through frames and modules, or replacing built-ins does not pass. One thing no isolation can give: program and
tests share an interpreter. A program that is written against this very module can speak to the judge as the runner
does, and one whose results claim to equal everything satisfies tests that believe it. Where scores are rewards, read
some of the programs.
"""

from __future__ import annotations

import functools
import itertools
import json
import logging
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import datasets  # type: ignore[import-untyped]
import evaluate  # type: ignore[import-untyped]

_DESCRIPTION = (
    "Share of programs that pass their unit tests. Runs the programs on this machine, in separate processes with "
    "limits, and in a sandbox where bubblewrap is installed."
)
_INPUTS = """predictions: list of str, Python code; a fence (```python ... ```) around it is taken off.
references: list of str, Python code that raises if the candidate is wrong, run after it in the same namespace.
allow_code_execution: keyword argument, must be True.
timeout: seconds of wall and CPU time per program, 10 by default.
memory: MiB of address space per program, 1024 by default.
isolation: "bwrap" or "process", see the module; None takes "bwrap" where it works.
Returns {"score": float in 0..1, "per_sample": one 0.0 or 1.0 per prediction, "isolation": what was used}; the score of
no predictions is 0."""

_REFUSAL = (
    "code_tests runs the predicted programs on this machine, and without bubblewrap in no sandbox: pass "
    "allow_code_execution=True if that is wanted, best in a container without network"
)
_NO_SANDBOX = "code_tests runs the predicted programs in no sandbox: bubblewrap is not installed, or cannot work here"
_KINDS = ("bwrap", "process")
_FENCE = "```"
_READY, _TESTS, _DONE = b"r", b"t", b"d"  # what a runner says: limits are set, send the tests, they are through
_HOME = "/candidate"  # in the sandbox
_DISK = 64 << 20  # bytes that a candidate may write there
#: What an interpreter needs besides its own folders, as far as it exists.
_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/nix/store", "/etc/alternatives", "/etc/ld.so.cache")
#: Whatever it uses after the candidate has run, it has looked up before.
_RUNNER = """
import builtins, ctypes, json, os, resource, sys
def limit(name, value):
    kind = getattr(resource, name)
    hard = resource.getrlimit(kind)[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(kind, (value, value))
def become(user, alone):
    # no process limit holds for root: go on as a user that nobody else is and, without a sandbox, keep of root's rights
    # at most reading, without which an interpreter in a private folder could import nothing
    libc = ctypes.CDLL(None, use_errno=True)
    keep = sys.platform == "linux" and not alone
    if keep:
        libc.prctl(8, 1, 0, 0, 0)  # PR_SET_KEEPCAPS
    if not alone:
        os.chown(".", user, user)
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)
    if keep:
        header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # capabilities, version 3
        reading = 1 << 2  # CAP_DAC_READ_SEARCH
        rights = (ctypes.c_uint32 * 6)(reading, reading, 0, 0, 0, 0)
        if libc.capset(header, rights):
            raise OSError("capset")
def main():
    read, write, leave, run, translate, parse = os.read, os.write, os._exit, exec, compile, json.loads
    link = os.dup(0)
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nothing, stream)
    def take(count):
        found = b""
        while len(found) < count:
            part = read(link, count - len(found))
            if not part:
                leave(1)
            found += part
        return found
    def message():
        return parse(take(int.from_bytes(take(8), "big")))
    task = message()
    try:
        limit("RLIMIT_CPU", task["timeout"] + 1)
        limit("RLIMIT_AS", task["memory"] << 20)
        limit("RLIMIT_FSIZE", 16 << 20)
        limit("RLIMIT_NOFILE", 64)
        limit("RLIMIT_CORE", 0)
        if os.getuid() == 0:
            become(task["user"], task["alone"])
        if not os.access(os.__file__, os.R_OK, effective_ids=True):
            raise OSError("the interpreter's own modules cannot be read")
        limit("RLIMIT_NPROC", 1)
    except (OSError, ValueError):
        leave(1)
    write(link, b"r")
    held, scope = dict(vars(builtins)), {"__name__": "__main__"}
    run(translate(message(), "candidate", "exec"), scope)
    builtins.__dict__.update(held)
    scope["__builtins__"] = builtins
    write(link, b"t")
    run(translate(message(), "tests", "exec"), scope)
    write(link, b"d")
    write(link, message().encode())
    leave(0)
main()
"""


class CodeTests(evaluate.Metric):  # type: ignore[misc]
    """Unit tests, opt-in; see the module for what isolates them."""

    def _info(self) -> evaluate.MetricInfo:
        text = datasets.Value("string")
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="",
            inputs_description=_INPUTS,
            features=datasets.Features({"predictions": text, "references": text}),
        )

    def isolation(self, isolation: str | None = None) -> str:
        """What is used where ``isolation`` is asked for.

        Raises:
            ValueError: there is no such kind, or it is "bwrap" and does not work here.
        """
        if isolation not in (None, *_KINDS):
            raise ValueError(f"`isolation` must be one of {', '.join(_KINDS)}, or None, got {isolation!r}")
        works = isolation != "process" and _bwrap_works()
        if isolation == "bwrap" and not works:
            raise ValueError(f"isolation={isolation!r} needs bubblewrap: it is not installed, or cannot work here")
        return "bwrap" if works else "process"

    def _compute(
        self,
        predictions: list[str],
        references: list[str],
        allow_code_execution: bool = False,
        timeout: int = 10,
        memory: int = 1024,
        isolation: str | None = None,
    ) -> dict[str, Any]:
        if allow_code_execution is not True:
            raise ValueError(_REFUSAL)
        if os.name != "posix":
            raise ValueError(f"code_tests needs the limits of a POSIX system, this is {sys.platform}")
        kind = self.isolation(isolation)
        if isolation is None and kind == "process":
            logging.getLogger(__name__).warning(_NO_SANDBOX)
        pairs = zip(predictions, references, strict=True)
        scores = [float(passes(code, tests, timeout, memory, kind)) for code, tests in pairs]
        return {"score": sum(scores) / max(len(scores), 1), "per_sample": scores, "isolation": kind}


def passes(code: str, tests: str, timeout: int, memory: int, isolation: str) -> bool:
    """Whether the tests pass. ``timeout`` in seconds, ``memory`` in MiB, ``isolation`` "bwrap" or "process".

    Raises:
        RuntimeError: the limits cannot be set on this machine.
    """
    sandbox = isolation == "bwrap"
    limits = {
        "timeout": timeout,
        "memory": memory,
        "user": 200_000 + secrets.randbelow(1_000_000_000),
        "alone": sandbox,
    }
    ours, theirs = socket.socketpair()
    with ours, nullcontext() if sandbox else _folder() as folder:
        with theirs:
            process = subprocess.Popen(
                [*(_sandbox() if sandbox else []), sys.executable, "-I", "-B", "-c", _RUNNER],
                cwd=folder,
                env=_environment(folder or _HOME),
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # a group of its own, which can be ended as a whole
            )
        try:
            return _judged(_Link(ours, timeout), limits, without_fence(code), tests)
        except (TimeoutError, ConnectionError):
            return False
        finally:
            _end(process)


def without_fence(text: str) -> str:
    """The code inside the first fence of a text, the whole text if it has none."""
    _, fence, rest = text.partition(_FENCE)
    if not fence:
        return text
    return rest.partition(_FENCE)[0].partition("\n")[2]


class _Link:
    """The judge's end of the line to a runner. It reads no more than it asked for, and waits no longer than it may."""

    def __init__(self, end: socket.socket, timeout: float) -> None:
        self.end, self.until = end, time.monotonic() + timeout

    def send(self, value: Any) -> None:
        """A message: its length in 8 bytes, and JSON."""
        content = json.dumps(value).encode()
        self._wait()
        self.end.sendall(len(content).to_bytes(8, "big") + content)

    def take(self, count: int) -> bytes:
        """So many bytes, fewer if the other end is closed."""
        found = b""
        while len(found) < count:
            self._wait()
            part = self.end.recv(count - len(found))
            if not part:
                break
            found += part
        return found

    def _wait(self) -> None:
        left = self.until - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self.end.settimeout(left)


def _judged(link: _Link, limits: dict[str, Any], code: str, tests: str) -> bool:
    try:
        link.send(limits)
        said = link.take(1)
    except ConnectionError:  # gone before it listened
        said = b""
    if said != _READY:
        raise RuntimeError(
            "code_tests cannot set its limits here: run as an ordinary user, or outside a restricted one"
        )
    link.send(code)
    if link.take(1) != _TESTS:
        return False
    link.send(tests)
    if link.take(1) != _DONE:
        return False
    token = secrets.token_hex(16)  # made only now: during the tests there is nothing to find
    link.send(token)
    return link.take(len(token)) == token.encode()


@functools.cache
def _bwrap_works() -> bool:
    """Tried once: many containers forbid what it does."""
    try:
        return shutil.which("bwrap") is not None and passes("", "", timeout=60, memory=1024, isolation="bwrap")
    except (OSError, RuntimeError):
        return False


@functools.cache
def _sandbox() -> tuple[str, ...]:
    """The command before the interpreter's: its folders to read, one in memory to write, and nothing else."""
    kinds = ["--unshare-all"]
    if os.geteuid() == 0:  # among the users of a namespace root stays root, for whom no limit of processes holds
        kinds = ["--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try"]
        kinds += ["--cap-drop", "ALL", "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
    command = [sys.executable, "-I", "-c", "import json, sys; print(json.dumps(sys.path))"]
    listed = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    own = sorted({sys.prefix, sys.base_prefix, *filter(os.path.exists, listed)})
    ways = dict.fromkeys(str(above) for path in own for above in reversed(Path(path).parents[:-1]))
    seen = [part for path in ways for part in ("--dir", path)]  # else a private folder above stays private
    seen += [part for path in (*_SYSTEM, *own) for part in ("--ro-bind-try", path, path)]
    home = ["--perms", "1777", "--size", str(_DISK), "--tmpfs", _HOME, "--chdir", _HOME]
    closed = ["--dev", "/dev", "--remount-ro", "/dev", *home, "--remount-ro", "/"]
    return "bwrap", *kinds, "--die-with-parent", "--new-session", *seen, *closed, "--"


@contextmanager
def _folder() -> Iterator[str]:
    """An empty folder, removed at the end."""
    outer = tempfile.mkdtemp(prefix="code_tests_")
    inner = os.path.join(outer, "run")
    os.mkdir(inner)
    try:
        yield inner
    finally:
        with suppress(OSError):  # the verdict stands
            _remove(outer)


def _remove(outer: str) -> None:
    """Remove a folder of folders, however deep and whatever their rights: what lies in them is first moved up."""
    names = map(str, itertools.count())
    while folders := [entry.path for entry in os.scandir(outer)]:
        for folder in folders:
            os.chmod(folder, 0o700)
            for entry in list(os.scandir(folder)):
                if entry.is_dir(follow_symlinks=False):
                    os.chmod(entry.path, 0o700)  # a folder without rights cannot be moved
                    os.rename(entry.path, os.path.join(outer, next(names)))
                else:
                    os.unlink(entry.path)
            os.rmdir(folder)
    os.rmdir(outer)


def _environment(folder: str) -> dict[str, str]:
    nowhere = "http://127.0.0.1:9"  # the discard port
    proxies = dict.fromkeys(("http_proxy", "https_proxy", "ftp_proxy", "all_proxy"), nowhere)
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    plain = {"PATH": os.defpath, "HOME": folder, "TMPDIR": folder, "HF_HUB_OFFLINE": "1", "LC_ALL": "C.UTF-8"}
    return plain | threads | proxies | {name.upper(): value for name, value in proxies.items()}


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill what is left of the process group and collect the process."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):  # gone, or it has become another user and we are not root
        process.kill()
    process.wait()
