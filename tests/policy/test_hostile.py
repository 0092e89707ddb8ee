"""A policy from a stranger is loaded or refused with `PolicyLoadError`: quickly, in little memory, without its code."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import hostile_repos
import load_repos
import pytest
import torch
from forked import Forked
from hostile_repos import CANARY, CASES, CONFIG, EVIL_MAP, HARMLESS, WEIGHTS, add_code, config, write_policy
from transformers import AutoConfig, AutoModel

from hf_unmask.policy import PolicyLoadError, UnmaskingPolicyConfig, load_policy
from hf_unmask.policy.hub.files import unfinished_config
from hf_unmask.samplers.learned import LearnedUnmaskingSampler


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("hostile")
    hostile_repos.build(root)
    return root


@pytest.fixture(scope="module")
def outcomes(root):
    """What became of each case, by name, and the memory that all of them took."""
    with Forked(load_repos.main, root) as process:
        assert process.wait(600) == 0, process.out[-2000:] + process.err[-2000:]
        *lines, memory = process.out.splitlines()
    loaded = [json.loads(line.partition(": ")[2]) for line in lines]
    return dict(zip([*CASES, *HARMLESS], loaded, strict=True)), json.loads(memory)["bytes"]


@pytest.mark.parametrize("case", CASES)
def test_a_hostile_repository_is_refused(outcomes, case):
    found = outcomes[0][case]
    assert found["error"] == "PolicyLoadError", found["text"]
    assert found["key"] == CASES[case][1], found["text"]
    assert "found" in found["text"] and "expected" in found["text"]
    assert found["text"].isprintable() and len(found["text"]) < 2000
    assert found["seconds"] < 3
    assert set(found["opened"]) <= {CONFIG, WEIGHTS}


@pytest.mark.parametrize("case", HARMLESS)
def test_other_files_are_not_opened(outcomes, case):
    assert outcomes[0][case]["error"] is None
    assert outcomes[0][case]["opened"] == [CONFIG, WEIGHTS]


def test_nothing_was_executed_and_little_memory_was_used(root, outcomes):
    assert not list(root.glob(f"*/{CANARY}"))
    assert outcomes[1] < 200 * 2**20


def test_the_canary_sings(tmp_path):
    """What the folders carry would really run, had somebody unpickled or imported it."""
    write_policy(tmp_path / "policy")
    add_code(tmp_path / "policy")
    canary = tmp_path / CANARY
    pickle.loads((tmp_path / "policy" / "pytorch_model.bin").read_bytes())
    canary.rmdir()
    exec((tmp_path / "policy" / "evil.py").read_text(), {})
    canary.rmdir()


@pytest.mark.parametrize("trust", [None, True])
@pytest.mark.parametrize(
    "evil", [{"auto_map": EVIL_MAP}, {"attn_implementation": "evil/kernel"}, {"experts_implementation": "evil/kernel"}]
)
def test_the_auto_classes_run_no_code_either(tmp_path, evil, trust):
    folder = tmp_path / "policy"
    write_policy(folder)
    add_code(folder)
    config(**evil)(folder)
    for auto in (AutoConfig, AutoModel):
        with pytest.raises(PolicyLoadError) as caught:
            auto.from_pretrained(folder, trust_remote_code=trust)
        assert caught.value.key in evil
    assert not (tmp_path / CANARY).exists()


def test_the_auto_classes_unpickle_nothing(tmp_path):
    folder = tmp_path / "policy"
    write_policy(folder)
    add_code(folder)
    with pytest.raises(ValueError, match="use_safetensors=False"):
        AutoModel.from_pretrained(folder, use_safetensors=False)
    (folder / WEIGHTS).unlink()
    with pytest.raises(PolicyLoadError, match=WEIGHTS):
        AutoModel.from_pretrained(folder)
    assert not (tmp_path / CANARY).exists()


def test_the_auto_classes_read_weights_as_strictly(root):
    """Weights that `load_policy` refuses and transformers takes with a remark, or with random values in the gaps."""
    tensors = {name for name, _ in load_policy(root / "good").named_parameters()}
    keys = [key for _, key in CASES.values()]
    bad = [place for place, key in enumerate(keys) if key in {WEIGHTS, *tensors}]
    assert len(bad) > 25
    for place in bad:
        with pytest.raises(PolicyLoadError) as caught:
            AutoModel.from_pretrained(root / str(place) / "policy")
        assert caught.value.key == keys[place]


def test_the_auto_classes_take_no_half_saved_policy(tmp_path):
    """The new weights with the old config: transformers knows nothing of the config that waits beside it."""
    write_policy(tmp_path)
    name = unfinished_config((tmp_path / WEIGHTS).read_bytes())
    (tmp_path / name).write_text((tmp_path / CONFIG).read_text().replace('"canvas"', '"block"'))
    assert load_policy(tmp_path).config.observation == "block"
    with pytest.raises(PolicyLoadError, match="interrupted"):
        AutoModel.from_pretrained(tmp_path)


def test_what_transformers_only_reports_is_refused_too(tmp_path):
    """A tensor that is missing in what is given in memory: transformers would draw random numbers for it."""
    write_policy(tmp_path)
    policy, report = AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values())
    tensors = policy.state_dict()
    del tensors["head.bias"]
    with pytest.raises(PolicyLoadError, match="missing_keys.*head.bias"):
        type(policy).from_pretrained(None, config=policy.config, state_dict=tensors)


def test_a_caller_may_choose_the_attention(tmp_path):
    write_policy(tmp_path)
    assert AutoModel.from_pretrained(tmp_path, attn_implementation="sdpa").config.top_k == 1
    values = json.loads((tmp_path / CONFIG).read_text())
    given = dict(values)
    UnmaskingPolicyConfig.from_dict(given, attn_implementation="sdpa")
    assert given == values


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"id2label": {"a": 1}}, "id2label"),
        ({"dtype": "_inductor"}, "dtype"),
        ({"_name_or_path": {"a": 1}}, "_name_or_path"),
        ({"output_attentions": "yes"}, "output_attentions"),
        ({"per_layer_config": {"0": {}}}, "per_layer_config"),
        ({"rope_scaling": {"type": "x"}}, "rope_scaling"),
        ({"hidden_size": 10**5000}, "hidden_size"),
        ({"log_alpha_range": [10**5000, 0], "speed_conditioned": True}, "log_alpha_range[0]"),
    ],
)
def test_what_load_policy_would_refuse_earlier_is_refused_by_the_config_too(values, key):
    with pytest.raises(PolicyLoadError) as caught:
        UnmaskingPolicyConfig.from_dict(values)
    assert caught.value.key == key and len(str(caught.value)) < 2000


# The size limit


def test_a_larger_policy_needs_permission(tmp_path):
    write_policy(tmp_path, hidden_size=640, intermediate_size=640)
    size = (tmp_path / WEIGHTS).stat().st_size
    assert size > 16 * 2**20
    with pytest.raises(PolicyLoadError, match="max_bytes"):
        LearnedUnmaskingSampler.from_pretrained(tmp_path)
    assert load_policy(tmp_path, max_bytes=size).config.hidden_size == 640
    with pytest.raises(PolicyLoadError, match=f"{size:,} bytes"):
        load_policy(tmp_path, max_bytes=size - 1)
    with pytest.raises(PolicyLoadError, match="max_bytes"):
        AutoModel.from_pretrained(tmp_path)
    assert AutoModel.from_pretrained(tmp_path, max_bytes=size).config.hidden_size == 640


@pytest.mark.parametrize("wrong", [0, -1, True, 1e6, "16MB", None])
def test_the_size_limit_is_checked_for_folders_as_for_downloads(tmp_path, wrong):
    """A limit that is no limit: True is 1, None and text fail deep inside, a negative number refuses everything."""
    with pytest.raises(ValueError, match="`max_bytes` must be an int( of at least 1)?, got"):
        LearnedUnmaskingSampler.from_pretrained(tmp_path, max_bytes=wrong)


# Links that are meant


def snapshot(cache: Path) -> Path:
    folder = cache / "models--org--policy" / "snapshots" / ("0" * 40)
    write_policy(folder)
    return folder


@pytest.mark.parametrize("shared", [False, True])
def test_the_cache_of_the_hub_links_to_its_stores(tmp_path, shared):
    """`blobs` of the repository and, for files of the Xet store, from there to `blobs` of the whole cache."""
    folder = snapshot(tmp_path)
    for number, name in enumerate((CONFIG, WEIGHTS)):
        blob = folder.parent.parent / "blobs" / str(number)
        stored = tmp_path / "blobs" / "ab" / str(number) if shared else blob
        blob.parent.mkdir(exist_ok=True)
        stored.parent.mkdir(exist_ok=True, parents=True)
        (folder / name).rename(stored)
        (folder / name).symlink_to(f"../../blobs/{number}")
        if shared:
            blob.symlink_to(f"../../blobs/ab/{number}")
    assert load_policy(folder).config.hidden_size == 8


def test_a_snapshot_may_not_link_elsewhere(tmp_path):
    folder = snapshot(tmp_path / "cache")
    (folder / CONFIG).rename(tmp_path / "cache" / "other")
    (folder / CONFIG).symlink_to("../../../other")
    with pytest.raises(PolicyLoadError, match="leaves the folder"):
        load_policy(folder)


def test_links_inside_the_folder_and_to_the_folder_are_fine(tmp_path):
    folder = tmp_path / "policy"
    write_policy(folder)
    (folder / WEIGHTS).rename(folder / "epoch-3.safetensors")
    (folder / WEIGHTS).symlink_to("epoch-3.safetensors")
    (tmp_path / "latest").symlink_to(folder)
    assert torch.equal(load_policy(tmp_path / "latest").head.bias, load_policy(folder).head.bias)
