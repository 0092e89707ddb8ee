"""What a policy reads besides probabilities, mask bits and time, and policies that begin to read more."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from commands import call
from helpers import make_step
from policies import CONDITIONED, make_policy

from hf_unmask.doors.block import require_usable
from hf_unmask.generation.step import Needs
from hf_unmask.policy import PolicyLoadError, UnmaskingPolicy, UnmaskingPolicyConfig, load_policy, save_policy
from hf_unmask.policy.blinding import make_blind
from hf_unmask.policy.config import PORTABLE
from hf_unmask.policy.growing import extended
from hf_unmask.policy.observation import calibration_code, needs_of, observe
from hf_unmask.samplers import LearnedUnmaskingSampler

STOP = 2
#: Three positions, the last one decided, of a vocabulary of three.
FIRST = torch.tensor([[[0.6, 0.3, 0.1], [0.1, 0.1, 0.8], [0.2, 0.5, 0.3]]], dtype=torch.float64)
SECOND = torch.tensor([[[0.2, 0.7, 0.1], [0.1, 0.2, 0.7], [0.1, 0.6, 0.3]]], dtype=torch.float64)
MASKED = torch.tensor([[True, True, False]])
KNOWN = {
    "log_odds": ([math.log(0.7 / 0.3) / 8, math.log(0.7 / 0.3) / 8, math.log(0.6 / 0.4) / 8]),
    "margin": [0.5, 0.5, 0.3],
    "rank": [0.0, 0.5, 0.0],  # of equal ones the first counts as surer
    "stop": [0.0, 1.0, 0.0],
    "change": [0.1, -0.1, 0.1],
    "stability": [0.0, 0.5, 0.5],  # the first proposal is another one now
    "repeat": [0.0, 0.0, 0.0],
    "calibration": [0.6, 0.6, 0.6, 0.6, 0.8, 0.8, 0.8, 0.8],  # of the first step, masked positions alone
}


def config_of(*names, **options):
    return UnmaskingPolicyConfig(further_inputs=list(names), **options)


def steps(config, *probs):
    """One step after another of a row, and what is seen in the last."""
    seen, memory = None, None
    for number, one in enumerate(probs):
        step, _ = make_step(
            one, needs=needs_of(config), masked=MASKED, block_steps=number, stop_tokens=[STOP], length=6, start=3
        )
        seen, memory = observe(config, step, memory)
    return seen


@pytest.mark.parametrize("name", KNOWN)
def test_known_answers(name):
    seen = steps(config_of(name), FIRST, SECOND)
    found = seen["calibration"][0] if name == "calibration" else seen["further"][0, :, 0]
    torch.testing.assert_close(found, torch.tensor(KNOWN[name], dtype=torch.float64))


def test_entropy_place_and_columns():
    config = config_of("place", "entropy", "log_odds", top_k=2)
    assert config.further_inputs == ["log_odds", "entropy", "place"] and config.further_size == 6
    further = steps(config, FIRST)["further"][0]
    nats = -(0.6 * math.log(0.6) + 0.3 * math.log(0.3) + 0.1 * math.log(0.1))
    assert further[0, 2].item() == pytest.approx(nats / (1 + nats))
    assert further[:, 3:].tolist() == [[0, 0.5, 1], [1 / 3, 4 / 6, 1], [2 / 3, 5 / 6, 0]]
    assert further[1, :2].tolist() == pytest.approx([math.log(0.8 / 0.2) / 8, math.log(0.1 / 0.9) / 8])


def test_equal_neighbours_repeat():
    probs = torch.tensor([[[0.6, 0.4], [0.9, 0.1], [0.2, 0.8]]], dtype=torch.float64)
    assert steps(config_of("repeat"), probs)["further"][0, :, 0].tolist() == [0, 1, 0]


def test_a_code_is_that_of_its_row_alone():
    """Quantiles of positions that a row does not have, or that are open already."""
    confidence, masked = torch.rand(4, 9, dtype=torch.float64), torch.rand(4, 9) < 0.7
    masked[2], masked[3] = True, False
    found = calibration_code(confidence, masked)
    for row in range(3):
        kept = confidence[row][masked[row]].sort().values
        assert found[row].tolist() == [kept[int((2 * j + 1) / 16 * len(kept))].item() for j in range(8)]
    assert found[3].tolist() == [0.0] * 8


def test_a_new_row_begins_afresh():
    """A row that takes the place of a finished one finds zeros, and one in a new block another window."""
    config = config_of("change", "stability", "calibration")
    alone = steps(config, SECOND)
    old, _ = make_step(FIRST, needs=needs_of(config), masked=MASKED, stop_tokens=[STOP])
    _, memory = observe(config, old, None)
    new, _ = make_step(SECOND, needs=needs_of(config), masked=MASKED, block_steps=0)
    seen, _ = observe(config, new, tuple(torch.zeros_like(one) for one in memory))
    assert all(torch.equal(seen[name], alone[name]) for name in ("further", "calibration"))
    block = UnmaskingPolicyConfig(observation="block", further_inputs=config.further_inputs)
    later, _ = make_step(SECOND, needs=needs_of(block), masked=MASKED, block_steps=0, steps=5)
    seen, _ = observe(block, later, memory)
    assert not seen["further"].any() and torch.equal(seen["calibration"], memory[-1])  # of the first block


@pytest.mark.parametrize("names", ["rank", ["ranks"], ["rank", "rank"], [3], {"rank": 1}])
def test_other_names_are_refused(names):
    with pytest.raises(PolicyLoadError, match="further_inputs"):
        UnmaskingPolicyConfig(further_inputs=names)


def test_the_papers_policy_reads_nothing_else():
    policy = UnmaskingPolicy(UnmaskingPolicyConfig())
    assert policy.config.further_inputs == [] and policy.num_parameters() == 331_265
    for call_it in ({"further": torch.zeros(1, 2, 1)}, {"calibration": torch.zeros(1, 8)}):
        with pytest.raises(ValueError, match="goes with `further_inputs`"):
            policy(torch.rand(1, 2, 1), torch.ones(1, 2, dtype=torch.bool), torch.zeros(1), **call_it)


def logits(policy, *, top_k):
    """For a random step as this policy reads it."""
    config = policy.config
    probs = torch.rand(2, 7, 6, generator=torch.Generator().manual_seed(0)).softmax(-1)
    step, _ = make_step(probs, needs=Needs.of("entropy", "margin", "top_probs", top_k=top_k))
    step = replace(step, read={**step.read, "hidden": torch.ones(2, 7, 3)})
    seen, _ = observe(config, step, None)
    assert seen["confidences"].shape[-1] == top_k
    return policy(**seen, speed=torch.full((2,), 0.3) if config.speed_conditioned else None)


def test_what_is_read_anew_changes_nothing_at_first(tmp_path):
    """A larger policy that has to learn again what the smaller one knows."""
    small = make_policy(further_inputs=["rank"], **CONDITIONED)
    large = extended(small, top_k=4, further_inputs="portable")
    assert large.config.further_inputs == list(PORTABLE) and small.config.further_inputs == ["rank"]
    expected = logits(small, top_k=1)
    torch.testing.assert_close(logits(large, top_k=4), expected, atol=1e-6, rtol=1e-6)
    with torch.no_grad():
        large.further_projection.weight.normal_(0, 0.5)
    assert not torch.allclose(logits(large, top_k=4), expected)
    again = extended(large, top_k=5)  # its columns move with the number of log-odds
    torch.testing.assert_close(logits(again, top_k=5), logits(large, top_k=4), atol=1e-6, rtol=1e-6)
    save_policy(again, tmp_path)
    assert torch.equal(logits(load_policy(tmp_path), top_k=5), logits(again, top_k=5))
    torch.testing.assert_close(logits(extended(small, hidden_input_size=3), top_k=1), expected)
    with pytest.raises(ValueError, match="reads 5 probabilities .* cannot become one that reads 2"):
        extended(again, top_k=2)


def test_a_fresh_policy_does_not_look_at_further_inputs_yet():
    torch.manual_seed(0)
    plain = UnmaskingPolicy(UnmaskingPolicyConfig(top_k=2))
    torch.manual_seed(0)
    more = UnmaskingPolicy(UnmaskingPolicyConfig(top_k=2, further_inputs="portable"))
    assert torch.equal(logits(more, top_k=2), logits(plain, top_k=2))


@pytest.mark.parametrize("name", PORTABLE)
def test_each_can_be_taken_away(name):
    policy = make_policy(further_inputs="portable", top_k=2)
    before = policy.state_dict()
    before = {key: tensor.clone() for key, tensor in before.items()}
    assert make_blind(policy, name) and not make_blind(make_policy(), name)
    changed = [key for key, tensor in policy.state_dict().items() if not torch.equal(tensor, before[key])]
    assert changed == ["calibration_projection.weight" if name == "calibration" else "further_projection.weight"]


def test_what_an_engine_cannot_give_is_refused():
    def sampler(*names):
        return LearnedUnmaskingSampler(make_policy(observation="block", further_inputs=list(names)))

    require_usable(sampler("rank", "entropy", "place"), "the host")
    with pytest.raises(ValueError, match="asks for stop tokens, but the host does not say"):
        require_usable(sampler("stop"), "the host")
    for name in ("change", "stability", "calibration"):
        with pytest.raises(ValueError, match="remembers earlier steps"):
            require_usable(sampler(name), "the host")
        require_usable(sampler(name), "the host", memory=True)


def test_info_says_what_a_policy_reads(tmp_path):
    save_policy(make_policy(further_inputs=["rank", "stop"]), tmp_path)
    assert "further_inputs: rank, stop" in call("info", tmp_path).stdout
    assert "the largest token probability, `rank`, `stop`, whether it is masked" in call("card", tmp_path).stdout
