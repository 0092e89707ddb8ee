"""Our samplers in Dream's own loop, through its two hooks."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from engines import native_dream
from models import MASK
from policies import make_policy

import hf_unmask
from hf_unmask import LearnedUnmaskingSampler
from hf_unmask.integrations.dream import native_hooks
from hf_unmask.samplers import ConfidenceSampler, CreditSampler, RandomSampler, ThresholdSampler

IDS = torch.tensor([[0, 0, 7, 8, 9], [10, 11, 12, 13, 14]])
REAL = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
NEW = 8


@pytest.fixture(scope="module")
def model():
    return native_dream(torch.float64)


def hooked(model, sampler, steps=NEW, ids=IDS, real=REAL, **options):
    hooks = native_hooks(sampler, steps=steps, mask_token_id=MASK, attention_mask=real, **options)
    return model.diffusion_generate(ids, attention_mask=real, max_new_tokens=NEW, steps=steps, **hooks)


@pytest.mark.parametrize(
    "sampler",
    [ThresholdSampler(0.1), ConfidenceSampler(k=2), RandomSampler(), CreditSampler(threshold=0.1)]
    + [LearnedUnmaskingSampler(make_policy(2, observation=kind)) for kind in ("canvas", "block")],
    ids=str,
)
def test_the_hooks_write_what_our_loop_writes(model, sampler):
    """What the loop commits by its own rule and nobody takes back; logits read at a neighbour; other noise."""
    expected = hf_unmask.generate(model, IDS, sampler=sampler, attention_mask=REAL, max_new_tokens=NEW, seed=5)
    assert torch.equal(hooked(model, sampler, seed=5), expected)
    own = model.diffusion_generate(IDS, attention_mask=REAL, max_new_tokens=NEW, steps=NEW)
    assert not torch.equal(own, expected) or not sampler.stochastic


def test_every_step_is_a_forward_pass_and_the_last_opens_the_rest(model):
    """Masks left over by a slow sampler; a promise of fewer passes."""
    passes = []
    handle = model.register_forward_hook(lambda *_: passes.append(1))
    found = hooked(model, ConfidenceSampler(), steps=3)
    handle.remove()
    assert len(passes) == 3 and not (found == MASK).any()


def test_hooks_serve_several_calls_and_keep_prompts(model):
    """A memory of the call before; a mask token in the prompt that is filled."""
    hooks = native_hooks(CreditSampler(threshold=0.1), steps=NEW, mask_token_id=MASK)
    ids = torch.tensor([[5, MASK, 6]])
    first, again = (model.diffusion_generate(ids, max_new_tokens=NEW, steps=NEW, **hooks) for _ in range(2))
    assert torch.equal(first, again) and torch.equal(first[:, :3], ids)


def test_hooks_serve_calls_in_several_threads(model):
    """A canvas of one call that is written into another."""
    hooks = native_hooks(CreditSampler(threshold=0.1), steps=NEW, mask_token_id=MASK)
    prompts = [torch.tensor([[5, 6, 7]]), torch.tensor([[8, 9], [10, 11]])]
    turns = threading.Barrier(len(prompts))

    def taking_turns(step, x, logits):
        turns.wait(60)  # each call's hooks run between those of the other
        return hooks["generation_tokens_hook_func"](step, x, logits)

    def call(ids, hook):
        return model.diffusion_generate(
            ids, max_new_tokens=NEW, steps=NEW, **{**hooks, "generation_tokens_hook_func": hook}
        )

    alone = [call(ids, hooks["generation_tokens_hook_func"]) for ids in prompts]
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda ids: call(ids, taking_turns), prompts))
    assert all(map(torch.equal, found, alone))


def test_what_the_loop_cannot_give_is_refused():
    with pytest.raises(ValueError, match="reads hidden states, which this model's loop does not hand out"):
        native_hooks(LearnedUnmaskingSampler(make_policy(hidden_input_size=8)), steps=4, mask_token_id=MASK)
    with pytest.raises(ValueError, match="`steps` must be an int of at least 1, got 0"):
        native_hooks(ThresholdSampler(), steps=0, mask_token_id=MASK)
