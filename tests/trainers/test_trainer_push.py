"""What leaves the machine when a trainer pushes, and where its token is: nowhere but in the Hub client's own file."""

from __future__ import annotations

import json
import subprocess
import sys

import push_run
import pytest
from loopback_hub import front_matter, loopback_hub
from settings import config
from training import SMALL, make_trainer, random_policy

from hf_unmask import __version__
from hf_unmask.policy import UnmaskingPolicyConfig, save_policy
from hf_unmask.policy.config import LEFT_OUT, extended_lineage

TOKEN = "hf_" + "neverwritethis" * 2


def test_settings_print_no_token():
    """A token in a notebook's output or in a log: a dataclass shows every field unless told otherwise."""
    made = config(hub_token=TOKEN)
    assert made.hub_token == TOKEN
    for text in (repr(made), str(made), f"{made}", json.dumps(made.to_dict())):
        assert TOKEN not in text
    assert "hub_token" in repr(made) and "num_generations" in repr(made)


def test_pushing_on_every_save_is_refused_with_the_way_out():
    """transformers' own pushes, which upload pickles with the token."""
    with pytest.raises(ValueError, match=r"trainer\.push_to_hub\(\)"):
        config(push_to_hub=True)


def test_the_record_names_the_version_and_where_the_policy_came_from(tmp_path):
    """A published policy of unknown origin, or one that tells folders of somebody's machine."""
    save_policy(random_policy(), tmp_path / "secret-user" / "start")
    trainer = make_trainer(tmp_path / "run", tmp_path / "secret-user" / "start")
    record = trainer.policy.config.trained_for
    assert record["lineage"] == ["start"] and record["hf_unmask_version"] == __version__


def test_a_revision_of_what_has_none_is_refused(tmp_path):
    for policy in (None, tmp_path):
        with pytest.raises(ValueError, match="policy_revision='main'"):
            make_trainer(tmp_path, policy, policy_revision="main")


def test_a_long_lineage_drops_the_oldest_and_says_so():
    """The 101st fine-tuning that fails, or one whose lineage silently begins in the middle."""
    lineage: list[str] = []
    for number in range(150):
        lineage = extended_lineage(lineage, f"policy-{number}")
        UnmaskingPolicyConfig(**SMALL, trained_for={"lineage": lineage})
    assert lineage == [LEFT_OUT, *(f"policy-{number}" for number in range(51, 150))]
    assert extended_lineage(None, "a") == ["a"]


@pytest.mark.slow
def test_training_and_pushing_write_the_token_nowhere(tmp_path):
    """A secret in a checkpoint, a log, the repository or the output; pickles and optimizer states in the repository."""
    with loopback_hub() as hub:
        token = hub.add_user("ann")
        environment = hub.environment(tmp_path / "home", token) | {"TMPDIR": str(tmp_path / "temporary")}
        (tmp_path / "temporary").mkdir()
        command = [sys.executable, push_run.__file__, str(tmp_path), "ann/policy", token]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600)
        assert done.returncode == 0, done.stderr[-3000:]
        main, tuned, lineage = json.loads(done.stdout.splitlines()[-1])
        assert lineage == [f"ann/policy@{main}"], "a revision that is not that of the branch"
        assert hub.repositories["ann/policy"].private
        assert (hub.head("ann/policy"), hub.head("ann/policy", "tuned")) == (main, tuned)
        assert token not in done.stdout + done.stderr
        written = [path for path in tmp_path.rglob("*") if path.is_file()]
        assert {"debug.log", "optimizer.pt", "training_args.json", "trainer_state.json"} <= {p.name for p in written}
        assert [path for path in written if "tfevents" in path.name] and len(written) > 20
        assert not [path for path in written if token.encode() in path.read_bytes()]
        for commit in hub.repositories["ann/policy"].commits.values():
            assert set(commit.files) <= {".gitattributes", "README.md", "config.json", "model.safetensors"}
            assert not [name for name, file in commit.files.items() if token.encode() in file.content]
        first, second = (hub.files("ann/policy", ref) for ref in ("main", "tuned"))
    card = first["README.md"].decode()
    assert "| `learning_rate` | `0.01` |" in card and "No measured results" in card and str(tmp_path) not in card
    card = second["README.md"].decode()
    assert front_matter(card)["license"] == "mit" and "### Against heuristics" in card and "1. `first`" in card
    assert "hf_unmask_version" in json.loads(second["config.json"])["trained_for"] and str(tmp_path) not in card
