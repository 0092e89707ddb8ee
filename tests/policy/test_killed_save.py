"""A process killed at any moment of `save_pretrained` leaves the old policy or the new one, never a mixture."""

from __future__ import annotations

import functools
import os
import shutil
import signal
import sys
from pathlib import Path

import pytest
import torch
from forked import Forked
from hostile_repos import CONFIG, WEIGHTS, write_policy

from hf_unmask.policy import UnmaskingPolicy, load_policy, save_policy
from hf_unmask.policy.hub.workspace import workspace

OLD, NEW = {"rope_theta": 100.0}, {"rope_theta": 10.0, "action": "plackett_luce"}  # of one shape: a mixture would load


def save_until_killed(policy: UnmaskingPolicy, target: Path, moment: int) -> None:
    """Save in a child process that is killed at its ``moment``-th use of the file system near the target."""
    seen = 0

    def near(args: tuple[object, ...]) -> bool:
        """Below the target's folder, or a bare name, which is used by a descriptor."""
        bare = isinstance(args[0], str) and "/" not in args[0]
        return bare or any(str(a).startswith(str(target.parent)) for a in args)

    def watch(event: str, args: tuple[object, ...]) -> None:
        nonlocal seen
        if event.startswith(("open", "os.", "shutil.", "tempfile.")) and args and near(args):
            seen += 1
            if seen == moment:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    save_policy(policy, target)


def save_over_and_first(root: Path) -> None:
    """One child after the other, killed later and later, until one gets through: they save to over/1, over/2 ..."""
    policy = load_policy(root / "new")
    for kind in ("over", "first"):
        moment = code = 1
        while code:
            target = root / kind / str(moment) / "policy"
            target.parent.mkdir(parents=True)
            if kind == "over":
                shutil.copytree(root / "old", target)
            child = os.fork()
            if not child:
                save_until_killed(policy, target, moment)
                os._exit(0)
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            if code not in (0, -signal.SIGKILL):
                sys.exit(f"{target}: {code}")
            moment += 1


@pytest.fixture(scope="module")
def policies(tmp_path_factory):
    root = tmp_path_factory.mktemp("killed")
    write_policy(root / "old", **OLD)
    (root / "old" / "README.md").write_text("card")
    write_policy(root / "new", seed=1, **NEW)
    return root


@pytest.fixture(scope="module")
def root(policies):
    with Forked(save_over_and_first, policies) as process:
        assert process.wait() == 0, process.err
    return policies


def targets(root: Path, kind: str) -> list[Path]:
    return [folder / "policy" for folder in sorted((root / kind).iterdir(), key=lambda p: int(p.name))]


original = functools.cache(load_policy)


def which(folder: Path, root: Path) -> str:
    """Compares config and every tensor with both originals."""
    found = load_policy(folder)
    for name in ("old", "new"):
        wanted = original(root / name)
        same = all(torch.equal(t, found.state_dict()[n]) for n, t in wanted.state_dict().items())
        if same and found.config == wanted.config:
            return name
    raise AssertionError("a mixture")


def same_file(root: Path, name: str, one: Path, other: str) -> bool:
    return (one / name).read_bytes() == (root / other / name).read_bytes()


def half_done(root: Path) -> list[Path]:
    """Folders of children that died between the two renames."""
    return [
        folder
        for folder in targets(root, "over")
        if same_file(root, WEIGHTS, folder, "new") and same_file(root, CONFIG, folder, "old")
    ]


@pytest.mark.slow
def test_an_older_policy_stays_usable(root):
    found = [which(folder, root) for folder in targets(root, "over")]
    assert found[0] == "old" and found[-1] == "new" and len(found) > 15
    assert found == sorted(found, reverse=True), "once new, always new"
    assert half_done(root)
    assert all((folder / "README.md").read_text() == "card" for folder in targets(root, "over"))


@pytest.mark.slow
def test_a_first_save_is_there_or_not(root):
    there = [folder.exists() for folder in targets(root, "first")]
    assert there == sorted(there) and there[-1] and not there[0]
    assert {which(folder, root) for folder in targets(root, "first") if folder.exists()} == {"new"}


@pytest.mark.slow
@pytest.mark.parametrize("weights", ["old", "new"])
def test_an_unfinished_config_counts_with_its_weights_only(root, tmp_path, weights):
    half = shutil.copytree(half_done(root)[0], tmp_path / "policy")
    shutil.copy(root / weights / WEIGHTS, half / WEIGHTS)
    assert which(half, root) == weights


@pytest.mark.slow
def test_the_next_save_leaves_nothing_of_a_killed_one(root, tmp_path):
    half = shutil.copytree(half_done(root)[0], tmp_path / "policy")
    assert len(os.listdir(half)) == 4
    save_policy(load_policy(root / "old"), half)
    assert sorted(os.listdir(half)) == ["README.md", CONFIG, WEIGHTS]
    assert which(half, root) == "old"


def left_beside(target: Path) -> list[str]:
    return sorted(name for name in os.listdir(target.parent) if name != target.name)


@pytest.mark.slow
def test_the_next_save_removes_the_hidden_folder_of_a_killed_one(root):
    """Hidden folders with megabytes of weights that pile up beside a policy."""
    left = [folder for kind in ("over", "first") for folder in targets(root, kind) if left_beside(folder)]
    assert len(left) > 10
    for folder in left:
        save_policy(original(root / "old"), folder)
    still = [hidden for folder in left for name in left_beside(folder) if (hidden := folder.parent / name)]
    assert {held for hidden in still for held in os.listdir(hidden)} <= {"in-use.lock.new"}, "killed before all else"
    assert len(still) <= len(left) / 3


def test_a_hidden_folder_in_use_is_left_alone(policies, tmp_path):
    """Another process of the same training loses its files in the middle of its save."""
    target = tmp_path / "policy"
    with workspace(target) as mine:
        for other in (target, target.with_name("policy.saving-b")):  # whose folders have names that begin alike
            save_policy(original(policies / "old"), other)
            assert list(mine.iterdir())
    assert sorted(os.listdir(tmp_path)) == ["policy", "policy.saving-b"]
    (tmp_path / ".policy.saving-new").mkdir()  # of a process that has not locked it yet
    (tmp_path / ".policy.saving-old").mkdir()
    os.utime(tmp_path / ".policy.saving-old", (0, 0))
    save_policy(original(policies / "old"), target)
    assert sorted(os.listdir(tmp_path)) == [".policy.saving-new", "policy", "policy.saving-b"]
