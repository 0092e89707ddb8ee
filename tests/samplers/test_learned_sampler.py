"""The learned sampler: options, specs, device and precision, strict loading, atomic saving."""

import json
import math
import os

import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from policies import CONDITIONED, make_policy
from safetensors.torch import load_file, save_file

from hf_unmask.generation.step import Needs, Noise, Step
from hf_unmask.policy import PolicyLoadError, UnmaskingPolicy, UnmaskingPolicyConfig, decide, load_policy
from hf_unmask.policy.hub import folders
from hf_unmask.samplers.base import at_least_one
from hf_unmask.samplers.learned import LearnedUnmaskingSampler
from hf_unmask.samplers.specs import parse_sampler


def make_step(rows=4, width=6, top_k=1, seed=0, **read):
    g = torch.Generator().manual_seed(seed)
    index = torch.arange(width).expand(rows, width)
    valid = index < torch.arange(width, width - rows, -1)[:, None]  # each row one shorter than the one before
    masked = valid & (torch.rand(rows, width, generator=g) < 0.7)
    step = Step(
        proposal=torch.zeros(rows, width, dtype=torch.long),
        masked=masked,
        eligible=masked & (index < 4),
        valid=valid,
        index=index,
        length=valid.sum(-1),
        steps=torch.arange(rows) % 3,
        block_steps=torch.arange(rows) % 3,
        block_length=4,
        read={"top_probs": torch.rand(rows, width, top_k, generator=g).sort(-1, descending=True).values, **read},
    )
    return step, Noise(torch.rand(rows, width, generator=g), torch.rand(rows, generator=g))


@pytest.fixture
def saved(tmp_path):
    folder = tmp_path / "policy"
    LearnedUnmaskingSampler(make_policy()).save_pretrained(folder)
    return folder


# As a sampler


@pytest.mark.parametrize("greedy", [False, True])
def test_select_is_the_decision_on_what_the_step_reports(greedy):
    policy = make_policy(top_k=3)
    step, noise = make_step(top_k=3)
    sampler = LearnedUnmaskingSampler(policy, policy_temperature=0.5, beta=2.0, greedy=greedy)
    selection = sampler.select(step, "kept", noise)
    expected = decide(
        policy,
        step.top_probs,
        step.masked,
        step.eligible,
        step.time,
        noise,
        policy_temperature=0.5,
        beta=2.0,
        greedy=greedy,
        valid=step.valid,
    )
    assert torch.equal(selection.open, expected)
    assert selection.state == "kept" and selection.tokens is None and selection.reopen is None
    assert not selection.open.requires_grad
    assert torch.equal(selection.open.any(-1), step.eligible.any(-1))
    assert not sampler.may_stall


def test_rows_do_not_depend_on_their_neighbours():
    sampler, (step, noise) = LearnedUnmaskingSampler(make_policy().double()), make_step()
    together = sampler.select(step, None, noise).open
    for row in range(4):
        one, length = slice(row, row + 1), int(step.length[row])
        cut = {name: getattr(step, name)[one, :length] for name in ("proposal", "masked", "eligible", "valid", "index")}
        counts = {name: getattr(step, name)[one] for name in ("length", "steps", "block_steps")}
        alone = Step(**cut, **counts, block_length=4, read={"top_probs": step.top_probs[one, :length]})
        opened = sampler.select(alone, None, Noise(noise.action[one, :length], noise.row[one])).open
        assert torch.equal(opened[0], together[row, :length])


@pytest.mark.parametrize("beta", [1e-12, 1e12])
def test_beta_limits(beta):
    step, noise = make_step()
    opened = LearnedUnmaskingSampler(make_policy(), beta=beta).select(step, None, noise).open
    if beta > 1:
        assert torch.equal(opened, step.eligible)
    else:
        assert torch.equal(opened.sum(-1), step.eligible.any(-1).long())


def test_fallback_agrees_with_the_other_samplers():
    policy, (step, noise) = make_policy(), make_step()
    opened = LearnedUnmaskingSampler(policy, beta=1e-12).select(step, None, noise).open
    logits = policy(step.top_probs, step.masked, step.time, valid=step.valid)
    assert torch.equal(opened, at_least_one(torch.zeros_like(opened), step.eligible, by=logits))


def test_needs_follow_the_config():
    def needs(**options):
        return LearnedUnmaskingSampler(make_policy(**options)).needs

    assert needs() == Needs.of("top_probs", where="canvas", top_k=1)
    assert needs(observation="block", top_k=5) == Needs.of("top_probs", where="block", top_k=5)
    assert needs(reads_revealed=False) == Needs.of("top_probs", where="canvas", decided=False)
    assert needs(hidden_input_size=3) == Needs.of("top_probs", "hidden", where="canvas", top_k=1)


def test_hidden_states_reach_the_policy():
    step, noise = make_step(hidden=torch.randn(4, 6, 3, dtype=torch.bfloat16))
    sampler = LearnedUnmaskingSampler(make_policy(hidden_input_size=3))
    assert torch.equal(sampler.select(step, None, noise).open.any(-1), step.eligible.any(-1))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_the_policy_keeps_its_precision_whatever_the_denoiser_has(dtype):
    step, noise = make_step()
    step.read["top_probs"] = step.top_probs.to(dtype)
    sampler = LearnedUnmaskingSampler(make_policy().train())
    assert sampler.select(step, None, noise).open.dtype == torch.bool
    assert sampler.policy.dtype == torch.float32 and not sampler.policy.training
    with pytest.raises(ValueError, match="float32"):
        LearnedUnmaskingSampler(make_policy().bfloat16())


def test_the_policy_follows_the_denoisers_device():
    sampler, (step, noise) = LearnedUnmaskingSampler(make_policy()), make_step()
    names = [n for n, v in vars(step).items() if isinstance(v, torch.Tensor)]
    moved = Step(
        **{n: getattr(step, n).to("meta") for n in names},
        block_length=4,
        read={"top_probs": step.top_probs.to("meta")},
    )
    opened = sampler.select(moved, None, Noise(noise.action.to("meta"), noise.row.to("meta"))).open
    assert opened.device.type == sampler.policy.device.type == "meta"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an accelerator")
def test_the_decision_is_the_same_on_an_accelerator():
    sampler, (step, noise) = LearnedUnmaskingSampler(make_policy()), make_step()
    here = sampler.select(step, None, noise).open
    tensors = {n: v.cuda() for n, v in vars(step).items() if isinstance(v, torch.Tensor)}
    moved = Step(**tensors, block_length=4, read={"top_probs": step.top_probs.cuda()})
    there = sampler.select(moved, None, Noise(noise.action.cuda(), noise.row.cuda())).open
    assert torch.equal(here, there.cpu())


def test_speed():
    step, noise = make_step()
    policy = make_policy(**CONDITIONED)
    chosen = LearnedUnmaskingSampler(policy).select(step, None, noise).open
    assert torch.equal(chosen, LearnedUnmaskingSampler(policy, speed=0.5).select(step, None, noise).open)
    with pytest.raises(ValueError, match="not speed-conditioned"):
        LearnedUnmaskingSampler(make_policy(), speed=0.5)


@pytest.mark.parametrize(
    "option",
    [
        {"beta": 0},
        {"beta": -1},
        {"beta": math.nan},
        {"policy_temperature": 0},
        {"policy_temperature": math.inf},
        {"speed": 1.1},
        {"speed": -0.1},
    ],
)
def test_options_out_of_range_are_named(option):
    with pytest.raises(ValueError, match=next(iter(option))):
        LearnedUnmaskingSampler(make_policy(**CONDITIONED), **option)


def test_equality_is_that_of_the_policy_object_and_the_options():
    one, other = make_policy(), make_policy()
    assert LearnedUnmaskingSampler(one) == LearnedUnmaskingSampler(one, source="elsewhere")
    assert len({LearnedUnmaskingSampler(one), LearnedUnmaskingSampler(one), LearnedUnmaskingSampler(one, beta=2)}) == 2
    assert LearnedUnmaskingSampler(one) != LearnedUnmaskingSampler(other)


# Specs


def test_spec_round_trip(tmp_path):
    folder = tmp_path / "policy"
    LearnedUnmaskingSampler(make_policy(**CONDITIONED)).save_pretrained(folder)
    sampler = LearnedUnmaskingSampler.from_pretrained(folder, policy_temperature=0.5, beta=2.0, greedy=True, speed=0.3)
    assert str(sampler) == f"learned:{folder};policy_temperature=0.5;beta=2.0;speed=0.3;greedy=True"
    again = parse_sampler(str(sampler))
    assert isinstance(again, LearnedUnmaskingSampler)
    assert str(again) == str(sampler)
    assert (again.policy_temperature, again.beta, again.greedy, again.speed) == (0.5, 2.0, True, 0.3)
    assert str(LearnedUnmaskingSampler.from_pretrained(folder)) == f"learned:{folder}"
    assert str(LearnedUnmaskingSampler(make_policy(), beta=3)) == "learned:<in memory>;beta=3"
    with_revision = LearnedUnmaskingSampler.from_spec(str(folder), {"revision": "abc", "local_files_only": "true"})
    assert str(with_revision) == f"learned:{folder};revision=abc"


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"betta": "1"}, "betta"),
        ({"token": "secret"}, "unknown parameter 'token'"),
        ({"beta": "much"}, "`beta` must be float"),
        ({"greedy": "1"}, "`greedy` must be bool"),
        ({"beta": "nan"}, "`beta`"),
        ({"speed": "0.5"}, "not speed-conditioned"),
    ],
)
def test_bad_spec_options_are_named(saved, options, named):
    with pytest.raises(ValueError, match=named):
        LearnedUnmaskingSampler.from_spec(str(saved), options)


# Finding and loading


def test_folder_round_trip(saved):
    sampler, original = LearnedUnmaskingSampler.from_pretrained(saved), make_policy()
    assert sorted(os.listdir(saved)) == ["config.json", "model.safetensors"]
    assert os.listdir(saved.parent) == [saved.name]
    for name, tensor in original.state_dict().items():
        assert torch.equal(sampler.policy.state_dict()[name], tensor)
    assert all(p.requires_grad for p in sampler.policy.parameters())  # it can be trained on
    step, noise = make_step()
    assert torch.equal(
        sampler.select(step, None, noise).open, LearnedUnmaskingSampler(original).select(step, None, noise).open
    )


def test_transformers_reads_the_same_folder(saved):
    loaded = UnmaskingPolicy.from_pretrained(saved)
    assert torch.equal(loaded.head.weight, make_policy().head.weight)


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all", "~/nowhere-at-all", "a/b/c", "nowhere"])
def test_a_wrong_path_says_so(name):
    with pytest.raises(PolicyLoadError, match="no folder"):
        LearnedUnmaskingSampler.from_pretrained(name)


def test_a_file_is_not_a_policy_folder(saved):
    with pytest.raises(PolicyLoadError, match="a file"):
        LearnedUnmaskingSampler.from_pretrained(saved / "model.safetensors")


def test_packaged_policies_are_listed(saved, monkeypatch):
    monkeypatch.setattr(folders, "PACKAGED", saved.parent)
    loaded = LearnedUnmaskingSampler.from_pretrained("builtin:policy")
    assert str(loaded) == "learned:builtin:policy"
    for name in ("other", "../policy", ""):
        with pytest.raises(PolicyLoadError, match=r"one of the packaged policies \['policy'\]"):
            LearnedUnmaskingSampler.from_pretrained(f"builtin:{name}")


def test_errors_of_the_hub_pass_unchanged(tmp_path):
    with pytest.raises(LocalEntryNotFoundError):
        LearnedUnmaskingSampler.from_pretrained("org/policy", cache_dir=tmp_path, local_files_only=True)


def test_a_repository_is_read_from_the_cache(saved, tmp_path):
    commit = "0" * 40
    snapshot = tmp_path / "cache" / "models--org--policy" / "snapshots" / commit
    snapshot.parent.mkdir(parents=True)
    saved.rename(snapshot)
    sampler = LearnedUnmaskingSampler.from_pretrained(
        "org/policy", revision=commit, cache_dir=tmp_path / "cache", local_files_only=True
    )
    assert str(sampler) == f"learned:org/policy;revision={commit}"


def edit_config(**changes):
    def edit(folder):
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return edit


def edit_weights(change):
    def edit(folder):
        path = folder / "model.safetensors"
        tensors = load_file(path)
        change(tensors)
        save_file(tensors, path)

    return edit


def drop_model_type(folder):
    values = json.loads((folder / "config.json").read_text())
    del values["model_type"]
    (folder / "config.json").write_text(json.dumps(values))


def only_a_pickle(folder):
    (folder / "model.safetensors").unlink()
    torch.save(make_policy().state_dict(), folder / "pytorch_model.bin")


BROKEN = {
    "no config": (lambda f: (f / "config.json").unlink(), "config.json"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "model.safetensors"),
    "only a pickle": (only_a_pickle, "model.safetensors"),
    "config is no JSON": (lambda f: (f / "config.json").write_text("{"), "config.json"),
    "config is no text": (lambda f: (f / "config.json").write_bytes(b"\xff\xfe\x00"), "config.json"),
    "config is a list": (lambda f: (f / "config.json").write_text("[]"), "config.json"),
    "no model_type": (drop_model_type, "model_type"),
    "wrong model_type": (edit_config(model_type="bert"), "model_type"),
    "unknown key": (edit_config(auto_map={"AutoModel": "evil.Model"}), "auto_map"),
    "key of another model": (edit_config(return_dict=True), "return_dict"),
    "wrong type": (edit_config(top_k="1"), "top_k"),
    "out of range": (edit_config(intermediate_size=10**12), "intermediate_size"),
    "not a number": (edit_config(initial_bias=math.nan), "initial_bias"),
    "tagged infinity": (edit_config(stop_logit={"__float__": "Infinity"}), "stop_logit"),
    "future schema": (edit_config(schema_version=99), "schema_version"),
    "half precision config": (edit_config(dtype="float16"), "dtype"),
    "bad architectures": (edit_config(architectures=3), "architectures"),
    "unknown training record": (edit_config(trained_for={"password": "x"}), "trained_for.password"),
    "config of another shape": (edit_config(top_k=2), "confidence_projection.weight"),
    "large config, small file": (edit_config(hidden_size=16384), "attention_norm.bias"),
    "weights are no safetensors": (lambda f: (f / "model.safetensors").write_bytes(b"junk" * 9), "model.safetensors"),
    "cut weights": (lambda f: os.truncate(f / "model.safetensors", 900), "model.safetensors"),
    "missing tensor": (edit_weights(lambda t: t.pop("head.bias")), "head.bias"),
    "unexpected tensor": (edit_weights(lambda t: t.update(more=torch.zeros(1))), "more"),
    "mismatched shape": (edit_weights(lambda t: t.update({"head.bias": torch.zeros(2)})), "head.bias"),
    "wrong dtype": (edit_weights(lambda t: t.update({"head.bias": torch.zeros(1).half()})), "head.bias"),
    "NaN": (edit_weights(lambda t: t["head.bias"].fill_(math.nan)), "head.bias"),
    "infinity": (edit_weights(lambda t: t["head.weight"][0, 3:4].fill_(math.inf)), "head.weight"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_policy_is_refused_by_name(saved, case):
    damage, key = BROKEN[case]
    damage(saved)
    with pytest.raises(PolicyLoadError) as caught:
        LearnedUnmaskingSampler.from_pretrained(saved)
    assert caught.value.key == key
    assert key in str(caught.value)


# Saving


def test_saving_replaces_the_policy_and_leaves_other_files(saved):
    (saved / "README.md").write_text("card")
    LearnedUnmaskingSampler(make_policy(1, top_k=2)).save_pretrained(saved)
    assert sorted(os.listdir(saved)) == ["README.md", "config.json", "model.safetensors"]
    assert load_policy(saved).config.top_k == 2
    LearnedUnmaskingSampler(make_policy()).save_pretrained(saved.parent / "deep" / "er")
    assert load_policy(saved.parent / "deep" / "er").config.top_k == 1


@pytest.mark.parametrize("failing", ["save", "config", "first replace", "second replace"])
@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_a_failed_save_leaves_the_old_policy(saved, monkeypatch, failing, error):
    before = {name: (saved / name).read_bytes() for name in os.listdir(saved)}
    replace, calls = os.replace, []

    def fail(*args, **kwargs):
        raise error("the disk is full")

    def fail_at(source, target):
        calls.append(target)
        if len(calls) == ("first replace", "second replace").index(failing) + 1:
            fail()
        replace(source, target)

    if failing == "save":
        monkeypatch.setattr(folders, "save", fail)
    elif failing == "config":
        monkeypatch.setattr(UnmaskingPolicyConfig, "to_json_file", fail)
    else:
        monkeypatch.setattr(folders.os, "replace", fail_at)
    with pytest.raises(error):
        LearnedUnmaskingSampler(make_policy(1, top_k=2)).save_pretrained(saved)
    assert {name: (saved / name).read_bytes() for name in os.listdir(saved)} == before
    assert os.listdir(saved.parent) == [saved.name]


def test_what_cannot_be_loaded_is_not_saved(saved):
    broken = make_policy()
    broken.head.bias.data.fill_(math.nan)
    for policy in (broken, make_policy().double()):
        with pytest.raises(PolicyLoadError):
            LearnedUnmaskingSampler(policy).save_pretrained(saved)
    with pytest.raises(NotADirectoryError):
        LearnedUnmaskingSampler(make_policy()).save_pretrained(saved / "config.json")
    assert torch.equal(load_policy(saved).head.bias, make_policy().head.bias)


def test_saving_does_not_change_the_policy_in_memory(tmp_path):
    policy = make_policy()
    LearnedUnmaskingSampler(policy).save_pretrained(tmp_path / "a")
    assert policy.config.architectures is None
