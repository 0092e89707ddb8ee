"""Published decoding loops, restated plainly, against ours, token for token.

One difference to the originals, on both sides: the mask token's logit is removed before the softmax, so that it is
neither written nor part of any confidence.
"""

from __future__ import annotations

import pytest
import torch
from helpers import slow
from reference_loops import fast_dllm, llada, ours, random_prompts

from hf_unmask import generate
from hf_unmask.samplers import ConfidenceSampler, FactorSampler, RandomSampler, ThresholdSampler


@pytest.mark.parametrize(
    ("gen_length", "block_length", "steps"),
    [(8, 8, 8), (8, 8, 3), (12, 4, 6), (12, 6, 8), (15, 5, 9), (10, 5, 2), (7, 7, 5)],
)
def test_llada_low_confidence(model64, gen_length, block_length, steps):
    """Prevents quotas of the batch, remainders on the last steps and candidates outside the block."""
    rows = random_prompts()
    per_block = steps // (gen_length // block_length)
    sampler = ConfidenceSampler(steps_per_block=per_block)
    tokens, nfe, _ = ours(model64, rows, sampler, max_new_tokens=gen_length, block_length=block_length)
    expected = [llada(model64, row, gen_length, block_length, steps) for row in rows]
    assert tokens == [row for row, _ in expected]
    assert nfe == [forwards for _, forwards in expected]


def test_llada_classifier_free_guidance(model64):
    """Prevents a guidance scale off by one (w = scale - 1), or prompts left visible in the unconditional pass."""
    rows = random_prompts()
    options = {"max_new_tokens": 8, "block_length": 4}
    sampler = ConfidenceSampler(steps_per_block=2)
    plain, _, _ = ours(model64, rows, sampler, **options)
    for w in (0.5, 2.0):
        tokens, nfe, steps = ours(model64, rows, sampler, guidance_scale=w + 1, **options)
        expected = [llada(model64, row, 8, 4, 4, cfg_scale=w) for row in rows]
        assert tokens == [row for row, _ in expected]
        assert steps == [forwards for _, forwards in expected]
        assert nfe == [2 * forwards for _, forwards in expected]
        assert tokens != plain
    off, nfe, steps = ours(model64, rows, sampler, guidance_scale=1.0, **options)
    assert off == plain and nfe == steps


@pytest.mark.parametrize("threshold", [0.2, 0.8, slow(0.5), slow(1.0)])
@pytest.mark.parametrize("block_length", [4, 12])
def test_fast_dllm_threshold(model64, threshold, block_length):
    """Prevents stalls of unconfident rows beside confident ones: the reference decodes row by row."""

    def passes(confidence, places):
        return [i for rank, i in enumerate(places) if rank == 0 or confidence[rank] >= threshold]

    rows = random_prompts()
    expected = [fast_dllm(model64, row, 12, block_length, passes) for row in rows]
    sampler = ThresholdSampler(threshold)
    tokens, nfe, _ = ours(model64, rows, sampler, max_new_tokens=12, block_length=block_length)
    assert tokens == [row for row, _ in expected]
    assert nfe == [forwards for _, forwards in expected]
    if threshold in (0.2, 0.5):
        assert len(set(nfe)) > 1, "the rows should need different numbers of steps"


def test_fast_dllm_factor(model64):
    """Prevents the extra token that the original commits when its loop reaches the last place."""
    factor = 1.2

    def passes(confidence, places):
        count = 1
        while count < len(places) and confidence[count] >= 1 - factor / (count + 2):
            count += 1
        return places[:count]

    rows = random_prompts()
    expected = [fast_dllm(model64, row, 12, 6, passes) for row in rows]
    tokens, nfe, _ = ours(model64, rows, FactorSampler(factor), max_new_tokens=12, block_length=6)
    assert tokens == [row for row, _ in expected]
    assert nfe == [forwards for _, forwards in expected]


def test_random_order_spends_the_same_quota(model64):
    """Prevents a table that differs between samplers: LLaDA's random remasking has the same one."""
    out = generate(
        model64, torch.tensor([[5, 6]] * 4), sampler=RandomSampler(steps_per_block=3), max_new_tokens=16,
        block_length=8, return_dict_in_generate=True,
    )  # fmt: skip
    for row in out.step_map[:, 2:]:
        assert row.bincount().tolist() == [3, 3, 2, 3, 3, 2]
