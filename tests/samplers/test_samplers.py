"""Known answers of every sampler, the defects found in other implementations, and what holds for all of them."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import json
import math
import re
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from helpers import ALL_SAMPLERS, as_lists, confident, make_step, opened, take
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import hf_unmask.samplers
from hf_unmask import generate
from hf_unmask.generation.step import State
from hf_unmask.samplers import (
    ConfidenceSampler,
    CreditSampler,
    DilatedSampler,
    EntropyBoundSampler,
    EntropySampler,
    EosSuppressSampler,
    FactorSampler,
    KLASSSampler,
    LeftToRightSampler,
    MarginSampler,
    PCSampler,
    RandomSampler,
    Sampler,
    ThresholdSampler,
)
from hf_unmask.samplers.pc import frequency_table, surprisals

each_sampler = pytest.mark.parametrize("sampler", ALL_SAMPLERS.values(), ids=ALL_SAMPLERS.keys())
budgeted = pytest.mark.parametrize(
    "cls", [ConfidenceSampler, EntropySampler, LeftToRightSampler, MarginSampler, PCSampler, RandomSampler]
)


def dist(*rows: list[list[float]]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


# Fixed budget


def test_random_takes_the_largest_noise_among_eligible():
    noise = torch.tensor([[0.2, 0.9, 0.5, 0.7]])
    eligible = torch.tensor([[True, False, True, True]])
    flat = confident([[0.5] * 4])
    assert opened(RandomSampler(k=2), flat, action=noise) == [[1, 3]]
    assert opened(RandomSampler(k=2), flat, action=noise, eligible=eligible) == [[2, 3]]


def test_left_to_right():
    masked = torch.tensor([[False, True, False, True, True]])
    assert opened(LeftToRightSampler(k=2), confident([[0.5] * 5]), masked=masked) == [[1, 3]]


def test_confidence():
    probs = confident([[0.5, 0.9, 0.7, 0.6]])
    assert opened(ConfidenceSampler(), probs) == [[1]]
    assert opened(ConfidenceSampler(k=2), probs) == [[1, 2]]
    assert opened(ConfidenceSampler(k=9), probs) == [[0, 1, 2, 3]]


def test_confidence_is_that_of_the_proposal():
    # the drawn token of place 0 has 0.2, that of place 1 has 0.6
    probs = dist([[0.8, 0.2], [0.6, 0.4]])
    assert opened(ConfidenceSampler(), probs, proposal=torch.tensor([[1, 0]])) == [[1]]


def test_margin_differs_from_confidence():
    # margins 0.60 - 0.40 = 0.20 and 0.50 - 0.25 = 0.25; confidences 0.60 and 0.50
    probs = dist([[0.60, 0.40, 0.0], [0.50, 0.25, 0.25]])
    assert opened(MarginSampler(), probs) == [[1]]
    assert opened(ConfidenceSampler(), probs) == [[0]]


def test_entropy_differs_from_confidence():
    # H = ln 2 = 0.693 and 0.6 * 0.511 + 0.4 * 1.609 = 0.950; confidences 0.5 and 0.6
    probs = dist([[0.5, 0.5, 0.0], [0.6, 0.2, 0.2]])
    assert opened(EntropySampler(), probs) == [[0]]
    assert opened(ConfidenceSampler(), probs) == [[1]]


def test_entropy_opens_the_sharp_position_first():
    """A public implementation scores by +entropy, which opens the flat one."""
    probs = dist([[1 / 3, 1 / 3, 1 / 3], [0.98, 0.01, 0.01]])
    step, _ = make_step(probs)
    assert step.entropy.argmax(-1).tolist() == [0]  # the defective choice
    assert opened(EntropySampler(), probs) == [[1]]


@budgeted
@pytest.mark.parametrize("steps", range(1, 9))
@pytest.mark.parametrize("width", [1, 2, 5, 8])
def test_steps_per_block_is_the_table_of_llada(cls, steps, width):
    # width // steps tokens per step and one more in the first width % steps; steps that would open none do not occur
    table = [width // steps + (i < width % steps) for i in range(steps)]
    sampler, masked, counts = cls(steps_per_block=steps), torch.ones(1, width, dtype=torch.bool), []
    while masked.any():
        step, noise = make_step(confident([[0.5] * width]), masked=masked, block_steps=len(counts))
        chosen = sampler.select(step, None, noise).open
        masked = masked & ~chosen
        counts.append(int(chosen.sum()))
    assert counts == [n for n in table if n > 0]


@budgeted
def test_quota_belongs_to_the_row(cls):
    """A native loop of Dream takes one quota from the average over the batch."""
    left = torch.tensor([[True] * 2 + [False] * 6, [True] * 8])
    step, noise = make_step(confident([[0.5] * 8] * 2), masked=left)
    average = int(left.sum(-1).float().mean() / 2)  # 5 / 2, for both rows
    counts = cls(steps_per_block=2).select(step, None, noise).open.sum(-1).tolist()
    assert counts == [1, 4]  # ceil(2 / 2), ceil(8 / 2)
    assert counts != [average, average]


@budgeted
def test_quota_is_never_zero_after_its_steps(cls):
    assert len(opened(cls(steps_per_block=2), confident([[0.5] * 6]), block_steps=7)[0]) == 6
    assert len(opened(cls(steps_per_block=64), confident([[0.5] * 6]))[0]) == 1


@budgeted
def test_bad_budgets(cls):
    for options, words in [
        ({"k": 0}, "`k` must be an int of at least 1, got 0"),
        ({"k": 1.5}, "`k` must be an int, got 1.5"),
        ({"steps_per_block": 0}, "`steps_per_block`"),
        ({"k": 2, "steps_per_block": 4}, "either `k` or `steps_per_block`"),
        ({"schedule": "late"}, "give `steps_per_block` as well"),
        ({"schedule": "soon", "steps_per_block": 4}, "`schedule` must be one of even, late, got 'soon'"),
    ]:
        with pytest.raises(ValueError, match=re.escape(words)):
            cls(**options)


# Adaptive


def test_threshold_lets_equality_pass():
    probs = confident([[0.95, 0.9, 0.89], [0.5, 0.6, 0.4]])
    assert opened(ThresholdSampler(), probs) == [[0, 1], [1]]
    assert opened(ThresholdSampler(), probs.float()) == [[0, 1], [1]]


def test_threshold_falls_back_per_row():
    """The defective rule asks whether anything passed in the whole batch, so an unsure row beside a sure one stalls."""
    probs = confident([[0.95, 0.4], [0.5, 0.6]])
    step, noise = make_step(probs)
    passed = step.confidence >= 0.9
    defective = passed if passed.any() else passed | (step.confidence == step.confidence.amax(-1, keepdim=True))
    assert as_lists(defective) == [[0], []]
    assert as_lists(ThresholdSampler().select(step, None, noise).open) == [[0], [1]]


@each_sampler
def test_finished_rows_get_nothing(sampler):
    """The defective fallback takes the argmax of a row of -inf, which is position 0."""
    masked = torch.tensor([[False, False, False], [True, True, True]])
    first, second = opened(sampler, confident([[0.4] * 3] * 2), masked=masked)
    assert first == []
    assert second


@each_sampler
def test_two_stalled_rows_both_go_on(sampler):
    """A public KLASS rebuilds its mask inside the loop over rows: all but the last row lose their forced position."""
    rows = opened(sampler, confident([[0.34, 0.35], [0.36, 0.35]]))
    assert all(rows)


def defective_factor(confidences: list[float], factor: float) -> int:
    """The widespread copy: stopping at the last index counts as having passed it."""
    n = 0
    for n in range(1, len(confidences)):  # noqa: B007
        if confidences[n] < 1 - factor / (n + 2):
            break
    return n + 1 if n in (0, len(confidences) - 1) else n


@pytest.mark.parametrize(
    ("confidences", "expected"),
    [
        # bounds at factor 1: 1/2, 2/3, 3/4, 4/5
        ([0.90, 0.70, 0.76, 0.30], [0, 2]),  # ranked 0.90, 0.76, 0.70 < 0.75
        ([0.90, 0.70], [0, 1]),  # 0.70 >= 2/3
        ([0.90, 0.90, 0.90, 0.90], [0, 1, 2, 3]),
        ([0.30, 0.40, 0.35, 0.20], [1]),  # none passes, the first is forced
        ([0.90, 0.85, 0.80, 0.79], [0, 1, 2]),  # all but the last pass
        ([0.50], [0]),
    ],
)
def test_factor(confidences, expected):
    probs = confident([confidences], vocabulary=101)
    assert opened(FactorSampler(), probs) == [expected]
    ranked = sorted(confidences, reverse=True)
    brute = max([1, *(n for n in range(1, len(ranked) + 1) if all(ranked[i] >= 1 - 1 / (i + 2) for i in range(n)))])
    assert len(expected) == brute


def test_factor_opens_no_position_that_failed():
    assert defective_factor([0.90, 0.85, 0.80, 0.79], 1.0) == 4
    assert defective_factor([0.90, 0.90, 0.90, 0.90], 1.0) == 4
    assert len(opened(FactorSampler(), confident([[0.90, 0.85, 0.80, 0.79]]))[0]) == 3


@pytest.mark.parametrize(
    ("entropies", "expected"),
    [
        ([0.05, 0.30, 0.02, 0.06], [0, 2, 3]),  # ranked 0.02, 0.05, 0.06, 0.30: sums before each 0, 0.02, 0.07, 0.13
        ([0.50, 0.60], [0]),  # sums before each 0, 0.50
        ([0.00, 0.00, 9.00], [0, 1, 2]),  # 0, 0, 0
    ],
)
def test_entropy_bound(entropies, expected):
    step, noise = make_step(confident([[0.5] * len(entropies)]))
    step = replace(step, read={"entropy": torch.tensor([entropies])})
    assert as_lists(EntropyBoundSampler().select(step, None, noise).open) == [expected]


@pytest.mark.parametrize("gamma", [0.1, 1.0, 5.0])
def test_entropy_bound_is_that_of_transformers(gamma):
    """On equal inputs the mask of DiffusionGemma's sampler; two settings in one process give their own masks."""
    source = importlib.import_module("transformers.models.diffusion_gemma.generation_diffusion_gemma")
    config = source.EntropyBoundSamplerConfig(entropy_bound=gamma)
    generator = torch.Generator().manual_seed(0)
    for _ in range(40):
        scale = 6 * torch.rand(3, 12, 1, generator=generator)
        logits = torch.randn(3, 12, 7, generator=generator) * scale
        masked = torch.rand(3, 12, generator=generator) < 0.7
        masked[:, 0] = True
        step, noise = make_step(logits.softmax(-1), masked=masked)
        chosen = EntropyBoundSampler(gamma=gamma).select(step, None, noise).open
        for row in range(3):  # the reference knows no masked positions: it gets those of one row
            part = logits[row : row + 1, masked[row]]
            reference = source.EntropyBoundSampler(config, part.shape[1], 7, 1)
            ids = torch.zeros(1, part.shape[1], dtype=torch.long)
            reference.accept_canvas(ids, ids, part, 0)
            assert torch.equal(reference.accepted_token_mask[0], chosen[row, masked[row]])
            assert not chosen[row, ~masked[row]].any()


def run(sampler: Sampler, turns: list[Tensor], state: State = None) -> tuple[list[list[list[int]]], State]:
    """What the sampler opens when everything stays masked and the distributions change."""
    seen = []
    for number, probs in enumerate(turns):
        step, noise = make_step(probs, needs=sampler.needs, block_steps=number)
        selection = sampler.select(step, state, noise)
        state = selection.state
        seen.append(as_lists(selection.open))
    return seen, state


def test_klass():
    # place 1 jumps: KL((.9, .1) || (.5, .5)) = .9 ln 1.8 + .1 ln .2 = .529 - .161 = .368 >= .01
    # place 2 is stable but only .55 sure; places 0 and 3 are stable for two steps at the third turn
    still, moved = (
        [[0.9, 0.1], [0.9, 0.1], [0.55, 0.45], [0.8, 0.2]],
        [[0.9, 0.1], [0.5, 0.5], [0.55, 0.45], [0.8, 0.2]],
    )
    seen, (previous, stable) = run(KLASSSampler(tau=0.6), [dist(still), dist(moved), dist(still)])
    assert seen == [[[0]], [[0]], [[0, 3]]]
    assert stable.tolist() == [[2, 0, 2, 2]]
    assert torch.equal(previous, dist(still))


def test_klass_direction_and_strictness():
    # KL((1, 0) || (.99, .01)) = ln(1 / .99) = .01005 < .02, the other way round it is infinite
    seen, _ = run(KLASSSampler(tau=0.9, eps=0.02, n=1), [dist([[0.99, 0.01]] * 2), dist([[1.0, 0.0]] * 2)])
    assert seen[1] == [[0, 1]]
    # confidence equal to tau is not above it: only the forced position opens
    seen, _ = run(KLASSSampler(tau=0.9, n=1), [dist([[0.9, 0.1]] * 2)] * 2)
    assert seen[1] == [[0]]


def test_klass_row_starts_afresh_in_a_block():
    probs = confident([[0.95, 0.95]] * 2)
    state = (probs, torch.full((2, 2), 5))
    assert opened(KLASSSampler(), probs, state, block_steps=torch.tensor([0, 3])) == [[0], [0, 1]]


def test_credit():
    # alpha 1, beta .5, gamma 1. Fused top = p (C + 1) / (p (C + 1) + 1 - p)
    # turn 1, C = p:     .70: 1.190 / 1.490 = .799   .60: .960 / 1.360 = .706    .69: 1.166 / 1.476 = .790
    # turn 2, C = 1.5 p: .70: 1.435 / 1.735 = .827   .60: 1.140 / 1.540 = .740   .69: 1.404 / 1.714 = .819
    sampler = CreditSampler(alpha=1.0, beta=0.5, gamma=1.0, threshold=0.8)
    seen, credit = run(sampler, [dist([[0.7, 0.3], [0.6, 0.4], [0.69, 0.31]])] * 2)
    assert seen == [[[0]], [[0, 2]]]
    torch.testing.assert_close(credit, dist([[1.05, 0.0], [0.9, 0.0], [1.035, 0.0]]))


def test_credit_can_change_the_token():
    # C = (.6, 0), then (.6, .52): .48 * 1.6 ** 2 = 1.229 > .52 * 1.52 ** 2 = 1.201, although .52 leads now
    sampler = CreditSampler(alpha=2.0, beta=1.0, gamma=1.0)
    _, state = run(sampler, [dist([[0.6, 0.4]])])
    step, noise = make_step(dist([[0.48, 0.52]]), block_steps=1)
    assert step.proposal.tolist() == [[1]]
    assert sampler.select(step, state, noise).tokens.tolist() == [[0]]


def test_credit_starts_afresh_in_a_block_and_leaves_its_input_alone():
    probs, state = dist([[0.48, 0.52]], [[0.48, 0.52]]), dist([[9.0, 0.0]], [[9.0, 0.0]])
    step, noise = make_step(probs, block_steps=torch.tensor([0, 1]))
    selection = CreditSampler().select(step, state, noise)
    assert selection.tokens.tolist() == [[1], [0]]
    assert state.tolist() == [[[9.0, 0.0]], [[9.0, 0.0]]]


def rounds(masked: list[int], width: int, sampler: Sampler | None = None, **options: int) -> list[list[int]]:
    """What a dilated schedule opens step by step."""
    left, seen = torch.zeros(1, width, dtype=torch.bool), []
    left[0, masked] = True
    while left.any():
        step, noise = make_step(confident([[0.5] * width]), masked=left, block_steps=len(seen), **options)
        chosen = (sampler or DilatedSampler()).select(step, None, noise).open
        assert chosen.any()
        left = left & ~chosen
        seen += as_lists(chosen)
    return seen


def test_dilated():
    # floor(8 / 2), floor(8 / 4), floor(8 / 8): strides 4, 2, 1
    assert rounds(list(range(8)), 8) == [[0, 4], [2, 6], [1, 3, 5, 7]]
    assert rounds(list(range(8)), 8, start=8, length=32) == [[0, 4], [2, 6], [1, 3, 5, 7]]  # one block of four
    # floor(9 / 3), floor(9 / 9): strides 3, 1
    assert rounds(list(range(9)), 9, DilatedSampler(base=3)) == [[0, 3, 6], [1, 2, 4, 5, 7, 8]]
    assert rounds([0], 1) == [[0]]
    assert rounds(list(range(4)), 4, DilatedSampler(base=10**9)) == [[0, 1, 2, 3]]


def test_dilated_uses_the_width_of_a_short_last_block():
    # 13 positions in blocks of 8: the second is 5 wide, strides floor(5 / 2) = 2 and 1
    assert rounds(list(range(5)), 8, start=8, length=13) == [[0, 2, 4], [1, 3]]


def test_dilated_passes_over_rounds_with_nothing_to_open():
    assert rounds([3, 5], 8) == [[3, 5]]
    assert rounds([4, 3], 8) == [[4], [3]]


@pytest.mark.parametrize("base", [2, 3, 5])
@pytest.mark.parametrize("width", range(1, 40))
def test_dilated_takes_no_more_rounds_than_announced(base, width):
    announced = max(1, next(r for r in range(10) if base**r >= width))
    assert len(rounds(list(range(width)), width, DilatedSampler(base=base))) <= announced


@pytest.fixture
def table(tmp_path) -> str:
    path = tmp_path / "table.json"
    path.write_text(json.dumps({"0": 0.5, "1": 0.01}))
    return str(path)


def test_pc(table):
    # -ln .5 = .693, -ln .01 = 4.605; times p: .9 * .693 = .624, .6 * 4.605 = 2.763, .9 * 4.605 = 4.145
    # times exp(-.25 i): .624, 2.763 * .779 = 2.152, 4.145 * .607 = 2.514
    probs = dist([[0.9, 0.1], [0.4, 0.6], [0.1, 0.9]])
    assert opened(PCSampler(frequencies=table), probs) == [[2]]
    assert opened(PCSampler(frequencies=table, k=2), probs) == [[1, 2]]
    # alpha 1 cuts to .624, 1, 1; times exp(-.25 i): .624, .779, .607
    assert opened(PCSampler(frequencies=table, alpha=1.0), probs) == [[1]]
    # decay 2: .624, 2.763 * .135 = .374, 4.145 * .018 = .076
    assert opened(PCSampler(frequencies=table, decay=2.0), probs) == [[0]]


def test_pc_prefers_rare_tokens(table):
    """The formula in the project's readme has the other sign, which prefers frequent ones."""
    probs = dist([[0.9, 0.1], [0.1, 0.9]])
    readme = [0.9 * math.log(0.5), math.exp(-0.25) * 0.9 * math.log(0.01)]
    assert readme.index(max(readme)) == 0
    assert opened(PCSampler(frequencies=table), probs) == [[1]]


def test_pc_without_a_table():
    # p exp(-.25 i): .5, .9 * .779 = .701, .9 * .607 = .546
    assert opened(PCSampler(), confident([[0.5, 0.9, 0.9]])) == [[1]]


def test_pc_far_out_in_the_canvas():
    """exp(-.25 * 4000) is 0 in float32, where the plain formula would fall back to the order of positions."""
    assert math.exp(-0.25 * 4000) == 0.0
    assert opened(PCSampler(), confident([[0.35, 0.9]]).float(), start=4000, length=5000) == [[1]]


def test_pc_unknown_tokens_count_as_the_rarest(table):
    # token 2 is not in the table: .9 * 4.605 * .779 > .9 * .693
    assert opened(PCSampler(frequencies=table), dist([[0.9, 0.1, 0.0], [0.1, 0.0, 0.9]])) == [[1]]


def test_frequency_table(tmp_path):
    path = tmp_path / "made.json"
    frequency_table(iter([7, 7, 7, 2]), path)
    ids, surprisal = surprisals(str(path))
    assert ids.tolist() == [2, 7]
    assert surprisal.tolist() == pytest.approx([-math.log(0.25), -math.log(0.75)])
    frequency_table([2], path)  # what is cached is read again
    assert surprisals(str(path))[0].tolist() == [2]
    with pytest.raises(ValueError, match="at least one token"):
        frequency_table([], path)


@pytest.mark.parametrize("text", ["", "[1]", "{}", '{"a": 1}', '{"1": null}', '{"1": 0}', '{"1": 2}', '{"-1": 0.5}'])
def test_pc_bad_table(tmp_path, text):
    path = tmp_path / "bad.json"
    path.write_text(text)
    with pytest.raises(ValueError, match="bad.json: "):
        PCSampler(frequencies=str(path))


@pytest.mark.parametrize("name", ["nowhere.json", "a b;c.json"])  # specs quote what has a meaning in them
def test_pc_missing_table(name):
    with pytest.raises(ValueError, match=f"{name}: .*No such file"):
        PCSampler(frequencies=name)


# Stop tokens: token 1 stops


def stops(proposals: list[int], **options: object) -> list[int]:
    probs = torch.nn.functional.one_hot(torch.tensor([proposals]), 3).double()
    return opened(EosSuppressSampler(), probs, stop_tokens=[1], **options)[0]


def test_eos_suppress():
    # all positions are certain; a stop proposal waits for the masked text before it
    assert stops([0, 1, 2, 1]) == [0, 2]
    assert stops([0, 1, 2, 1], masked=torch.tensor([[False, True, True, True]])) == [1, 2]
    assert stops([0, 1, 2, 1], masked=torch.tensor([[False, True, False, True]])) == [1, 3]
    assert stops([1, 1, 0, 1]) == [0, 1, 2]  # a run behind an open prefix opens together
    assert stops([1, 1, 1]) == [0, 1, 2]


def test_eos_suppress_looks_at_drawn_tokens_too():
    """A public option for this edits confidences in place, which has an effect at temperature 0 only."""
    probs = dist([[0.6, 0.4], [0.6, 0.4]])
    drawn = torch.tensor([[0, 1]])
    assert opened(ThresholdSampler(threshold=0.4), probs, proposal=drawn, stop_tokens=[1]) == [[0, 1]]
    step, noise = make_step(probs, proposal=drawn, stop_tokens=[1])
    before = step.confidence.clone(), step.eligible.clone()
    assert as_lists(EosSuppressSampler(ThresholdSampler(0.4)).select(step, None, noise).open) == [[0]]
    assert torch.equal(step.confidence, before[0])
    assert torch.equal(step.eligible, before[1])


def test_eos_suppress_never_stalls():
    # the text it would wait for is outside what may be opened
    masked, eligible = torch.tensor([[True, True, True]]), torch.tensor([[False, True, True]])
    assert stops([0, 1, 1], masked=masked, eligible=eligible) == [1]


def test_eos_suppress_wraps_a_sampler_only():
    with pytest.raises(ValueError, match="must be a sampler"):
        EosSuppressSampler("threshold")  # type: ignore[arg-type]


# What holds for every sampler


@dataclass
class World:
    """Random distributions for each row, step and position; rows of different length, partly prefilled."""

    probs: Tensor  # [T, B, L, V]
    action: Tensor  # [T, B, L]
    fill: Tensor  # [B, L]
    length: Tensor  # [B]
    block_length: int

    @classmethod
    def draw(cls, seed: int, rows: int, block_length: int, blocks: int, vocabulary: int) -> World:
        g = torch.Generator().manual_seed(seed)
        width = block_length * blocks
        # neighbouring steps resemble each other, as those of a denoiser do
        logits = 3 * torch.randn(rows, width, vocabulary, generator=g, dtype=torch.float64)
        drift = torch.randn(width, rows, width, vocabulary, generator=g, dtype=torch.float64).cumsum(0) / 4
        length = torch.randint(1, width + 1, (rows,), generator=g)
        fill = (torch.rand(rows, width, generator=g) < 0.8) & (torch.arange(width) < length[:, None])
        action = torch.rand(width, rows, width, generator=g)
        return cls((logits + drift).softmax(-1), action, fill, length, block_length)


@dataclass
class Play:
    """Rows on their way through a world, each with its own block."""

    rows: Tensor  # [b], their numbers in the world
    masked: Tensor  # [b, L]
    steps: Tensor  # [b]
    block: Tensor  # [b]
    block_steps: Tensor  # [b]
    state: State
    opened: list[Tensor]  # per step [b, L]
    tokens: Tensor  # [b, L]

    @classmethod
    def start(cls, sampler: Sampler, world: World, rows: Tensor) -> Play:
        zeros = torch.zeros_like(rows)
        state = sampler.init(len(rows), world.block_length, torch.device("cpu"))
        masked = world.fill[rows]
        return cls(rows, masked, zeros, zeros - 1, zeros, state, [], torch.zeros_like(masked, dtype=torch.long))

    def pick(self, which: Tensor) -> Play:
        parts = (t[which] for t in (self.rows, self.masked, self.steps, self.block, self.block_steps))
        return Play(*parts, take(self.state, which), [o[which] for o in self.opened], self.tokens[which])

    def turn(self, sampler: Sampler, world: World) -> Play:
        first = self.masked.byte().argmax(-1) // world.block_length  # of finished rows: block 0
        block_steps = torch.where(first == self.block, self.block_steps, 0)
        place = first[:, None] * world.block_length + torch.arange(world.block_length)
        masked = self.masked.gather(1, place)
        when = self.steps.clamp(max=len(world.probs) - 1)
        step, noise = make_step(
            world.probs[when[:, None], self.rows[:, None], place],
            needs=sampler.needs,
            masked=masked,
            valid=place < world.length[self.rows][:, None],
            start=first * world.block_length,
            length=world.length[self.rows],
            block_length=world.block_length,
            steps=self.steps,
            block_steps=block_steps,
            stop_tokens=[0],
            action=world.action[when[:, None], self.rows[:, None], place],
        )
        selection = sampler.select(step, self.state, noise)
        check_selection(sampler, step, self.state, noise, selection)
        chosen = torch.zeros_like(self.masked).scatter(1, place, selection.open)
        written = step.proposal if selection.tokens is None else selection.tokens
        tokens = torch.where(chosen, torch.zeros_like(self.tokens).scatter(1, place, written), self.tokens)
        active = masked.any(-1)
        return Play(
            self.rows,
            self.masked & ~chosen,
            self.steps + active,
            first,
            block_steps + active,
            selection.state,
            [*self.opened, chosen],
            tokens,
        )

    def end(self, sampler: Sampler, world: World) -> Play:
        play = self
        while play.masked.any():
            play = play.turn(sampler, world)
        return play

    def by_row(self) -> dict[int, tuple[list[list[int]], list[int]]]:
        """Row number -> (positions opened at each of its steps, tokens)."""
        steps = {int(r): [as_lists(o)[i] for o in self.opened if o[i].any()] for i, r in enumerate(self.rows)}
        return {row: (steps[row], self.tokens[i].tolist()) for i, row in enumerate(steps)}


def check_selection(sampler, step, state, noise, selection) -> None:
    assert selection.reopen is None
    assert selection.open.dtype == torch.bool
    assert not (selection.open & ~step.eligible).any()
    assert torch.equal(selection.open.any(-1), step.eligible.any(-1))
    again = sampler.select(step, state, noise)
    assert torch.equal(again.open, selection.open)
    assert (again.tokens is None and selection.tokens is None) or torch.equal(again.tokens, selection.tokens)


worlds = st.builds(
    World.draw,
    seed=st.integers(0, 2**31),
    rows=st.integers(1, 4),
    block_length=st.integers(1, 6),
    blocks=st.integers(1, 3),
    vocabulary=st.integers(2, 5),
)


@each_sampler
@settings(max_examples=30, deadline=None)
@given(world=worlds, data=st.data())
def test_contract(sampler, world, data):
    """Progress inside the eligible set (checked at every step), and rows that know nothing of each other."""
    everyone = torch.arange(len(world.length))
    together = Play.start(sampler, world, everyone).end(sampler, world)
    expected = together.by_row()
    assert int(together.steps.max()) <= int(world.fill.sum(-1).max())

    order = torch.tensor(data.draw(st.permutations(everyone.tolist())))
    assert Play.start(sampler, world, order).end(sampler, world).by_row() == expected
    for row in everyone:
        alone = Play.start(sampler, world, row[None]).end(sampler, world)
        assert alone.by_row() == {int(row): expected[int(row)]}

    # some rows leave the batch on the way: selecting rows of the state and going on are interchangeable
    play = Play.start(sampler, world, everyone)
    for _ in range(data.draw(st.integers(1, 3))):
        play = play.turn(sampler, world)
    some = order[: data.draw(st.integers(1, len(order)))]
    assert play.pick(some).end(sampler, world).by_row() == {int(r): expected[int(r)] for r in some}


OTHER_VALUES = {
    "confidence": {"k": 3, "steps_per_block": 2, "schedule": "late"},
    "credit": {"alpha": 0.0, "beta": 0.0, "gamma": 9.0, "threshold": 0.3},
    "dilated": {"base": 4},
    "entropy": {"k": 2, "steps_per_block": 2, "schedule": "late"},
    "entropy_bound": {"gamma": 2.0},
    "eos_suppress": {"inner": ConfidenceSampler()},
    "factor": {"factor": 0.3},
    "klass": {"tau": 0.2, "eps": 0.2, "n": 1},
    "left_to_right": {"k": 2, "steps_per_block": 2, "schedule": "late"},
    "margin": {"k": 2, "steps_per_block": 3, "schedule": "late"},
    "pc": {"decay": 2.0, "alpha": 0.5, "k": 2, "steps_per_block": 2, "schedule": "late", "frequencies": None},
    "random": {"k": 2, "steps_per_block": 2, "schedule": "late"},
    "threshold": {"threshold": 0.5, "minimum": 3},
}


@pytest.mark.parametrize(("name", "parameter"), [(n, p) for n, values in OTHER_VALUES.items() for p in values])
def test_every_parameter_has_an_effect(name, parameter, tmp_path):
    (tmp_path / "table.json").write_text(json.dumps({"0": 0.9, "1": 0.05, "2": 0.01}))
    value = OTHER_VALUES[name][parameter]
    if parameter == "frequencies":
        value = str(tmp_path / "table.json")
    standard = type(ALL_SAMPLERS[name])()
    if name == "klass":
        standard = KLASSSampler(tau=0.5, eps=0.05)  # at the defaults hardly anything is stable in this world
    if parameter == "schedule":
        standard = replace(standard, steps_per_block=3)
    world = World.draw(seed=3, rows=32, block_length=8, blocks=2, vocabulary=4)
    start = torch.arange(32)
    first, second = (
        Play.start(s, world, start).end(s, world) for s in (standard, replace(standard, **{parameter: value}))
    )
    assert first.by_row() != second.by_row()


def test_every_parameter_is_tried():
    for name, sampler in ALL_SAMPLERS.items():
        assert set(OTHER_VALUES[name]) == {f.name for f in dataclasses.fields(sampler)}


@each_sampler
def test_out_of_range_parameters_are_named(sampler):
    for field in dataclasses.fields(sampler):
        if isinstance(field.default, float):
            for bad in (-1.0, math.nan):
                with pytest.raises(ValueError, match=f"`{field.name}` must be"):
                    type(sampler)(**{field.name: bad})
        elif isinstance(field.default, int):
            for bad in (0, 2.5, True):
                with pytest.raises(ValueError, match=f"`{field.name}` must be"):
                    type(sampler)(**{field.name: bad})


class NoDoubles(TorchDispatchMode):
    """Fails at the first tensor in float64."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        assert torch.float64 not in {one.dtype for one in tree_leaves(made) if isinstance(one, Tensor)}, func
        return made


def test_nothing_needs_float64(model, tmp_path):
    """Apple's GPUs have none."""
    frequency_table([7, 8, 8], tmp_path / "table.json")
    samplers = [*ALL_SAMPLERS.values(), PCSampler(frequencies=str(tmp_path / "table.json"))]
    with NoDoubles():
        for sampler in samplers:
            generate(model, torch.tensor([[5, 6]]), sampler=sampler, max_new_tokens=3, block_length=3, temperature=1.0)


# The files

FOLDER = Path(hf_unmask.samplers.__file__).parent
FILES = sorted(p for p in FOLDER.glob("*.py") if p.stem not in ("__init__", "base", "catalogue", "ranked", "specs"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_one_small_file_per_sampler(path):
    source = path.read_text()
    assert len(source.splitlines()) <= 80
    if path.stem == "learned":  # it is made from a policy, not from defaults, and has tests of its own
        return
    classes = [n for n in ast.parse(source).body if isinstance(n, ast.ClassDef)]
    assert len(classes) == 1
    cls = getattr(hf_unmask.samplers, classes[0].name)
    assert cls.name == path.stem
    assert dataclasses.is_dataclass(cls) and cls.__dataclass_params__.frozen
    assert cls() == cls() and hash(cls()) == hash(cls())
    assert type(ALL_SAMPLERS[path.stem]) is cls
    assert classes[0].name in hf_unmask.samplers.__all__
    assert "https://" in cls.__doc__


def test_nothing_else_is_listed():
    assert sorted(ALL_SAMPLERS) == [p.stem for p in FILES if p.stem != "learned"]
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = hf_unmask.samplers.Nothing
