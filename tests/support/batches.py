"""Prompts of unequal length, padded batches, and one sampler of every kind."""

from __future__ import annotations

import torch
from helpers import ALL_SAMPLERS
from models import PAD, VOCAB

from hf_unmask import generate
from hf_unmask.policy import UnmaskingPolicy, UnmaskingPolicyConfig
from hf_unmask.samplers import LearnedUnmaskingSampler

NEW, BLOCK = 12, 5


LENGTHS = (3, 9, 1, 6, 6, 10, 2, 4)


def learned(observation, action="bernoulli", dtype=torch.float64, **options):
    torch.manual_seed(3)
    config = UnmaskingPolicyConfig(
        hidden_size=8, intermediate_size=16, time_size=4, top_k=2, observation=observation, action=action, **options
    )
    policy = UnmaskingPolicy(config)
    for weights in policy.parameters():
        weights.data.normal_(0, 0.5)
    return LearnedUnmaskingSampler(policy.to(dtype))


SAMPLERS = {
    **ALL_SAMPLERS,
    "learned_canvas": learned("canvas"),
    "learned_block": learned("block"),
    "learned_masked": learned("canvas", reads_revealed=False),
    "learned_ordered": learned("canvas", "plackett_luce"),
    "learned_portable": learned("canvas", further_inputs="portable"),
    "learned_portable_block": learned("block", further_inputs="portable", reads_revealed=False),
}


def prompts(count=8, seed=5):
    g = torch.Generator().manual_seed(seed)
    return [torch.randint(3, VOCAB - 1, (LENGTHS[i % len(LENGTHS)],), generator=g) for i in range(count)]


def pad(rows, side="left", extra=0):
    """[B, P] ids and mask, P the longest plus ``extra`` columns of padding."""
    width = max(len(row) for row in rows) + extra
    ids = torch.full((len(rows), width), PAD)
    mask = torch.zeros_like(ids)
    for i, row in enumerate(rows):
        place = slice(width - len(row), width) if side == "left" else slice(0, len(row))
        ids[i, place], mask[i, place] = row, 1
    return ids, mask


def run(model, rows, sampler, side="left", extra=0, **options):
    """Per row: new tokens, step map, nfe, steps, complete."""
    ids, mask = pad(rows, side, extra)
    options = {"max_new_tokens": NEW, "block_length": BLOCK} | options
    out = generate(
        model, ids, sampler=sampler, attention_mask=mask, pad_token_id=PAD, return_dict_in_generate=True, **options
    )
    assert torch.equal(
        out.sequences[:, : ids.shape[1]], ids.repeat_interleave(options.get("num_return_sequences", 1), 0)
    )
    columns = (out.sequences[:, ids.shape[1] :], out.step_map[:, ids.shape[1] :], out.nfe, out.steps, out.complete)
    return [tuple(column[i].tolist() for column in columns) for i in range(len(out.nfe))]
