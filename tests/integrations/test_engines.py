"""Samplers inside serving engines: their decision against our own loop, and the adapters against doubles."""

from __future__ import annotations

import importlib
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from doubles import backbone, row_double
from engines import (
    Engine,
    Request,
    block_by_block,
    dinfer_generate,
    dinfer_modules,
    engine_config,
    forget,
    logits_at,
    plugin_modules,
    sglang_modules,
)
from helpers import slow
from models import MASK
from policies import make_policy

import hf_unmask
from hf_unmask import Denoiser, LearnedUnmaskingSampler, parse_sampler
from hf_unmask.doors.block import counted_noise, decide_block, drawn_noise, require_usable
from hf_unmask.generation.randomness import row_keys
from hf_unmask.policy.compatibility import PolicyMismatchWarning
from hf_unmask.samplers import CreditSampler, EosSuppressSampler, ThresholdSampler

BLOCK = 4
PROMPTS = [[5, 6, 7, 8, 9], [11, 12], [13, 14, 15, 16, 17, 18, 19, 20]]
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A policy that sees one block and whose every input matters."""
    path = tmp_path_factory.mktemp("policy")
    with torch.random.fork_rng():
        make_policy(1, observation="block", speed_conditioned=True, log_alpha_range=[-1.0, 1.0]).save_pretrained(path)
    return path


def denoiser(dtype=torch.float32):
    return Denoiser.from_model(row_double("sdar", dtype), block_length=BLOCK)


# The decision


@torch.no_grad()
def decided(adapter, prompt, sampler, new, seed):
    """Our loop written again around `decide_block`, on one row."""
    tokens = torch.tensor([prompt + [MASK] * new])
    first, state, steps = len(prompt), sampler.init(1, BLOCK, tokens.device), 0
    nothing = torch.zeros(1, first, dtype=torch.bool)
    key = row_keys(torch.tensor([seed]), tokens[:, :first], ~nothing, nothing)
    for start in range(first // BLOCK * BLOCK, tokens.shape[1], BLOCK):
        places = torch.arange(max(start, first), min(start + BLOCK, tokens.shape[1]))[None]
        count = 0
        while bool((tokens.gather(1, places) == MASK).any()):
            decision = decide_block(
                sampler,
                logits_at(adapter, tokens, places),
                tokens.gather(1, places) == MASK,
                counted_noise(key, torch.tensor([steps]), places - first),
                block_steps=torch.tensor([count]),
                steps=torch.tensor([steps]),
                length=torch.tensor([new]),
                banned=(MASK,),
                state=state,
            )
            tokens.scatter_(1, places, torch.where(decision.opened, decision.tokens, tokens.gather(1, places)))
            state, steps, count = decision.state, steps + 1, count + 1
    return tokens[0, first:].tolist(), steps


@pytest.mark.parametrize(
    "spec", ["threshold:threshold=0.08", "threshold:threshold=0.05;minimum=2", "factor", "entropy_bound", "random:k=2"]
    + ["confidence:steps_per_block=3", "learned:POLICY", "learned:POLICY;greedy=True;speed=0.9"],
)  # fmt: skip
def test_the_decision_is_that_of_our_loop(folder, spec):
    """Another clock, other noise, prompt that counts as canvas, the mask token among the proposals."""
    sampler, adapter = parse_sampler(spec.replace("POLICY", str(folder))), denoiser()
    for prompt in PROMPTS:
        new = 6 + (-len(prompt) - 6) % BLOCK
        options = {"sampler": sampler, "max_new_tokens": new, "seed": 3, "return_dict_in_generate": True}
        expected = hf_unmask.generate(adapter, torch.tensor([prompt]), **options)
        tokens, steps = decided(adapter, prompt, sampler, new, 3)
        assert tokens == expected.sequences[0, len(prompt) :].tolist() and steps == int(expected.nfe)


def test_what_an_engine_cannot_give_is_refused():
    """A sampler that reads zeros where it expects something."""
    for sampler, why in [
        (LearnedUnmaskingSampler(make_policy(observation="canvas")), "reads the whole canvas, but the host sees"),
        (LearnedUnmaskingSampler(make_policy(hidden_input_size=8)), "reads hidden states, which the host does not"),
        (CreditSampler(), "remembers earlier steps, for which the host has no place"),
        (EosSuppressSampler(), "asks for stop tokens, but the host does not say which these are"),
        (ThresholdSampler, "must be a sampler such as"),
    ]:
        with pytest.raises(ValueError, match=why):
            require_usable(sampler, "the host")
    require_usable(LearnedUnmaskingSampler(make_policy(observation="canvas")), "the host", whole_canvas=True)
    require_usable(CreditSampler(), "the host", memory=True)


def test_remasking_is_refused():
    """Positions that a sampler wants back and never gets."""

    class Reopens(ThresholdSampler):
        def select(self, step, state, noise):
            return hf_unmask.Selection(step.eligible, reopen=step.eligible)

    masked = torch.ones(1, 2, dtype=torch.bool)
    with pytest.raises(RuntimeError, match="threshold wants to reopen positions"):
        zero = torch.zeros(1, dtype=torch.long)
        decide_block(Reopens(), torch.zeros(1, 2, 5), masked, drawn_noise(masked), block_steps=zero)


# SGLang


@pytest.fixture
def sglang(monkeypatch):
    for name, made in sglang_modules().items():
        monkeypatch.setitem(sys.modules, name, made)
    forget(monkeypatch, "hf_unmask.integrations.sglang")
    return importlib.import_module("hf_unmask.integrations.sglang")


def yaml_of(folder, name):
    return {
        "policy": {"policy": str(folder), "speed": 0.9, "greedy": True},
        "threshold": {"sampler": "threshold:threshold=0.08"},
        "factor": {"sampler": "factor:factor=0.9"},
        "drawn": {"policy": str(folder), "speed": 0.9, "seed": 4},
    }[name]


@pytest.mark.parametrize("name", ["policy", "threshold", "factor", "drawn"])
def test_the_engine_gives_the_tokens_of_our_loop(sglang, folder, name):
    """A block that is reported before its tokens are stored, a clock that other requests move, prompt in a block."""
    algorithm = sglang.HfUnmask(engine_config(BLOCK, MASK, **yaml_of(folder, name)))
    requests = [Request(prompt, 7, arrives=2 * i) for i, prompt in enumerate(PROMPTS)]
    found = Engine(algorithm, backbone()).serve(requests)
    for request, tokens in zip(requests, found, strict=True):
        expected, forwards = block_by_block(denoiser(), request.prompt, algorithm.sampler, 7, BLOCK, algorithm.seed)
        assert tokens == expected
        blocks = -(-(len(request.prompt) + 7) // BLOCK)
        assert request.forwards == forwards + blocks  # each block is stored by one more pass, the prompt's too


LITERAL = [[5, 6, MASK, 8, 9, 10], [MASK], [MASK] * BLOCK, [5, 6, 7, MASK, MASK], [MASK, 6, 7, 8, 9, 10, 11, 12]]


@pytest.mark.filterwarnings("ignore:the prompt holds the mask token")
@pytest.mark.parametrize("name", ["policy", slow("threshold"), slow("factor")])
def test_mask_tokens_of_a_prompt_are_text(sglang, folder, name):
    """A mask token of the prompt that is filled: the engine then misses its block's keys and dies."""
    algorithm = sglang.HfUnmask(engine_config(BLOCK, MASK, **yaml_of(folder, name)))
    requests = [Request(prompt, 7, arrives=i) for i, prompt in enumerate(LITERAL + PROMPTS)]
    found = Engine(algorithm, backbone()).serve(requests)
    for request, tokens in zip(requests, found, strict=True):
        expected, forwards = block_by_block(denoiser(), request.prompt, algorithm.sampler, 7, BLOCK)
        assert request.stored[: len(request.prompt)] == request.prompt and tokens == expected
        assert request.forwards == forwards + -(-(len(request.prompt) + 7) // BLOCK)
        assert Engine(algorithm, backbone()).serve([Request(request.prompt, 7)]) == [tokens]


def test_a_request_depends_on_no_other(sglang, folder):
    """Draws that depend on the batch, and so on who else is served."""
    algorithm = sglang.HfUnmask(engine_config(BLOCK, MASK, policy=str(folder), seed=4))
    assert algorithm.sampler.stochastic
    together = [Request(prompt, 6, arrives=i) for i, prompt in enumerate(PROMPTS)]
    found = Engine(algorithm, backbone()).serve(together, wrapped=True)
    for prompt, tokens in zip(PROMPTS, found, strict=True):
        assert Engine(algorithm, backbone()).serve([Request(prompt, 6)]) == [tokens]
    other = sglang.HfUnmask(engine_config(BLOCK, MASK, policy=str(folder), seed=5))
    assert Engine(other, backbone()).serve([Request(prompt, 6) for prompt in PROMPTS]) != found


@pytest.mark.parametrize("yaml", [{"policy": "POLICY"}, {"sampler": "threshold"}], ids=["policy", "threshold"])
def test_the_step_stays_on_the_device(sglang, folder, yaml):
    """Fake tensors have no values: a host read or a branch on data raises."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    yaml = {key: value.replace("POLICY", str(folder)) for key, value in yaml.items()}
    algorithm = sglang.HfUnmask(engine_config(BLOCK, MASK, **yaml))
    tokens, logits = torch.full((2, BLOCK), MASK), torch.randn(2, BLOCK, MASK + 1)
    places = torch.arange(BLOCK).expand(2, -1)
    states = [sglang.RowState(torch.tensor(0), torch.ones(BLOCK, dtype=torch.bool)) for _ in range(2)]
    given = tokens, tokens == MASK, logits, places
    expected, _ = algorithm.advance(*given, list(states))  # also fills caches with real tensors
    with FakeTensorMode(allow_non_fake_inputs=True) as mode, torch.no_grad():
        fake = [mode.from_tensor(t) for t in given]
        carried = [sglang.RowState(*map(mode.from_tensor, state)) for state in states]
        found, done = algorithm.advance(*fake, carried)
    assert found.shape == expected.shape and done.shape == (2,)


def test_the_entry_point_registers_the_algorithm(sglang):
    """A server that does not know the name."""
    plugins = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["sglang.srt.plugins"]
    assert plugins == {"hf_unmask": "hf_unmask.integrations.sglang:register"}
    sglang.register()
    known = sys.modules["sglang.srt.dllm.algorithm"].algo_name_to_cls
    assert known["HfUnmask"] is sglang.HfUnmask and "LowConfidence" in known


@pytest.mark.parametrize(
    "yaml, why",
    [
        (
            {"sampler": "threshold", "treshold": 0.5},
            "unknown key 'treshold' in the algorithm's config; allowed: policy",
        ),
        ({}, "needs `policy` or `sampler`, and not both; it has ..$"),
        ({"sampler": "threshold", "policy": "org/policy"}, "needs `policy` or `sampler`, and not both"),
        ({"sampler": "threshold", "speed": 0.5}, "`speed` goes with `policy`; write it into the spec 'threshold'"),
        ({"sampler": "credit"}, "remembers earlier steps, for which the engine has no place"),
        ({"policy": "builtin:tiny-full"}, "which the engine does not hand out"),
        ({"policy": "./no where;x", "speed": 0.5}, "no folder './no where;x'"),
        ({"sampler": "threshold", "seed": -1}, "`seed` must be an int of at least 0, got -1"),
        ({"sampler": "threshold", 3: 1, "x": 2}, "unknown key 3 in the algorithm's config"),
    ],
)
def test_a_wrong_config_is_refused_at_launch(sglang, yaml, why):
    """A misspelt key that leaves the server with another rule, or stops it after a big model was loaded."""
    told = engine_config(BLOCK, MASK)
    told.algorithm_config = yaml
    with pytest.raises(ValueError, match=why):
        sglang.HfUnmask.configure_server_args(SimpleNamespace(config=told))


def test_a_block_size_that_is_none_is_refused(sglang):
    with pytest.raises(ValueError, match="`block_size` must be an int, got '8'"):
        sglang.HfUnmask(engine_config("8", MASK, sampler="threshold"))


def test_a_policy_for_other_blocks_is_told(sglang, tmp_path):
    """A policy that decides about blocks it has never seen, and nobody says so."""
    make_policy(observation="block", trained_for={"block_length": 32}).save_pretrained(tmp_path)
    with pytest.warns(PolicyMismatchWarning, match="was trained for block_length 32, here 4"):
        sglang.HfUnmask(engine_config(BLOCK, MASK, policy=str(tmp_path)))


def test_models_and_outputs_without_what_is_needed_are_refused(sglang):
    with pytest.raises(ValueError, match="needs a model with a mask token, got mask_id -1"):
        sglang.HfUnmask(engine_config(BLOCK, -1, sampler="threshold"))
    algorithm = sglang.HfUnmask(engine_config(BLOCK, MASK, sampler="threshold"))
    compact = type("Compact", (), {"full_logits": None})()
    with pytest.raises(ValueError, match="`full_logits` is missing in Compact"):
        batch = SimpleNamespace(batch_size=1, input_ids=torch.full((BLOCK,), MASK), dllm_prompt_mask=None)
        algorithm.step(batch, compact, algorithm.init_step_state(batch))


@pytest.mark.parametrize("name, missing", [("sglang", "sglang"), ("vllm", "dllm_plugin"), ("dinfer", "dinfer")])
def test_without_the_engine_the_import_says_so(monkeypatch, name, missing):
    forget(monkeypatch, f"hf_unmask.integrations.{name}")
    with pytest.raises(ImportError, match=f"this needs {missing}"):
        importlib.import_module(f"hf_unmask.integrations.{name}")


# dInfer


@pytest.mark.parametrize(
    "spec, block", [("threshold:threshold=0.08", BLOCK), ("factor", BLOCK), ("learned:POLICY;greedy=True", 2 * BLOCK)]
)
def test_the_decoder_writes_what_our_loop_writes(monkeypatch, folder, spec, block):
    """A clock that goes on into the next block, tokens that are written nowhere, rows that wait for each other."""
    for name, made in dinfer_modules().items():
        monkeypatch.setitem(sys.modules, name, made)
    forget(monkeypatch, "hf_unmask.integrations.dinfer")
    dinfer = importlib.import_module("hf_unmask.integrations.dinfer")
    spec = spec.replace("POLICY", str(folder))
    decoder = dinfer.SamplerDecoder(spec, mask_id=MASK, eos_id=1)
    prompts = torch.tensor([[5, 6, 7], [8, 9, 10]])
    found, forwards = dinfer_generate(backbone(), decoder, prompts, 2 * BLOCK, block)
    options = {"max_new_tokens": 2 * BLOCK, "block_length": block, "return_dict_in_generate": True}
    expected = hf_unmask.generate(row_double("llada"), prompts, sampler=parse_sampler(spec), **options)
    assert torch.equal(found, expected.sequences) and forwards >= int(expected.nfe.max())
    with pytest.raises(ValueError, match="remembers earlier steps, for which a decoder has no place"):
        dinfer.SamplerDecoder("credit", mask_id=MASK, eos_id=1)


# dllm-plugin of vLLM


@pytest.fixture(params=["dllm_plugin", "vllm_dllm_plugin"])
def vllm(request, monkeypatch):
    for name, made in plugin_modules(request.param, BLOCK).items():
        monkeypatch.setitem(sys.modules, name, made)
    forget(monkeypatch, "hf_unmask.integrations.vllm")
    return importlib.import_module("hf_unmask.integrations.vllm")


@pytest.mark.parametrize("spec", ["threshold:threshold=0.08", "learned:POLICY;greedy=True", "learned:POLICY"])
@torch.no_grad()
def test_the_plugins_policy_fills_a_block_as_our_loop_does(vllm, folder, spec):
    """Masks that are committed, a clock that stands still, lists that are read as another shape."""
    policy = vllm.SamplerRemaskingPolicy(spec.replace("POLICY", str(folder)), mask_token_id=MASK)
    prompt, draft, steps = PROMPTS[2], (MASK,) * BLOCK, 0
    while True:
        tokens = torch.tensor([prompt + list(draft)])
        logits = logits_at(denoiser(), tokens, torch.arange(len(prompt), tokens.shape[1])[None])
        told = {"denoise_step_index": steps, "mask_token_id": MASK, "grammar_extra_transfer": 0}
        result = policy.apply(input_draft=draft, logits=logits[0], remasking_config=told)
        nested = policy.apply(input_draft=list(draft), logits=logits[0].tolist(), remasking_config=told)
        assert result == nested
        steps += 1
        if result.committed_token_ids:
            break
        assert MASK in result.next_input_block
        draft = result.next_input_block
    assert result.next_input_block == (MASK,) * BLOCK
    if not policy.sampler.stochastic:
        options = {"sampler": policy.sampler, "max_new_tokens": BLOCK, "return_dict_in_generate": True}
        expected = hf_unmask.generate(denoiser(), torch.tensor([prompt]), **options)
        assert list(result.committed_token_ids) == expected.sequences[0, len(prompt) :].tolist()
        assert steps == int(expected.nfe)


def test_the_plugins_settings_that_have_no_meaning_are_refused(vllm):
    policy = vllm.SamplerRemaskingPolicy("threshold", mask_token_id=MASK)
    right = {"input_draft": [MASK] * BLOCK, "logits": torch.zeros(BLOCK, 60)}
    told = {"denoise_step_index": 0}
    for change, why in [
        ({"remasking_config": {}}, "`denoise_step_index` must be an int, got None"),
        ({"remasking_config": {**told, "num_transfer": 2}}, "`num_transfer` is a setting of the plugin's own rule"),
        ({"remasking_config": {**told, "mask_token_id": 1}}, "`mask_token_id` is 1 here, but the policy was made with"),
        ({"remasking_config": told, "input_draft": [MASK]}, "`input_draft` must have 4 tokens, got 1"),
        ({"remasking_config": told, "logits": None}, r"`logits` must be \[4, vocabulary\], got \[0\]"),
    ]:
        with pytest.raises(ValueError, match=why):
            policy.apply(**{**right, **change})
