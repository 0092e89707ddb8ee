"""Checkpoints are whole or not there, and a run goes on from the newest whole one as if nothing had happened."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import killed_distributed
import killed_run
import pytest
from forked import Forked
from helpers import slow
from safetensors.torch import load_file
from training import LONG, make_trainer, rows, same_weights, weights

from hf_unmask.policy import load_policy
from hf_unmask.trainers import checkpoints
from hf_unmask.trainers.checkpoints import checkpoints_of, damage, newest_whole

SHORT = LONG | {"max_steps": 4}
BEST = {"load_best_model_at_end": True, "metric_for_best_model": "eval_reward", "greater_is_better": True}
BEST |= {"eval_strategy": "steps", "eval_steps": 2}
FILES = (
    *("checkpoint.json", "config.json", "model.safetensors", "training_args.json"),
    *("optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"),
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of two checkpoints that nothing disturbed, and its final weights."""
    folder = tmp_path_factory.mktemp("whole")
    run = make_trainer(folder, eval_dataset=rows(2), **SHORT | BEST)
    run.train()
    return folder, load_file(folder / "checkpoint-4" / "model.safetensors")


@pytest.fixture
def copy(whole, tmp_path):
    return shutil.copytree(whole[0], tmp_path / "copy")


def remove(path):
    path.unlink()


def cut(path):
    path.write_bytes(path.read_bytes()[:-7])


def change(path):
    held = bytearray(path.read_bytes())
    held[len(held) // 2] ^= 1
    path.write_bytes(held)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("harm", [remove, cut, change])
def test_a_checkpoint_that_lost_something_is_told(copy, name, harm):
    """A run that goes on without its optimizer, its schedule or its random numbers, and says nothing."""
    assert set(os.listdir(copy / "checkpoint-4")) == set(FILES)
    assert [damage(one) for one in checkpoints_of(copy)] == [None, None]
    harm(copy / "checkpoint-4" / name)
    found, told = newest_whole(copy)
    assert found == copy / "checkpoint-2" and len(told) == 1 and "checkpoint-4 is damaged: " in told[0]
    assert name in told[0] or (name == "checkpoint.json" and harm is change)
    with pytest.raises(ValueError, match="checkpoint-4 is damaged: .*; go on from another"):
        make_trainer(copy, **SHORT).train(resume_from_checkpoint=str(copy / "checkpoint-4"))
    for checkpoint in checkpoints_of(copy):
        (checkpoint / FILES[3]).unlink(missing_ok=True)
    assert newest_whole(copy)[0] is None and len(newest_whole(copy)[1]) == 2


def test_the_newest_whole_one_is_taken(whole, copy, caplog):
    """As above, to the end: other weights than those of the undisturbed run."""
    remove(copy / "checkpoint-4" / "optimizer.pt")
    (copy / "checkpoint-best").mkdir()  # of somebody's own
    run = make_trainer(copy, eval_dataset=rows(2), **SHORT | BEST)
    run.train(resume_from_checkpoint=True)
    assert "checkpoint-4 is damaged: optimizer.pt is missing" in caplog.text
    assert same_weights(load_file(copy / "checkpoint-4" / "model.safetensors"), whole[1])
    assert damage(copy / "checkpoint-4") is None and (copy / "checkpoint-best").is_dir()
    assert sorted(os.listdir(copy)) == ["checkpoint-2", "checkpoint-4", "checkpoint-best"]


def test_nothing_whole_is_an_error(copy):
    """A new run in the place of an old one, without a word."""
    for checkpoint in checkpoints_of(copy):
        remove(checkpoint / "rng_state.pth")
    with pytest.raises(ValueError, match=r"-4 is damaged: rng.* is missing; .*-2 is damaged: .*; no checkpoint in"):
        make_trainer(copy, **SHORT).train(resume_from_checkpoint=True)
    with pytest.raises(ValueError, match="no checkpoint .*checkpoint-6"):
        make_trainer(copy, **SHORT).train(resume_from_checkpoint=str(copy / "checkpoint-6"))


def test_the_policy_alone_is_nothing_to_go_on_from(tmp_path):
    """An optimizer that starts afresh in the middle of a run."""
    make_trainer(tmp_path, **SHORT, save_only_model=True).train()
    assert newest_whole(tmp_path) == (tmp_path / "checkpoint-4", [])
    with pytest.raises(ValueError, match=r"has no optimizer\.pt, scheduler\.pt \(`save_only_model`\)"):
        make_trainer(tmp_path, **SHORT).train(resume_from_checkpoint=True)


# The best one, and rotation


def best_of(run):
    return Path(run.state.best_model_checkpoint).name, run.state.best_metric


def test_the_best_checkpoint_is_found_in_a_folder_that_was_moved(whole, copy):
    """A run that ends with its last weights because the best ones lie under another name now."""
    state = json.loads((copy / "checkpoint-2" / "trainer_state.json").read_text())
    assert state["best_model_checkpoint"] == str(whole[0] / "checkpoint-2")
    moved = copy.rename(copy.with_name("moved"))
    shutil.rmtree(moved / "checkpoint-4")
    run = make_trainer(moved, eval_dataset=rows(2), **SHORT | BEST)
    hidden = whole[0].rename(whole[0].with_name("hidden"))
    try:
        run.train(resume_from_checkpoint=True)
    finally:
        hidden.rename(whole[0])
    assert Path(run.state.best_model_checkpoint).parent == moved
    assert same_weights(weights(run.policy), weights(load_policy(run.state.best_model_checkpoint)))


def test_a_best_checkpoint_that_is_damaged_is_forgotten(copy, caplog):
    """The last weights saved as those of the best checkpoint."""
    newest = copy / "checkpoint-4"
    state = json.loads((newest / "trainer_state.json").read_text())
    state |= {"best_global_step": 2, "best_model_checkpoint": str(copy / "checkpoint-2"), "best_metric": 99.0}
    (newest / "trainer_state.json").write_text(json.dumps(state))
    remove(newest / "checkpoint.json")
    checkpoints._list_files(newest, processes=1)
    remove(copy / "checkpoint-2" / "model.safetensors")
    run = make_trainer(copy, eval_dataset=rows(2), **SHORT | BEST | {"max_steps": 6})
    run.train(resume_from_checkpoint=True)
    assert "checkpoint-2, the best so far, is damaged: model.safetensors is missing" in caplog.text
    assert best_of(run)[0] == "checkpoint-6" and best_of(run)[1] < 99


@pytest.mark.parametrize("limit", [2, slow(1), slow(3)])
def test_rotation_keeps_the_newest_and_the_best(tmp_path, limit):
    """More checkpoints than asked for, or the best one rotated away."""

    def fading(completions, trainer_state, **columns):
        return [1.0 / trainer_state.global_step if trainer_state.global_step else 0.0] * len(completions)

    run = make_trainer(tmp_path, None, fading, eval_dataset=rows(2), **LONG | BEST | {"save_total_limit": limit})
    run.train()
    assert best_of(run) == ("checkpoint-2", 0.5)
    expected = {1: ["checkpoint-2"], 2: ["checkpoint-2", "checkpoint-8"]}
    expected[3] = ["checkpoint-2", "checkpoint-6", "checkpoint-8"]
    assert sorted(os.listdir(tmp_path)) == expected[limit]  # with one, transformers keeps the best alone at the end


# Kill -9

LAUNCH = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]


def killed(root, *moments):
    """What the killed runs left, if all of them were resumed to the same end."""
    with Forked(killed_run.main, root, *moments) as process:
        assert process.wait(3000) == 0, process.err
    whole = root / "whole"
    for folder in sorted(path for path in root.iterdir() if path != whole):
        for place in (Path(), *(Path(one.name) for one in checkpoints_of(folder))):
            found, expected = (load_file(run / place / "model.safetensors") for run in (folder, whole))
            assert same_weights(found, expected), (folder, place)
        assert all(damage(one) is None for one in checkpoints_of(folder)), folder
        left = (folder / "left").read_text().split("\n")
        assert not [name for name in os.listdir(folder) if name.startswith(".")], folder
        yield left


@pytest.mark.slow
def test_a_run_that_is_killed_while_it_saves_ends_as_if_nothing_had_happened(tmp_path):
    """Kill -9 in the middle of the second checkpoint; at many moments, see below."""
    (left,) = killed(tmp_path, 100)
    assert ".saving/checkpoint-4" in left and "checkpoint-2" in left and "checkpoint-4" not in left


@pytest.mark.slow
def test_many_moments_of_a_run_may_be_its_last_one(tmp_path):
    left = list(killed(tmp_path, "every", 1))
    assert len(left) > 100
    # before the first rename, after it, between that and the rotation, in the final save
    for name in (".saving/checkpoint-2/checkpoint.json", "checkpoint-2", ".saving/checkpoint-4", "checkpoint-4"):
        assert any(name in one for one in left) and not all(name in one for one in left), name


@pytest.mark.slow
def test_processes_of_which_one_is_killed_while_they_save_go_on_together(tmp_path):
    """A checkpoint that one process believes to be finished while another one still writes to it."""
    script = killed_distributed.__file__

    def launch(folder, *arguments):
        command = [*LAUNCH, script, folder, *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, timeout=600)

    done = launch(tmp_path / "whole")
    assert done.returncode == 0, done.stderr
    final = load_file(tmp_path / "whole" / "model.safetensors")
    for number, (rank, moment) in enumerate([(0, 30), (0, 100), (1, 1)]):
        folder = tmp_path / str(number)
        assert launch(folder, rank, moment).returncode != 0
        assert {damage(one) for one in checkpoints_of(folder)} <= {None}, (rank, moment)
        assert not (folder / "checkpoint-4").exists()
        done = launch(folder)
        assert done.returncode == 0, done.stderr
        assert same_weights(load_file(folder / "model.safetensors"), final), (rank, moment)
        assert {damage(one) for one in checkpoints_of(folder)} == {None}
