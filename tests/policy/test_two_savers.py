"""Two processes that save to one folder: the second waits, whatever the first is doing; no mixture is left."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from forked import Forked
from hostile_repos import write_policy

from hf_unmask.policy import load_policy, save_policy
from hf_unmask.policy.hub import folders
from hf_unmask.policy.hub.folders import saving
from hf_unmask.policy.hub.locking import locked, only_writer

CONFIGS = {"old": {"rope_theta": 1.0}, "first": {"rope_theta": 2.0}, "second": {"rope_theta": 3.0}}
PATIENCE = 1.0  # seconds; on an idle machine a save takes a twentieth of that


def forked(work, *arguments) -> int:
    child = os.fork()
    if not child:
        try:
            work(*arguments)
        except BaseException:
            os._exit(1)
        os._exit(0)
    return child


def save_and_stop(new: Path, target: Path, moment: int) -> None:
    """Save, and stop before the ``moment``-th change in or near the target until somebody says to go on."""
    policy, seen = load_policy(new), 0

    def watch(event: str, args: tuple[object, ...]) -> None:
        nonlocal seen
        if event in ("os.rename", "os.mkdir", "os.remove") and any(str(a).startswith(str(target.parent)) for a in args):
            seen += 1
            if seen == moment:
                os.kill(os.getpid(), signal.SIGSTOP)

    sys.addaudithook(watch)
    save_policy(policy, target)


def ended(child: int, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if os.waitpid(child, os.WNOHANG)[0]:
            return True
        time.sleep(0.01)
    return False


def interleave(root: Path) -> None:
    """Saves to over/1, over/2 ...: the first process stops at each of its changes, while the second one comes."""
    for moment in range(1, 100):
        target = root / "over" / str(moment) / "policy"
        target.parent.mkdir(parents=True)
        shutil.copytree(root / "old", target)
        first = forked(save_and_stop, root / "first", target, moment)
        if os.WIFEXITED(os.waitpid(first, os.WUNTRACED)[1]):
            return
        second = forked(save_policy, load_policy(root / "second"), target)
        before = ended(second, PATIENCE)
        os.kill(first, signal.SIGCONT)
        codes = [os.waitpid(child, 0)[1] for child in (first, *([] if before else [second]))]
        (target.parent / "said").write_text(f"{'second' if before else 'first'} first {codes}")


def count(root: Path) -> None:
    """Several processes add to one number, which takes a lock that vanishes each time."""

    def add() -> None:
        for _ in range(12):
            with locked(root / "number.lock", "busy", 60):
                number = int((root / "number").read_text())
                (root / "number").write_text("")  # nobody else may look now
                (root / "number").write_text(str(number + 1))

    (root / "number").write_text("0")
    children = [forked(add) for _ in range(4)]
    codes = [os.waitpid(child, 0)[1] for child in children]
    (root / "codes").write_text(str(codes))


def die_holding(root: Path) -> None:
    """A process that is killed while it holds two locks."""

    def die() -> None:
        with only_writer(root / "run", "training"), saving(root / "policy"):
            os.kill(os.getpid(), signal.SIGKILL)

    os.waitpid(forked(die), 0)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("savers")
    for seed, (name, config) in enumerate(CONFIGS.items()):
        write_policy(root / name, seed=seed, **config)
    at_work(root, count, die_holding)
    return root


def at_work(root: Path, *work: Callable[[Path], None]) -> None:
    for each in work:
        with Forked(each, root) as process:  # it forks in turn, and has no threads
            assert process.wait() == 0, process.err


def same(one: Path, other: Path) -> bool:
    first, second = load_policy(one), load_policy(other)
    equal = all(torch.equal(t, second.state_dict()[n]) for n, t in first.state_dict().items())
    return equal and first.config == second.config


@pytest.mark.slow
def test_the_second_waits_for_the_first(root):
    """Weights of one and settings of the other, which load: nobody would notice."""
    at_work(root, interleave)
    targets = [folder / "policy" for folder in sorted((root / "over").iterdir(), key=lambda p: int(p.name))]
    said = [(target.parent / "said").read_text() for target in targets[:-1]]
    # before it holds the lock, it is not the first
    assert said == sorted(said, reverse=True) and set(said) == {"second first [0]", "first first [0, 0]"}
    assert said.count("first first [0, 0]") >= 6
    for target, one in zip(targets, [*said, "second first [0]"], strict=True):
        assert same(target, root / ("second" if one.startswith("first") else "first"))
        assert set(os.listdir(target.parent)) <= {"policy", "said"}


def test_a_lock_that_vanishes_excludes_everybody_else(root):
    """Two holders: one of a file that was removed, one of the file that took its place."""
    assert ((root / "number").read_text(), (root / "codes").read_text()) == ("48", "[0, 0, 0, 0]")
    assert not (root / "number.lock").exists()


def test_the_lock_of_a_killed_process_is_free(root):
    assert (root / "run" / ".lock").exists() and (root / ".policy.lock").exists()
    with only_writer(root / "run", "training"):
        save_policy(load_policy(root / "old"), root / "policy")
    assert not (root / "run" / ".lock").exists() and not (root / ".policy.lock").exists()


@pytest.fixture
def held(tmp_path):
    """Somebody else is at work in the folders ``run`` and ``policy``."""
    entered, leave = threading.Event(), threading.Event()

    def hold():
        with only_writer(tmp_path / "run", "training"), saving(tmp_path / "policy"):
            entered.set()
            leave.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    entered.wait(60)
    yield tmp_path
    leave.set()
    thread.join()


def test_who_is_refused_is_told_why(held, root, monkeypatch):
    monkeypatch.setattr(folders, "_WAIT", 0.1)
    with pytest.raises(ValueError, match=r"another process has been saving a policy to '.*policy' for 0.1 s"):
        save_policy(load_policy(root / "old"), held / "policy")
    for what in ("training", "evaluation"):
        with pytest.raises(ValueError, match=rf"another {what} is writing to .*run: wait for it, or give another"):
            with only_writer(held / "run", what):
                pytest.fail("two of them at work")
    assert sorted(os.listdir(held)) == [".policy.lock", "run"]


def test_the_holder_may_enter_again(tmp_path, root):
    with saving(tmp_path / "policy"), only_writer(tmp_path / "run", "training"):
        save_policy(load_policy(root / "old"), tmp_path / "policy")
        with only_writer(tmp_path / "run", "training"):
            pass
        assert sorted(os.listdir(tmp_path)) == [".policy.lock", "policy", "run"]
    assert sorted(os.listdir(tmp_path)) == ["policy"]  # nothing came into the other one


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"cannot write to .*file/run \(Not a directory\): give another folder"):
        with only_writer(tmp_path / "file" / "run", "training"):
            pytest.fail("a folder below a file")
