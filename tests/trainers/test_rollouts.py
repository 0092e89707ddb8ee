"""Rollouts: what is recorded is what was done, and its likelihood can be computed again from the record."""

from __future__ import annotations

import copy
import itertools
import math

import pytest
import torch
from accelerate import Accelerator
from helpers import ALL_SAMPLERS, slow
from models import EOS, MASK, tiny_eurobert
from plans import POSITIONS, PROMPTS, Planned, all_sequences, recorded
from training import CONDITIONED, SETTINGS, SMALL, random_policy
from transformers import GenerationConfig

import hf_unmask
from hf_unmask.denoisers.adapter import Denoiser
from hf_unmask.policy import UnmaskingPolicy, UnmaskingPolicyConfig
from hf_unmask.samplers import ConfidenceSampler, EosSuppressSampler, LearnedUnmaskingSampler
from hf_unmask.trainers import UnmaskingGRPOConfig
from hf_unmask.trainers.environment import Environment, row_seeds
from hf_unmask.trainers.experts import Expert, parse_experts
from hf_unmask.trainers.rollouts import RecordingSampler, Rollouts, mixed_with_expert, replay, roll_out
from hf_unmask.trainers.speeds import gradient_norms, group_speeds, price_scales

VARIANTS = {
    "bernoulli, canvas": {},
    "bernoulli, block": {"observation": "block"},
    "plackett_luce, canvas": {"action": "plackett_luce"},
    "plackett_luce, block": {"action": "plackett_luce", "observation": "block"},
    "top 5, hidden states": {"top_k": 5, "hidden_input_size": 32},
    "conditioned": {"top_k": 2, **CONDITIONED},
    "portable, canvas": {"top_k": 2, "further_inputs": "portable"},
    "portable, block": {"observation": "block", "further_inputs": "portable", "reads_revealed": False},
    "masked positions alone": {"top_k": 2, "hidden_input_size": 32, "reads_revealed": False},
}


@pytest.fixture(scope="module")
def denoiser(model):
    return Denoiser.from_model(model)


@pytest.fixture(scope="module")
def denoiser64(model64):
    return Denoiser.from_model(model64)


DRAWING = GenerationConfig(do_sample=True, temperature=3.0, block_length=2)


@pytest.mark.parametrize("block_length", [3, None])
def test_rollouts_are_greedy_whatever_the_model_says(denoiser, block_length):
    """A denoiser whose own config draws tokens, or decodes in blocks, where the settings do not."""
    policy, drawing = random_policy(), tiny_eurobert()
    drawing.generation_config = copy.deepcopy(DRAWING)
    expected, found = (
        recorded(one, policy, block_length=block_length) for one in (denoiser, Denoiser.from_model(drawing))
    )
    assert found.tokens == expected.tokens and torch.equal(found.steps, expected.steps)


# The record


@pytest.mark.parametrize("batch_size", [None, 2])
@pytest.mark.parametrize("variant", VARIANTS)
def test_replay_gives_the_recorded_likelihood(denoiser, variant, batch_size):
    """A ratio other than 1 on the first pass: something the policy read was not stored, or stored for another row."""
    policy = random_policy(**VARIANTS[variant])
    trajectory = recorded(denoiser, policy, batch_size=batch_size).trajectory
    logps, entropy = replay(policy, policy, trajectory, compute_entropy=True)
    mask = trajectory["mask"]
    assert ((logps - trajectory["logps"]).exp() - 1).abs().max() < 1e-5
    assert (logps[mask] < 0).any() and not logps[~mask].any()
    assert (entropy[mask] > 0).any() and not entropy[~mask].any()


@pytest.mark.parametrize("variant", ["bernoulli, canvas", "plackett_luce, block", "conditioned"])
def test_rollouts_do_not_depend_on_the_batch(denoiser64, variant):
    """Rows of a split batch that draw otherwise, or whose trajectories are padded in the wrong place."""
    policy = random_policy(**VARIANTS[variant]).double()
    whole, split = (recorded(denoiser64, policy, batch_size=size) for size in (None, 2))
    assert whole.tokens == split.tokens
    for name in ("steps", "positions", "unresolved"):
        assert torch.equal(getattr(whole, name), getattr(split, name))
    valid = whole.trajectory["valid"]
    assert torch.equal(valid, split.trajectory["valid"])
    for name, values in whole.trajectory.items():
        there = valid if values.shape[:3] == valid.shape else whole.trajectory["mask"]
        torch.testing.assert_close(values[there], split.trajectory[name][there], msg=name)


@pytest.mark.parametrize("block_length", [3, None])
def test_the_record_is_what_happened(denoiser, block_length):
    """Masks, blocks, time or step counts that drift from what the loop did."""
    rollouts = recorded(denoiser, random_policy(), block_length=block_length)
    seen = rollouts.trajectory
    assert torch.equal(seen["mask"].sum(-1), rollouts.steps)
    assert (rollouts.steps <= rollouts.positions).all()
    for row, length in enumerate(POSITIONS):
        steps = int(rollouts.steps[row])
        assert seen["mask"][row, :steps].all()
        masked, eligible, action = (seen[name][row, :steps] for name in ("masked", "eligible", "action"))
        assert seen["valid"][row, :steps].sum(-1).tolist() == [length] * steps
        assert seen["time"][row, :steps].tolist() == pytest.approx([step / length for step in range(steps)])
        assert masked[0].sum() == length
        assert not (eligible & ~masked).any() and not ((action > 0) & ~eligible).any()
        after = masked & (action == 0)
        assert torch.equal(masked[1:], after[:-1])
        assert after[-1].sum() == rollouts.unresolved[row]
        assert [token == MASK for token in rollouts.tokens[row]] == after[-1, :length].tolist()
        size = block_length or length
        blocks = [torch.arange(masked.shape[1])[now] // size for now in eligible]
        assert all(len(block.unique()) == 1 for block in blocks)
        visited = [int(block[0]) for block in blocks]
        assert visited == sorted(visited) and max(visited.count(block) for block in visited) <= size


def test_confidences_are_the_denoisers(denoiser64):
    """A policy trained on the confidences of another step or position."""
    rollouts = recorded(denoiser64, random_policy().double(), prompts=PROMPTS[:1], positions=POSITIONS[:1])
    seen, written = rollouts.trajectory, torch.tensor(rollouts.tokens[0])
    for step in range(int(rollouts.steps[0])):
        canvas = torch.where(seen["masked"][0, step], MASK, written)
        logits = denoiser64.model(torch.cat([torch.tensor(PROMPTS[0]), canvas])[None]).logits[0, len(PROMPTS[0]) :]
        logits[:, MASK] = -math.inf
        torch.testing.assert_close(seen["confidences"][0, step, :, 0], logits.softmax(-1).amax(-1))


def test_the_same_seeds_give_the_same_rollouts(denoiser):
    """A global random generator in the rollouts: runs would not repeat, and processes would not agree."""
    policy = random_policy()
    first = recorded(denoiser, policy)
    torch.rand(7)
    again = recorded(denoiser, policy)
    assert first.tokens == again.tokens and torch.equal(first.trajectory["logps"], again.trajectory["logps"])


# All-zero actions


def test_nothing_opens_and_every_row_ends(denoiser):
    """A fallback that nobody asked for (the paper trains without), or a policy that opens nothing and never ends."""
    policy = UnmaskingPolicy(UnmaskingPolicyConfig(**SMALL, initial_bias=-100.0))
    rollouts = recorded(denoiser, policy)
    assert rollouts.steps.tolist() == rollouts.unresolved.tolist() == POSITIONS
    assert rollouts.tokens == [[MASK] * length for length in POSITIONS]
    assert not rollouts.trajectory["action"].any()


def test_an_empty_step_has_its_ordinary_likelihood(denoiser):
    """An all-zero step that is dropped, forced open, or scored as certain."""
    policy = random_policy(spread=0.1)
    policy.head.bias.data.fill_(-2.0)
    seen = recorded(denoiser, policy).trajectory
    empty = seen["mask"] & ~(seen["action"] > 0).any(-1)
    assert empty.any() and not empty[seen["mask"]].all()
    logits = policy(seen["confidences"][empty], seen["masked"][empty], seen["time"][empty], valid=seen["valid"][empty])
    expected = ((1 - logits.sigmoid()).log() * seen["eligible"][empty]).sum(-1)
    torch.testing.assert_close(seen["logps"][empty], expected)


@pytest.mark.parametrize("variant", ["bernoulli, canvas", "bernoulli, block", "plackett_luce, block"])
def test_with_the_fallback_rollouts_are_the_policy_in_use(denoiser, variant):
    """Rollouts that should show the policy as it is used and differ, or a forced opening scored as if it was drawn."""
    policy = random_policy(**VARIANTS[variant])
    policy.head.bias.data.fill_(-2.0)
    drawn, used = (
        roll_out(denoiser, sampler, PROMPTS, POSITIONS, torch.arange(len(PROMPTS)), block_length=3)
        for sampler in (RecordingSampler(policy, fallback=True), LearnedUnmaskingSampler(policy))
    )
    seen = drawn.trajectory
    assert drawn.tokens == used.tokens and torch.equal(drawn.steps, used.steps) and not drawn.unresolved.any()
    empty = seen["mask"] & ~(seen["action"] > 0).any(-1)
    assert empty.any() == (policy.config.action == "bernoulli")
    logps, _ = replay(policy, policy, seen)
    torch.testing.assert_close(logps, seen["logps"])
    drawn_open = (seen["action"] > 0).sum((1, 2))
    assert torch.equal(drawn_open + empty.sum(-1), drawn.positions)  # the fallback opens one position at a time


# Probabilities


def one_step(denoiser, policy):
    """A step with three eligible positions of a canvas of seven, as a trajectory [1, 1, ...]."""
    trajectory = recorded(denoiser, policy, prompts=PROMPTS[:1], positions=POSITIONS[:1]).trajectory
    step = {name: value[:, :1] for name, value in trajectory.items()}
    assert int(step["eligible"].sum()) == 3
    return step


def with_actions(step, actions):
    """The step once per action on its eligible positions, [A, 1, ...]."""
    many = {name: value.expand(len(actions), *value.shape[1:]).clone() for name, value in step.items()}
    many["action"][many["eligible"]] = torch.tensor(actions).flatten()
    return many


@pytest.mark.parametrize("variant", [name for name in VARIANTS if "plackett" not in name])
def test_bernoulli_steps_enumerate_to_one(denoiser64, variant):
    """A likelihood that counts ineligible positions or leaves eligible ones out."""
    policy = random_policy(**VARIANTS[variant]).double()
    actions = with_actions(one_step(denoiser64, policy), list(itertools.product((0, 1), repeat=3)))
    logps, _ = replay(policy, policy, actions)
    assert logps.exp().sum().item() == pytest.approx(1, abs=1e-6)
    actions["action"] += (~actions["eligible"]).long()
    assert torch.equal(replay(policy, policy, actions)[0], logps)


@pytest.mark.parametrize("variant", [name for name in VARIANTS if "plackett" in name])
def test_plackett_luce_steps_enumerate_to_one(denoiser64, variant):
    """The likelihood of an ordered list that forgets STOP, or counts it before the first item."""
    policy = random_policy(**VARIANTS[variant]).double()
    lists = [order for size in (1, 2, 3) for order in itertools.permutations(range(3), size)]
    ranks = [[order.index(place) + 1 if place in order else 0 for place in range(3)] for order in lists]
    logps, _ = replay(policy, policy, with_actions(one_step(denoiser64, policy), ranks))
    assert len(lists) == 15 and logps.exp().sum().item() == pytest.approx(1, abs=1e-6)


def test_sequences_enumerate_to_one_and_are_drawn_as_often(denoiser64):
    """Rollouts drawn from another distribution than the one whose likelihood is trained."""
    policy = random_policy(spread=0.5).double()
    logps, _ = replay(policy, policy, all_sequences(denoiser64, policy).trajectory)
    probability = logps.sum(-1).exp()
    assert probability.sum().item() == pytest.approx(1, abs=1e-5)
    count = 2000
    drawn = recorded(denoiser64, policy, block_length=None, prompts=[PROMPTS[0]] * count, positions=[3] * count)
    opened = drawn.trajectory["action"] > 0  # [B, 3, 3]
    plans = torch.where(opened.any(1), opened.long().argmax(1), 3)
    code = (plans * torch.tensor([16, 4, 1])).sum(-1)
    expected = count * probability
    chi_square = ((code.bincount(minlength=64) - expected).square() / expected).sum().item()
    assert chi_square < 120  # 63 degrees of freedom: exceeded by chance once in 60,000


# Experts


@pytest.mark.parametrize("observation", ["canvas", "block"])
def test_an_expert_decides_and_the_policy_watches(denoiser, observation):
    """An expert disturbed by being watched, or an action other than what it opened."""
    expert = Expert(ConfidenceSampler(k=2), 3)
    policy = random_policy(observation=observation)
    rollouts = recorded(denoiser, policy, expert.sampler)
    alone = roll_out(denoiser, expert.sampler, PROMPTS, POSITIONS, torch.arange(5), block_length=3)
    assert rollouts.tokens == alone.tokens and torch.equal(rollouts.steps, alone.steps) and not alone.trajectory
    seen = rollouts.trajectory
    opened = (seen["action"] > 0) & seen["mask"][..., None]
    assert opened.sum(-1).max() == 2 and opened.sum((1, 2)).tolist() == POSITIONS
    logps, _ = replay(policy, policy, seen)
    assert (logps - seen["logps"]).abs().max() < 1e-5


EXPERTS = {
    **ALL_SAMPLERS,
    "narrow, canvas": LearnedUnmaskingSampler(random_policy(1)),
    "wide, block": LearnedUnmaskingSampler(random_policy(2, top_k=9, observation="block"), greedy=True),
    "block, masked alone": LearnedUnmaskingSampler(
        random_policy(3, observation="block", reads_revealed=False, top_k=2)
    ),
    "canvas, masked alone": LearnedUnmaskingSampler(random_policy(4, reads_revealed=False)),
    "hidden states": LearnedUnmaskingSampler(random_policy(5, hidden_input_size=32, action="plackett_luce")),
    "at a speed": LearnedUnmaskingSampler(random_policy(6, **CONDITIONED, top_k=3), speed=0.3),
    "wrapped": EosSuppressSampler(LearnedUnmaskingSampler(random_policy(7, observation="block"))),
}
WATCHING = {
    "canvas": {"top_k": 8},
    "block": {"observation": "block", "hidden_input_size": 32},
    "masked alone": {"reads_revealed": False, **CONDITIONED},
}


#: Policies, and of rules those that read different things, watched by one kind of policy each; the others are slow.
READING = [name for name in EXPERTS if name not in ALL_SAMPLERS] + ["threshold", "entropy_bound", "klass", "random"]
QUICK = list(zip(READING, itertools.cycle(WATCHING)))  # noqa: B905  (one has no end)
PAIRS = [pair if pair in QUICK else slow(*pair) for pair in itertools.product(EXPERTS, WATCHING)]


@pytest.mark.parametrize(("expert", "watching"), PAIRS)
def test_an_expert_gets_what_it_would_get_alone(denoiser64, watching, expert):
    """An expert that reads other quantities, another number of probabilities or another window than the policy that
    watches it, and fails or decides otherwise for that; a policy that is shown what the expert reads."""
    sampler, policy = EXPERTS[expert], random_policy(**WATCHING[watching]).double()
    for held in (sampler, getattr(sampler, "inner", None)):
        if isinstance(held, LearnedUnmaskingSampler):
            held.policy.double()
    for block_length in (3, None):
        options = {"block_length": block_length, "batch_size": 3}
        alone = roll_out(denoiser64, sampler, PROMPTS, POSITIONS, torch.arange(len(PROMPTS)), **options)
        watched = recorded(denoiser64, policy, sampler, **options)
        assert watched.tokens == alone.tokens and torch.equal(watched.steps, alone.steps)
        seen = watched.trajectory
        assert seen["confidences"].shape[-1] == policy.config.top_k and ("hidden" in seen) == (watching == "block")
        width = 3 if watching == "block" and block_length else max(POSITIONS)
        assert seen["masked"].shape[-1] == width
        opened = ((seen["action"] > 0) & seen["mask"][..., None]).sum((1, 2))
        assert opened.tolist() == POSITIONS and not (seen["action"] > 0)[~seen["eligible"]].any()
        logps, _ = replay(policy, policy, seen)
        torch.testing.assert_close(logps, seen["logps"])


def test_a_watching_policy_reads_what_it_would_read_alone(denoiser64):
    """Inputs of the policy that change with the expert: it would be trained on what it never sees in use."""
    wide = LearnedUnmaskingSampler(random_policy(1, top_k=5, hidden_input_size=32).double(), greedy=True)
    for observation, reads, block in itertools.product(("canvas", "block"), (True, False), (3, None)):
        policy = random_policy(observation=observation, reads_revealed=reads, top_k=2).double()
        beside = recorded(denoiser64, policy, wide, block).trajectory
        opened = recorded(denoiser64, random_policy().double(), wide, block).trajectory["action"] > 0  # on the canvas
        plan = torch.where(opened.any(1), opened.long().argmax(1), opened.shape[1])
        alone = recorded(denoiser64, policy, Planned(plan), block).trajectory
        assert beside.keys() == alone.keys()
        for name, values in beside.items():
            torch.testing.assert_close(values, alone[name], msg=f"{name}, {observation}, {reads}, {block}")


def test_an_experts_step_is_judged_over_the_whole_canvas(denoiser):
    """Blocks that the expert left for later counted as undecided: the policy would not learn to leave them."""
    seen = recorded(denoiser, random_policy(), ConfidenceSampler(k=2)).trajectory
    assert torch.equal(seen["eligible"], seen["masked"])
    first = {name: values[0, 0] for name, values in seen.items()}
    assert first["eligible"].sum() == 7 and (first["action"] > 0).nonzero().max() < 3
    policy = random_policy()
    logits = policy(first["confidences"][None], first["masked"][None], first["time"][None])[0]
    signs = torch.where(first["action"] > 0, 1.0, -1.0)
    torch.testing.assert_close(first["logps"], (logits * signs).sigmoid().log().sum())


def test_unordered_expert_actions_get_an_order(denoiser):
    """A Plackett-Luce policy that is asked for the likelihood of a list without an order."""
    seen = recorded(denoiser, random_policy(action="plackett_luce"), ConfidenceSampler(k=2)).trajectory
    action, confidence = seen["action"][0, 0], seen["confidences"][0, 0, :, 0]
    assert sorted(action.tolist()) == [0, 0, 0, 0, 0, 1, 2]
    assert confidence[action == 1] > confidence[action == 2]
    assert seen["logps"].isfinite().all()


def test_the_mixture_of_policy_and_expert():
    """Expert steps without the point mass, or policy steps with it."""
    probability = torch.tensor([[0.5, 0.1], [0.5, 0.1]], dtype=torch.float64)
    mixed = mixed_with_expert(probability.log(), torch.tensor([True, False]), 8, 2).exp()
    torch.testing.assert_close(mixed[0], (8 * probability[0] + 1) / 10)
    torch.testing.assert_close(mixed[1], probability[1])


def test_the_ratio_of_an_expert_step_is_bounded():
    """Exploding updates on actions the policy finds impossible."""
    logps = torch.tensor([0.0, -1.0, -20.0, -1000.0])
    mixed = mixed_with_expert(logps[:, None], torch.ones(4, dtype=torch.bool), 8, 1)[:, 0]
    ratio = (mixed[:, None] - mixed[None, :]).exp()
    assert ratio.max().item() == pytest.approx(9) and ratio.min().item() == pytest.approx(1 / 9)
    assert ratio[2, 3].item() == pytest.approx(1, abs=1e-6)  # both vanish


def test_expert_steps_hardly_pull_a_fresh_policy(denoiser):
    """At initialisation the policy's likelihood of a long expert action is nearly nothing, and so must its pull be."""
    policy = UnmaskingPolicy(UnmaskingPolicyConfig(**SMALL))
    seen = recorded(denoiser, policy, ConfidenceSampler(k=8), None, prompts=PROMPTS[:2], positions=[48, 48]).trajectory

    def pull(mixed):
        logps, _ = replay(policy, policy, seen)
        expert = torch.full((2,), mixed)
        loss = mixed_with_expert(logps, expert, 8, 1)[:, :2].sum()  # while much is masked
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, policy.parameters())]).norm()

    assert pull(True) < 1e-3 * pull(False)


@pytest.mark.parametrize(
    ("spec", "default", "expected"),
    [
        ("confidence:k=2@10", 4, [("confidence:k=2", 10)]),
        ("confidence:k=2@full", 4, [("confidence:k=2", None)]),
        ("confidence:k=2", 4, [("confidence:k=2", 4)]),
        ("threshold:threshold=0.5..0.9/3@8", None, [(f"threshold:threshold={t}", 8) for t in (0.5, 0.7, 0.9)]),
    ],
)
def test_specs_of_experts(spec, default, expected):
    """A sweep or a block length that is dropped."""
    found = [(str(expert.sampler), expert.block_length) for expert in parse_experts([spec], default)]
    assert [length for _, length in found] == [length for _, length in expected]
    assert [str(hf_unmask.parse_sampler(text)) for text, _ in expected] == [text for text, _ in found]


@pytest.mark.parametrize("block", ["0", "-3", "half", ""])
def test_a_wrong_block_length_is_named(block):
    """A mistyped block length read as part of the sampler."""
    with pytest.raises(ValueError, match=f"block length or `full`, got '{block}'"):
        parse_experts([f"confidence:k=2@{block}"], 4)


# The environment


def environment(denoiser, policy, **settings):
    return Environment(denoiser, policy, UnmaskingGRPOConfig("unused", **SETTINGS | settings))


def test_prompts_keep_their_end(denoiser):
    """A long prompt cut at its end, where the question is; None must keep all of it."""
    policy, long = random_policy(), [list(range(10, 30))]
    rows, seeds = [{"max_new_tokens": 5}], torch.tensor([3])

    def answer(most, ids):
        env = environment(denoiser, policy, max_prompt_length=most)
        return env.roll_out(RecordingSampler(policy), ids, rows, seeds, 3).tokens

    assert answer(4, long) == answer(None, [long[0][-4:]]) == answer(0, [long[0][-4:]])
    assert answer(None, long) == answer(20, long) != answer(4, long)


def test_rows_say_how_much_to_fill(denoiser):
    """A column that is ignored: puzzles would be answered with the length of essays."""
    env = environment(denoiser, policy := random_policy())
    rows = [{"max_new_tokens": 2}, {}, {"max_new_tokens": None}]
    rollouts = env.roll_out(RecordingSampler(policy), PROMPTS[:3], rows, torch.arange(3), 3)
    assert [len(row) for row in rollouts.tokens] == rollouts.positions.tolist() == [2, 6, 6]


def test_completions_end_before_a_stop_token(denoiser):
    """Rewards that read what stands behind the end, and empty completions, on which TRL fails."""
    zero = torch.zeros(3, dtype=torch.long)
    rollouts = Rollouts([[7, EOS, 8], [EOS, 7], [7, 8, 9]], zero, zero, zero)
    assert environment(denoiser, random_policy()).completions(rollouts) == [[7], [EOS], [7, 8, 9]]


def test_rows_get_what_a_reward_of_speed_needs(denoiser):
    """Costs written into the data set's own rows, which a group shares; or the price of another speed."""
    rollouts = Rollouts([[1]] * 2, torch.tensor([3, 0]), torch.tensor([6, 4]), torch.tensor([0, 0]))
    shared = {"prompt": "a"}
    plain = environment(denoiser, random_policy(), alpha=0.3).with_costs([shared] * 2, rollouts, None)
    assert plain == [
        {"prompt": "a", "steps": 3, "positions": 6, "alpha": 0.3},
        {"prompt": "a", "steps": 1, "positions": 4, "alpha": 0.3},
    ]
    assert shared == {"prompt": "a"}
    conditioned = environment(denoiser, random_policy(**CONDITIONED), alpha=0.3)
    priced = conditioned.with_costs([shared] * 2, rollouts, torch.tensor([0.0, 1.0]))
    assert [row["alpha"] for row in priced] == pytest.approx([math.exp(-2.0), math.exp(1.5)])


def test_seeds_differ_by_run_rollout_and_row():
    """Rollouts that repeat those of an earlier batch; seeds that transformers takes and 64 bits do not."""
    number = torch.arange(5)
    seeds = torch.cat([row_seeds(seed, rollout, number) for seed in (0, 1, 2**32 - 1) for rollout in (0, 1, 7)])
    assert len(seeds.unique()) == len(seeds) == 45 and (seeds >= 0).all()


def test_speeds_are_even_equal_in_a_group_and_new_each_time():
    """A policy that never sees a part of the dial, or a group whose rewards have different prices."""
    groups = torch.arange(32) // 4
    speeds = group_speeds(0, groups, seed=3)
    assert ((speeds >= 0) & (speeds < 1)).all()
    assert torch.equal(speeds, speeds[::4].repeat_interleave(4))
    gaps = torch.cat([speeds.unique(), speeds.min()[None] + 1]).diff()
    assert len(gaps) == 8 and gaps.max() < 0.25
    assert not torch.equal(speeds, group_speeds(1, groups, seed=3))
    assert not torch.equal(speeds, group_speeds(0, groups, seed=4))


def test_the_scale_of_a_group_is_what_right_answers_would_earn():
    costs = [(1, 1.0), (3, 1.0), (4, 0.0), (4, 0.0)]
    rows = [{"steps": steps, "positions": 4, "alpha": alpha} for steps, alpha in costs]
    found = price_scales(rows, 2, Accelerator(cpu=True))
    assert found.tolist() == [0.75, 0.75, 1.0, 1.0]


def test_gradient_norms_tell_slow_from_fast(denoiser):
    """A logged norm that mixes prices, or is 0 where no group had one."""
    policy = random_policy(**CONDITIONED)
    seen = recorded(denoiser, policy, prompts=PROMPTS[:2], positions=[6, 6]).trajectory  # speeds 0 and 1
    seen["replayed"], _ = replay(policy, policy, seen)
    advantages = torch.tensor([0.5, -2.0])
    norms = gradient_norms(policy, seen, advantages, seen["logps"])
    assert norms.keys() == {"grad_norm/slow", "grad_norm/fast"}
    for row, name in enumerate(norms):
        steps = seen["mask"][row].sum()
        share = advantages[row] * seen["replayed"][row].sum() / steps
        gradients = torch.autograd.grad(share, policy.parameters(), retain_graph=True)
        assert norms[name] == pytest.approx(math.sqrt(sum(g.square().sum().item() for g in gradients)), rel=1e-4)
