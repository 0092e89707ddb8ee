"""Samplers as schedulers: generated through diffusers' real pipeline, on a tiny model."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest
import torch
from doubles import Double, RowDoubleConfig, block_causal, row_double
from models import MASK
from policies import make_policy

import hf_unmask
from hf_unmask import UnmaskingPolicy, UnmaskingPolicyConfig

BLOCK, NEW = 4, 11
IDS = torch.tensor([[5, 6, 7, 8, 9], [10, 11, 12, 13, 14]])
OPTIONS = {"gen_length": NEW, "block_length": BLOCK, "num_inference_steps": BLOCK, "mask_token_id": MASK}
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
    pytest.mark.skipif(importlib.util.find_spec("diffusers") is None, reason="pip install 'hf_unmask[diffusers]'"),
]


def scheduler_of(spec: str, **options: Any) -> Any:
    """Imported here: it takes seconds, and every process of the suite collects this file."""
    from hf_unmask.integrations.diffusers import LearnedUnmaskingScheduler

    return LearnedUnmaskingScheduler(spec, **options)


def pipeline(model, scheduler):
    from diffusers import LLaDA2Pipeline

    pipe = LLaDA2Pipeline(model=model, scheduler=scheduler, tokenizer=None)
    pipe.set_progress_bar_config(disable=True)
    return pipe


class PipelineDouble(Double):
    """Block-causal, made inside from columns, as the pipeline's padding mask [B, S] leaves it to the model."""

    config_class = RowDoubleConfig

    def forward(self, input_ids, attention_mask=None, position_ids=None):
        columns = torch.arange(input_ids.shape[1])[None]
        mask = block_causal(columns, BLOCK).expand(len(input_ids), -1, -1, -1)
        return self.backbone(input_ids, attention_mask=mask & attention_mask[:, None, None, :].bool())


@pytest.fixture(scope="module")
def model():
    return PipelineDouble(RowDoubleConfig()).eval()


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("policy")
    with torch.random.fork_rng():
        make_policy(1, observation="block").save_pretrained(folder)  # random weights: every input matters
    return f"learned:{folder};greedy=True"


def generated(model, scheduler, **options):
    return pipeline(model, scheduler)(input_ids=IDS, output_type="seq", **{**OPTIONS, **options}).sequences


def our_loop(spec):
    denoiser = hf_unmask.Denoiser.from_model(row_double("sdar"), block_length=BLOCK)
    options = {"max_new_tokens": NEW, "return_dict_in_generate": True}
    return hf_unmask.generate(denoiser, IDS, sampler=hf_unmask.parse_sampler(spec), **options)


@pytest.mark.parametrize("spec", ["policy", "threshold:threshold=0.08", "confidence:k=2", "credit"])
def test_the_pipeline_gives_the_tokens_and_steps_of_our_loop(model, policy, spec):
    """Time, masks or quantities that a sampler reads differently; its state lost between steps."""
    spec = policy if spec == "policy" else spec
    scheduler = scheduler_of(spec, canvas_length=NEW)
    found, expected = generated(model, scheduler), our_loop(spec)
    assert torch.equal(found, expected.sequences[:, IDS.shape[1] :])
    assert torch.equal(scheduler.forwards, expected.nfe)


def test_saved_and_loaded(model, policy, tmp_path):
    """A scheduler that forgets its sampler."""
    scheduler = scheduler_of(policy, block_length=BLOCK, canvas_length=NEW)
    scheduler.save_pretrained(tmp_path)
    loaded = type(scheduler).from_pretrained(tmp_path)
    assert dict(loaded.config)["sampler"] == policy and loaded.config.block_length == BLOCK
    options = {"block_length": None}
    assert torch.equal(generated(model, loaded, **options), generated(model, scheduler, **options))


def test_what_is_left_is_opened_on_the_last_step(model):
    """The pipeline goes on after its steps whether masks are left or not."""
    scheduler = scheduler_of("confidence:k=1")
    found = generated(model, scheduler, num_inference_steps=2)
    assert not (found == MASK).any() and scheduler.forwards.tolist() == [6, 6]


def test_tokens_are_drawn_as_the_pipeline_says(model):
    """Temperature and generator that are dropped; the mask token written as text."""
    scheduler = scheduler_of("random:k=1")
    drawn = [
        generated(model, scheduler, temperature=2.0, generator=torch.Generator().manual_seed(seed))
        for seed in (1, 1, 2)
    ]
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])
    assert not (torch.stack(drawn) == MASK).any()


def test_rows_stop_at_the_end_of_text(model):
    """The pipeline's early stop asks the scheduler."""
    first = int(generated(model, scheduler_of("left_to_right"))[0, 0])
    scheduler = scheduler_of("left_to_right")
    pipeline(model, scheduler)(input_ids=IDS[:1], output_type="seq", eos_token_id=first, **OPTIONS)
    assert scheduler.forwards.tolist() == [1]


def test_what_a_scheduler_cannot_give_is_refused(tmp_path):
    """A policy that sees zeros where it expects the whole canvas."""
    UnmaskingPolicy(UnmaskingPolicyConfig(observation="canvas")).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="reads the whole canvas, but a scheduler sees the active block only"):
        scheduler_of(f"learned:{tmp_path}")
    scheduler = scheduler_of("threshold")
    with pytest.raises(ValueError, match="`num_inference_steps` must be at least 1, got 0"):
        scheduler.set_timesteps(0)
    with pytest.raises(ValueError, match="`mask_token_id` must be given, got None"):
        scheduler.step(torch.zeros(1, 2, 3), 0, torch.zeros(1, 2, dtype=torch.long))
