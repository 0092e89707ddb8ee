"""No link leads out of a policy's folder, and no pipe is waited for: when reading, pushing, saving and discarding."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from pathlib import Path

import pytest
import raced_reading
from forked import Forked
from helpers import one_in
from hostile_repos import CONFIG, WEIGHTS, write_policy
from raced_reading import SECRET, SETTINGS

from hf_unmask.policy import PolicyLoadError, load_policy, save_policy
from hf_unmask.policy.card.published_results import find_card
from hf_unmask.policy.card.rendering import folder_card, read_recipe
from hf_unmask.policy.hub import opening
from hf_unmask.policy.hub.download import _discard
from hf_unmask.policy.hub.files import unfinished_config
from hf_unmask.policy.hub.opening import read_inside, remove_inside
from hf_unmask.policy.hub.upload import upload_policy

EXTRA = ".eval_results/sums.yaml"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A policy with all that may lie beside it."""
    folder = tmp_path / "policy"
    write_policy(folder)
    (folder / "README.md").write_text("a card")
    (folder / SETTINGS).write_text('{"seed": 1}')
    (folder / EXTRA).parent.mkdir()
    (folder / EXTRA).write_text("- value: 1")
    return folder


@pytest.fixture(scope="module")
def raced(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, object]]]:
    """By what was read or removed: what became of it, with the swap at its first moment, its second, ..."""
    found = defaultdict(list)
    with Forked(raced_reading.swap_all, tmp_path_factory.mktemp("raced")) as process:
        assert process.wait(60) == 0, process.out[-2000:] + process.err[-2000:]
        lines = process.out.splitlines()
    for line in lines:
        one = json.loads(line.partition(": ")[2])
        found[one["name"]].append(one)
    return dict(found)


RACES = [(what, kind) for what in (CONFIG, WEIGHTS, "README.md", SETTINGS) for kind in raced_reading.SWAPS]


@pytest.mark.parametrize(("what", "kind"), one_in(2, RACES))
def test_a_file_that_is_swapped_between_look_and_opening_is_not_read(raced, what, kind):
    """The content of another file, or a reading that never ends."""
    *swapped, unswapped = raced[f"{what}, {kind}"]
    assert not unswapped["swapped"] and SECRET not in unswapped["found"] != "PolicyLoadError"
    found = [one["found"] for one in swapped]
    assert "PolicyLoadError" in found and set(found) <= {"PolicyLoadError", unswapped["found"]}


def test_nothing_is_removed_through_a_link_that_took_a_folders_place(raced):
    """A folder that another user left in a shared place, swapped for a link to one of ours."""
    mine = ["new", f"new/{CONFIG}", "notes"]
    assert len(raced["removal"]) > 3 and all(one["found"] == mine for one in raced["removal"])


def pushed(folder: Path) -> None:
    upload_policy(folder, "ann/policy", commit_message="m", extra=[EXTRA])


READERS = {
    CONFIG: load_policy,
    WEIGHTS: load_policy,
    "README.md": lambda folder: folder_card(load_policy(folder), folder),
    SETTINGS: read_recipe,
}


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS, "README.md", EXTRA])
@pytest.mark.parametrize("kind", raced_reading.SWAPS)
def test_a_push_publishes_no_file_from_elsewhere(folder, name, kind):
    """Said before the Hub is asked for anything: these tests have no network."""
    secret = folder.parent / "secret"
    secret.write_text(SECRET)
    (folder / name).unlink()
    raced_reading.SWAPS[kind](folder / name, secret)
    with pytest.raises(PolicyLoadError, match=f"`{name}`: found (a link that leaves|something else)") as caught:
        pushed(folder)
    assert SECRET not in str(caught.value)


def test_a_push_publishes_nothing_from_a_folder_that_is_a_link(folder):
    """Not the last name, but one on the way to it."""
    (folder / EXTRA).parent.rename(folder.parent / "elsewhere")
    (folder / EXTRA).parent.symlink_to(folder.parent / "elsewhere")
    with pytest.raises(PolicyLoadError, match="a link that leaves the folder"):
        pushed(folder)


@pytest.mark.parametrize("name", ["README.md", SETTINGS])
@pytest.mark.parametrize("kind", raced_reading.SWAPS)
def test_what_is_beside_a_policy_is_read_as_strictly(folder, name, kind):
    (folder / name).rename(folder.parent / "secret")
    raced_reading.SWAPS[kind](folder / name, folder.parent / "secret")
    with pytest.raises(PolicyLoadError, match=name):
        READERS[name](folder)
    assert find_card(str(folder), folder) == (None if name == "README.md" else "a card")


@pytest.mark.parametrize("name", READERS)
def test_links_that_stay_in_the_folder_are_fine(folder, name):
    before = READERS[name](folder)
    (folder / "kept").mkdir()
    (folder / name).rename(folder / "kept" / "file")
    (folder / name).symlink_to("kept/file")
    after = READERS[name](folder)
    assert after == before or after.config == before.config


def test_systems_without_such_calls_still_see_a_link_that_took_a_place(folder, monkeypatch):
    """Windows opens by path alone. What was opened is compared with what is there."""
    monkeypatch.setattr(opening, "_BY_PARENT", False)
    monkeypatch.setattr(opening, "_SAFE", os.O_NONBLOCK)
    assert load_policy(folder).config.hidden_size == 8 and read_recipe(folder) == {"seed": 1}
    secret = folder.parent / "secret"
    secret.write_text(SECRET)
    (folder / "link").symlink_to(secret)
    with pytest.raises(OSError, match="a link took its place"):
        opening.open_inside(folder, Path("link"))
    with pytest.raises(PolicyLoadError, match="a link that leaves the folder"):
        read_inside(folder, "link")
    remove_inside(folder, Path("link"))
    assert secret.read_text() == SECRET and not os.path.lexists(folder / "link")


# Discarding and replacing


def cached(root: Path) -> Path:
    """A link of the Hub's cache to a file that is named by a hash."""
    path = root / "models--ann--policy" / "snapshots" / ("0" * 40) / CONFIG
    path.parent.mkdir(parents=True)
    (path.parents[2] / "blobs").mkdir()
    (path.parents[2] / "blobs" / ("a" * 40)).write_text("damaged")
    path.symlink_to(f"../../blobs/{'a' * 40}")
    return path


@pytest.mark.parametrize("target", ["{mine}", "../../blobs/../../mine/{name}", "../../../mine/{name}"])
def test_discarding_a_download_leaves_alone_what_a_planted_link_names(tmp_path, target):
    path, mine = cached(tmp_path), tmp_path / "mine" / ("b" * 40)
    mine.parent.mkdir()
    mine.write_text("mine")
    path.unlink()
    path.symlink_to(target.format(mine=mine, name=mine.name))
    _discard(path, CONFIG)
    assert mine.read_text() == "mine" and not os.path.lexists(path)


@pytest.mark.parametrize("name", ["blobs", "snapshots"])
def test_discarding_a_download_follows_no_planted_folder(tmp_path, name):
    path = cached(tmp_path)
    store = path.parents[2] / name
    store.rename(tmp_path / "mine")
    store.symlink_to(tmp_path / "mine")
    held = sorted(tmp_path.glob("mine/**/*"))
    with pytest.raises(PolicyLoadError, match="cannot be replaced"):
        _discard(path, CONFIG)
    assert sorted(tmp_path.glob("mine/**/*")) == held


def test_discarding_a_download_removes_link_and_content(tmp_path):
    path = cached(tmp_path)
    _discard(path, CONFIG)
    assert not os.path.lexists(path) and not list((path.parents[2] / "blobs").iterdir())


@pytest.mark.parametrize("there", [True, False])
def test_a_save_that_fails_leaves_a_link_a_link(folder, tmp_path, there):
    """A copy of what the link names, for all who may read the folder; or a link that is gone."""
    write_policy(tmp_path / "new", seed=1)
    new = load_policy(tmp_path / "new")
    (folder / CONFIG).rename(tmp_path / "config")
    (folder / CONFIG).symlink_to(tmp_path / ("config" if there else "nowhere"))
    (folder / unfinished_config((tmp_path / "new" / WEIGHTS).read_bytes())).mkdir()  # where the save needs a file
    with pytest.raises(OSError):
        save_policy(new, folder)
    assert os.readlink(folder / CONFIG) == str(tmp_path / ("config" if there else "nowhere"))
