"""The trainer: TRL's losses on denoising steps, checked against formulas, and what a run writes."""

from __future__ import annotations

import importlib
import itertools
import json
import math
import os
import signal
import threading
import time
from pathlib import Path

import distributed_run
import interrupted_run
import pandas
import pytest
import torch
from forked import Forked, launch
from helpers import slow
from models import MASK, VOCAB, tiny_eurobert
from plans import PLANS, all_sequences
from safetensors.torch import load_file
from training import (
    CONDITIONED,
    LONG,
    SMALL,
    letters,
    make_trainer,
    random_policy,
    rows,
    same_weights,
    tiny_tokenizer,
    weights,
)
from transformers import GenerationConfig, Trainer, TrainerCallback
from trl import GRPOTrainer

import hf_unmask
from hf_unmask.denoisers.adapter import Denoiser
from hf_unmask.policy import UnmaskingPolicyConfig, load_policy
from hf_unmask.samplers.learned import LearnedUnmaskingSampler
from hf_unmask.trainers import SpeedReward, UnmaskingGRPOTrainer, trainer
from hf_unmask.trainers.checkpoints import damage, to_resume
from hf_unmask.trainers.environment import row_seeds
from hf_unmask.trainers.rollouts import replay

RAGGED = [6, 2, 5, 3, 6, 1, 4, 6]
VARIANTS = {
    "bernoulli, canvas": ({}, {}),
    "plackett_luce, block": ({"action": "plackett_luce", "observation": "block"}, {}),
    "top 5, hidden states": ({"top_k": 5, "hidden_input_size": 32}, {}),
    "conditioned": (CONDITIONED, {"steps_per_generation": 2}),
    "portable": ({"top_k": 2, "further_inputs": "portable"}, {}),
    "ragged, in parts": ({}, {"rollout_batch_size": 3, "block_length": None}),
    "with an expert": ({}, {"num_generations": 3, "num_expert_rollouts": 1, "expert": "confidence:k=2@3"}),
}


def ratios(seen):
    """[B, T] of every loss that was computed."""
    return [(one["replayed"] - one["old_per_token_logps"]).exp() for one in seen]


def by_prompt(prompts, **columns):
    """The same for all rollouts of a prompt."""
    return [float(len(prompt)) for prompt in prompts]


def quick(steps, positions, **columns):
    """The fewer denoising steps, the better."""
    return [1 - (n - 1) / most for n, most in zip(steps, positions, strict=True)]


def logged(run, name):
    return [entry[name] for entry in run.state.log_history if name in entry]


# The first pass


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_first_pass_has_ratio_one(tmp_path, variant):
    """Likelihoods of a step stored and replayed from different inputs: every update would start from noise."""
    config, settings = VARIANTS[variant]
    data = rows(max_new_tokens=RAGGED) if "ragged" in variant else rows()
    settings = {"max_steps": 4, "learning_rate": 0.0, **settings}
    run = make_trainer(tmp_path, random_policy(**config), train_dataset=data, **settings)
    before = weights(run.policy)
    run.train()
    assert len(run.seen) == 4
    for ratio in ratios(run.seen):
        assert (ratio - 1).abs().max() < 1e-5
    assert max(logged(run, "grad_norm")) > 0
    assert same_weights(before, weights(run.policy))


def test_later_passes_have_other_ratios(tmp_path):
    """Old likelihoods that follow the policy, so that clipping never acts."""
    run = make_trainer(tmp_path, max_steps=4)
    run.train()
    first, second, third, fourth = ((ratio - 1).abs().max().item() for ratio in ratios(run.seen))
    assert max(first, third) < 1e-5 < 1e-2 < min(second, fourth)


def test_a_range_of_prices_is_the_policys_from_then_on(tmp_path):
    """Prices that the rewards have, but neither the policy's config nor its record."""
    for policy in (random_policy(**CONDITIONED), UnmaskingPolicyConfig(**SMALL)):
        run = make_trainer(tmp_path, policy, alpha_range=[0.5, 20.0], max_steps=1)
        run.train()
        assert run.policy.config.log_alpha_range == [math.log(0.5), math.log(20.0)]
    with pytest.raises(ValueError, match="speed_conditioned=True"):
        make_trainer(tmp_path, random_policy(), alpha_range=[0.5, 20.0])


def test_high_prices_teach_as_much_as_low_ones_on_request(tmp_path):
    """Advantages that shrink with the price of a step, or rollouts of a group that are scaled differently."""
    seen = []
    for scaled in (False, True):
        policy, settings = random_policy(**CONDITIONED), {"max_steps": 1, "learning_rate": 0.0, "scale_prices": scaled}
        run = make_trainer(tmp_path, policy, SpeedReward(letters), **settings)
        run.train()
        seen.append({name.split("/")[-1]: value for name, value in run.seen[0].items()})
    plain, scaled = seen  # rows in one order, but groups are no longer side by side
    speeds, steps = plain["speed"][:, 0], plain["mask"].sum(-1)
    for speed in speeds.unique():
        group, alpha = speeds == speed, math.exp(run.policy.config.log_alpha(speed.item()))
        worth = ((1 - (steps[group] - 1) / 6) ** alpha).mean()
        assert group.sum() == run.args.group_size and worth < 0.9
        torch.testing.assert_close(scaled["advantages"][group] * worth, plain["advantages"][group])


# The losses


@pytest.fixture(scope="module")
def second_pass(tmp_path_factory):
    """A trained trainer and the batch of its second pass, some of whose ratios are clipped."""
    run = make_trainer(tmp_path_factory.mktemp("run"), random_policy(), max_steps=2, learning_rate=0.1)
    run.train()
    return run, {name: value for name, value in run.seen[1].items() if name not in ("loss", "replayed")}


def by_hand(loss_type, run, batch):
    """The loss from the trajectories, row by row and step by step."""
    trajectory = {name.split("/")[1]: value for name, value in batch.items() if "/" in name}
    logps, _ = replay(run.policy, run.policy, trajectory)
    rows_, clipped = [], 0
    for row, advantage in enumerate(batch["advantages"].tolist()):
        terms = []
        for step in range(int(trajectory["mask"][row].sum())):
            ratio = (logps[row, step] - batch["old_per_token_logps"][row, step]).exp().item()
            if loss_type == "cispo":
                # TRL cuts this loss's ratio at `epsilon_high` itself, which is `epsilon` unless it is set
                terms.append(-min(ratio, 0.5) * advantage * logps[row, step].item())
            else:
                limited = min(max(ratio, 0.5), 1.5)
                clipped += limited != ratio
                terms.append(-min(ratio * advantage, limited * advantage))
        rows_.append(terms)
    assert clipped or loss_type == "cispo"
    everything = list(itertools.chain(*rows_))
    return {
        "grpo": sum(sum(terms) / len(terms) for terms in rows_) / len(rows_),
        "dr_grpo": sum(everything) / (len(rows_) * run.args.max_completion_length),
        "dapo": sum(everything) / len(everything),
        "cispo": sum(everything) / len(everything),
    }[loss_type]


LOSSES = ("grpo", "dr_grpo", "dapo", "cispo")


def loss_of(run, batch, loss_type):
    before, run.loss_type = run.loss_type, loss_type
    try:
        return run._compute_loss(run.model, batch).item()
    finally:
        run.loss_type = before


@pytest.mark.parametrize("loss_type", LOSSES)
def test_losses_are_those_of_the_steps(second_pass, loss_type):
    """A loss averaged over tokens, positions or padding, clipped elsewhere, or divided by the number of rows twice."""
    run, batch = second_pass
    assert loss_of(run, batch, loss_type) == pytest.approx(by_hand(loss_type, run, batch), rel=1e-4, abs=1e-7)


def test_losses_differ(second_pass):
    """A loss type that is accepted and ignored."""
    values = [loss_of(*second_pass, loss_type) for loss_type in LOSSES]
    assert all(abs(one - other) > 1e-4 * abs(one) for one, other in itertools.combinations(values, 2))


def test_the_gradient_is_that_of_the_expected_reward(tmp_path):
    """A surrogate whose gradient is not the policy gradient: compared with the exact expectation over all that three
    positions allow, every one of 64 sequences of actions weighted by its probability."""
    denoiser = Denoiser.from_model(tiny_eurobert(torch.float64))
    policy = random_policy(spread=0.5).double()
    run = make_trainer(tmp_path, policy, denoiser=denoiser, loss_type="dr_grpo", max_completion_length=3)
    run.current_gradient_accumulation_steps = 1
    trajectory = all_sequences(denoiser, policy).trajectory
    reward = torch.rand(len(PLANS), generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    # by brute force, without `replay`: the probability of a sequence is a product of probabilities of positions
    probability = torch.ones_like(reward)
    for step in range(3):
        names = ("confidences", "masked", "time", "valid", "eligible", "action", "mask")
        now = {name: trajectory[name][:, step] for name in names}
        opens = policy(now["confidences"], now["masked"], now["time"], valid=now["valid"]).sigmoid()
        chosen = torch.where(now["action"] > 0, opens, 1 - opens)
        probability = probability * torch.where(now["eligible"] & now["mask"][:, None], chosen, 1).prod(-1)
    assert probability.sum().item() == pytest.approx(1)
    expected = torch.autograd.grad((probability * reward).sum(), list(policy.parameters()))

    batch = {f"trajectory/{name}": value for name, value in trajectory.items() if name != "logps"}
    batch["trajectory/expert"] = torch.zeros(len(PLANS), dtype=torch.bool)
    batch |= {"old_per_token_logps": trajectory["logps"], "num_items_in_batch": trajectory["mask"].sum()}
    # rows count once each: weights make their mean the expectation, and the loss divides by three steps
    batch["advantages"] = reward * probability.detach() * len(PLANS) * 3
    loss = run._compute_loss(run.model, batch)
    for found, wanted in zip(torch.autograd.grad(-loss, list(policy.parameters())), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-9)


# Advantages


def test_advantages_sum_to_zero_and_scale_with_the_rewards(tmp_path):
    """Advantages divided by a standard deviation that the paper leaves out, or of the wrong group."""

    def threefold(**columns):
        return [3 * reward for reward in letters(**columns)]

    found = {}
    for scale, reward in itertools.product(("none", "group"), (letters, threefold)):
        run = make_trainer(tmp_path, None, reward, learning_rate=0.0, scale_rewards=scale)
        run.train()
        advantages = torch.tensor(list(run._logs["advantages"])).view(-1, 4)
        torch.testing.assert_close(advantages.sum(-1), torch.zeros(2), atol=1e-5, rtol=0)
        found[scale, reward] = advantages
    torch.testing.assert_close(found["none", threefold], 3 * found["none", letters])
    rewards = torch.tensor(list(run._logs["rewards"]["threefold"])).view(-1, 4)
    torch.testing.assert_close(found["none", threefold], rewards - rewards.mean(-1, keepdim=True))
    torch.testing.assert_close(found["group", threefold], found["group", letters], rtol=0.01, atol=0.01)
    assert found["none", letters].abs().max() > 0.05


def test_equal_rewards_in_a_group_change_nothing(tmp_path):
    """Updates from nothing, or a baseline over all groups: prompts of different difficulty would push the policy."""
    run = make_trainer(tmp_path, None, by_prompt, max_steps=4)
    before = weights(run.policy)
    run.train()
    assert len(set(logged(run, "reward"))) > 1 and set(logged(run, "frac_reward_zero_std")) == {1}
    assert same_weights(before, weights(run.policy))


def test_training_finds_what_is_rewarded(tmp_path):
    """A sign or an index that is wrong everywhere in the same way."""
    config = UnmaskingPolicyConfig(**SMALL, initial_bias=-1.0)
    run = make_trainer(tmp_path, config, quick, max_steps=16, learning_rate=3e-2)
    run.train()
    nfe = logged(run, "nfe")
    assert nfe[0] > 4.5 and nfe[-1] < 3  # two blocks: two steps are the least


# What a run logs


def test_masks_may_survive_and_are_counted(tmp_path):
    """A policy that waits looks like one that answers; steps and openings counted from what was asked for."""
    config = UnmaskingPolicyConfig(**SMALL, initial_bias=-3.0)
    run = make_trainer(tmp_path, config, train_dataset=rows(max_new_tokens=RAGGED), learning_rate=0.0)
    run.train()
    trajectory = {name.split("/")[1]: value for name, value in run.seen[0].items() if "/" in name}
    steps, mask = trajectory["mask"].sum(-1), trajectory["mask"]
    opened = ((trajectory["action"] > 0) & mask[..., None]).sum((1, 2))
    length = trajectory["valid"][:, 0].sum(-1)
    assert (steps <= length).all()
    assert logged(run, "nfe")[0] == pytest.approx(steps.float().mean().item())
    assert logged(run, "unresolved_masks")[0] == pytest.approx((length - opened).float().mean().item()) != 0
    assert logged(run, "tokens_per_forward")[0] == pytest.approx((opened / steps).mean().item())


def test_no_masks_are_left_with_the_fallback_of_use(tmp_path):
    """A setting that never reaches the rollouts."""
    config = UnmaskingPolicyConfig(**SMALL, initial_bias=-3.0)
    run = make_trainer(tmp_path, config, train_dataset=rows(max_new_tokens=RAGGED), rollout_fallback=True)
    run.train()
    assert not any(logged(run, "unresolved_masks"))


def test_completions_are_logged(tmp_path):
    """Tables of what was written that miss a reward, or hold another batch's."""
    run = make_trainer(tmp_path, log_completions=True, learning_rate=0.0)
    run.train()
    table = pandas.read_parquet(tmp_path / "completions" / "completions_00001.parquet")
    assert list(table["prompt"]) == [table["prompt"][0]] * 4 + [table["prompt"][4]] * 4
    assert list(table["letters"]) == pytest.approx(letters(table["completion"]))
    assert list(table["letters"]) == pytest.approx(list(run._logs["rewards"]["letters"]))


def test_time_of_rollouts_and_updates_is_told_apart(tmp_path):
    """An update that becomes slow unnoticed."""
    run = make_trainer(tmp_path, max_steps=4)
    run.train()
    for entry in run.state.log_history[:4]:
        assert entry["time/rollout"] + entry["time/update"] == pytest.approx(entry["step_time"])
        assert entry["time/update_share"] == pytest.approx(entry["time/update"] / entry["step_time"])
    assert [entry["time/rollout"] > 0 for entry in run.state.log_history[:4]] == [True, False, True, False]


def test_conditioned_groups_share_a_price_and_log_its_gradients(tmp_path):
    """Rewards of one group compared at different prices; prices whose gradients vanish unnoticed."""
    asked = []

    def priced(completions, alpha, **columns):
        asked.extend(alpha)
        return letters(completions)

    settings = {"max_steps": 8, "logging_steps": 2, "num_generations": 3, "num_expert_rollouts": 1}
    run = make_trainer(tmp_path, UnmaskingPolicyConfig(**SMALL, **CONDITIONED), priced, **settings)
    run.train()
    groups = torch.tensor(asked).view(-1, 4)
    assert len(groups) == 8 and len(groups[:, 0].unique()) == 8
    assert torch.equal(groups, groups[:, :1].expand(-1, 4))
    assert (groups.log() >= -2.0001).all() and (groups.log() <= 1.5001).all()
    norms = {name for entry in run.state.log_history for name in entry if name.startswith("grad_norm/")}
    assert norms == {"grad_norm/slow", "grad_norm/middle", "grad_norm/fast"}


def test_expert_rows_count_for_the_baseline_and_nothing_else(tmp_path):
    """A group without its expert, an expert in the policy's statistics, or an unbounded ratio."""
    config = UnmaskingPolicyConfig(**SMALL, initial_bias=-3.0)
    settings = {"num_generations": 3, "num_expert_rollouts": 1, "expert": "confidence:k=2@3", "block_length": None}
    run = make_trainer(tmp_path, config, learning_rate=0.5, **settings)
    run.train()
    for batch, ratio in zip(run.seen, ratios(run.seen), strict=True):
        expert, mask = batch["trajectory/expert"], batch["trajectory/mask"]
        assert expert.sum() == 2
        inside = ratio[expert][mask[expert]]
        assert (inside > 1 / 4 - 1e-6).all() and (inside < 4 + 1e-6).all()
    steps = mask.sum(-1)
    assert steps[expert].tolist() == [4, 4]  # two blocks of three positions, two per step
    opened = ((batch["trajectory/action"] > 0) & mask[..., None]).sum((1, 2))
    assert torch.equal(batch["trajectory/eligible"][expert], batch["trajectory/masked"][expert])
    assert logged(run, "nfe") == [pytest.approx(steps[~expert].float().mean().item())]
    assert logged(run, "unresolved_masks") == [pytest.approx((6 - opened[~expert]).float().mean().item())]
    rewards = torch.tensor(list(run._logs["rewards"]["letters"])).view(-1, 4)
    assert logged(run, "policy_reward") == [pytest.approx(rewards[:, :3].mean().item())]
    advantages = torch.tensor(list(run._logs["advantages"])).view(-1, 4)
    torch.testing.assert_close(advantages, rewards - rewards.mean(-1, keepdim=True))


def test_the_kl_term_pulls_back_to_the_reference(tmp_path):
    """A reference that is trained along, is another policy, or pulls the wrong way."""
    run = make_trainer(tmp_path, random_policy(), by_prompt, beta=1.0, max_steps=16, max_grad_norm=1.0)
    start = weights(run.policy)
    with torch.no_grad():
        run.policy.head.bias += 1.0
    run.train()
    kl = logged(run, "kl")
    assert kl[0] > 0.05 and kl[-1] < 0.3 * kl[0]
    assert same_weights(start, weights(run.ref_model))
    assert not any(p.requires_grad or p.grad is not None for p in run.ref_model.parameters())
    trained = {id(p) for group in run.optimizer.param_groups for p in group["params"]}
    assert not trained & {id(p) for p in run.ref_model.parameters()}
    calm = make_trainer(tmp_path, random_policy(), beta=1.0)
    calm.train()
    assert logged(calm, "kl")[0] == pytest.approx(0, abs=1e-7) and logged(calm, "kl")[1] > 0


# The denoiser and the data


def test_the_denoiser_stays_as_it_is(tmp_path):
    """A denoiser that is trained, saved or wrapped along with the policy."""
    model = tiny_eurobert()
    model.train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    run = make_trainer(tmp_path, denoiser=model)
    run.train()
    run.save_model(str(tmp_path / "saved"))
    assert not model.training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert not any(p.requires_grad or p.grad is not None for p in model.parameters())
    trained = [p for group in run.optimizer.param_groups for p in group["params"]]
    assert {id(p) for p in trained} == {id(p) for p in run.policy.parameters()}
    assert load_file(tmp_path / "saved" / "model.safetensors").keys() == run.policy.state_dict().keys()


def test_an_attached_model_and_an_adapter_are_taken_as_they_are(tmp_path):
    """Conventions that were set by hand (another mask token, say) and are guessed again."""
    adapter = Denoiser.from_model(tiny_eurobert(), mask_token_id=VOCAB - 2)
    assert make_trainer(tmp_path, denoiser=adapter).denoiser is adapter
    model = tiny_eurobert()
    hf_unmask.attach(model, mask_token_id=VOCAB - 2)
    run = make_trainer(tmp_path, denoiser=model)
    assert run.denoiser.mask_token_id == run.policy.config.trained_for["mask_token_id"] == VOCAB - 2 != MASK


def test_validation_is_greedy_whatever_the_model_says(tmp_path):
    """A denoiser whose own config draws tokens, or decodes in blocks, where the settings do not."""
    drawing, found = tiny_eurobert(), []
    drawing.generation_config = GenerationConfig(do_sample=True, temperature=3.0, block_length=2)
    for denoiser in (tiny_eurobert(), drawing):
        run = make_trainer(tmp_path, random_policy(), denoiser=denoiser, eval_dataset=rows(4), block_length=None)
        found.append(run.evaluate())
    assert found[0] == found[1]


def test_chat_prompts(tmp_path):
    """Chat data sets whose prompts skip the template or whose rewards get something else than messages."""
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}a"
    texts = [row["prompt"] for row in rows()]
    chat = rows().map(lambda row: {"prompt": [{"role": "user", "content": row["prompt"]}]})
    got = []

    def keep(completions, **columns):
        got.append(completions)
        return letters(completions)

    options = {"learning_rate": 0.0, "processing_class": tokenizer}
    run = make_trainer(tmp_path, None, keep, train_dataset=chat, eval_dataset=chat, **options)
    run.train()
    assert {message["role"] for completion in got[0] for message in completion} == {"assistant"}
    plain = make_trainer(
        tmp_path, None, letters, train_dataset=rows(), eval_dataset=[{"prompt": text + "a"} for text in texts]
    )
    assert run.evaluate()["eval_rewards/keep"] == plain.evaluate()["eval_rewards/letters"]


def test_an_entropy_bonus_needs_an_entropy(tmp_path):
    """A bonus that is accepted and has no gradient."""
    policy = UnmaskingPolicyConfig(**SMALL, action="plackett_luce")
    with pytest.raises(ValueError, match="`entropy_coef=0.1`.*'plackett_luce'"):
        make_trainer(tmp_path, policy, entropy_coef=0.1)
    calm, eager = (make_trainer(tmp_path, None, by_prompt, entropy_coef=coef) for coef in (0.0, 1.0))
    calm.train()
    eager.train()
    assert logged(eager, "entropy")[1] > logged(calm, "entropy")[1]


@pytest.mark.parametrize(
    ("settings", "count", "needed", "cure"),
    [
        ({}, 1, 2, " to 4$"),
        ({"per_device_train_batch_size": 60}, 14, 15, " to 56$"),
        ({"steps_per_generation": 2}, 3, 4, " to 6$"),
        ({"steps_per_generation": 8, "per_device_train_batch_size": 4}, 1, 8, "pass more prompts$"),
        ({"num_generations": 3, "num_expert_rollouts": 1}, 0, 2, "pass more prompts$"),
    ],
)
def test_fewer_prompts_than_a_batch_takes_are_an_error(tmp_path, settings, count, needed, cure):
    """A run without a single update, whose policy is saved as if it was trained."""
    with pytest.raises(ValueError, match=f"has {count} prompts, but a batch of rollouts takes {needed} .*{cure}"):
        make_trainer(tmp_path, train_dataset=rows(count), **settings)
    make_trainer(tmp_path, train_dataset=rows(needed), **settings)


def test_a_cure_that_is_named_cures(tmp_path):
    run = make_trainer(tmp_path, train_dataset=rows(1), per_device_train_batch_size=4)
    run.train()
    assert run.state.global_step == 2


def test_a_stream_that_is_too_short_is_an_error(tmp_path):
    """As above, where nobody can count."""
    make_trainer(tmp_path, train_dataset=rows(4).to_iterable_dataset()).train()
    run = make_trainer(tmp_path, train_dataset=rows(1).to_iterable_dataset())
    with pytest.raises(ValueError, match="no update was made: there are fewer prompts than a batch of 8"):
        run.train()


@pytest.mark.parametrize("data", [rows(0), {"some": rows(2), "none": rows(0)}])
def test_a_validation_set_without_prompts_is_named(tmp_path, data):
    """A division by zero at the first validation, after hours."""
    with pytest.raises(ValueError, match="the validation data `(eval_dataset|none)` has 0 prompts"):
        make_trainer(tmp_path, eval_dataset=data)
    with pytest.raises(ValueError, match="has 0 prompts"):
        make_trainer(tmp_path).evaluate(data)


def test_two_trainings_in_one_folder_are_one_too_many(tmp_path):
    """Two runs whose checkpoints overwrite each other; of two processes of one run, one holds the lock."""
    run, errors = make_trainer(tmp_path / "run"), []

    def second():
        try:
            make_trainer(tmp_path / "run").train()
        except ValueError as error:
            errors.append(str(error))

    def meanwhile():
        thread = threading.Thread(target=second)
        thread.start()
        thread.join()

    run.add_callback(At(1, meanwhile))
    run.train()
    assert run.state.global_step == 2 and len(errors) == 1 and "another training is writing to" in errors[0]
    make_trainer(tmp_path / "run").train()


def test_a_missing_tokenizer_is_named(tmp_path):
    """TRL would look for one at the policy's name, and fail with that."""
    args = make_trainer(tmp_path).args
    with pytest.raises(ValueError, match="processing_class"):
        UnmaskingGRPOTrainer(UnmaskingPolicyConfig(**SMALL), tiny_eurobert(), letters, args, rows())


def test_the_config_that_was_passed_stays_the_users(tmp_path):
    """Two trainers of one config that share what they write into it."""
    config = UnmaskingPolicyConfig(**SMALL)
    first, second = (make_trainer(tmp_path, config, seed=seed) for seed in (1, 2))
    assert not config.trained_for and first.policy.config.trained_for
    assert not same_weights(weights(first.policy), weights(second.policy))
    again = make_trainer(tmp_path, config, seed=1)
    assert same_weights(weights(first.policy), weights(again.policy))


# What is overridden


PARENTS = dict.fromkeys(trainer._OVERRIDDEN, GRPOTrainer) | dict.fromkeys(trainer._OF_TRANSFORMERS, Trainer)


@pytest.mark.parametrize("name", PARENTS)
def test_a_name_that_trl_dropped_is_an_error(monkeypatch, name):
    """An override that nobody calls any longer: training would go on with something else."""
    monkeypatch.delattr(PARENTS[name], name)
    with pytest.raises(ImportError, match=name):
        importlib.reload(trainer)


def test_every_private_override_is_checked():
    """An override that is added without its name in the check."""
    inherited = {name for parent in UnmaskingGRPOTrainer.__mro__[1:] for name in vars(parent)}
    private = {name for name in vars(UnmaskingGRPOTrainer) if name.startswith("_") and not name.startswith("__")}
    attributes = {"_tag_names", "_name"}
    assert private & inherited - attributes == set(PARENTS)


# Files

TOKEN = "hf_" + "neverwritethis" * 2


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run over two epochs with checkpoints, two updates per batch of rollouts."""
    output = tmp_path_factory.mktemp("whole")
    whole = make_trainer(output, **LONG, hub_token=TOKEN)
    whole.train()
    return whole


def test_checkpoints_hold_the_policy_and_nothing_of_the_denoiser(run):
    """A tokenizer, a pickle of the settings, or a card without results in every checkpoint."""
    folder = f"{run.args.output_dir}/checkpoint-4"
    assert set(os.listdir(folder)) == {
        *("config.json", "model.safetensors", "training_args.json"),
        *("optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json", "checkpoint.json"),
    }
    settings = json.loads(Path(folder, "training_args.json").read_text())
    assert settings["token_temperature"] == 0.3 and settings["num_iterations"] == 2
    assert set(os.listdir(run.args.output_dir)) == {f"checkpoint-{step}" for step in (2, 4, 6, 8)}


def test_no_file_holds_the_token(run):
    """A secret that is uploaded or shared with a checkpoint."""
    run.save_model()
    files = [f"{folder}/{name}" for folder, _, names in os.walk(run.args.output_dir) for name in names]
    assert len(files) > 20
    assert not [path for path in files if TOKEN.encode() in Path(path).read_bytes()]


def test_a_checkpoint_is_a_policy(run):
    """A config with a language model's token ids, which the strict loader refuses."""
    folder = f"{run.args.output_dir}/checkpoint-8"
    sampler = LearnedUnmaskingSampler.from_pretrained(folder)
    assert same_weights(weights(sampler.policy), weights(run.policy))
    config = json.loads(Path(folder, "config.json").read_text())
    plain = UnmaskingPolicyConfig(**SMALL).to_dict()
    assert not config.keys() - plain.keys() - {"architectures", "dtype"}
    assert sampler.policy.config.trained_for == run.policy.config.trained_for
    assert run.policy.config.trained_for == {
        "base_model": "EuroBertForMaskedLM",
        "base_model_revision": None,
        "mask_token_id": MASK,
        "block_length": 3,
        "max_new_tokens": 6,
        "hf_unmask_version": hf_unmask.__version__,
    }
    tokens = hf_unmask.generate(
        tiny_eurobert(), torch.tensor([[5, 6]]), sampler=sampler, max_new_tokens=6, block_length=3
    )
    assert tokens.shape == (1, 8) and not (tokens == MASK).any()


def test_nothing_of_trl_stays_on_the_policy(run):
    """A patched forward, whose copies compute with the original's weights; a generation config in the saved files."""
    assert "forward" not in vars(run.policy) and not hasattr(run.policy, "generation_config")
    assert (
        not {"pad_token_id", "eos_token_id", "use_cache"}
        & vars(run.policy.config).keys() - vars(UnmaskingPolicyConfig()).keys()
    )
    for name in ("pad_token_id", "eos_token_id", "use_cache"):
        assert getattr(run.policy.config, name, None) == getattr(UnmaskingPolicyConfig(), name, None)


def test_fine_tuning_goes_on_from_a_policy_and_says_so(run, tmp_path):
    """A policy that is trained from scratch in silence, or whose origin is forgotten."""
    origin = f"{run.args.output_dir}/checkpoint-4"
    tuned = make_trainer(tmp_path / "a", origin, block_length=None, learning_rate=0.0)
    assert tuned.policy.config.trained_for["lineage"] == ["checkpoint-4"]
    assert tuned.policy.config.trained_for["block_length"] is None
    tuned.train()
    assert same_weights(weights(tuned.policy), load_file(f"{origin}/model.safetensors"))
    tuned.save_model(str(tmp_path / "b"))
    again = make_trainer(tmp_path / "c", tmp_path / "b")
    assert again.policy.config.trained_for["lineage"] == ["checkpoint-4", "b"]


def test_a_local_denoiser_is_recorded_by_name(tmp_path):
    """Paths of somebody's machine in a published policy."""
    tiny_eurobert().save_pretrained(tmp_path / "my-dllm")
    model = type(tiny_eurobert()).from_pretrained(tmp_path / "my-dllm")
    assert make_trainer(tmp_path, denoiser=model).policy.config.trained_for["base_model"] == "my-dllm"
    model, tokenizer = hf_unmask.load_tiny()
    record = make_trainer(tmp_path, denoiser=model, processing_class=tokenizer).policy.config.trained_for
    assert record["base_model"] == "tiny"


# Resuming


def curve(run, after=0):
    return [(e["step"], e["loss"], e["grad_norm"]) for e in run.state.log_history if "loss" in e and e["step"] > after]


@pytest.mark.parametrize("step", [2, 4, 6])
def test_a_resumed_run_is_the_run(run, tmp_path, step):
    """Rollouts, prompts or random numbers that differ after a resume: in an epoch, at its end, and in the next one."""
    resumed = make_trainer(tmp_path, **LONG)
    resumed.train(resume_from_checkpoint=f"{run.args.output_dir}/checkpoint-{step}")
    assert len(curve(run)) == 8 and curve(resumed) == curve(run)
    assert [s["advantages"].tolist() for s in resumed.seen] == [s["advantages"].tolist() for s in run.seen[step:]]
    assert same_weights(weights(resumed.policy), weights(run.policy))


RESUMABLE = {
    "slices": {"steps_per_generation": 2, "save_steps": 4},
    "accumulation": {"gradient_accumulation_steps": 2, "num_iterations": 1, "steps_per_generation": 1, "save_steps": 3},
    "conditioned": {"policy": UnmaskingPolicyConfig(**SMALL, **CONDITIONED)},
    "reference": {"beta": 0.1},
    "entropy of its own": {"use_adaptive_entropy": True},  # TRL adds a file to the checkpoint
}


QUICK = ("accumulation", "conditioned")


@pytest.mark.parametrize("case", [case if case in QUICK else slow(case) for case in RESUMABLE])
def test_other_runs_resume_exactly_too(tmp_path, case):
    """As above where batches are shuffled and split, or several make an update."""
    settings = {**LONG, "train_dataset": rows(6), **RESUMABLE[case]}
    whole = make_trainer(tmp_path / "a", **settings)
    whole.train()
    resumed = make_trainer(tmp_path / "b", **settings)
    resumed.train(resume_from_checkpoint=f"{tmp_path}/a/checkpoint-{2 * settings['save_steps'] % 8 or 4}")
    assert curve(resumed) == curve(whole)
    assert same_weights(weights(resumed.policy), weights(whole.policy))


class At(TrainerCallback):
    """Does something at the end of an update."""

    def __init__(self, step, what):
        self.step, self.what = step, what

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            self.what()


@pytest.fixture
def handler():
    """Ctrl-C as in a terminal, whatever started the tests: background processes ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield signal.default_int_handler
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_stops_where_the_next_rollouts_would_begin(run, tmp_path, handler):
    """A checkpoint in the middle of a batch of rollouts, or none."""
    stopped = make_trainer(
        tmp_path,
        callbacks=[At(5, lambda: os.kill(os.getpid(), signal.SIGINT))],
        **LONG | {"save_strategy": "no"},
    )
    stopped.train()
    assert stopped.state.global_step == 6 and os.listdir(tmp_path) == ["checkpoint-6"]
    assert signal.getsignal(signal.SIGINT) is handler
    resumed = make_trainer(tmp_path, **LONG)
    resumed.train(resume_from_checkpoint=True)
    assert curve(resumed) == curve(run) and same_weights(weights(resumed.policy), weights(run.policy))


@pytest.mark.slow
def test_a_second_ctrl_c_stops_at_once(run, tmp_path, handler):
    """A long run that cannot be left; a trainer that afterwards goes on with the rollouts it was interrupted in."""

    def twice():
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1.1)  # at once, it would be torchrun's echo of the first
        os.kill(os.getpid(), signal.SIGINT)

    stopped = make_trainer(tmp_path, callbacks=[At(3, twice)], **LONG)
    with pytest.raises(KeyboardInterrupt):
        stopped.train()
    assert signal.getsignal(signal.SIGINT) is handler and os.listdir(tmp_path) == ["checkpoint-2"]
    stopped.remove_callback(At)
    stopped.train(resume_from_checkpoint=True)
    assert curve(stopped) == curve(run) and same_weights(weights(stopped.policy), weights(run.policy))


def test_ctrl_c_that_another_process_told_of_first(handler):
    """A process that stops at once because the others had the signal before it."""
    stop = trainer.StopAtRolloutBoundary(2)
    stop.on_train_begin(None, None, None)
    stop.asked = True  # as gathered
    os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is not handler
    stop.release()


def test_ctrl_c_from_outside(run, tmp_path):
    """As above, sent by another process while the main thread is busy."""
    with Forked(interrupted_run.main, str(tmp_path)) as process:
        process.wait_until(lambda: "ready\n" in process.out)
        process.send_signal(signal.SIGINT)
        assert process.wait() == 0, process.err
        assert "saving at the end of this batch of rollouts" in process.err
    assert os.listdir(tmp_path) == ["checkpoint-4"]
    resumed = make_trainer(tmp_path, **LONG)
    resumed.train(resume_from_checkpoint=True)
    assert curve(resumed) == curve(run) and same_weights(weights(resumed.policy), weights(run.policy))


def test_training_in_a_thread(tmp_path):
    """Signals belong to the main thread: a server that trains in another one would fail."""
    run, errors = make_trainer(tmp_path), []

    def train():
        try:
            run.train()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=train)
    thread.start()
    thread.join()
    assert not errors and run.state.global_step == 2


def test_a_failing_reward_gives_ctrl_c_back(tmp_path, handler):
    """The first Ctrl-C after a failed run that is swallowed."""

    def fails(completions, **columns):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        make_trainer(tmp_path, None, fails).train()
    assert signal.getsignal(signal.SIGINT) is handler


# Several processes


@pytest.mark.slow
def test_two_processes_do_as_one_with_twice_the_batch(run, tmp_path, caplog):
    """Processes that drift apart, roll out the same rows, or split groups so that baselines and prices mix. A group
    lies on both sides of the border here."""
    launch(distributed_run.main, str(tmp_path), 6)
    first, second = (torch.load(tmp_path / f"rank-{rank}.pt") for rank in (0, 1))
    assert first["seed"] != second["seed"]
    assert same_weights(first["weights"], second["weights"])
    assert first["evaluation"] == second["evaluation"]
    assert first["stopped"] == second["stopped"] == 4  # one that goes on would wait for the other for ever
    alone = distributed_run.finished(str(tmp_path / "alone"), 12)
    for name, tensor in alone["weights"].items():
        torch.testing.assert_close(first["weights"][name], tensor, rtol=0, atol=1e-4, msg=name)
    assert first["evaluation"] == pytest.approx(alone["evaluation"], abs=1e-4)
    for two, one in zip(first["logs"], alone["logs"], strict=True):
        names = ("loss", "reward", "nfe", "unresolved_masks", "entropy", "grad_norm")
        assert [two.get(name) for name in names] == pytest.approx([one.get(name) for name in names], abs=1e-4)
    assert os.listdir(tmp_path / "run") == ["checkpoint-4"]
    saved = tmp_path / "run" / "checkpoint-4"
    assert same_weights(first["weights"], load_file(saved / "model.safetensors"))
    assert damage(saved) is None and {"rng_state_0.pth", "rng_state_1.pth"} <= set(os.listdir(saved))
    assert to_resume(run.args, str(saved)) == str(saved)
    assert "saved by 2 process(es), now there are 1" in caplog.text
    (saved / "rng_state_1.pth").unlink()
    assert damage(saved) == "rng_state_1.pth is missing"


# Validation


@pytest.fixture(scope="module")
def speedy():
    return SpeedReward(letters)


def test_evaluation_is_the_policy_as_it_will_be_used(run, tmp_path, speedy):
    """Validation with the training rule (no fallback), other lengths, or scores of other rows."""
    data = rows(8, max_new_tokens=RAGGED)
    settings = {"eval_policy_temperature": 0.5, "max_prompt_length": 3, "alpha": 0.7}
    judge = make_trainer(tmp_path, f"{run.args.output_dir}/checkpoint-8", speedy, eval_dataset=data, **settings)
    judge.policy.train()
    found = judge.evaluate()
    assert judge.evaluate() == found and judge.policy.training
    sampler = LearnedUnmaskingSampler.from_pretrained(f"{run.args.output_dir}/checkpoint-8", policy_temperature=0.5)
    rewards, forwards = [], []
    for number, row in enumerate(data):
        ids = judge.processing_class(row["prompt"])["input_ids"][-3:]
        canvas = torch.tensor([ids + [MASK] * row["max_new_tokens"]])
        output = hf_unmask.generate(
            tiny_eurobert(),
            canvas,
            sampler=sampler,
            fill_mask=canvas == MASK,
            max_new_tokens=0,
            block_length=3,
            seed=row_seeds(judge.args.seed, 0, torch.tensor([number])),
            return_dict_in_generate=True,
        )
        assert output.complete.all()
        written = output.sequences[0, len(ids) :].tolist()
        written = written[: max(written.index(1), 1)] if 1 in written else written
        text = judge.processing_class.decode(written, skip_special_tokens=True)
        steps, positions = output.nfe.tolist(), [row["max_new_tokens"]]
        rewards += speedy(completions=[text], steps=steps, positions=positions, alpha=[0.7])
        forwards += steps
    assert found["eval_reward"] == pytest.approx(sum(rewards) / 8)
    assert found["eval_rewards/fast_letters"] == pytest.approx(sum(rewards) / 8)
    assert found["eval_nfe"] == pytest.approx(sum(forwards) / 8)


def test_evaluation_does_not_disturb_training(run, tmp_path):
    """Random numbers, metrics or the mode of the policy that evaluation leaves changed."""
    options = {"eval_strategy": "steps", "eval_steps": 1, "eval_dataset": rows(3), "eval_on_start": True}
    watched = make_trainer(tmp_path, **LONG | {"save_strategy": "no"}, **options)
    watched.train()
    assert len(logged(watched, "eval_reward")) == 9
    assert curve(watched) == curve(run) and same_weights(weights(watched.policy), weights(run.policy))
    assert logged(watched, "reward") == logged(run, "reward") and logged(watched, "nfe") == logged(run, "nfe")


def test_evaluation_at_several_speeds_and_on_several_data_sets(tmp_path):
    """A speed that is not passed on; a mean that leaves one out; data sets whose numbers overwrite each other."""
    policy = random_policy(spread=0.5, **CONDITIONED)
    data = {"short": rows(4, max_new_tokens=[2] * 4), "long": rows(4)}
    speeds = [0.0, 1.0]
    run = make_trainer(tmp_path, policy, SpeedReward(letters), eval_dataset=data, eval_speeds=speeds)
    found = run.evaluate()
    assert found["eval_short_nfe"] <= 2 < found["eval_long_nfe"]
    for name in ("reward", "nfe", "rewards/fast_letters"):
        parts = [found[f"eval_long_{name}_at_speed_{speed:g}"] for speed in speeds]
        assert found[f"eval_long_{name}"] == pytest.approx(sum(parts) / 2)
    for speed in speeds:
        one = make_trainer(tmp_path, policy, SpeedReward(letters), eval_dataset=data["long"], eval_speeds=[speed])
        assert one.evaluate()["eval_nfe"] == found[f"eval_long_nfe_at_speed_{speed:g}"]
    assert found["eval_long_nfe_at_speed_0"] != found["eval_long_nfe_at_speed_1"]


def test_evaluation_without_prompts_is_refused(tmp_path):
    """A mean of nothing."""
    with pytest.raises(ValueError, match="eval_dataset"):
        make_trainer(tmp_path).evaluate()


class Collapse(TrainerCallback):
    """A policy that opens everything at once at update 4, and nothing of its own accord at any other."""

    def on_step_end(self, args, state, control, model, **kwargs):
        model.head.bias.data.fill_(20.0 if state.global_step == 4 else -20.0)


def test_the_best_checkpoint_is_kept(tmp_path):
    """A run that ends with a collapsed policy although a better one was saved."""
    best = {"load_best_model_at_end": True, "metric_for_best_model": "eval_reward", "greater_is_better": True}
    settings = LONG | best | {"eval_strategy": "steps", "eval_steps": 2, "token_temperature": 0.0}
    run = make_trainer(tmp_path, None, quick, eval_dataset=rows(8), callbacks=[Collapse()], **settings)
    run.train()
    rewards = dict(zip((2, 4, 6, 8), logged(run, "eval_reward"), strict=True))
    step = max(rewards, key=lambda s: rewards[s])
    assert step == 4 and len(set(rewards.values())) > 1  # else the test shows nothing
    assert run.state.best_model_checkpoint.endswith(f"checkpoint-{step}")
    assert same_weights(weights(run.policy), weights(load_policy(tmp_path / f"checkpoint-{step}")))
    assert run.evaluate()["eval_reward"] == pytest.approx(rewards[step])
