"""Programs judged by their unit tests: what passes, what a program cannot reach, and what it leaves behind."""

from __future__ import annotations

import os
import resource
import socket
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest
from evaluation_run import ROWS, run

from hf_unmask.evaluation.scoring import Scorer
from hf_unmask.metrics import load_metric

METRIC = load_metric("code_tests")
BWRAP = METRIC.isolation() == "bwrap"
ROOT = os.geteuid() == 0
NO_BWRAP = pytest.mark.skipif(not BWRAP, reason="bubblewrap is not installed, or cannot work here")
KINDS = ["process", pytest.param("bwrap", marks=NO_BWRAP)]
#: Where another process is out of reach: root's candidates are another user, those of others are in a sandbox only.
APART = [pytest.param("process", marks=pytest.mark.skipif(not ROOT, reason="the same user")), KINDS[1]]


def judge(programs: Any, tests: str = "assert f() == 1", **options: Any) -> list[float]:
    options = {"allow_code_execution": True, "memory": 512} | options
    result = METRIC.compute(predictions=list(programs), references=[tests] * len(programs), **options)
    assert result["isolation"] == options.get("isolation", METRIC.isolation())
    return result["per_sample"]


PROGRAMS = {
    "def f(): return 1": 1,
    "Here it is:\n```python\ndef f(): return 1\n```\nDone.": 1,
    "def f(): return 2": 0,
    "def f(:": 0,
    "import sys; sys.exit(0)": 0,
    "import os; os._exit(0)": 0,
    "print('passed', flush=True); raise SystemExit": 0,
    "import os\nwhile True: os.fork()": 0,
    "import threading\nthreading.Thread(target=print).start()\ndef f(): return 1": 0,
    "hold = 'a' * (1 << 31)\ndef f(): return 1": 0,
    "import os\nassert 'SECRET' not in os.environ and not os.listdir('.')\ndef f(): return 1": 1,
    "open('big', 'wb').write(bytes(1 << 25))\ndef f(): return 1": 0,
    "import urllib.request as u\ndef f(): return int('127.0.0.1' in u.getproxies()['https'])": 1,
    "open('kept', 'w').write('1')\ndef f(): return int(open('kept').read())": 1,
    "text = '\\ud800'\ndef f(): return len(text)": 1,
    "import json, numpy\ndef f(): return int(numpy.ones(1)[0])": 1,
}


@pytest.mark.parametrize("kind", KINDS)
def test_programs(monkeypatch, kind):
    monkeypatch.setenv("SECRET", "1")
    assert judge(PROGRAMS, isolation=kind, memory=1024) == list(PROGRAMS.values())


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_endless_programs_are_ended(kind):
    start = time.monotonic()
    endless = ["while True: pass", "import time; time.sleep(60)", "def f():\n    while True: pass"]
    assert judge(endless, isolation=kind, timeout=1) == [0, 0, 0]
    assert time.monotonic() - start < 15


#: Every token that can be found from a frame, said on every descriptor that may be the judge's.
SAY = """
import gc, os, re, sys
def tokens():
    frame = sys._getframe()
    places = [vars(sys.modules["__main__"])] + [one for one in gc.get_objects() if isinstance(one, dict)]
    while frame:
        places += [frame.f_locals, frame.f_globals]
        frame = frame.f_back
    places += [inner for place in places for inner in list(place.values()) if isinstance(inner, dict)]
    texts = {value for place in places for value in list(place.values()) if isinstance(value, str)}
    return [text for text in texts if re.fullmatch("[0-9a-f]{16,}", text)]
def say():
    for descriptor in range(3, 64):
        try:
            os.set_blocking(descriptor, False)
            os.write(descriptor, "".join(tokens()).encode())
        except OSError:
            pass
    os._exit(0)
"""
LOOK = """
import sys
frame, seen = sys._getframe(), ""
while frame:
    seen += str(frame.f_locals) + str(frame.f_globals)
    frame = frame.f_back
def f(): return 1 if "unlikely_name" in seen else 2
"""
WRONG = "\ndef f(): return 2"
FORGERIES = {
    "tokens said while the program runs": SAY + "say()",
    "tokens said while the tests run": SAY + "def f(): say()",
    "a runner that runs nothing": "import builtins; builtins.exec = builtins.compile = lambda *a: None" + WRONG,
    "built-ins that are content": "import builtins; builtins.all = lambda x: True" + WRONG,
    "built-ins of its own": "import builtins; __builtins__ = dict(vars(builtins), all=lambda x: True)" + WRONG,
    "system calls that do something else": "import os; os.read = os.write = os._exit = lambda *a: b'1'" + WRONG,
    "the tests, read beforehand": LOOK,
    "the exit code of limits that cannot be set": "import os; os._exit(97)",
    "an error in the tests": "def f(): raise SystemExit(0)",
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_verdict_is_not_forged(kind):
    """A token that can be found, or tests that the runner is kept from running."""
    tests = "unlikely_name = f()\nassert all([unlikely_name == 1])"
    assert dict(zip(FORGERIES, judge(FORGERIES.values(), tests, isolation=kind), strict=True)) == dict.fromkeys(
        FORGERIES, 0
    )
    assert judge(["def f(): return 1"], tests, isolation=kind) == [1]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("when", ["", "def f():\n"])
def test_a_program_that_never_stops_talking_fills_no_memory(kind, when):
    """The parent kept all that came through the pipe."""
    talk = (
        "import os\n"
        + when
        + "".join(
            f" {line}\n" if when else f"{line}\n"
            for line in (
                "while True:",
                " for to in range(3, 9):",
                "  try: os.write(to, b'r' * 65536)",
                "  except OSError: pass",
            )
        )
    )
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert judge([talk], isolation=kind, timeout=2) == [0]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 32 * 1024


LITTER = """import os
os.mkfifo('pipe'); os.symlink('/', 'root'); open(b'\\xff', 'w')
for i in range(1500):
    os.mkdir('d' * 200); open('file', 'w'); os.chdir('d' * 200)
os.mkdir('closed'); os.mkdir('closed/inside'); os.chmod('closed', 0); os.chmod('.', 0)
def f(): return 1"""


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_left_behind(kind, monkeypatch):
    """Folders deeper than Python can recurse and paths longer than the system takes ended the evaluation."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # where removing takes no disk
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        monkeypatch.setattr(tempfile, "tempdir", folder)
        (Path(folder) / "mine").write_text("")
        assert judge([LITTER], isolation=kind) == [1]
        assert os.listdir(folder) == ["mine"]
        monkeypatch.undo()


REACH = """import os, signal
def ancestors():
    yield os.getppid()
    yield {parent}
def f():
    for pid in ancestors():
        for name in ('environ', 'mem', 'cmdline' if {alone} else 'environ'):
            try:
                open(f'/proc/{{pid}}/{{name}}', 'rb').read(1)
                return 2
            except OSError:
                pass
        if pid > 1:
            try:
                os.kill(pid, signal.SIGCONT)
                return 3
            except OSError:
                pass
    return 1"""


@pytest.mark.parametrize("kind", APART)
def test_other_processes_are_out_of_reach(kind):
    """The environment of the caller, with its tokens, and its life."""
    assert judge([REACH.format(parent=os.getpid(), alone=kind == "bwrap")], isolation=kind) == [1]


@NO_BWRAP
def test_a_sandbox_has_no_network_no_files_and_little_room(tmp_path):
    (tmp_path / "mine").write_text("")
    with socket.create_server(("127.0.0.1", 0)) as server:
        name = "\0hf-unmask-test"
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(name)
        listening.listen()
        port = server.getsockname()[1]
        programs = {
            f"import socket\ndef f(): socket.create_connection(('127.0.0.1', {port}), 1)\n": 0,
            f"import socket\ndef f(): socket.socket(socket.AF_UNIX).connect({name!r})\n": 0,
            f"import os\ndef f(): return 1 + os.path.exists({str(tmp_path / 'mine')!r}) + os.path.exists('/proc/1')": 1,
            "import sys\ndef f(): open(sys.prefix + '/planted', 'w')": 0,
            "def f(): open('/planted', 'w')": 0,
            "def f(): open('/dev/shm/planted', 'w')": 0,
            "def f():\n for i in range(9): open(str(i), 'wb').write(bytes(1 << 24))\n return 1": 0,
            "import os\ndef f(): return 1 + (os.getuid() == 0)": 1,
        }
        for program, passed in programs.items():
            caught = program + "\ntry: f()\nexcept OSError: pass\nelse: raise SystemExit" if not passed else program
            assert judge([program, caught], "f()" if not passed else "assert f() == 1", isolation="bwrap")[0] == passed
        listening.close()


def test_what_isolates_is_chosen_said_and_recorded(monkeypatch, tmp_path):
    with pytest.raises(ValueError, match="`isolation` must be one of bwrap, process, or None, got 'docker'"):
        judge(["1"], isolation="docker")
    scorer = Scorer.of("code_tests", {"allow_code_execution": True, "isolation": "process"})
    assert scorer.isolation == "process" and Scorer.of("exact_match", {}).isolation is None
    options = {"metric": "code_tests", "samplers": "confidence:k=4", "block_lengths": 4}
    (point, _) = run(tmp_path, ROWS[:2], metric_options=dict(scorer.options), **options)
    assert point.environment["isolation"] == "process"
    monkeypatch.setenv("PATH", str(tmp_path))
    alone = load_metric("code_tests")
    type(alone).isolation.__globals__["_bwrap_works"].cache_clear()
    try:
        assert alone.isolation() == "process"
        with pytest.raises(ValueError, match="isolation='bwrap' needs bubblewrap"):
            alone.isolation("bwrap")
    finally:
        monkeypatch.undo()
        type(alone).isolation.__globals__["_bwrap_works"].cache_clear()


@pytest.mark.parametrize("options", [{}, {"allow_code_execution": False}, {"allow_code_execution": 1}])
def test_running_is_opt_in(options, tmp_path):
    with pytest.raises(ValueError, match="allow_code_execution=True"):
        METRIC.compute(predictions=[f"open({str(tmp_path / 'ran')!r}, 'w')"], references=[""], **options)
    assert not (tmp_path / "ran").exists()
