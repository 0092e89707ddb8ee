"""Finding the dial for a budget of forward passes."""

from __future__ import annotations

import pytest
import torch
from evaluation_run import ROWS, tiny_tokenizer
from helpers import slow

from hf_unmask.generation.loop import generate
from hf_unmask.policy import UnmaskingPolicy, UnmaskingPolicyConfig
from hf_unmask.samplers.learned import LearnedUnmaskingSampler

LENGTH = 24
SMALL = {"hidden_size": 16, "intermediate_size": 32, "num_heads": 2, "time_size": 8}


@pytest.fixture(scope="module")
def prompts():
    return [f"{row['prompt']}{digit}+" for row in ROWS for digit in "3579"]


@pytest.fixture(scope="module")
def conditioned():
    """A policy fitted to open with logit 4 * speed - 3, whatever it sees."""
    torch.manual_seed(0)
    policy = UnmaskingPolicy(UnmaskingPolicyConfig(**SMALL, speed_conditioned=True, log_alpha_range=[-1.0, 2.0]))
    optimizer = torch.optim.Adam(policy.parameters(), lr=1e-2)
    for _ in range(150):
        speed, masked = torch.rand(32), torch.rand(32, LENGTH) < 0.7
        logits = policy(torch.rand(32, LENGTH, 1), masked, torch.rand(32), speed=speed)
        loss = (logits - (4 * speed[:, None] - 3)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.1
    return policy


@pytest.fixture(scope="module")
def plain():
    torch.manual_seed(0)
    return UnmaskingPolicy(UnmaskingPolicyConfig(**SMALL))


def mean_nfe(model, sampler, prompts, seed=0, **options):
    encoded = tiny_tokenizer()(prompts, return_tensors="pt", padding=True, padding_side="left")
    rows = {name: encoded[name] for name in ("input_ids", "attention_mask")}
    options = {"max_new_tokens": LENGTH} | options
    output = generate(model, **rows, sampler=sampler, seed=seed, return_dict_in_generate=True, **options)
    return output.nfe.double().mean().item()


def test_logits_change_with_speed_at_beta_one(conditioned):
    """Otherwise the dial would be beta under another name."""
    seen = torch.rand(3, 6, 1), torch.ones(3, 6, dtype=torch.bool), torch.zeros(3)
    low, middle, high = (conditioned(*seen, speed=torch.full((3,), speed)) for speed in (0.0, 0.5, 1.0))
    assert (high - middle).min() > 1 and (middle - low).min() > 1


@pytest.mark.parametrize("target, options", [slow(5.0, {}), slow(11.0, {}), (9.0, {"block_length": 8})])
def test_speed_meets_the_target(model, conditioned, prompts, target, options):
    sampler = LearnedUnmaskingSampler(conditioned, policy_temperature=0.9)
    found = sampler.calibrate(
        model, prompts, target_nfe=target, tokenizer=tiny_tokenizer(), max_new_tokens=LENGTH, **options
    )
    assert mean_nfe(model, found, prompts, **options) == pytest.approx(target, rel=0.1)
    assert 0 < found.speed < 1 and (found.beta, found.policy_temperature) == (1.0, 0.9)
    assert sampler.speed is None  # a value: the old one stays
    # other random numbers: what was found is not a property of one seed
    assert mean_nfe(model, found, prompts, seed=1, **options) == pytest.approx(target, rel=0.15)


@pytest.mark.parametrize("target", [slow(2.5), slow(6.0), slow(20.0)])
def test_beta_meets_the_target(model, plain, prompts, target):
    encoded = tiny_tokenizer()(prompts, return_tensors="pt", padding=True, padding_side="left")
    found = LearnedUnmaskingSampler(plain).calibrate(
        model, encoded, target_nfe=target, batch_size=10, max_new_tokens=LENGTH
    )
    assert found.speed is None and found.beta != 1.0
    assert mean_nfe(model, found, prompts) == pytest.approx(target, rel=0.1)


def test_beta_of_a_conditioned_policy_can_be_the_dial(model, conditioned, prompts):
    sampler = LearnedUnmaskingSampler(conditioned, speed=0.25)
    ids = torch.tensor([tiny_tokenizer()(prompt)["input_ids"] for prompt in prompts])
    found = sampler.calibrate(model, ids, target_nfe=6, dial="beta", max_new_tokens=LENGTH)
    assert found.speed == 0.25 and found.beta > 1


@pytest.mark.slow
def test_it_is_the_same_every_time_and_whatever_the_batch(model, plain, prompts):
    def beta(size):
        sampler = LearnedUnmaskingSampler(plain)
        options = {"tokenizer": tiny_tokenizer(), "max_new_tokens": LENGTH, "batch_size": size}
        return sampler.calibrate(model, prompts[:8], target_nfe=6, **options).beta

    assert beta(8) == beta(8) == beta(3)


def test_a_dial_that_is_right_already_stays(model, plain, prompts):
    sampler = LearnedUnmaskingSampler(plain)
    options = {"tokenizer": tiny_tokenizer(), "max_new_tokens": LENGTH}
    assert sampler.calibrate(model, prompts, target_nfe=mean_nfe(model, sampler, prompts), **options) == sampler


def test_gaps_are_rows_of_their_own(model, plain):
    """An option with a value per row is divided like the prompts."""
    ids = torch.full((6, 12), 59)
    ids[:, :4] = torch.randint(3, 40, (6, 4))
    gaps = torch.arange(12).expand(6, 12) >= 4
    found = LearnedUnmaskingSampler(plain).calibrate(
        model, ids, target_nfe=4, batch_size=4, max_new_tokens=0, fill_mask=gaps, tolerance=0.09
    )
    output = generate(model, ids, sampler=found, max_new_tokens=0, fill_mask=gaps, return_dict_in_generate=True)
    assert output.nfe.double().mean() == pytest.approx(4, rel=0.1)


@pytest.mark.parametrize("target, reached", [slow(30.0, r"`speed` gives \d\.\d+ to 2\d\.\d+ "), (1.0, "`speed` gives")])
def test_a_target_beyond_the_ends_of_speed_names_the_range(model, conditioned, prompts, target, reached):
    with pytest.raises(ValueError, match=f"out of reach.*{reached}"):
        LearnedUnmaskingSampler(conditioned).calibrate(
            model, prompts, target_nfe=target, tokenizer=tiny_tokenizer(), max_new_tokens=LENGTH
        )


@pytest.mark.parametrize("target, reached", [(LENGTH + 5.0, f"to {LENGTH}.00"), (0.5, "gives 1.00 to")])
def test_a_target_beyond_any_beta_names_the_range(model, plain, prompts, target, reached):
    """One step per position is the slowest, one per block the fastest; the search notices and ends."""
    with pytest.raises(ValueError, match=f"out of reach.*{reached}"):
        LearnedUnmaskingSampler(plain).calibrate(
            model, prompts[:4], target_nfe=target, tokenizer=tiny_tokenizer(), max_new_tokens=LENGTH
        )


def test_a_gap_that_no_dial_fills_is_a_warning(model, plain):
    """One prompt and two positions: one or two forward passes, nothing between."""
    options = {"tokenizer": tiny_tokenizer(), "max_new_tokens": 2}
    with pytest.warns(UserWarning, match="comes nearest to 1.4 forward passes, with 1.00"):
        found = LearnedUnmaskingSampler(plain).calibrate(model, ["1+1="], target_nfe=1.4, **options)
    assert mean_nfe(model, found, ["1+1="], max_new_tokens=2) == 1


@pytest.mark.parametrize(
    "change, says",
    [
        ({"target_nfe": 0}, "target_nfe"),
        ({"target_nfe": float("nan")}, "target_nfe"),
        ({"tolerance": 1.5}, "tolerance"),
        ({"max_tries": 1}, "max_tries"),
        ({"batch_size": 0}, "batch_size"),
        ({"dial": "speed"}, "speed-conditioned"),
        ({"dial": "alpha"}, "'alpha'"),
        ({"prompts": "1+1="}, "list of texts, got str"),
        ({"prompts": []}, "needs prompts"),
        ({"tokenizer": None}, "pass tokenizer"),
        ({"sampler": None}, "sets sampler itself"),
        ({"no_such_option": 1}, "no_such_option"),
    ],
)
def test_bad_input(model, plain, change, says):
    arguments = {"prompts": ["1+1="], "tokenizer": tiny_tokenizer(), "target_nfe": 2, "max_new_tokens": 4} | change
    prompts = arguments.pop("prompts")
    with pytest.raises(ValueError, match=says):
        LearnedUnmaskingSampler(plain).calibrate(model, prompts, **arguments)
