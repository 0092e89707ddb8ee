"""A policy says for what it was trained, and using it on something else says so."""

import warnings

import pytest
import torch
from models import MASK, tiny_eurobert
from policies import SMALL

import hf_unmask
from hf_unmask.denoisers.adapter import Denoiser
from hf_unmask.policy import PolicyMismatchWarning, UnmaskingPolicy, UnmaskingPolicyConfig, compatibility
from hf_unmask.policy.compatibility import block_differences, model_differences, model_name
from hf_unmask.samplers import EosSuppressSampler, LearnedUnmaskingSampler, ThresholdSampler

SAME = {"base_model": "EuroBertForMaskedLM", "mask_token_id": MASK, "block_length": 4, "max_new_tokens": 8}


@pytest.fixture(autouse=True)
def _not_yet_warned():
    compatibility._warn.cache_clear()


def config(hidden_input_size=None, **trained_for):
    return UnmaskingPolicyConfig(**SMALL, hidden_input_size=hidden_input_size, trained_for=trained_for)


def sampler(**trained_for):
    return LearnedUnmaskingSampler(UnmaskingPolicy(config(**trained_for)), source="org/policy")


def use(model, rule, **options):
    """The warnings of one generation."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        hf_unmask.generate(model, torch.tensor([[5, 6]]), sampler=rule, max_new_tokens=8, **options)
    return [str(w.message) for w in caught if issubclass(w.category, PolicyMismatchWarning)]


def test_silent_where_it_was_trained_and_where_nothing_is_recorded(model):
    assert use(model, sampler(**SAME), block_length=4) == []
    assert use(model, sampler(), block_length=4) == []
    assert use(model, ThresholdSampler(), block_length=4) == []


def test_a_use_elsewhere_works_and_warns_once_naming_what_differs(model):
    rule = sampler(base_model="org/denoiser", mask_token_id=7, block_length=2)
    (text,) = use(model, rule)
    for part in (
        "the policy org/policy",
        "base_model org/denoiser, here EuroBertForMaskedLM",
        f"mask_token_id 7, here {MASK}",
        "block_length 2, here none (full diffusion)",
    ):
        assert part in text
    assert use(model, rule) == []  # although the filters were changed meanwhile
    assert len(use(model, rule, block_length=4)) == 1  # another difference


def test_a_wrapped_policy_warns_too(model):
    assert len(use(model, EosSuppressSampler(sampler(mask_token_id=7)))) == 1


def test_the_warning_can_be_an_error_or_silent(model):
    with warnings.catch_warnings():
        warnings.simplefilter("error", PolicyMismatchWarning)
        with pytest.raises(PolicyMismatchWarning):
            hf_unmask.generate(model, torch.tensor([[5]]), sampler=sampler(mask_token_id=7), max_new_tokens=2)


@pytest.mark.parametrize(
    ("trained", "block_length", "canvas", "same"),
    [
        ({}, 4, 8, True),  # not recorded
        ({"block_length": 4}, 4, 8, True),
        ({"block_length": 4}, 2, 8, False),
        ({"block_length": 4}, None, 8, False),
        ({"block_length": None}, None, 8, True),
        ({"block_length": None}, 8, 8, True),  # one block holds the answer
        ({"block_length": None}, 4, 8, False),
        ({"block_length": 8, "max_new_tokens": 8}, None, 64, True),
        ({"block_length": 8, "max_new_tokens": 8}, 8, 64, True),
        ({"block_length": 8, "max_new_tokens": 64}, None, None, False),
    ],
)
def test_block_lengths(trained, block_length, canvas, same):
    assert (block_differences(config(**trained), block_length, canvas) == []) == same


@pytest.mark.parametrize(
    ("trained", "here", "same"),
    [
        ("org/a", "org/a", True),
        ("org/a", "other/a", False),
        ("org/a", "folder/a", True),  # a local copy
        ("a", "org/a", True),  # trained on a local copy
        ("org/a", "folder/b", False),
        ("tiny", "tiny", True),
    ],
)
def test_base_models(model, trained, here, same, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if here.startswith("folder/"):
        (tmp_path / here).mkdir(parents=True)
    monkeypatch.setattr(model.config, "_name_or_path", here)
    found = model_differences(config(base_model=trained), Denoiser.from_model(model))
    assert [difference.name for difference in found] == ([] if same else ["base_model"])


def test_the_embedded_model_has_a_name(tiny):
    assert model_name(tiny[0]) == "tiny"
    assert model_name(torch.nn.Linear(1, 1)) == "Linear"


def test_width_of_hidden_states():
    denoiser = Denoiser.from_model(tiny_eurobert())
    assert model_differences(config(hidden_input_size=32), denoiser) == []
    assert [d.name for d in model_differences(config(hidden_input_size=33), denoiser)] == ["hidden_input_size"]
