"""Pushing, pulling and searching over HTTP, with clients in processes and caches of their own."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import drop_in_client
import pytest
import torch
import yaml
from doubles import llada_double
from hostile_repos import CANARY
from hub_client import digest, policy_of, run
from loopback_hub import Fired, LoopbackHub, Repository, front_matter, loopback_hub
from report_folder import PLAN, point, sample_line, samples, setting, shares
from safetensors.torch import save
from seed_format import WIDTH, random_policy, theirs

import hf_unmask
from hf_unmask.policy import load_policy, save_policy
from hf_unmask.policy.card.rendering import render_card
from hf_unmask.policy.card.seal import is_rendered, seal
from hf_unmask.policy.hub.drop_in import drop_in_files
from hf_unmask.policy.hub.files import MAX_BYTES
from hf_unmask.results.records import write_results

FILES = {"README.md", "config.json", "model.safetensors"}
RECORD = {"base_model": "org/denoiser", "mask_token_id": 7, "block_length": 32, "lineage": ["org/first"]}
FIRST = {"seed": 0, **RECORD}
SECOND = {"seed": 1, **RECORD, "block_length": 16}  # another config too, so that it is fetched anew
#: Read beside a policy when it is pushed.
LINKED = ("README.md", "training_args.json")
#: What a user may meet if a fault is not survived; each says what went wrong. HTTPError: of the client's HTTP library.
CLEAR = {"OSError", "HTTPError", "RuntimeError", "PolicyLoadError"}
#: Dots, hyphens and a leading digit are what a module name cannot hold.
DROP_IN = "ann/1.drop-in"
DROP_IN_FILES = {"custom_generate/generate.py", "custom_generate/requirements.txt"}
DRAWN = {"max_new_tokens": 8, "temperature": 0.9, "seed": 3}
_TIMEOUT = "4"  # seconds that a client waits for a download; a slow answer takes longer


def files_of(policy: Mapping[str, Any], folder: Path) -> dict[str, bytes]:
    """A repository's files, as a push would make them."""
    made = policy_of(**policy)
    save_policy(made, folder)
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    return {**files, "README.md": render_card(made).encode()}


def tag_of(files: Mapping[str, bytes]) -> str:
    """The tag of a commit with these files: it is made of the policy's and of the code beside it."""
    content = [files[path] for path in ("config.json", "model.safetensors", *sorted(DROP_IN_FILES)) if path in files]
    return f"policy-{hashlib.sha256(b''.join(content)).hexdigest()[:12]}"


def pushed(files: Mapping[str, bytes], repo: str, revision: str | None = None) -> dict[str, bytes]:
    """The files as a push to ``repo`` leaves them there: its card names the repository and a revision."""
    card = files["README.md"].decode().replace("<org/name>", repo).replace("<revision>", revision or tag_of(files))
    return {**files, "README.md": seal(card).encode()}


def write_evaluation(folder: Path, sampler: str) -> None:
    """As `report_folder.write`, of that sampler, on a data set of the Hub."""
    folder.mkdir()
    points, lines = [], []
    for spec, block_length, correct, steps in PLAN:
        of = setting(spec.replace("learned:policy", sampler), block_length, dataset="openai/gsm8k:main:test")
        points.append(point(of, shares(correct, 40), steps))
        lines += [sample_line(one) for one in samples(of, shares(correct, 40), steps)]
    write_results(folder / "results.json", points)
    (folder / "samples.jsonl").write_text("".join(lines), "utf-8")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything that the clients write lies below it."""
    return tmp_path_factory.mktemp("clients")


@pytest.fixture(scope="module")
def first(place: Path) -> dict[str, bytes]:
    return files_of(FIRST, place / "first")


@pytest.fixture(scope="module")
def second(place: Path) -> dict[str, bytes]:
    return files_of(SECOND, place / "second")


def client(hub: LoopbackHub, place: Path, jobs: dict[str, Any], token: str | None = None) -> dict[str, Any]:
    """The results of jobs that a fresh process runs one after the other, by their names; a list runs at once."""
    place.mkdir()
    (place / "temporary").mkdir()
    environment = hub.environment(place / "home", token) | {"TMPDIR": str(place / "temporary")}
    phases = [job if isinstance(job, list) else [job] for job in jobs.values()]
    results = run(environment, *phases)
    return {
        name: done if isinstance(job, list) else done[0]
        for (name, job), done in zip(jobs.items(), results, strict=True)
    }


def command(*arguments: object) -> dict[str, Any]:
    return {"do": "command", "arguments": [str(argument) for argument in arguments]}


# One client that pushes, and one without a token that pulls


@pytest.fixture(scope="module")
def pushing(hub: LoopbackHub, place: Path, first: dict[str, bytes], second: dict[str, bytes]) -> dict[str, Any]:
    """What happened to the pushes of ann, who is logged in."""
    token = hub.add_user("ann")
    hub.add_user("bob")
    kim = hub.add_user("kim")
    hub.add_repository("bob/policy", first)
    hub.add_repository("ann/bert", {"config.json": b'{"model_type": "bert"}', "model.safetensors": b"weights"})
    hub.add_repository("kim/policy", first)
    hub.arm("kim", "lfs upload", "hang")
    hub.arm("ann", "create", "reset")
    shutil.copytree(Path(hf_unmask.__file__).parent / "tiny" / "model", place / "denoiser")
    pid_file = place / "pid"
    threading.Thread(target=kill_when_fired, args=(hub, Fired("kim", "lfs upload", "hang"), pid_file)).start()
    folder, copy = place / "first", place / "copy"
    write_evaluation(place / "evaluation", f"learned:{folder}")
    shutil.copytree(folder, place / "noted")
    (place / "noted" / "README.md").write_text("# By hand, for <org/name>\n")
    (place / "secret").write_text('{"seed": "a secret of mine"}')
    for name in LINKED:
        shutil.copytree(folder, place / f"linked {name}")
        (place / f"linked {name}" / name).symlink_to("../secret")
    jobs = {
        "cli push broken": command("push", folder, "ann/policy"),
        "push": {"do": "push", "repo": "ann/policy", "policy": FIRST},
        "push unchanged": {"do": "push", "repo": "ann/policy", "policy": FIRST},
        "push branch": {"do": "push", "repo": "ann/policy", "policy": SECOND, "branch": "dev"},
        "push request": {"do": "push", "repo": "ann/policy", "policy": SECOND, "create_pr": True},
        "push request to others": {"do": "push", "repo": "bob/policy", "policy": SECOND, "create_pr": True},
        "push to others": {"do": "push", "repo": "bob/policy", "policy": SECOND},
        "push private": {"do": "push", "repo": "ann/secret", "policy": FIRST, "private": True},
        "push private to public": {"do": "push", "repo": "ann/policy", "policy": SECOND, "private": True},
        "push over another model": {"do": "push", "repo": "ann/bert", "policy": FIRST},
        "push a wrong name": {"do": "push", "repo": "ann/a/b", "policy": FIRST},
        "push results": {
            **{"do": "push", "repo": "ann/from-python", "policy": FIRST, "license": "mit"},
            "results": str(place / "evaluation"),
        },
        "push to a benchmark only": {
            **{"do": "push", "repo": "ann/from-python", "policy": FIRST, "benchmark": "openai/gsm8k:gsm8k"},
        },
        "push killed": {
            **{"do": "push", "repo": "kim/policy", "policy": SECOND, "token": kim},
            "process": {"pid_file": str(pid_file)},
        },
        "push model": {"do": "push", "repo": "ann/tiny", "policy": {"hidden_size": 32, "base_model": "tiny"}},
        "generate": {"do": "generate", "policy": {"hidden_size": 32, "base_model": "tiny"}},
        "cli push": command("push", folder, "ann/from-cli", "--private", "--message", "From a terminal", "--json"),
        "cli push text": command("push", folder, "ann/from-cli", "--branch", "other"),
        "cli push request": command("push", place / "second", "bob/policy", "--pull-request", "--json"),
        "cli push results": command(
            *("push", folder, "ann/measured", "--results", place / "evaluation", "--license", "mit"),
            *("--benchmark", "openai/gsm8k:gsm8k"),
        ),
        "cli push by hand": command("push", place / "noted", "ann/noted"),
        "cli push over hand": command("push", place / "noted", "ann/noted", "--results", place / "evaluation"),
        **{f"cli push {name}": command("push", place / f"linked {name}", "ann/linked") for name in LINKED},
        "cli push nothing": command("push", place / "nothing", "ann/from-cli"),
        "cli pull": command("pull", "ann/from-cli", copy, "--json"),
        "cli pull branch": command("pull", "ann/from-cli", copy, "--revision", "other"),
        "cli pull too large": command("pull", "ann/from-cli", place / "no", "--max-bytes", 100),
        "cli info": command("info", "ann/policy", "--json"),
        "cli info folder": command("info", copy),
        "cli info measured": command("info", "ann/measured"),
        "cli verify": command("verify", copy, "--model", "tiny", "--json"),
        "cli verify without weights": command("verify", copy, "--model", place / "denoiser", "--block-length", 0),
        "cli verify fits": command("verify", "ann/tiny", "--model", "tiny", "--block-length", 8),
        "push drop-in": {"do": "push", "repo": DROP_IN, "policy": FIRST, "with_custom_generate": True},
        "push drop-in no more": {"do": "push", "repo": DROP_IN, "policy": FIRST},
        "cli push drop-in": command("push", folder, DROP_IN, "--with-custom-generate"),
        "push drop-in branch": {"do": "push", "repo": DROP_IN, "policy": SECOND, "branch": "plain"},
        "cli info drop-in": command("info", DROP_IN, "--json"),
        "cli info drop-in branch": command("info", DROP_IN, "--revision", "plain"),
        "cli verify drop-in": command("verify", DROP_IN, "--model", "tiny"),
        "cli search": command("search", "--base-model", "org/denoiser", "--json"),
        "cli search name": command("search", "TINY"),
        "cli search nothing": command("search", "no such policy"),
    }
    return client(hub, place / "pushing", jobs, token)


def kill_when_fired(hub: LoopbackHub, fault: Fired, pid_file: Path) -> None:
    while fault not in hub.fired and not hub.closing.is_set():
        time.sleep(0.02)
    if fault in hub.fired:
        os.kill(int(pid_file.read_text()), signal.SIGKILL)


@pytest.fixture(scope="module")
def pulling(hub: LoopbackHub, place: Path, first: dict[str, bytes], pushing: dict[str, Any]) -> dict[str, Any]:
    """What happened to the pulls of somebody without a token."""
    hub.add_repository("eve/gated", first, gated=True)
    hub.add_repository("zoe/large", {"config.json": first["config.json"], "model.safetensors": bytes(MAX_BYTES)})
    hub.add_repository("zoe/policy", first)
    hub.add_repository(
        "eve/theirs", {"README.md": b"a card", "weights/policy.safetensors": save(theirs(random_policy()))}
    )
    hub.add_repository("eve/pickle", {"config.json": first["config.json"], "pytorch_model.bin": b"pickle"})
    card = b"---\nignore_metadata_errors: true\nself: me\n---\n"  # names of the client's own arguments
    hub.add_repository("liz/policy", {**first, "README.md": card, **dict.fromkeys(DROP_IN_FILES, canary_code(place))})
    eve, ann = hub.add_user("eve"), next(token for token, user in hub.users.items() if user == "ann")
    cache, small, once = str(place / "cache"), str(place / "small"), str(place / "once")
    (place / "locked").mkdir(mode=0o500)
    hub.add_repository("eve/policy", files_of({"seed": 0, "hidden_size": 128}, place / "wide"))
    limits = {"files": {"file_bytes": 100_000}, "disk": {"disk": small}, "locked": {"permissions": True}}
    caches = {"files": str(place / "few"), "disk": small, "locked": str(place / "locked" / "cache")}
    wide = {"do": "pull", "repo": "eve/policy", "cache_dir": once}
    jobs: dict[str, Any] = {
        "pull": {"do": "pull", "repo": "ann/policy", "cache_dir": cache},
        "generate": {"do": "generate", "repo": "ann/tiny"},
        "offline": {"do": "pull", "repo": "ann/policy", "cache_dir": cache, "local_files_only": True},
        "not cached": {"do": "pull", "repo": "bob/policy", "cache_dir": cache, "local_files_only": True},
        "branch": {"do": "pull", "repo": "ann/policy", "revision": "dev"},
        "commit": {"do": "pull", "repo": "ann/policy", "revision": hub.head("ann/policy", "dev")},
        "no revision": {"do": "pull", "repo": "ann/policy", "revision": "gone"},
        "no repository": {"do": "pull", "repo": "ann/gone"},
        "no safetensors": {"do": "pull", "repo": "eve/pickle"},
        "wrong name": {"do": "pull", "repo": "ann/a..b"},
        "private": {"do": "pull", "repo": "ann/secret"},
        "private, wrong user": {"do": "pull", "repo": "ann/secret", "token": eve},
        "private, no such token": {"do": "pull", "repo": "ann/secret", "token": "hf_wrong"},
        "private, token": {"do": "pull", "repo": "ann/secret", "token": ann},
        "gated": {"do": "pull", "repo": "eve/gated"},
        "gated, wrong user": {"do": "pull", "repo": "eve/gated", "token": ann},
        "gated, token": {"do": "pull", "repo": "eve/gated", "token": eve},
        "large": {"do": "pull", "repo": "zoe/large"},
        "small limit": {"do": "pull", "repo": "zoe/policy", "max_bytes": 1000},
        "spec": {"do": "pull", "repo": "ann/policy", "max_bytes": MAX_BYTES + 1},
        "spoil": {"do": "spoil", "cache_dir": cache},
        "spoiled, offline": {"do": "pull", "repo": "ann/policy", "cache_dir": cache, "local_files_only": True},
        "spoiled": {"do": "pull", "repo": "ann/policy", "cache_dir": cache},
        "plant": {"do": "plant", "cache_dir": cache, "victim": str(place / "victim")},
        "planted": {"do": "pull", "repo": "ann/policy", "cache_dir": cache},
        "drop-in": {"do": "drop_in", "repo": DROP_IN, "rows": 1, "stream": True, **DRAWN},
        "drop-in is gone": {"do": "drop_in", "repo": DROP_IN, "revision": "plain", **DRAWN},
        "code": {"do": "pull", "repo": "liz/policy"},
        "code, command": command("info", "liz/policy", "--json"),
        "search": command("search", "--json"),
        "import": command("import", "eve/theirs", place / "imported", "--revision", "main"),
        "import too large": command("import", "eve/theirs", place / "none", "--max-bytes", 1000),
        **{
            name: {"do": "pull_twice", "repo": "eve/policy", "cache_dir": caches[name], "process": limits[name]}
            for name in limits
        },
        "together": [{**wide, "process": {}}] * 4,
        "lock": {"do": "lock", "folder": once},
        "cached, locked": {**wide, "process": {"permissions": True}},
    }
    return client(hub, place / "pulling", jobs)


@pytest.mark.slow
def test_a_policy_of_the_seed_releases_format_is_imported(pulling, place):
    assert pulling["import"]["value"]["code"] == 0, pulling["import"]
    refused = pulling["import too large"]["value"]
    assert refused["code"] == 2 and "bytes in 'eve/theirs', expected at most 1000" in refused["err"]
    found = load_policy(place / "imported")
    assert found.config.trained_for["lineage"] == ["eve/theirs"] and found.config.hidden_size == WIDTH


def canary_code(place: Path) -> bytes:
    return f"import os\nos.mkdir({str(place / CANARY)!r})\n".encode()


def value(result: dict[str, Any]) -> Any:
    assert "value" in result, result
    return result["value"]


def test_a_push_is_one_commit_with_the_three_files(hub, pushing, first):
    done = value(pushing["push"])
    assert hub.files("ann/policy") == pushed(first, "ann/policy")  # byte for byte what saving and the card give
    assert done["commit"] == hub.head("ann/policy") and done["url"] == f"{hub.url}/ann/policy/commit/{done['commit']}"
    commits = hub.repositories["ann/policy"].commits
    assert [commit.message for commit in commits.values()][:2] == ["initial commit", "Upload an unmasking policy"]
    assert value(pushing["push unchanged"])["commit"] == done["commit"]
    assert len(commits) == 4  # the branch and the pull request are the others


def test_branches_and_pull_requests_leave_main_alone(hub, pushing, first, second):
    assert hub.files("ann/policy", "dev") == pushed(second, "ann/policy")
    assert hub.files("ann/policy", "refs/pr/1") == pushed(second, "ann/policy", "main")
    assert value(pushing["push request"])["pull_request"] == f"{hub.url}/ann/policy/discussions/1"
    assert hub.files("bob/policy") == first and hub.files("bob/policy", "refs/pr/1") == pushed(
        second, "bob/policy", "main"
    )
    assert pushing["push to others"]["error"] == "HfHubHTTPError"


def test_the_card_loads_the_pushed_policy_by_a_pinned_revision(hub, pushing, first, second):
    """A snippet that names a branch, which moves, or a revision that is not there."""
    for ref, files in {"main": first, "dev": second}.items():
        tag, card = tag_of(files), hub.files("ann/policy", ref)["README.md"].decode()
        assert f'from_pretrained("ann/policy", revision="{tag}")' in card and is_rendered(card)
        assert hub.head("ann/policy", tag) == hub.head("ann/policy", ref)
    assert not [ref for ref in hub.repositories["bob/policy"].refs if ref.startswith("policy-")]


def test_what_a_push_could_harm_is_refused(hub, pushing):
    assert hub.repositories["ann/secret"].private and not hub.repositories["ann/policy"].private
    for name, says in {"push private to public": "is public", "push over another model": "'bert' model"}.items():
        assert pushing[name]["error"] == "ValueError" and says in pushing[name]["message"]
    assert hub.files("ann/bert")["model.safetensors"] == b"weights"
    assert pushing["push a wrong name"]["error"] == "HFValidationError"


def test_a_killed_push_leaves_the_old_commit(hub, pushing, first):
    assert pushing["push killed"] == {"killed": "SIGKILL"}
    assert Fired("kim", "lfs upload", "hang") in hub.fired
    assert hub.files("kim/policy") == first and len(hub.repositories["kim/policy"].commits) == 2


@pytest.mark.slow
def test_a_pull_in_a_fresh_process_gives_the_same_policy(hub, pushing, pulling):
    pulled = value(pulling["pull"])
    assert pulled["digest"] == digest(policy_of(**FIRST))
    assert pulled["spec"] == f"learned:ann/policy;revision={hub.head('ann/policy')}"
    assert value(pulling["generate"]) == value(pushing["generate"])


@pytest.mark.slow
def test_revisions(hub, pulling):
    second, head = digest(policy_of(**SECOND)), hub.head("ann/policy", "dev")
    for name in ("branch", "commit"):
        assert value(pulling[name]) == {"digest": second, "spec": f"learned:ann/policy;revision={head}"}
    assert value(pulling["spec"])["spec"].endswith(f";revision={hub.head('ann/policy')};max_bytes={MAX_BYTES + 1}")


@pytest.mark.parametrize(
    ("name", "error"),
    {
        "no revision": "RevisionNotFoundError",
        "no repository": "RepositoryNotFoundError",
        "no safetensors": "RemoteEntryNotFoundError",
        "wrong name": "HFValidationError",
        "not cached": "LocalEntryNotFoundError",
        "private": "RepositoryNotFoundError",
        "private, wrong user": "RepositoryNotFoundError",
        "private, no such token": "HfHubHTTPError",
        "gated": "GatedRepoError",
        "gated, wrong user": "GatedRepoError",
    }.items(),
)
@pytest.mark.slow
def test_errors_of_the_hub_reach_the_user(pulling, name, error):
    assert pulling[name]["error"] == error and pulling[name]["message"]


@pytest.mark.slow
def test_a_token_opens_private_and_gated_repositories(pulling):
    for name in ("private, token", "gated, token"):
        assert value(pulling[name])["digest"] == digest(policy_of(**FIRST))


@pytest.mark.slow
def test_too_large_a_policy_is_not_downloaded(hub, pulling):
    for name, says in {
        "large": f"at most {MAX_BYTES:,}; allow more with max_bytes=16777",
        "small limit": "1,000",
    }.items():
        assert pulling[name]["error"] == "PolicyLoadError"
        assert "model.safetensors" in pulling[name]["message"] and says in pulling[name]["message"]
    assert {stage for stage, owner in hub.requests if owner == "zoe"} == {"head config.json", "head model.safetensors"}


@pytest.mark.slow
def test_the_cache_serves_offline_and_is_not_trusted_blindly(pulling):
    expected = digest(policy_of(**FIRST))
    assert value(pulling["offline"])["digest"] == expected
    assert value(pulling["spoil"]) == 1
    assert pulling["spoiled, offline"]["error"] == "LocalEntryNotFoundError"  # dropped, and no way to fetch it again
    assert value(pulling["spoiled"])["digest"] == expected


@pytest.mark.slow
def test_links_planted_in_the_cache_are_replaced_and_what_they_name_is_left_alone(place, pulling):
    """Files of the user, deleted as a damaged download."""
    assert value(pulling["plant"]) == 2 and value(pulling["planted"])["digest"] == digest(policy_of(**FIRST))
    assert [path.read_text() for path in (place / "victim").iterdir()] == ["mine", "mine"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["files", "disk", "locked"])
def test_a_cache_that_cannot_be_written_is_a_clear_error(pulling, name):
    """A limit on file sizes, a full disk, a folder without permission to write."""
    done = pulling[name]
    if "impossible" in done:
        pytest.skip(f"this machine does not allow the limit {done['impossible']}")
    for attempt in (value(done)["first"], value(done)["again"]):
        assert "OSError" in attempt["bases"] and attempt["message"]
    assert value(done)["offline"]["error"] == "LocalEntryNotFoundError"


@pytest.mark.slow
def test_a_full_cache_may_be_read_only(pulling):
    assert value(pulling["cached, locked"])["digest"] == digest(policy_of(seed=0, hidden_size=128))


@pytest.mark.slow
def test_processes_that_pull_at_once_do_not_disturb_each_other(pulling):
    assert {value(done)["digest"] for done in pulling["together"]} == {digest(policy_of(seed=0, hidden_size=128))}


@pytest.mark.slow
def test_the_token_is_in_no_written_file(hub, place, pushing, pulling):
    written = [path for path in place.rglob("*") if path.is_file()]
    assert len(written) > 20
    for token in hub.users:
        assert not [path for path in written if token.encode() in path.read_bytes()]
        for repository in hub.repositories.values():
            for commit in repository.commits.values():
                assert not [path for path, file in commit.files.items() if token.encode() in file.content]
    assert len(list((place / "pushing" / "temporary").iterdir())) == 1  # of the push that was killed


# Commands


def test_command_push(hub, pushing, first):
    done = pushing["cli push"]
    assert done["value"]["code"] == 0, done
    commit = json.loads(done["value"]["out"])["commit"]
    assert hub.repositories["ann/from-cli"].private and hub.files("ann/from-cli", commit) == pushed(
        first, "ann/from-cli"
    )
    assert hub.repositories["ann/from-cli"].commits[commit].message == "From a terminal"
    assert pushing["cli push text"]["value"]["out"].startswith(f"{hub.url}/ann/from-cli/commit/")
    assert json.loads(pushing["cli push request"]["value"]["out"])["pull_request"].endswith("/bob/policy/discussions/2")


def test_command_push_with_results(hub, pushing, place, first):
    """Results that stay behind, a path of the machine in the card, a leaderboard entry that nobody asked for."""
    assert pushing["cli push results"]["value"]["code"] == 0, pushing["cli push results"]
    files = hub.files("ann/measured")
    assert set(files) == FILES | {".eval_results/gsm8k.yaml"} and ".eval_results" not in str(hub.files("ann/policy"))
    card_text = files["README.md"].decode()
    card = front_matter(card_text)
    assert card["license"] == "mit" and card["model-index"][0]["name"] == "ann/measured"
    assert card["datasets"] == ["openai/gsm8k"] and str(place) not in card_text
    value(pushing["push results"])
    same = hub.files("ann/from-python")["README.md"].decode()
    expected = re.sub("policy-[0-9a-f]{12}", tag_of(first), card_text.replace("ann/measured", "ann/from-python"))
    assert same == seal(expected) and set(hub.files("ann/from-python")) == FILES
    refused = pushing["push to a benchmark only"]
    assert refused["error"] == "ValueError" and "needs `results`" in refused["message"]
    (entry,) = yaml.safe_load(files[".eval_results/gsm8k.yaml"])
    assert entry["dataset"] == {"id": "openai/gsm8k", "task_id": "gsm8k"} and entry["value"] == 77.5
    assert "policy;speed=0.5 on tiny, full diffusion" in entry["notes"] and str(place) not in entry["notes"]


def test_a_card_written_by_hand_is_pushed_as_it_is_or_not_at_all(hub, pushing):
    """Work of hours replaced by a generated card."""
    assert pushing["cli push by hand"]["value"]["code"] == 0
    assert hub.files("ann/noted")["README.md"] == b"# By hand, for ann/noted\n"
    refused = pushing["cli push over hand"]["value"]
    assert refused["code"] == 2 and "edited by hand" in refused["err"]
    assert len(hub.repositories["ann/noted"].commits) == 2


@pytest.mark.parametrize("name", LINKED)
def test_a_link_that_leaves_the_folder_is_not_pushed(hub, pushing, name):
    """``README.md -> ../secret`` was published as the card; settings would have been shown in it."""
    refused = pushing[f"cli push {name}"]["value"]
    assert refused["code"] == 2 and f"`{name}`: found a link that leaves the folder" in refused["err"]
    assert "ann/linked" not in hub.repositories


def test_command_pull(hub, pushing, place, first):
    done = json.loads(pushing["cli pull"]["value"]["out"])
    assert done == {"repo": "ann/from-cli", "commit": hub.head("ann/from-cli"), "folder": str(place / "copy")}
    assert (place / "copy" / "model.safetensors").read_bytes() == first["model.safetensors"]
    assert {path.name for path in (place / "copy").iterdir()} == {"config.json", "model.safetensors"}
    assert f"at {hub.head('ann/from-cli', 'other')} is in" in pushing["cli pull branch"]["value"]["out"]


def test_command_info(hub, pushing):
    found = json.loads(pushing["cli info"]["value"]["out"])
    assert found["commit"] == hub.head("ann/policy") and found["parameters"] == policy_of(**FIRST).num_parameters()
    assert found["bytes"] == len(hub.files("ann/policy")["model.safetensors"])
    assert found["observation"] == "canvas" and found["action"] == "bernoulli" and found["trained_for"] == RECORD
    text = pushing["cli info folder"]["value"]["out"].splitlines()
    assert {"commit: -", "base_model: org/denoiser", "lineage: org/first", "block_length: 32"} <= set(text)
    assert found["results"] == [] and text[-1] == "results: -"


def test_command_info_shows_the_results_of_the_card(hub, pushing):
    card = front_matter(hub.files("ann/measured")["README.md"].decode())
    claimed = [metric for result in card["model-index"][0]["results"] for metric in result["metrics"]]
    table = pushing["cli info measured"]["value"]["out"].splitlines()[-len(claimed) :]
    for metric, line in zip(claimed, table, strict=True):
        assert metric["name"] in line and f"| {metric['value']:.4g} |" in line


def test_command_verify(pushing):
    done = pushing["cli verify"]["value"]
    found = json.loads(done["out"])
    assert done["code"] == 1 and not found["compatible"]
    assert {row["name"]: row["trained"] for row in found["differences"]} == {
        "base_model": "org/denoiser",
        "mask_token_id": 7,
    }
    done = pushing["cli verify without weights"]["value"]  # in a folder that bears the repository's name
    assert done["code"] == 1 and [line.split()[:2] for line in done["out"].splitlines()] == [
        ["differs:", "mask_token_id"],
        ["differs:", "block_length"],
    ]
    done = pushing["cli verify fits"]["value"]
    assert done["code"] == 0 and done["out"].splitlines() == [
        "ann/tiny fits tiny",
        "not recorded by the policy: mask_token_id",
        "not recorded by the policy: block_length",
    ]


@pytest.mark.slow
def test_command_search(pushing, pulling):
    found = json.loads(pushing["cli search"]["value"]["out"])["policies"]
    searched = ["bob/policy", "kim/policy", "ann/policy", "ann/secret", "ann/from-python", "ann/from-cli"]
    assert [row["id"] for row in found] == [*searched, "ann/measured", DROP_IN]
    assert {row["id"]: row["private"] for row in found}["ann/secret"] and found[0]["base_model"] == ["org/denoiser"]
    assert pushing["cli search name"]["value"]["out"] == "ann/tiny  for -  0 downloads\n"
    assert pushing["cli search nothing"]["value"] == {"code": 0, "out": "", "err": "no policy found\n"}
    public = {row["id"] for row in json.loads(pulling["search"]["value"]["out"])["policies"]}
    assert "ann/policy" in public and "ann/secret" not in public


# Drop-in: more in test_drop_in.py


def test_a_drop_in_comes_and_goes_with_the_push_that_asks_for_it(hub, pushing, first, second):
    """Catches a folder that outlives its flag, on main or on a branch, and a tag or other files that do not fit."""
    initial, with_code, without, *_ = [commit.files.keys() for commit in hub.repositories[DROP_IN].commits.values()]
    assert with_code - initial == FILES | DROP_IN_FILES and without - initial == FILES
    found = hub.files(DROP_IN)
    assert found.keys() == FILES | DROP_IN_FILES and found["config.json"] == first["config.json"]
    card = found["README.md"].decode()
    assert "custom_generate" in front_matter(card)["tags"] and f'custom_generate="{DROP_IN}"' in card
    assert f'revision="{tag_of(found)}"' in card and is_rendered(card)
    assert hub.head(DROP_IN, tag_of(found)) == list(hub.repositories[DROP_IN].commits)[1]  # with the same content
    assert hub.files(DROP_IN, "plain") == pushed(second, DROP_IN)
    assert value(pushing["push drop-in branch"])["commit"] == hub.head(DROP_IN, "plain") != hub.head(DROP_IN)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::hf_unmask.policy.compatibility.PolicyMismatchWarning")  # trained for another one
def test_a_drop_in_decodes_with_the_policy(pulling):
    """Catches code in the repository that fails, reads another policy, or loses an option or the streamer."""
    found = value(pulling["drop-in"])
    sampler = hf_unmask.LearnedUnmaskingSampler(policy_of(**FIRST))
    ids, real = drop_in_client.IDS[:1], drop_in_client.REAL[:1]
    model = llada_double(torch.float64)
    expected = hf_unmask.generate(model, ids, attention_mask=real, sampler=sampler, **DRAWN)
    assert found["tokens"] == expected.tolist()
    assert found["heard"] == {"tokens": expected[0].tolist(), "ended": 1}
    assert pulling["drop-in is gone"]["error"] == "OSError"  # transformers' own
    assert "does not contain a `custom_generate`" in pulling["drop-in is gone"]["message"]


@pytest.mark.slow
def test_code_beside_a_policy_is_neither_fetched_nor_run(hub, place, first, pulling):
    """Catches a loader, or a command that tells of code, which fetches or runs what the repository brings."""
    assert value(pulling["code"])["digest"] == digest(policy_of(**FIRST))
    assert json.loads(value(pulling["code, command"])["out"])["code"] == ["custom_generate/generate.py"]
    stages = {stage for stage, owner in hub.requests if owner == "liz"}
    assert stages == {f"{verb} {name}" for verb in ("head", "get") for name in FILES} | {"info"}
    assert not (place / CANARY).exists()
    with pytest.raises(OSError, match="No such file"):  # the canary sings: only the folder is not there
        exec(canary_code(place / "nowhere"))


def test_commands_tell_of_code(pushing):
    """Catches a repository whose code nobody is told of."""
    assert json.loads(pushing["cli info drop-in"]["value"]["out"])["code"] == ["custom_generate/generate.py"]
    assert "code: -" in pushing["cli info drop-in branch"]["value"]["out"].splitlines()
    lines = pushing["cli verify drop-in"]["value"]["out"].splitlines()
    assert lines[-1] == "code: custom_generate/generate.py (never run by hf_unmask)"


def test_commands_fail_in_one_line(pushing):
    says = {
        "cli push nothing": "nothing",
        "cli pull too large": "allow more with --max-bytes ",
        "cli push broken": "no connection",
    }
    for name, part in says.items():
        done = pushing[name]["value"]
        assert done["code"] == 2 and done["out"] == "" and len(done["err"].splitlines()) == 1
        assert done["err"].startswith("error: ") and part in done["err"]


# The Hub for tests itself


def test_the_loopback_hub_rejects_what_it_does_not_know():
    with LoopbackHub() as hub:
        for path in ("/api/datasets/a/b", "/api/models/a/b/discussions", "/api/models?sort=likes"):
            with pytest.raises(urllib.error.HTTPError) as caught:
                urllib.request.urlopen(f"{hub.url}{path}")
            assert caught.value.code == 501 and "the loopback Hub" in caught.value.headers["X-Error-Message"]
            caught.value.close()
    with pytest.raises(AssertionError, match="/api/spaces"), loopback_hub() as hub:
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(f"{hub.url}/api/spaces")
        caught.value.close()


@pytest.mark.parametrize("way", ["push_to_hub", "save_pretrained"])
def test_the_network_alone_is_not_pushed(tmp_path, way):
    """transformers would write a generic card over the policy's own."""
    policy = policy_of()
    with pytest.raises(NotImplementedError, match="LearnedUnmaskingSampler"):
        policy.push_to_hub("ann/policy") if way == "push_to_hub" else policy.save_pretrained(tmp_path, push_to_hub=True)
    assert not list(tmp_path.iterdir())


# Faults: in every stage of a push and of a pull


PULL = [(stage, kind) for stage in ("head config.json", "head model.safetensors") for kind in ("500", "503", "reset")]
PULL += [
    (stage, kind)
    for stage in ("get config.json", "get model.safetensors")
    for kind in ("500", "503", "truncated", "wrong hash", "reset")
]
#: Requests that the first pull into an empty cache makes.
FRESH_PULL = {"head config.json": 3, "head model.safetensors": 2, "get config.json": 1, "get model.safetensors": 1}
STAGES = ("create", "info", "validate yaml", "preupload", "lfs batch", "lfs upload", "lfs verify", "commit")
PUSH = [(stage, kind) for stage in STAGES for kind in ("500", "503", "truncated", "reset", "lost")]
PUSH += [("lfs upload", "wrong hash"), ("tag", "500"), ("tag", "reset")]


def table(hub: LoopbackHub, place: Path, files: dict[str, bytes], cases: Any, count: int = 1) -> Any:
    """Run every case at the same time, each with a user, a repository and a cache of its own.

    A case is (what is done, stage, kind of fault). "update" is a pull while the cache holds an older policy.
    """
    jobs: dict[Any, dict[str, Any]] = {}
    for number, (action, stage, kind) in enumerate(cases):
        owner = f"{place.name}-{number}"
        hub.add_repository(f"{owner}/policy", files)
        earlier = FRESH_PULL[stage] if action == "update" else 0
        hub.arm(owner, stage, kind, count, skip=earlier)
        job = {"repo": f"{owner}/policy", "token": hub.add_user(owner)}
        if action == "push":
            job |= {"do": "push_twice", "policy": SECOND}
        else:
            job |= {"do": "pull_twice", "cache_dir": str(place / owner)}
            job |= {"update": SECOND} if action == "update" else {}
        jobs[action, stage, kind] = job
    environment = hub.environment(place / "home")
    environment |= {"HF_HUB_ETAG_TIMEOUT": _TIMEOUT, "HF_HUB_DOWNLOAD_TIMEOUT": _TIMEOUT}
    (results,) = run(environment, list(jobs.values()))
    done = {}
    for (case, job), result in zip(jobs.items(), results, strict=True):
        assert Fired(job["repo"].split("/")[0], *case[1:]) in hub.fired, f"{case} did not happen"
        done[case] = job["repo"], value(result)
    return done


@pytest.fixture(scope="module")
def faults(hub: LoopbackHub, tmp_path_factory: pytest.TempPathFactory, first: dict[str, bytes]) -> Any:
    cases = [*(("pull", *c) for c in PULL), *(("update", *c) for c in PULL), *(("push", *c) for c in PUSH)]
    return table(hub, tmp_path_factory.mktemp("faults"), first, cases)


def check_clear(result: dict[str, Any]) -> None:
    assert CLEAR & set(result["bases"]) and result["message"], result


def check_pull(done: dict[str, Any]) -> None:
    """The right policy or a clear error, then no policy or the right one, then the right one."""
    expected = digest(policy_of(**FIRST))
    for name in ("first", "offline"):
        if "error" in done[name]:
            check_clear(done[name])
        else:
            assert value(done[name])["digest"] == expected
    assert done["offline"].get("error", "LocalEntryNotFoundError") == "LocalEntryNotFoundError"
    assert value(done["again"])["digest"] == expected


def check_push(
    repository: Repository, done: dict[str, Any], stage: str, kind: str, files: list[dict[str, bytes]]
) -> None:
    """The branch is at the old commit after an error, at the new one after success; no commit holds anything else."""
    old, new = files[0], pushed(files[1], repository.name)
    _, before, *later = repository.commits
    for oid in (before, *later):
        held = {path: file.content for path, file in repository.commits[oid].files.items() if path in FILES}
        assert held == (old if oid == before else new)
    if "error" in done["first"]:
        check_clear(done["first"])
        # else it was committed, but the answer was lost, or the tag not made
        assert done["between"] == before or kind in ("lost", "truncated") or stage == "tag"
    else:
        assert done["between"] == value(done["first"])["commit"] != before
    assert value(done["again"])["commit"] == repository.refs["main"] == repository.refs[tag_of(new)] == later[-1]


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "kind"), PULL)
def test_a_fault_in_a_pull(faults, stage, kind):
    check_pull(faults["pull", stage, kind][1])


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "kind"), PULL)
def test_a_fault_in_an_update_leaves_the_older_policy_usable(faults, stage, kind):
    done, old, new = faults["update", stage, kind][1], digest(policy_of(**FIRST)), digest(policy_of(**SECOND))
    if "error" in done["first"]:
        check_clear(done["first"])
    else:
        assert value(done["first"])["digest"] in (old, new)
    assert value(done["offline"])["digest"] in (old, new)
    assert value(done["again"])["digest"] == new


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "kind"), PUSH)
def test_a_fault_in_a_push(hub, faults, first, second, stage, kind):
    repo, done = faults["push", stage, kind]
    check_push(hub.repositories[repo], done, stage, kind, [first, second])


@pytest.mark.slow
def test_slow_answers(hub, first, second, tmp_path):
    cases = [*(("pull", stage, "slow") for stage in FRESH_PULL), *(("push", stage, "slow") for stage in STAGES)]
    for (action, stage, _), (repo, done) in table(hub, tmp_path, first, cases).items():
        assert "value" in done["first"], done
        if action == "pull":
            check_pull(done)
        else:
            check_push(hub.repositories[repo], done, stage, "slow", [first, second])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["500", "reset"])
def test_a_fault_that_stays(hub, first, tmp_path, kind):
    """Retries end, in a clear error; nothing is committed and nothing is loaded."""
    cases = [("pull", stage, kind) for stage in FRESH_PULL]
    cases += [("push", stage, kind) for stage in STAGES if stage != "info"]  # which the job itself asks in between
    for (action, *_), (repo, done) in table(hub, tmp_path, first, cases, count=100).items():
        check_clear(done["first"])
        if action == "pull":
            assert done["offline"]["error"] == "LocalEntryNotFoundError"
        else:
            assert done["between"] == list(hub.repositories[repo].commits)[1]


# Interruptions: all slow, because each costs a push or a pull


@pytest.mark.slow
def test_a_push_killed_at_any_stage_leaves_the_old_commit(hub, first, tmp_path):
    """Catches a push in several commits, or one that changes the branch before everything is uploaded."""
    jobs, environment = [], hub.environment(tmp_path / "home")
    for number, stage in enumerate((*STAGES, "branch")):
        owner = f"killed-{number}"
        hub.add_repository(f"{owner}/policy", first)
        hub.arm(owner, stage, "hang")
        pid_file = tmp_path / owner
        threading.Thread(target=kill_when_fired, args=(hub, Fired(owner, stage, "hang"), pid_file)).start()
        job = {"do": "push", "repo": f"{owner}/policy", "policy": SECOND, "token": hub.add_user(owner)}
        job |= {"branch": "dev"} if stage == "branch" else {}
        jobs.append({**job, "with_custom_generate": True, "process": {"pid_file": str(pid_file)}})
    (results,) = run(environment, jobs)
    assert results == [{"killed": "SIGKILL"}] * len(jobs)
    for job in jobs:
        assert hub.files(job["repo"]) == first and len(hub.repositories[job["repo"]].commits) == 2


@pytest.mark.slow
def test_a_fault_while_a_branch_is_made(hub, first, second, tmp_path):
    """Catches a push that goes to main, or to a branch it left half made, after its branch could not be made."""
    jobs = []
    for kind in ("500", "503", "truncated", "reset", "lost"):
        owner = f"branch-{kind}"
        hub.add_repository(f"{owner}/policy", first)
        hub.arm(owner, "branch", kind)
        job = {"repo": f"{owner}/policy", "token": hub.add_user(owner), "policy": SECOND, "branch": "dev"}
        jobs.append({"do": "push_twice", **job})
    (results,) = run(hub.environment(tmp_path / "home"), jobs)
    for job, result in zip(jobs, results, strict=True):
        owner, done = job["repo"].split("/")[0], value(result)
        assert Fired(owner, "branch", owner.removeprefix("branch-")) in hub.fired
        if "error" in done["first"]:
            check_clear(done["first"])
        assert value(done["again"])["commit"] == hub.head(job["repo"], "dev")
        assert hub.files(job["repo"], "dev") == pushed(second, job["repo"]) and hub.files(job["repo"]) == first
        assert len(hub.repositories[job["repo"]].commits) == 3


@pytest.mark.slow
def test_no_room_for_a_push_or_a_pulled_folder(hub, place, first, second, tmp_path):
    """Catches a push of half a file, and an older policy in the folder that is spoiled by a newer one without room."""
    token = hub.add_user("max")
    hub.add_repository("max/policy", second)
    (tmp_path / "old").mkdir()
    for name, content in first.items():
        (tmp_path / "old" / name).write_bytes(content)
    little = {"file_bytes": 1000}
    pulled = command("pull", "max/policy", tmp_path / "old")
    jobs = {
        "push": {"do": "push", "repo": "max/policy", "policy": FIRST, "token": token, "process": little},
        "fill the cache": {"do": "pull", "repo": "max/policy"},
        "folder": {**pulled, "process": little},
        "new folder": {**command("pull", "max/policy", tmp_path / "new"), "process": little},
    }
    done = client(hub, tmp_path / "client", jobs)
    check_clear(done["push"])
    assert hub.files("max/policy") == second and len(hub.repositories["max/policy"].commits) == 2
    for name in ("folder", "new folder"):
        assert value(done[name])["code"] == 2 and value(done[name])["err"].startswith("error: [Errno 27] cannot save")
    assert {path.name: path.read_bytes() for path in (tmp_path / "old").iterdir()} == first
    assert {path.name for path in tmp_path.iterdir()} == {"old", "client"}  # nothing half-written beside them


@pytest.mark.slow
def test_a_fault_while_a_drop_in_is_fetched(hub, first, tmp_path):
    """Catches half of the code that is run, or kept and run by the next call."""
    cases = [(verb, kind) for verb in ("head", "get") for kind in ("500", "503", "reset")] + [("get", "truncated")]
    phases = []
    for owner in ("joe", *(f"{verb}-{kind}" for verb, kind in cases)):
        hub.add_repository(f"{owner}/policy", {**first, **drop_in_files(f"{owner}/policy")})
        phases.append([{"do": "drop_in_twice", "repo": f"{owner}/policy", "rows": 1, **DRAWN}])
    for verb, kind in cases:
        hub.arm(f"{verb}-{kind}", f"{verb} custom_generate/generate.py", kind)
    environment = hub.environment(tmp_path / "home") | {"HF_HUB_DOWNLOAD_TIMEOUT": _TIMEOUT}
    whole, *results = (done for (done,) in run(environment, *phases))
    expected = value(value(whole)["first"])["tokens"]
    for (verb, kind), result in zip(cases, results, strict=True):
        assert Fired(f"{verb}-{kind}", f"{verb} custom_generate/generate.py", kind) in hub.fired
        done = value(result)
        if "error" in done["first"]:
            check_clear(done["first"])
        else:
            assert value(done["first"])["tokens"] == expected
        assert value(done["again"])["tokens"] == expected
