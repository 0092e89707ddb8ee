"""Code by unit tests: a prediction is right if its tests pass, in a separate process with limits.

THIS IS NO SANDBOX. It runs programs that a model wrote, on this machine. They can read every file that their user can
read, write wherever that user may write, and open network connections. For programs that nobody has looked at, run the
whole evaluation in a container or virtual machine without network and without anything worth stealing.

What there is stops accidents and runaway programs: every candidate runs in a fresh, isolated interpreter in an empty
folder with limits on wall and CPU time, memory, file size and open files; it may start no process or thread, gets no
environment variable of the caller and proxies that lead nowhere. POSIX only.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
from typing import Any

import datasets  # type: ignore[import-untyped]
import evaluate  # type: ignore[import-untyped]

_DESCRIPTION = (
    "Share of programs that pass their unit tests. Runs the programs on this machine, in separate processes with "
    "limits that are no sandbox."
)
_INPUTS = """predictions: list of str, Python code; a fence (```python ... ```) around it is taken off.
references: list of str, Python code that raises if the candidate is wrong, run after it in the same namespace.
allow_code_execution: keyword argument, must be True.
timeout: seconds of wall and CPU time per program, 10 by default.
memory: MiB of address space per program, 1024 by default.
Returns {"score": float in 0..1, "per_sample": one 0.0 or 1.0 per prediction}; the score of no predictions is 0."""

_REFUSAL = (
    "code_tests runs the predicted programs on this machine and is no sandbox: pass allow_code_execution=True if that "
    "is wanted, best in a container without network"
)
_FENCE = "```"
_CANNOT = 97  # exit code of a runner that could not set up its limits
#: The answer "passed" is a token that the candidate does not know, so leaving early with exit code 0 does not pass.
_RUNNER = """
import ctypes, json, os, resource, sys
task = json.loads(sys.stdin.buffer.read())
verdict = os.dup(1)
nothing = os.open(os.devnull, os.O_RDWR)
for stream in (0, 1, 2):
    os.dup2(nothing, stream)
def limit(name, value):
    kind = getattr(resource, name)
    hard = resource.getrlimit(kind)[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(kind, (value, value))
def become(user):
    # no process limit holds for root: go on as a user that nobody else is, and keep of root's rights at most reading,
    # without which an interpreter in a private folder could import nothing
    libc = ctypes.CDLL(None, use_errno=True)
    linux = sys.platform == "linux"
    if linux:
        libc.prctl(8, 1, 0, 0, 0)  # PR_SET_KEEPCAPS
    os.chown(".", user, user)
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)
    if linux:
        header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # capabilities, version 3
        reading = 1 << 2  # CAP_DAC_READ_SEARCH
        rights = (ctypes.c_uint32 * 6)(reading, reading, 0, 0, 0, 0)
        if libc.capset(header, rights):
            raise OSError("capset")
try:
    limit("RLIMIT_CPU", task["timeout"] + 1)
    limit("RLIMIT_AS", task["memory"] << 20)
    limit("RLIMIT_FSIZE", 16 << 20)
    limit("RLIMIT_NOFILE", 64)
    limit("RLIMIT_CORE", 0)
    if os.getuid() == 0:
        become(task["user"])
    if not os.access(os.__file__, os.R_OK, effective_ids=True):
        raise OSError("the interpreter's own modules cannot be read")
    limit("RLIMIT_NPROC", 1)
except (OSError, ValueError):
    os._exit(task["cannot"])
scope = {"__name__": "__main__"}
exec(compile(task["code"], "candidate", "exec"), scope)
exec(compile(task["tests"], "tests", "exec"), scope)
os.write(verdict, task["token"].encode())
os._exit(0)
"""


class CodeTests(evaluate.Metric):  # type: ignore[misc]
    """Unit tests, opt-in; no sandbox, see the module."""

    def _info(self) -> evaluate.MetricInfo:
        text = datasets.Value("string")
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="",
            inputs_description=_INPUTS,
            features=datasets.Features({"predictions": text, "references": text}),
        )

    def _compute(
        self,
        predictions: list[str],
        references: list[str],
        allow_code_execution: bool = False,
        timeout: int = 10,
        memory: int = 1024,
    ) -> dict[str, Any]:
        if allow_code_execution is not True:
            raise ValueError(_REFUSAL)
        if os.name != "posix":
            raise ValueError(f"code_tests needs the limits of a POSIX system, this is {sys.platform}")
        pairs = zip(predictions, references, strict=True)
        scores = [float(passes(code, tests, timeout, memory)) for code, tests in pairs]
        return {"score": sum(scores) / max(len(scores), 1), "per_sample": scores}


def passes(code: str, tests: str, timeout: int, memory: int) -> bool:
    """Whether the tests pass. ``timeout`` in seconds, ``memory`` in MiB.

    Raises:
        RuntimeError: the limits cannot be set on this machine.
    """
    token = secrets.token_hex(16)
    task = {
        "code": without_fence(code),
        "tests": tests,
        "token": token,
        "timeout": timeout,
        "memory": memory,
        "user": 200_000 + secrets.randbelow(1_000_000_000),
        "cannot": _CANNOT,
    }
    with tempfile.TemporaryDirectory(prefix="code_tests_") as folder:
        process = subprocess.Popen(
            [sys.executable, "-I", "-B", "-c", _RUNNER],
            cwd=folder,
            env=_environment(folder),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # a group of its own, which can be ended as a whole
        )
        try:
            said, _ = process.communicate(json.dumps(task).encode(), timeout=timeout)
        except subprocess.TimeoutExpired:
            said = b""
        finally:
            _end(process)
    if process.returncode == _CANNOT:
        raise RuntimeError(
            "code_tests cannot set its limits here: run as an ordinary user, or outside a restricted one"
        )
    return said.decode(errors="replace") == token


def without_fence(text: str) -> str:
    """The code inside the first fence of a text, the whole text if it has none."""
    _, fence, rest = text.partition(_FENCE)
    if not fence:
        return text
    return rest.partition(_FENCE)[0].partition("\n")[2]


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
    process.communicate()
