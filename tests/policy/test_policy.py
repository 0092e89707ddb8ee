"""The policy network, its config and the decision."""

import json
import math
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from policies import CONDITIONED, SMALL
from transformers import AutoConfig, AutoModel

from hf_unmask.generation.step import Noise
from hf_unmask.policy import (
    BernoulliUnmask,
    PlackettLuceUnmask,
    PolicyLoadError,
    UnmaskingPolicy,
    UnmaskingPolicyConfig,
    decide,
    distribution,
)
from hf_unmask.policy.decision import open_one_if_none
from hf_unmask.policy.model import time_features

RECORD = {
    "base_model": "org/model",
    "base_model_revision": "abc",
    "mask_token_id": 7,
    "block_length": None,
    "max_new_tokens": 64,
    "task": "sums",
    "dataset": None,
    "lineage": ["org/first"],
}


def make(seed=0, shaken=True, **options):
    """A small float64 policy; shaken: with all weights random, so that every input matters."""
    torch.manual_seed(seed)
    policy = UnmaskingPolicy(UnmaskingPolicyConfig(**SMALL | options)).double()
    if shaken:
        for p in policy.parameters():
            p.data.normal_(0, 0.5)
    return policy.eval()


def inputs(rows=3, width=6, top_k=1, seed=0):
    g = torch.Generator().manual_seed(seed)
    confidences = torch.rand(rows, width, top_k, generator=g, dtype=torch.float64).sort(-1, descending=True).values
    masked = torch.rand(rows, width, generator=g) < 0.6
    return confidences, masked, torch.rand(rows, generator=g, dtype=torch.float64)


def noise(rows=3, width=6, seed=0):
    g = torch.Generator().manual_seed(seed)
    return Noise(torch.rand(rows, width, generator=g), torch.rand(rows, generator=g))


# The network


@pytest.mark.parametrize(("top_k", "count"), [(1, 331_265), (50, 337_537)])
def test_parameter_count(top_k, count):
    policy = UnmaskingPolicy(UnmaskingPolicyConfig(top_k=top_k))
    assert sum(p.numel() for p in policy.parameters()) == count
    assert {p.dtype for p in policy.parameters()} == {torch.float32}


def test_initial_logits_ignore_mask_and_time_and_lie_around_the_bias():
    torch.manual_seed(0)
    policy = UnmaskingPolicy(UnmaskingPolicyConfig()).eval()
    confidences, masked, time = inputs(32, 32)
    logits = policy(confidences, masked, time)
    assert torch.equal(logits, policy(confidences, ~masked, time))
    assert torch.equal(logits, policy(confidences, masked, 1 - time))
    assert logits.dtype == torch.float32 and logits.shape == (32, 32)
    assert abs(logits.mean().item() + 2.0) < 1.0
    assert policy.head.bias.item() == -2.0
    assert not policy.modulation.weight.any() and not policy.modulation.bias.any()
    averages = []
    for seed in range(20):  # the head's random weight shifts a single policy
        torch.manual_seed(seed)
        averages.append(UnmaskingPolicy(UnmaskingPolicyConfig())(confidences, masked, time).mean().item())
    assert abs(sum(averages) / 20 + 2.0) < 0.3


def test_initial_weights_follow_pytorch_defaults():
    torch.manual_seed(0)
    policy = UnmaskingPolicy(UnmaskingPolicyConfig())
    bound = 1 / math.sqrt(128)
    for p in (policy.query.weight, policy.query.bias, policy.feed_forward[0].weight):
        assert p.abs().max() <= bound and abs(p.std().item() - bound / math.sqrt(3)) < 0.2 * bound
    assert policy.mask_embedding.weight.std() > 0.8


@pytest.mark.parametrize("changed", ["confidences", "masked", "time", "order"])
def test_every_input_matters_once_trained(changed):
    policy = make()
    confidences, masked, time = inputs()
    before = policy(confidences, masked, time)
    after = {
        "confidences": lambda: policy(confidences * 0.5, masked, time),
        "masked": lambda: policy(confidences, ~masked, time),
        "time": lambda: policy(confidences, masked, time * 0.5),
        # without positions, flipping the input would flip the output
        "order": lambda: policy(confidences.flip(1), masked.flip(1), time).flip(1),
    }[changed]()
    assert (before - after).abs().max() > 1e-4


def test_time_features_repeat_one_frequency():
    features = time_features(torch.tensor([0.25]), 128)
    assert features.shape == (1, 128)
    assert torch.equal(features[0, :64], torch.full((64,), math.cos(0.25)))
    assert torch.allclose(features[0, 64:], torch.full((64,), math.sin(0.25)))


def test_rollout_dimensions_give_the_same_logits():
    policy = make(top_k=3)
    confidences, masked, time = inputs(6, 5, top_k=3)
    flat = policy(confidences, masked, time)
    replayed = policy(confidences.view(2, 3, 5, 3), masked.view(2, 3, 5), time.view(2, 3))
    assert torch.allclose(replayed.view(6, 5), flat, rtol=0, atol=1e-12)


@settings(max_examples=50, deadline=None)
@given(
    length=st.integers(1, 8), padding=st.integers(0, 5), seed=st.integers(0, 100), junk=st.sampled_from([0.3, math.nan])
)
def test_a_shorter_row_gets_its_own_logits_in_a_batch(length, padding, seed, junk):
    policy = make(hidden_input_size=3)
    width = length + padding
    confidences, masked, time = inputs(2, width, seed=seed)
    hidden = torch.randn(2, width, 3, dtype=torch.float64)
    valid = torch.ones(2, width, dtype=torch.bool)
    valid[0, length:] = False
    alone = policy(confidences[:1, :length], masked[:1, :length], time[:1], hidden=hidden[:1, :length])
    confidences[0, length:], hidden[0, length:] = junk, junk
    together = policy(confidences, masked, time, valid=valid, hidden=hidden)
    assert torch.allclose(together[:1, :length], alone, rtol=0, atol=1e-12)


def test_what_a_policy_does_not_read_does_not_matter():
    """Prevents a policy of the masked positions that decides by where its host happened to compute more."""
    policy = make(hidden_input_size=3, reads_revealed=False)
    confidences, masked, time = inputs()
    hidden = torch.randn(*masked.shape, 3, dtype=torch.float64)
    before = policy(confidences, masked, time, hidden=hidden)
    confidences[~masked], hidden[~masked] = math.nan, math.nan
    assert not masked.all() and torch.equal(policy(confidences, masked, time, hidden=hidden), before)
    confidences[masked] *= 0.5
    assert not torch.equal(policy(confidences, masked, time, hidden=hidden), before)


def test_a_row_without_valid_positions_is_finite():
    confidences, masked, time = inputs()
    valid = torch.zeros_like(masked)
    assert make()(confidences, masked, time, valid=valid).isfinite().all()


def test_speed_conditions_the_logits_only_when_configured():
    policy, (confidences, masked, time) = make(**CONDITIONED), inputs()
    slow, fast = (policy(confidences, masked, time, speed=torch.full((3,), s)) for s in (0.0, 1.0))
    assert (slow - fast).abs().max() > 1e-4
    assert policy.config.log_alpha(0.0) == -2.0 and policy.config.log_alpha(0.5) == -0.5
    with pytest.raises(ValueError, match="speed"):
        policy(confidences, masked, time)
    with pytest.raises(ValueError, match="speed"):
        make()(confidences, masked, time, speed=time)
    with pytest.raises(ValueError, match="not speed-conditioned"):
        make().config.log_alpha(0.5)
    untrained = make(shaken=False, **CONDITIONED)
    assert torch.equal(
        untrained(confidences, masked, time, speed=time), untrained(confidences, masked, time, speed=time * 0)
    )


def test_hidden_states_are_read_only_when_configured():
    policy, (confidences, masked, time) = make(hidden_input_size=5), inputs()
    hidden = torch.randn(3, 6, 5)
    assert (policy(confidences, masked, time, hidden=hidden) != policy(confidences, masked, time, hidden=-hidden)).all()
    with pytest.raises(ValueError, match="hidden"):
        policy(confidences, masked, time)
    with pytest.raises(ValueError, match="hidden"):
        make()(confidences, masked, time, hidden=hidden)
    with pytest.raises(ValueError, match="confidences"):
        make(top_k=2)(confidences, masked, time)


# The config


def test_config_round_trip(tmp_path):
    config = UnmaskingPolicyConfig(
        top_k=5, observation="block", action="plackett_luce", stop_logit=1, trained_for=RECORD, **CONDITIONED
    )
    config.save_pretrained(tmp_path)
    for loaded in (UnmaskingPolicyConfig.from_pretrained(tmp_path), AutoConfig.from_pretrained(tmp_path)):
        assert type(loaded) is UnmaskingPolicyConfig
        loaded.transformers_version = config.transformers_version
        assert loaded == config
        assert isinstance(loaded.stop_logit, float)
    assert UnmaskingPolicyConfig(**config.to_dict()).trained_for == RECORD
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "unmask_policy"


def test_model_round_trip_through_the_auto_classes(tmp_path):
    policy = make(shaken=True).float()
    policy.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path)
    assert type(loaded) is UnmaskingPolicy
    confidences, masked, time = inputs()
    assert torch.equal(loaded(confidences, masked, time), policy(confidences, masked, time))


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"hidden_size": 0}, "hidden_size"),
        ({"hidden_size": 10**9}, "hidden_size"),
        ({"hidden_size": 6}, "hidden_size"),
        ({"hidden_size": "128"}, "hidden_size"),
        ({"hidden_size": 128.0}, "hidden_size"),
        ({"num_heads": True}, "num_heads"),
        ({"time_size": 3}, "time_size"),
        ({"top_k": 0}, "top_k"),
        ({"top_k": None}, "top_k"),
        ({"rope_theta": math.nan}, "rope_theta"),
        ({"rope_theta": -1}, "rope_theta"),
        ({"stop_logit": math.inf}, "stop_logit"),
        ({"initial_bias": "low"}, "initial_bias"),
        ({"observation": "everything"}, "observation"),
        ({"observation": ["canvas"]}, "observation"),
        ({"reads_revealed": 0}, "reads_revealed"),
        ({"action": None}, "action"),
        ({"hidden_input_size": -1}, "hidden_input_size"),
        ({"schema_version": 2}, "schema_version"),
        ({"speed_conditioned": 1}, "speed_conditioned"),
        ({"speed_conditioned": True}, "log_alpha_range"),
        ({"log_alpha_range": [0, 1]}, "log_alpha_range"),
        ({"speed_conditioned": True, "log_alpha_range": [1, 1]}, "log_alpha_range"),
        ({"speed_conditioned": True, "log_alpha_range": [0, math.inf]}, "log_alpha_range[1]"),
        ({"trained_for": []}, "trained_for"),
        ({"trained_for": {"model": "x"}}, "trained_for.model"),
        ({"trained_for": {"mask_token_id": "7"}}, "trained_for.mask_token_id"),
        ({"trained_for": {"block_length": 0}}, "trained_for.block_length"),
        ({"trained_for": {"base_model": 3}}, "trained_for.base_model"),
        ({"trained_for": {"lineage": "a"}}, "trained_for.lineage"),
        ({"hidden_sise": 128}, "hidden_sise"),
        ({"temperature": 0.5}, "temperature"),
        ({"is_encoder_decoder": True}, "is_encoder_decoder"),
        ({"model_type": "bert"}, "model_type"),
        ({"architectures": ["A", 1]}, "architectures"),
        ({"transformers_version": 5}, "transformers_version"),
        ({"dtype": "Tensor"}, "dtype"),
    ],
)
def test_config_refuses(options, key):
    with pytest.raises(PolicyLoadError) as caught:
        UnmaskingPolicyConfig(**options)
    assert caught.value.key == key
    assert key in str(caught.value) and "expected" in str(caught.value)


def test_config_is_checked_again_on_saving(tmp_path):
    config = UnmaskingPolicyConfig()
    config.top_k = 0
    with pytest.raises(PolicyLoadError, match="top_k"):
        config.save_pretrained(tmp_path)


def test_a_made_up_dtype_is_refused_on_every_path(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "unmask_policy", "dtype": "float33"}')
    with pytest.raises(PolicyLoadError, match="float33"):
        AutoConfig.from_pretrained(tmp_path)


def test_load_error_survives_pickling():
    error = pickle.loads(pickle.dumps(PolicyLoadError("top_k", 0, "more")))
    assert (error.key, error.found, error.expected) == ("top_k", 0, "more")


# The decision


def by_hand(policy, eligible_seed=1, rows=3, width=6, **options):
    confidences, masked, time = inputs(rows, width)
    eligible = masked & (torch.rand(rows, width, generator=torch.Generator().manual_seed(eligible_seed)) < 0.7)
    return decide(policy, confidences, masked, eligible, time, noise(rows, width), **options), eligible


@pytest.mark.parametrize("action", ["bernoulli", "plackett_luce"])
@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 1000), beta=st.sampled_from([1e-3, 1.0, 5.0]), greedy=st.booleans())
def test_decision_is_a_subset_with_progress_in_every_row(action, seed, beta, greedy):
    opened, eligible = by_hand(make(seed, action=action), seed, beta=beta, greedy=greedy)
    assert not (opened & ~eligible).any()
    assert torch.equal(opened.any(-1), eligible.any(-1))


@pytest.mark.parametrize("action", ["bernoulli", "plackett_luce"])
def test_decision_is_pure_and_rows_are_independent(action):
    policy = make(action=action)
    confidences, masked, time = inputs(5, 6)
    arguments = [confidences, masked, masked.clone(), time]
    copies, state = [a.clone() for a in arguments], torch.get_rng_state()
    u = noise(5, 6)
    opened = decide(policy, *arguments, u)
    assert torch.equal(opened, decide(policy, *arguments, u))
    assert all(torch.equal(a, b) for a, b in zip(arguments, copies, strict=True))
    assert torch.equal(state, torch.get_rng_state())
    for row in range(5):
        one = slice(row, row + 1)
        alone = decide(policy, *(a[one] for a in arguments), Noise(u.action[one], u.row[one]))
        assert torch.equal(alone[0], opened[row])


@pytest.mark.parametrize("action", ["bernoulli", "plackett_luce"])
def test_beta_limits(action):
    policy = make(action=action)
    opened, eligible = by_hand(policy, beta=1e-12)
    assert torch.equal(opened.sum(-1), eligible.any(-1).long())
    opened, eligible = by_hand(policy, beta=1e12)
    assert torch.equal(opened, eligible)


def test_beta_to_zero_opens_the_largest_logit():
    policy = make()
    confidences, masked, time = inputs()
    opened = decide(policy, confidences, masked, masked, time, noise(), beta=1e-12)
    logits = policy(confidences, masked, time).masked_fill(~masked, -math.inf)
    assert torch.equal(opened, torch.nn.functional.one_hot(logits.argmax(-1), 6).bool() & masked)


def test_neutral_dials_leave_the_distribution_unchanged():
    confidences, masked, time = inputs()
    for action, cls in (("bernoulli", BernoulliUnmask), ("plackett_luce", PlackettLuceUnmask)):
        policy = make(action=action)
        found = distribution(policy, confidences, masked, masked, time, policy_temperature=1.0, beta=1.0)
        plain = cls(policy(confidences, masked, time), masked)
        assert torch.equal(found.probability, plain.probability)
        assert torch.equal(found.logits, plain.logits)
        assert found.logits.requires_grad


def test_temperature_sharpens():
    policy, (confidences, masked, time) = make(), inputs()
    logits = policy(confidences, masked, time)
    found = distribution(policy, confidences, masked, masked, time, policy_temperature=0.5)
    assert torch.allclose(found.probability, (2 * logits).sigmoid() * masked)


@pytest.mark.parametrize("action", ["bernoulli", "plackett_luce"])
def test_greedy_needs_no_noise(action):
    policy, (confidences, masked, time) = make(action=action), inputs()
    nothing = Noise(torch.full((3, 6), math.nan), torch.full((3,), math.nan))
    opened = decide(policy, confidences, masked, masked, time, nothing, greedy=True, beta=2.0)
    found = distribution(policy, confidences, masked, masked, time, beta=2.0)
    assert torch.equal(opened, open_one_if_none(found.probability >= 0.5, masked, found.logits))


def test_speed_defaults_to_the_middle_and_may_differ_by_row():
    policy, (confidences, masked, time) = make(**CONDITIONED), inputs()

    def logits(speed):
        return distribution(policy, confidences, masked, masked, time, speed=speed).logits

    assert torch.equal(logits(None), logits(0.5))
    assert torch.equal(logits(torch.tensor([0.0, 1.0, 0.0]))[1], logits(1)[1])


def test_fallback_ties_and_finished_rows():
    logits = torch.tensor([[1.0, 3.0, 3.0], [9.0, 0.0, 0.0], [5.0, 5.0, 5.0], [-math.inf] * 3])
    eligible = torch.tensor([[True, True, True], [False, True, True], [False] * 3, [False, True, True]])
    opened = open_one_if_none(torch.zeros_like(eligible), eligible, logits)
    assert opened.tolist() == [[False, True, False], [False, True, False], [False] * 3, [False, True, False]]
    chosen = torch.tensor([[True, False, False]] * 4)
    assert open_one_if_none(chosen, eligible, logits)[0].tolist() == [True, False, False]


@pytest.mark.parametrize("action", ["bernoulli", "plackett_luce"])
@pytest.mark.parametrize("greedy", [False, True])
def test_decision_reads_no_tensor_value_on_the_host(action, greedy):
    """Fake tensors have no values: a host read or a branch on data raises."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    policy = make(action=action)
    confidences, masked, time = inputs()
    with FakeTensorMode(allow_non_fake_inputs=True) as mode, torch.no_grad():
        fake = [mode.from_tensor(t) for t in (confidences, masked, masked, time)]
        u = Noise(mode.from_tensor(noise().action), mode.from_tensor(noise().row))
        opened = decide(policy, *fake, u, greedy=greedy, valid=fake[1])
    assert opened.shape == (3, 6)
