"""The published decoding loops, written plainly."""

from __future__ import annotations

import torch
from models import MASK, PAD, VOCAB

from hf_unmask import generate

PROMPTS = 20


def random_prompts(low=1, high=12):
    g = torch.Generator().manual_seed(21)
    lengths = torch.randint(low, high, (PROMPTS,), generator=g).tolist()
    return [torch.randint(3, VOCAB - 1, (n,), generator=g).tolist() for n in lengths]


def batch(rows):
    width = max(map(len, rows))
    ids = torch.tensor([[PAD] * (width - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    return ids, mask


def probabilities(model, sequence, scale=None, prompt_length=0):
    """[S][V] for one unpadded sequence; with ``scale`` guided away from the sequence whose prompt is masked."""
    logits = _logits(model, sequence)
    if scale:
        blank = [MASK] * prompt_length + sequence[prompt_length:]
        plain = _logits(model, blank)
        logits = plain + (scale + 1) * (logits - plain)
    logits[:, MASK] = -float("inf")
    return logits.softmax(-1).tolist()


@torch.no_grad()
def _logits(model, sequence):
    ids = torch.tensor([sequence])
    return model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0]


def llada(model, prompt, gen_length, block_length, steps, cfg_scale=None):
    """Low-confidence remasking: each block has its table of how many tokens every step commits."""
    sequence = prompt + [MASK] * gen_length
    blocks = gen_length // block_length
    per_block = steps // blocks
    forwards = 0
    for block in range(blocks):
        start = len(prompt) + block * block_length
        places = range(start, start + block_length)
        base, rest = divmod(block_length, per_block)
        table = [base + 1 if i < rest else base for i in range(per_block)]
        for quota in table:
            probs = probabilities(model, sequence, cfg_scale, len(prompt))
            forwards += 1
            best = {i: max(range(VOCAB), key=lambda t: probs[i][t]) for i in places if sequence[i] == MASK}
            ranked = sorted(best, key=lambda i: probs[i][best[i]], reverse=True)
            for i in ranked[:quota]:
                sequence[i] = best[i]
    return sequence[len(prompt) :], forwards


def fast_dllm(model, prompt, gen_length, block_length, passes):
    """Commit what passes, at least the most confident token, until the block is full."""
    sequence = prompt + [MASK] * gen_length
    forwards = 0
    for start in range(len(prompt), len(prompt) + gen_length, block_length):
        while any(sequence[i] == MASK for i in range(start, start + block_length)):
            probs = probabilities(model, sequence)
            forwards += 1
            places = [i for i in range(start, start + block_length) if sequence[i] == MASK]
            confidence = {i: max(probs[i]) for i in places}
            ranked = sorted(places, key=lambda i: confidence[i], reverse=True)
            for i in passes([confidence[j] for j in ranked], ranked):
                sequence[i] = probs[i].index(confidence[i])
    return sequence[len(prompt) :], forwards


def ours(model, rows, sampler, **options):
    ids, mask = batch(rows)
    out = generate(model, ids, sampler=sampler, attention_mask=mask, return_dict_in_generate=True, **options)
    return out.sequences[:, ids.shape[1] :].tolist(), out.nfe.tolist(), out.steps.tolist()
