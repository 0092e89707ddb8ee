"""``model.generate(custom_generate="org/policy")``: policies for somebody who never imports this package.

The slow tests ask processes of their own, which `drop_in_client` keeps free of our imports.
"""

from __future__ import annotations

import ast
import importlib.metadata
import json
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import drop_in_client
import pytest
import torch
from drop_in_client import IDS, REAL
from hub_client import policy_of, run
from loopback_hub import LoopbackHub
from packaging.requirements import Requirement
from transformers import GenerationConfig, LogitsProcessorList
from transformers.dynamic_module_utils import check_python_requirements

import hf_unmask
from hf_unmask import LearnedUnmaskingSampler, attach, hub_generate, load_tiny
from hf_unmask.policy import save_policy
from hf_unmask.policy.hub.drop_in import GENERATE, REQUIREMENTS, drop_in_files

TINY = str(Path(hf_unmask.__file__).parent / "tiny" / "model")
FIRST: dict[str, Any] = {"seed": 0}
SECOND: dict[str, Any] = {"seed": 1}
DRAWN = {"max_new_tokens": 8, "temperature": 0.9, "seed": 3}


# What is written


def test_the_requirements_are_met_by_this_installation(tmp_path):
    """Catches another name than the distribution's, a version that transformers cannot compare, or a future one."""
    text = drop_in_files("org/policy")[REQUIREMENTS].decode()
    requirement = Requirement(text.strip())
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert requirement.name == project["name"] and importlib.metadata.version(requirement.name)
    assert requirement.specifier.contains(hf_unmask.__version__, prereleases=True)
    (tmp_path / "requirements.txt").write_text(text)
    check_python_requirements(tmp_path)
    (tmp_path / "requirements.txt").write_text(text.replace("0.1.0", "999.0"))
    with pytest.raises(ImportError, match=r"hf_unmask>=999\.0 \(installed"):  # so it does read the line
        check_python_requirements(tmp_path)


@pytest.mark.parametrize("repo", ["org/policy", "0rg/p.o-l_1", 'o"""/\'\'\\n{x}'])
def test_the_code_is_thin_and_names_the_repository(repo):
    """Catches a name that becomes code, and work in the repository that a newer package could not mend."""
    source = drop_in_files(repo)[GENERATE].decode()
    tree = ast.parse(source)
    values: dict[str, Any] = {}
    exec(compile(tree, "generate.py", "exec"), values)
    assert values["POLICY"] == repo and callable(values["generate"])
    assert len(source.splitlines()) < 25


# What it calls


@pytest.fixture
def folder(tmp_path):
    """A policy where a repository's name would be found first: as a folder."""
    save_policy(policy_of(**FIRST), tmp_path / "policy")
    return str(tmp_path / "policy")


def decoded(**options: Any) -> torch.Tensor:
    dials = {name: options.pop(name) for name in ("greedy", "beta") if name in options}
    sampler = LearnedUnmaskingSampler(policy_of(**FIRST), **dials)
    found = hf_unmask.generate(drop_in_client.model_of("causal", None), IDS, sampler=sampler, **options)
    assert isinstance(found, torch.Tensor)
    return found


@pytest.mark.parametrize(
    "options",
    [
        {**DRAWN, "stop_at_eos": False, "do_sample": True},
        {**DRAWN, "beta": 0.5},
        {"max_new_tokens": 8, "greedy": True, "block_length": 4, "do_sample": False},
        {"generation_config": GenerationConfig(max_new_tokens=8)},
        {"max_new_tokens": 8, "num_beams": 1, "repetition_penalty": 1.0, "use_cache": True, "output_scores": False},
    ],
    ids=str,
)
def test_what_transformers_hands_over_is_understood(folder, options):
    """Catches an option that is dropped on the way, and defaults of transformers that are taken for wishes."""
    defaults = {"inputs": None, "logits_processor": LogitsProcessorList(), "synced_gpus": False, "streamer": None}
    model = drop_in_client.model_of("causal", None)
    found = hub_generate.generate_with(folder, model, input_ids=IDS, attention_mask=REAL, **(defaults | options))
    assert torch.equal(found, decoded(attention_mask=REAL, **options))


def test_greedy_is_greedy_whatever_the_model_says(folder):
    model = drop_in_client.model_of("causal", None)
    model.generation_config.update(do_sample=True, temperature=3.0, repetition_penalty=1.05)
    for options in ({"do_sample": False}, {"temperature": 0.0}):
        with pytest.warns(UserWarning, match=r"asks for repetition_penalty=1\.05"):
            found = hub_generate.generate_with(
                folder, model, input_ids=IDS, attention_mask=REAL, max_new_tokens=8, **options
            )
        assert torch.equal(found, decoded(attention_mask=REAL, max_new_tokens=8))


def test_an_attached_model_keeps_its_conventions(folder):
    """Catches a drop-in that looks the conventions up anew: the mask token given to attach would be lost."""
    model = drop_in_client.model_of("causal", None)
    attach(model, mask_token_id=30)
    found = hub_generate.generate_with(folder, model, inputs=IDS, attention_mask=REAL, **DRAWN)
    assert torch.equal(found, decoded(attention_mask=REAL, mask_token_id=30, **DRAWN))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({}, "the prompt as `input_ids`, once; got none"),
        ({"inputs": IDS, "input_ids": IDS}, "got input_ids, inputs"),
        ({"inputs": IDS, "logits_processor": [max]}, "unknown option logits_processor"),
        ({"inputs": IDS, "synced_gpus": True}, "unknown option synced_gpus"),
        ({"inputs": IDS, "assistant_model": "x"}, "unknown option assistant_model"),
        ({"inputs": IDS, "num_beams": 2}, "`num_beams=2` has no meaning"),
        ({"inputs": IDS, "generation_config": {"num_beams": 4}}, "must be a GenerationConfig, got {'num_beams': 4}"),
        ({"inputs": IDS, "speed": 0.5}, "not speed-conditioned"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_done_is_refused(folder, options, says):
    """Catches an option that is swallowed."""
    with pytest.raises(ValueError, match=says):
        hub_generate.generate_with(folder, drop_in_client.model_of("causal", None), max_new_tokens=4, **options)


# Through the Hub


ODD = ["ann/1.class", "ann/de-no_ise.r-1", "ann/hf_unmask", "ann/torch"]


@pytest.fixture(scope="module")
def pushed(hub: LoopbackHub, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Repositories with drop-ins; returns the commit of ann/policy before a second policy replaced the first."""
    environment = hub.environment(tmp_path_factory.mktemp("pushing") / "home", hub.add_user("ann"))
    options = {"do": "push", "with_custom_generate": True}
    jobs = [{**options, "repo": repo, "policy": FIRST} for repo in ["ann/policy", *ODD]]
    jobs += [{**options, "repo": "ann/secret", "policy": FIRST, "private": True}]
    (first, *others), _ = run(environment, jobs, [{**options, "repo": "ann/policy", "policy": SECOND}])
    assert not [other for other in others if "error" in other]
    return str(first["value"]["commit"])


def ask(environment: Mapping[str, str], calls: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Results of calls, by their names, in a process that has not imported this package."""
    done = subprocess.run(
        [sys.executable, drop_in_client.__file__],
        input=json.dumps(list(calls.values())),
        capture_output=True,
        text=True,
        env={**environment},
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return dict(zip(calls, json.loads(done.stdout), strict=True))


#: Options of the calls whose tokens are compared with ours.
COMPARED: dict[str, dict[str, Any]] = {
    "causal": {**DRAWN, "block_length": 4},
    "rows": {**DRAWN, "num_return_sequences": 2, "top_k": 5},
    "listening": {**DRAWN, "rows": 1, "stream": True},
    "dials": {"max_new_tokens": 8, "greedy": True, "beta": 0.5},
    "config": {"config": {"max_new_tokens": 8, "do_sample": True, "temperature": 3.0}, "seed": 1},
    "attached": {**DRAWN, "model": "attached"},
    "embedded": {**DRAWN, "model": "embedded", "folder": TINY, "shift": 0, "attention": "2d"},
    "masked": {**DRAWN, "model": "masked", "folder": TINY, "return_dict_in_generate": True},
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("using") / "home"


@pytest.fixture(scope="module")
def used(hub: LoopbackHub, pushed: str, home: Path) -> dict[str, dict[str, Any]]:
    """What somebody without a token got, in a fresh cache. The first calls are those that must not run any code."""
    policy = {"repo": "ann/policy"}
    calls = {
        "no trust": {**policy, **DRAWN, "trust_remote_code": False},
        "no answer": {**policy, **DRAWN, "trust_remote_code": None},
        **{name: {**policy, **options} for name, options in COMPARED.items() if name != "attached"},
        "pinned": {**policy, **DRAWN, "revision": pushed},
        **{repo: {"repo": repo, **DRAWN} for repo in ODD},
        "private": {"repo": "ann/secret", **DRAWN},
        "private, token": {"repo": "ann/secret", **DRAWN, "token": token_of(hub)},
        "no such repository": {"repo": "ann/nothing", **DRAWN},
        "misspelt": {**policy, **DRAWN, "blok_length": 4},
        "attached": {**policy, **COMPARED["attached"]},
    }
    return ask(hub.environment(home), calls)


def token_of(hub: LoopbackHub) -> str:
    return next(token for token, user in hub.users.items() if user == "ann")


def expected(hub: LoopbackHub, folder: Path, revision: str, options: Mapping[str, Any]) -> Any:
    """What `hf_unmask.generate` makes of the policy as the Hub holds it."""
    folder.mkdir()
    for path in ("config.json", "model.safetensors"):
        (folder / path).write_bytes(hub.files("ann/policy", revision)[path])
    given = dict(options)
    kind, rows = given.pop("model", "causal"), given.pop("rows", 2)
    for name in ("folder", "stream", "shift", "attention", "return_dict_in_generate"):
        given.pop(name, None)
    dials = {name: given.pop(name) for name in ("greedy", "beta") if name in given}
    sampler = LearnedUnmaskingSampler.from_pretrained(folder, **dials)
    model = load_tiny()[0].double() if kind in ("embedded", "masked") else drop_in_client.model_of(kind, None)
    if config := given.pop("config", None):
        given["generation_config"] = GenerationConfig(**config)
    ids, real = IDS[:rows], REAL[:rows]
    return hf_unmask.generate(model, ids, attention_mask=real, sampler=sampler, **given, return_dict_in_generate=True)


def tokens(result: dict[str, Any]) -> Any:
    assert "value" in result, result
    return result["value"]["tokens"]


@pytest.mark.slow
@pytest.mark.parametrize("name", COMPARED)
def test_the_same_tokens_as_with_the_pulled_sampler(hub, used, tmp_path, name):
    """Catches a drop-in that fails without our import, loses an option, or decodes with something else."""
    output = expected(hub, tmp_path / "policy", "main", COMPARED[name])
    assert tokens(used[name]) == output.sequences.tolist()
    found = used[name]["value"]
    assert found["nfe"] in (None, output.nfe.tolist()) and (found["nfe"] is None) == (name != "masked")
    if name == "listening":
        assert found["heard"] == {"tokens": output.sequences[0].tolist(), "ended": 1}


@pytest.mark.slow
def test_nothing_of_ours_was_imported_by_the_caller(used):
    """Catches a test that proves nothing, because the client's own imports had loaded the package."""
    assert used["causal"]["value"]["imported_before"] is False


@pytest.mark.slow
@pytest.mark.parametrize("name", ["no trust", "no answer"])
def test_without_trust_no_code_runs(used, name):
    """Catches a way around transformers' question."""
    assert used[name]["error"] == "ValueError" and "trust_remote_code=True" in used[name]["message"]
    assert used[name]["imported"] is False


@pytest.mark.slow
def test_a_pinned_revision_counts_for_the_policy_too(hub, used, pushed, tmp_path):
    """Catches code of one commit that decodes with the policy of another."""
    output = expected(hub, tmp_path / "policy", pushed, DRAWN)
    assert tokens(used["pinned"]) == output.sequences.tolist()
    now = expected(hub, tmp_path / "now", "main", DRAWN)
    assert now.sequences.tolist() != output.sequences.tolist()


@pytest.mark.slow
@pytest.mark.parametrize("repo", ODD)
def test_odd_names(used, repo):
    """Catches a name that is no module's name, or that of an installed module, in the path of the code."""
    assert tokens(used[repo]) == tokens(used["pinned"])


@pytest.mark.slow
def test_a_private_repository_needs_a_token(hub, used, home):
    """Catches a token that opens the code and not the policy, and one that is written down."""
    assert "OSError" in used["private"]["bases"]
    assert tokens(used["private, token"]) == tokens(used["pinned"])
    token = token_of(hub)
    by_environment = ask(hub.environment(home.parent / "other", token), {"x": {"repo": "ann/secret", **DRAWN}})
    assert tokens(by_environment["x"]) == tokens(used["pinned"])
    written = [path for path in home.parent.rglob("*") if path.is_file()]
    assert len(written) > 20 and not [path for path in written if token.encode() in path.read_bytes()]


@pytest.mark.slow
def test_mistakes_are_named(used):
    """Catches a misspelt option that is swallowed, and an error of the Hub that is hidden."""
    assert used["misspelt"]["error"] == "ValueError" and "blok_length" in used["misspelt"]["message"]
    assert "OSError" in used["no such repository"]["bases"] and "ann/nothing" in used["no such repository"]["message"]


@pytest.mark.slow
def test_a_filled_cache_serves_offline(hub, used, pushed, home):
    """Catches a request that is made although everything is there."""
    before = len(hub.requests)
    calls = {
        "drawn": {"repo": "ann/policy", **COMPARED["causal"]},
        "pinned": {"repo": "ann/policy", **DRAWN, "revision": pushed},
        "never seen": {"repo": "ann/other", **DRAWN},
    }
    found = ask(hub.environment(home) | {"HF_HUB_OFFLINE": "1"}, calls)
    assert tokens(found["drawn"]) == tokens(used["causal"]) and tokens(found["pinned"]) == tokens(used["pinned"])
    assert "OSError" in found["never seen"]["bases"]
    online = ask(hub.environment(home), {"x": {**calls["drawn"], "local_files_only": True}})
    assert tokens(online["x"]) == tokens(used["causal"])
    assert len(hub.requests) == before
