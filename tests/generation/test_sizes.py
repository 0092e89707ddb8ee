"""Sizes, counts and ids: checked in one way by every door, before anything is allocated or run."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from models import MASK, VOCAB, tiny_eurobert
from transformers import GenerationConfig

import hf_unmask
from hf_unmask import Denoiser, LearnedUnmaskingSampler, UnmaskingGenerationConfig, generate, generate_stream
from hf_unmask.samplers import ConfidenceSampler, CreditSampler, DilatedSampler, KLASSSampler, RandomSampler
from hf_unmask.samplers import ThresholdSampler as Threshold

PROMPT = torch.tensor([[5, 17, 31], [8, 9, 10]])
SAMPLER = Threshold(0.4)


def call(model, ids=PROMPT, **options):
    return generate(model, ids, **{"sampler": SAMPLER, "max_new_tokens": 4, **options})


@pytest.mark.parametrize("options", [{"max_new_tokens": 10**9}, {"num_return_sequences": 2 * 10**9}, {"slots": 1}])
def test_what_no_memory_holds_is_refused_before_it_is_allocated(model, options):
    """Prevents a machine that swaps, and an error from the depths of the allocator."""
    endless = replace(Denoiser.from_model(model), max_length=None)
    options = {"num_return_sequences": 2 * 10**9, **options} if "slots" in options else options
    began = time.perf_counter()
    with pytest.raises(
        ValueError, match=r"rows of \d+ positions take at least .* GiB, cpu has .*: lower `max_new_"
    ) as e:
        call(endless, **options)
    assert all(str(value) in str(e.value) for name, value in options.items() if name != "slots")
    if "max_new_tokens" in options:
        with pytest.raises(ValueError, match=r"1000000003 positions, the model holds 128.*`max_new_tokens=1000000000`"):
            call(model, **options)
    assert time.perf_counter() - began < 2


NO_IDS = [2.0, True, "1", 1j, [5, 6.0], [[5]], {5: 6}, 2**63, torch.tensor([1.0]), np.array([True])]
COUNTS = ["max_new_tokens", "block_length", "num_return_sequences", "slots", "check_every", "cache_refresh", "top_k"]


@pytest.mark.parametrize("value", NO_IDS, ids=str)
def test_what_is_no_id_is_refused_by_every_option(model, value):
    """Prevents ids that are rounded, wrapped around or taken for one another."""
    for name in ("mask_token_id", "pad_token_id", "eos_token_id", "suppress_tokens"):
        with pytest.raises(ValueError, match=f"`{name}` holds .*, which is no token id: ids are ints, as tokenizer"):
            call(model, **{name: value})
        with pytest.raises(ValueError, match=f"`{name}` holds"):
            UnmaskingGenerationConfig(**{name: value})
    for name in ("mask_token_id", "pad_token_id", "stop_token_ids"):
        for door in (Denoiser.from_model, hf_unmask.attach):
            with pytest.raises(ValueError, match=f"`{name}` holds"):
                door(model, **{name: value})
    if not isinstance(value, dict):
        with pytest.raises(ValueError, match=r"`prompts` .*tokenizer\(text"):
            generate_stream(model, [value], sampler=SAMPLER, max_new_tokens=2)
        with pytest.raises(ValueError, match=r"`prompts` holds"):
            generate_stream(model, [[5, value]], sampler=SAMPLER, max_new_tokens=2)


@pytest.mark.parametrize("value", [2**70, 2.0, True, "3", torch.tensor([3, 4]), [4]], ids=str)
def test_what_is_no_count_is_refused_by_every_option(model, value):
    """Prevents overflows in the middle of a run, and True that counts as 1."""
    for name in COUNTS:
        with pytest.raises(ValueError, match=f"`{name}` must be (an int|one value)"):
            call(model, temperature=1.0, cache="prefix", **{name: value})
        with pytest.raises(ValueError, match=f"`{name}` must be an int"):
            config = GenerationConfig(max_new_tokens=4)
            setattr(config, name, value)  # transformers checks some of them, when a config is made
            generate(model, PROMPT, sampler=SAMPLER, generation_config=config, cache="prefix", do_sample=True)
    with pytest.raises(ValueError, match="`block_length` must be an int"):
        Denoiser.from_model(model, block_length=value)
    with pytest.raises(ValueError, match="`shift` must be 0 or 1"):
        Denoiser.from_model(model, shift=value, attention="2d")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stop_at_eos": "no"}, "`stop_at_eos` must be True or False, got 'no'"),
        ({"do_sample": "False"}, "`do_sample` must be True or False, got 'False'"),
        ({"temperature": True}, "`temperature` .* got True"),
        ({"top_p": True, "temperature": 1.0}, r"`top_p` must be in \(0, 1\], got True"),
        ({"guidance_scale": "2"}, "`guidance_scale` must be a finite number, got '2'"),
        ({"mask_token_id": [4, 5]}, r"`mask_token_id` must be one token id, got \[4, 5\]"),
        ({"bad_words_ids": torch.tensor([[3, 4]])}, r"`bad_words_ids=tensor\(\[\[3, 4\]\]\)` has no meaning"),
        ({"suppress_tokens": np.array([3, VOCAB])}, f"`suppress_tokens` holds {VOCAB}"),
        ({"attention_mask": [[1, 1, 1], [1, 1, 1]]}, r"`attention_mask` must be a tensor of .* list \[\[1, 1, 1\]"),
    ],
)
def test_flags_and_numbers(model, options, message):
    """Prevents texts that count as True, and numbers of another kind."""
    with pytest.raises(ValueError, match=message):
        call(model, **options)


@pytest.mark.parametrize(
    "make",
    [
        lambda wrong: Threshold(wrong),
        lambda wrong: ConfidenceSampler(k=wrong),
        lambda wrong: RandomSampler(steps_per_block=wrong),
        lambda wrong: DilatedSampler(base=wrong),
        lambda wrong: KLASSSampler(n=wrong),
        lambda wrong: CreditSampler(alpha=wrong),
    ],
)
def test_parameters_of_samplers(make):
    """Prevents a TypeError that names no parameter, and True for 1."""
    for wrong in ("3", True, [1], 1j, float("nan")):
        with pytest.raises(ValueError, match=r"`\w+` must be .*, got "):
            make(wrong)


def test_ids_and_counts_in_other_clothes(model, tmp_path):
    """Prevents numpy's numbers, arrays and tensors from being refused, or from breaking what is saved."""
    plain = {"eos_token_id": [1, 2], "suppress_tokens": [51], "mask_token_id": MASK, "block_length": 2, "seed": 3}
    expected = call(model, **plain, temperature=0.9)
    other = {
        "eos_token_id": torch.tensor([1, 2]),
        "suppress_tokens": 51,
        "mask_token_id": torch.tensor(MASK),
        "block_length": np.int64(2),
        "seed": np.int32(3),
        "max_new_tokens": np.int64(4),
        "temperature": np.float64(0.9),
    }
    assert torch.equal(call(model, **other), expected)
    assert torch.equal(call(model, **other | {"eos_token_id": np.array([1, 2])}), expected)
    UnmaskingGenerationConfig(**other).save_pretrained(tmp_path)
    assert torch.equal(call(model, generation_config=GenerationConfig.from_pretrained(tmp_path)), expected)
    denoiser = Denoiser.from_model(model, stop_token_ids=np.array([1, 2]), mask_token_id=np.int64(MASK))
    assert denoiser.stop_token_ids == (1, 2) and type(denoiser.mask_token_id) is int


@pytest.mark.parametrize("dtype", [torch.complex64, torch.bool, torch.float16])
def test_input_ids_of_another_dtype(model, dtype):
    """Prevents imaginary parts and truth values from being dropped."""
    with pytest.raises(ValueError, match=f"`input_ids` must be long .* got {dtype}"):
        call(model, PROMPT.to(dtype))


def test_input_ids_that_are_an_encoding_or_a_list(model):
    """Prevents an error that does not say how to pass what a tokenizer returns."""
    with pytest.raises(ValueError, match=r"`input_ids` must be a tensor, got dict: use generate\(model, \*\*encoding"):
        call(model, {"input_ids": PROMPT})
    with pytest.raises(ValueError, match="`input_ids` must be a tensor, got list: use return_tensors='pt'"):
        call(model, PROMPT.tolist())


@pytest.mark.parametrize("prompts", ["text", ["text"], {"input_ids": [[5]]}, [5, 6], 5, torch.tensor(5)], ids=str)
def test_prompts_of_a_stream_that_are_no_lists(model, prompts):
    """Prevents texts and encodings from being gone through letter by letter."""
    with pytest.raises(
        ValueError, match=r"`prompts` must be lists of token ids, got .* pass tokenizer\(texts\)\['input"
    ):
        generate_stream(model, prompts, sampler=SAMPLER, max_new_tokens=2)


def test_prompts_of_a_stream_of_any_kind(model):
    """Prevents arrays, tensors, tuples and prompts without a token from being refused."""
    kinds = [np.array([5, 17, 31]), (8, 9, 10), torch.tensor([8, 9], dtype=torch.int32), [], [np.int64(5)]]
    for made in (kinds, iter(kinds)):
        rows = list(generate_stream(model, made, sampler=SAMPLER, max_new_tokens=4, slots=2))
        assert [row.output.sequences.shape[1] for row in rows] == [7, 7, 6, 4, 5]
        assert torch.equal(rows[0].output.sequences, call(model, PROMPT[:1]))
    for wrong in (-1, VOCAB):
        with pytest.raises(ValueError, match=f"`input_ids` holds token {wrong}"):
            generate_stream(model, [[5, wrong]], sampler=SAMPLER, max_new_tokens=2)


@pytest.mark.parametrize("sampler", [SAMPLER, RandomSampler(), ConfidenceSampler(steps_per_block=2)], ids=str)
@pytest.mark.parametrize("new", [1, 4, 12])
def test_no_more_passes_than_masks(model64, sampler, new):
    """Prevents hundreds of passes over a canvas that is full, and results that depend on who looks when."""
    options = {"sampler": sampler, "max_new_tokens": new, "block_length": 5, "return_dict_in_generate": True}
    expected, runs = call(model64, **options), []
    handle = model64.register_forward_pre_hook(lambda *_: runs.append(1))
    try:
        found = call(model64, check_every=300, **options)
    finally:
        handle.remove()
    assert len(runs) <= new and found.forwards_run.tolist() == [len(runs)] * 2
    assert torch.equal(found.sequences, expected.sequences) and torch.equal(found.nfe, expected.nfe)
    assert torch.equal(found.step_map, expected.step_map)


def test_greedy_is_a_flag():
    """Prevents the text "no" from turning drawing off."""
    from policies import make_policy

    with pytest.raises(ValueError, match="`greedy` must be True or False, got 'no'"):
        LearnedUnmaskingSampler(make_policy(), greedy="no")


def test_a_block_longer_than_any_canvas_is_one_block():
    """Prevents the largest length that is let through from overflowing."""
    model = tiny_eurobert()
    expected = call(model, block_length="full", max_new_tokens=6)
    for every in (1, 3):
        assert torch.equal(call(model, block_length=2**31 - 1, max_new_tokens=6, check_every=every), expected)
