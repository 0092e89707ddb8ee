"""Imitation warm start: the policy comes to do what experts did where they were right."""

from __future__ import annotations

import logging

import pytest
import torch
from training import CONDITIONED, SMALL, make_trainer, random_policy, rows, same_weights, weights

from hf_unmask.policy import UnmaskingPolicyConfig
from hf_unmask.samplers import ConfidenceSampler
from hf_unmask.samplers.learned import LearnedUnmaskingSampler
from hf_unmask.trainers.experts import parse_experts
from hf_unmask.trainers.imitation import imitate
from hf_unmask.trainers.rewards import speed_factor
from hf_unmask.trainers.rollouts import RecordingSampler, replay

WARM = {"block_length": None, "warm_start_prompts": 16, "warm_start_epochs": 40, "warm_start_learning_rate": 2e-2}


def right(completions, **columns):
    return [1.0] * len(completions)


def watched(trainer, expert, count=8):
    """What an expert does on prompts the warm start does not use."""
    data = [dict(row) for row in rows(24)][-count:]
    sampler = RecordingSampler(trainer.policy, None, expert)
    return trainer.run(data, sampler, torch.arange(count), None, None)[0].trajectory


def steps_of(trainer, speed=None, count=64):
    """Mean denoising steps of the policy as it is used."""
    data = [dict(row) for row in rows(24)] * (count // 24 + 1)
    speeds = None if speed is None else torch.full((count,), speed)
    sampler = LearnedUnmaskingSampler(trainer.policy, speed=speed)
    rollouts, _ = trainer.run(data[:count], sampler, torch.arange(count), None, speeds)
    return rollouts.steps.float().mean().item()


@pytest.mark.parametrize("action", ["bernoulli", "plackett_luce"])
def test_the_policy_does_as_the_expert_did(tmp_path, action):
    """A warm start that fits something else, or only the prompts it was shown."""
    policy = UnmaskingPolicyConfig(**SMALL, action=action)
    trainer = make_trainer(tmp_path, policy, right, train_dataset=rows(16), **WARM)
    expert = ConfidenceSampler(k=3)  # two steps for six positions
    unseen = watched(trainer, expert)
    before, _ = replay(trainer.policy, trainer.policy, unseen)
    steps_before = steps_of(trainer)
    losses = imitate(trainer, parse_experts([f"{expert}@full"], None))
    after, _ = replay(trainer.policy, trainer.policy, unseen)
    assert len(losses) == 40 and losses[-1] < 0.6 * losses[0]
    assert after.sum() > 0.8 * before.sum()  # both are negative
    assert abs(steps_of(trainer) - 2) < 0.6 * abs(steps_before - 2)


def test_only_what_was_right_is_imitated(tmp_path):
    """Wrong answers of a fast expert imitated because they are fast."""

    def slow_is_right(completions, steps, **columns):
        return [float(n == 6) for n in steps]

    trainer = make_trainer(tmp_path, None, slow_is_right, train_dataset=rows(16), **WARM)
    imitate(trainer, parse_experts(["confidence:k=6", "confidence:k=1"], None))
    assert steps_of(trainer) > 4.5


def test_luck_is_not_imitated(tmp_path):
    """The best rollout of every prompt taken by itself: a fast expert that is right now and then would be preferred."""

    def mostly_wrong_at_once(completions, prompts, steps, **columns):
        lucky = [len(prompt) % 2 == 0 for prompt in prompts]
        return [1.0 * luck if n == 1 else 0.8 for n, luck in zip(steps, lucky, strict=True)]

    trainer = make_trainer(tmp_path, None, mostly_wrong_at_once, train_dataset=rows(16), **WARM)
    imitate(trainer, parse_experts(["confidence:k=6", "confidence:k=1"], None))
    assert steps_of(trainer) > 4.5


def test_an_expert_in_the_policys_blocks_is_judged_by_its_block(tmp_path):
    """Later blocks counted as deliberately kept: a policy that never acts there would learn not to."""
    trainer = make_trainer(tmp_path, random_policy(), right, train_dataset=rows(16), **WARM | {"block_length": 3})
    seen = []
    for same in (True, False):
        sampler = RecordingSampler(trainer.policy, None, ConfidenceSampler(k=3), same)
        seen.append(trainer.run([dict(rows(1)[0])], sampler, torch.arange(1), 3, None)[0].trajectory["eligible"])
    assert seen[0].sum(-1).tolist() == [[3, 3]] and seen[1].sum(-1).tolist() == [[6, 3]]


def test_prompts_that_nobody_solves(tmp_path, caplog):
    """A warm start on nothing that crashes, changes the policy, or passes in silence."""
    trainer = make_trainer(
        tmp_path, None, lambda completions, **_: [0.0] * len(completions), train_dataset=rows(8), **WARM
    )
    before = weights(trainer.policy)
    with caplog.at_level(logging.WARNING, "hf_unmask.trainers"):
        assert imitate(trainer, parse_experts(["confidence:k=3"], None)) == []
    assert "no expert solved any of 8 prompts" in caplog.text
    assert same_weights(before, weights(trainer.policy))
    trainer.train()


def test_a_conditioned_policy_sees_the_best_expert_for_each_price(tmp_path):
    """One expert for all speeds: the dial would do nothing before RL has found it."""

    def half_right_at_once(completions, steps, alpha, **columns):
        return [(0.5 if n == 1 else 1.0) * speed_factor(n, 6, a) for n, a in zip(steps, alpha, strict=True)]

    policy = UnmaskingPolicyConfig(**SMALL, **CONDITIONED)
    trainer = make_trainer(tmp_path, policy, half_right_at_once, train_dataset=rows(16), **WARM)
    assert abs(steps_of(trainer, 0.0) - steps_of(trainer, 1.0)) < 0.5
    imitate(trainer, parse_experts(["confidence:k=1", "confidence:k=6"], None))
    assert steps_of(trainer, 0.0) > steps_of(trainer, 1.0) + 2


def test_the_warm_start_comes_before_training_and_becomes_the_reference(tmp_path):
    """A KL term that pulls back to the untrained policy; a warm start whose gradients leak into the first update."""
    settings = WARM | {"warm_start_epochs": 3, "warm_start_experts": ["confidence:k=3"], "beta": 0.1}
    trainer = make_trainer(tmp_path, random_policy(), right, learning_rate=0.0, **settings)
    fresh = weights(trainer.policy)
    assert same_weights(fresh, weights(trainer.ref_model))
    trainer.train()
    assert not same_weights(fresh, weights(trainer.policy))
    assert same_weights(weights(trainer.policy), weights(trainer.ref_model))
    first = trainer.state.log_history[0]
    assert first["kl"] == pytest.approx(0, abs=1e-6) and first["grad_norm"] == pytest.approx(0, abs=1e-6)


@pytest.mark.slow
def test_a_warm_start_is_not_repeated_on_resume(tmp_path):
    """A resumed run whose policy, or whose reference, is another one than in the run it goes on with."""
    settings = WARM | {"warm_start_epochs": 2, "warm_start_experts": ["confidence:k=3"], "beta": 0.1}
    settings |= {"save_strategy": "steps", "save_steps": 2, "max_steps": 4}
    whole = make_trainer(tmp_path / "a", **settings)
    whole.train()
    for beta in (0.1, 0.0):
        resumed = make_trainer(tmp_path / "b", **settings | {"beta": beta})
        resumed.train(resume_from_checkpoint=str(tmp_path / "a" / "checkpoint-2"))
        assert same_weights(weights(resumed.policy), weights(whole.policy)) == (beta > 0)


def test_the_specs_are_checked_before_the_work(tmp_path):
    """A mistyped expert that is found after the rollouts of another."""
    trainer = make_trainer(tmp_path, None, right, **WARM | {"warm_start_experts": ["confidence:k=3", "confident:k=1"]})
    before = weights(trainer.policy)
    with pytest.raises(ValueError, match="confident"):
        trainer.train()
    assert same_weights(before, weights(trainer.policy)) and trainer.state.global_step == 0


def test_a_data_set_without_a_length(tmp_path):
    """A TypeError about len() from deep inside, for a streamed data set."""
    data = rows(8).to_iterable_dataset()
    trainer = make_trainer(tmp_path, None, right, train_dataset=data, **WARM)
    with pytest.raises(ValueError, match="warm_start_prompts=16.*IterableDataset has no length"):
        trainer.train()
