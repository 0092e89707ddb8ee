"""Kept keys and values: exact where they must be, computed where they should be, refused where they cannot be."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from types import SimpleNamespace

import pytest
import torch
from batches import learned, prompts
from batches import run as run_rows
from doubles import CACHE, a2d_double, dream_double, llada_double, row_double
from helpers import one_in
from models import EOS, MASK, PAD, VOCAB, tiny_bert, tiny_eurobert
from transformers import EuroBertConfig, EuroBertForMaskedLM

from hf_unmask import Denoiser, generate
from hf_unmask.denoisers.caching import cache_argument
from hf_unmask.samplers import KLASSSampler, RandomSampler, ThresholdSampler

MODES = ["prefix", "dual"]
#: A refresh that never comes: whole passes only where a block begins.
ONCE = 99
both = pytest.mark.parametrize("mode", MODES)
SAMPLERS = {
    "threshold": ThresholdSampler(0.2),
    "klass": KLASSSampler(tau=0.3, eps=1.0, n=1),
    "random": RandomSampler(k=2),
    "learned_block": learned("block"),
}


def one_layer(attention="sdpa", dtype=torch.float64):
    """Keys and values of its only layer depend on nothing but the token, so that keeping them is exact in a block."""
    torch.manual_seed(4)
    config = EuroBertConfig(
        vocab_size=VOCAB, hidden_size=32, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=48, max_position_embeddings=128, pad_token_id=PAD, bos_token_id=2, eos_token_id=EOS,
        mask_token_id=MASK, initializer_range=0.4, attn_implementation=attention,
    )  # fmt: skip
    return EuroBertForMaskedLM(config).to(dtype).eval()


def columns(model):
    """Shapes of what the model is called with, as a list that grows, and the hook's handle."""
    shapes = []
    inner = model.model if isinstance(model, Denoiser) else model
    hook = inner.register_forward_pre_hook(
        lambda _module, _args, kwargs: shapes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    return shapes, hook


class HandedOn(torch.nn.Module):
    """A forward that names nothing, as wrappers have."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, *args, **kwargs):
        return self.inner(*args, **kwargs)


@pytest.mark.parametrize(
    ("build", "name"),
    [
        (tiny_eurobert, CACHE),
        (a2d_double, CACHE),
        (dream_double, "past_key_values"),
        (lambda: row_double("sdar"), "past_key_values"),
    ],
)
def test_the_cache_is_called_what_the_model_calls_it(build, name):
    """Prevents a name that transformers 5.24 warns of and 5.40 does not know, or that a checkpoint's code lacks."""
    model = build()
    assert Denoiser.from_model(model).cache_argument == name
    assert cache_argument(HandedOn(HandedOn(model))) == name
    assert cache_argument(torch.nn.Linear(2, 2)) == "past_key_values"


@both
@pytest.mark.parametrize("name, kernel", [*((name, "sdpa") for name in SAMPLERS), ("threshold", "eager")])
def test_one_layer_is_exact(mode, name, kernel):
    """Prevents wrong columns, places, masks or rows: what is kept has not changed, so nothing may differ."""
    model, rows = one_layer(kernel), prompts(5)
    options = {"temperature": 0.8, "stop_at_eos": True, "eos_token_id": 9}
    expected = run_rows(model, rows, SAMPLERS[name], **options)
    assert len({row[2] for row in expected}) > 1 or name == "random", "rows should advance at different paces"
    options |= {"cache": mode, "cache_refresh": ONCE}
    assert run_rows(model, rows, SAMPLERS[name], **options) == expected
    assert run_rows(model, rows, SAMPLERS[name], slots=2, **options) == expected


def shifted(model):
    """As if the model had been trained so."""
    return replace(Denoiser.from_model(model), shift=1)


@both
def test_shifted_models_read_the_column_before(mode):
    """Prevents logits of a column that was not computed, and a double pass that reads the wrong one."""
    rows = prompts(5)
    for model in (shifted(one_layer()), one_layer_dream()):
        expected = run_rows(model, rows, ThresholdSampler(0.3), temperature=0.8)
        options = {"temperature": 0.8, "cache": mode, "cache_refresh": ONCE}
        assert run_rows(model, rows, ThresholdSampler(0.3), **options) == expected


@both
def test_causal_classes_that_run_bidirectionally_keep_theirs(mode):
    """Prevents a causal mask in a pass over some columns."""
    model, rows = a2d_double(torch.float64, layers=1), prompts(4)
    expected = run_rows(model, rows, ThresholdSampler(0.3), temperature=0.8)
    options = {"temperature": 0.8, "cache": mode, "cache_refresh": ONCE}
    assert run_rows(model, rows, ThresholdSampler(0.3), **options) == expected


def one_layer_dream():
    model = dream_double(torch.float64)
    model.backbone = one_layer()
    return model


@both
def test_gaps_in_the_prompt_can_be_filled(mode):
    """Prevents columns that assume a canvas without gaps."""
    g = torch.Generator().manual_seed(3)
    ids = torch.randint(3, VOCAB - 1, (3, 16), generator=g)
    fill = torch.rand(ids.shape, generator=g) < torch.tensor([0.3, 0.8, 0.5])[:, None]
    options = {"fill_mask": fill, "attention_mask": torch.ones_like(ids), "block_length": 4, "temperature": 0.8}
    for model in (one_layer(), shifted(one_layer())):
        expected = generate(model, ids, sampler=ThresholdSampler(0.4), **options)
        kept = {**options, "cache": mode, "cache_refresh": ONCE}
        assert torch.equal(generate(model, ids, sampler=ThresholdSampler(0.4), **kept), expected)


@both
@pytest.mark.parametrize("name", ["threshold", "learned_block"])
def test_a_row_does_not_depend_on_its_batch(mode, name):
    """Prevents kept values of a neighbour, and refreshes at a neighbour's pace."""
    rows, model64 = prompts(5), tiny_eurobert(torch.float64, layers=2)  # one layer is exact
    options = {"temperature": 0.8, "cache": mode, "cache_refresh": 3}
    alone = [run_rows(model64, [row], SAMPLERS[name], **options)[0] for row in rows]
    assert run_rows(model64, rows, SAMPLERS[name], **options) == alone
    assert run_rows(model64, rows, SAMPLERS[name], side="right", extra=20, slots=3, **options) == alone
    assert alone != run_rows(model64, rows, SAMPLERS[name], temperature=0.8), "it is an approximation"


@both
def test_always_refreshing_is_no_cache(model64, mode):
    """Prevents an interval that is off by one."""
    rows = prompts(4)
    expected = run_rows(model64, rows, RandomSampler(), temperature=0.8)
    assert run_rows(model64, rows, RandomSampler(), temperature=0.8, cache=mode, cache_refresh=1) == expected


@pytest.mark.parametrize(
    "mode, refresh, k, widths",
    [
        ("prefix", ONCE, 1, [14, 12, 12, 12, 14, 8, 8, 8, 14, 4, 4, 4]),
        ("prefix", 2, 1, [14, 12, 14, 12, 14, 8, 14, 8, 14, 4, 14, 4]),
        ("dual", 2, 1, [14, 4] * 6),
        ("dual", 3, 1, [14, 4, 4, 14] * 3),
        ("dual", 3, 2, [14, 4] * 3),
        ("dual", 2, 2, [14, 14] * 3),
    ],
)
def test_what_a_pass_computes(model, mode, refresh, k, widths):
    """Prevents a cache that saves nothing, and one that is kept although most of its block has been written since."""
    shapes, hook = columns(model)
    ids = torch.tensor([[5, 6]])
    out = generate(
        model, ids, sampler=RandomSampler(k), max_new_tokens=12, block_length=4, cache=mode, cache_refresh=refresh,
        return_dict_in_generate=True,
    )  # fmt: skip
    hook.remove()
    assert [width for _, width in shapes] == widths
    assert out.nfe.item() == out.forwards_run.item() == len(widths)


def test_the_default_refresh(model):
    """Prevents a cache that costs accuracy where it saves little, without a word."""
    shapes, hook = columns(model)
    options = {"sampler": RandomSampler(4), "max_new_tokens": 32, "cache": "dual"}
    generate(model, torch.tensor([[5, 6]]), block_length=32, **options)
    assert [width for _, width in shapes] == [34, 32, 32, 32] * 2
    shapes.clear()
    with pytest.warns(UserWarning, match=r"`cache='dual'` keeps nothing by default in blocks of 8, shorter than 16"):
        generate(model, torch.tensor([[5, 6]]), block_length=8, **options)
    assert {width for _, width in shapes} == {34}
    hook.remove()


def test_a_policy_that_sees_the_canvas_keeps_the_prompt(model):
    """Prevents confidences of blocks that were not computed."""
    shapes, hook = columns(model)
    policy = learned("canvas", dtype=torch.float32)
    options = {"cache": "prefix", "cache_refresh": ONCE}
    generate(model, torch.tensor([[5, 6, 7]]), sampler=policy, max_new_tokens=8, block_length=4, **options)
    hook.remove()
    assert {width for _, width in shapes} <= {11, 8} and (1, 8) in shapes
    exact = one_layer()
    rows, policy = prompts(4), learned("canvas")
    expected = run_rows(exact, rows, policy, temperature=0.8)
    assert run_rows(exact, rows, policy, temperature=0.8, **options) == expected


# Models whose positions see their own block and those before it


def sdar(**config):
    return row_double("sdar", torch.float64, **config)


def additive():
    """LLaDA2 as the copies of its code have it that take wide masks."""
    return replace(Denoiser.from_model(row_double("llada2_moe", torch.float64, square=False)), cache_refusal=None)


@pytest.mark.parametrize("name, mode", one_in(3, [*product(SAMPLERS, MODES), ("learned_canvas", "prefix")]))
def test_finished_blocks_are_kept_exactly(mode, name):
    """Prevents blocks counted from the wrong place, a block kept as it was before its last tokens were written, and
    rows whose pace or columns a neighbour sets: unequal prompts, blocks that begin in one, a part of a block last."""
    sampler, rows = SAMPLERS.get(name) or learned("canvas"), prompts(5)
    options = {"temperature": 0.8, "stop_at_eos": True, "eos_token_id": 9, "block_length": 4, "max_new_tokens": 11}
    model = sdar()
    expected = run_rows(model, rows, sampler, **options)
    assert len({row[2] for row in expected}) > 1 or name == "random", "rows should advance at different paces"
    assert run_rows(model, rows, sampler, cache=mode, **options) == expected
    assert run_rows(model, rows, sampler, cache=mode, side="right", extra=20, slots=2, **options) == expected


@pytest.mark.parametrize("part", [4, 8])
@pytest.mark.parametrize("shift", [0, 1])
def test_parts_of_blocks_shifts_and_masks_that_are_added(part, shift):
    """Prevents the rest of the model's block left as it was, and a column before the block that is not computed."""
    rows = prompts(4)
    options = {"temperature": 0.8, "block_length": part, "max_new_tokens": 14}
    for model, refresh in ((additive(), None), (Denoiser.from_model(sdar()), 3)):
        denoiser = replace(model, block_length=8, shift=shift)
        expected = run_rows(denoiser, rows, ThresholdSampler(0.2), **options)
        kept = {**options, "cache": "dual", "cache_refresh": refresh}
        assert run_rows(denoiser, rows, ThresholdSampler(0.2), **kept) == expected


@pytest.mark.parametrize(
    "mode, sampler, options, widths",
    [
        ("dual", RandomSampler(2), {}, [16, 8, 4, 8, 4]),
        ("prefix", RandomSampler(2), {}, [16, 8, 4, 8, 4]),
        ("dual", RandomSampler(2), {"block_length": 2}, [16, 8, 4, 8, 4]),
        ("dual", RandomSampler(1), {"cache_refresh": 3}, [16, 4, 8, 16, 4, 4, 16, 4, 4, 16]),
        ("prefix", learned("canvas", dtype=torch.float32), {}, [16] + [12] * 9),
    ],
)
def test_what_a_pass_computes_of_causal_blocks(mode, sampler, options, widths):
    """Prevents whole passes where nothing has changed, and positions that nobody sees."""
    model = row_double("sdar")
    shapes, hook = columns(model)
    options = {"sampler": sampler, "cache": mode, "max_new_tokens": 10, **options}
    out = generate(model, torch.tensor([[5, 6, 7, 8, 5, 6]]), return_dict_in_generate=True, **options)
    hook.remove()
    found = [width for _, width in shapes]
    assert found == widths[: len(found)] and len(found) == out.nfe.item()


def test_the_argument_that_stores_is_passed():
    """Prevents a double that stores whatever it is told."""
    silent = replace(Denoiser.from_model(sdar()), cache_switches=())
    with pytest.raises(ValueError, match="nothing is stored without store_kv"):
        generate(silent, torch.tensor([[5]]), sampler=ThresholdSampler(), max_new_tokens=4, cache="dual")


def flash():
    model = tiny_eurobert()
    model.config = SimpleNamespace(**model.config.to_dict(), _attn_implementation="flash_attention_2")
    return model


@pytest.mark.parametrize(
    "build, sampler, options, message",
    [
        (tiny_bert, ThresholdSampler(), {}, r"`cache='dual'` .*its layers take no cache; drop `cache`"),
        (llada_double, ThresholdSampler(), {}, "asserts that there is no cache"),
        (lambda: row_double("lladamoe"), ThresholdSampler(), {}, "asserts that there is no cache"),
        (lambda: row_double("llada2_moe"), ThresholdSampler(), {}, "forward refuses a mask that is wider than the tok"),
        (lambda: row_double("Fast_dLLM_Qwen"), ThresholdSampler(), {}, "its forward makes the mask itself"),
        (lambda: row_double("mdlm"), ThresholdSampler(), {}, "its layers take no cache; drop `cache`"),
        (lambda: row_double("sdar"), learned("canvas", dtype=torch.float32), {}, "use cache='prefix'"),
        (flash, ThresholdSampler(), {}, "'flash_attention_2' takes no mask .*attn_implementation='sdpa'"),
        (tiny_eurobert, ThresholdSampler(), {"guidance_scale": 2.0}, "`guidance_scale=2.0` makes two"),
        (tiny_eurobert, ThresholdSampler(), {"check_every": 2}, "drop `check_every=2`"),
        (tiny_eurobert, learned("canvas", dtype=torch.float32), {}, "reads the whole canvas: use cache='prefix'"),
        (
            tiny_eurobert,
            ThresholdSampler(),
            {"cache": "full"},
            "`cache` must be 'prefix', 'dual', 'off' or None, got 'full'",
        ),
        (tiny_eurobert, ThresholdSampler(), {"cache": None, "cache_refresh": 2}, "`cache_refresh=2` needs a cache"),
        (tiny_eurobert, ThresholdSampler(), {"cache_refresh": 0}, "`cache_refresh` must be an int of at least 1"),
    ],
)
def test_refused_with_the_reason(build, sampler, options, message):
    """Prevents a cache that is ignored, or that breaks somewhere inside a model."""
    with pytest.raises(ValueError, match=message):
        generate(build(), torch.tensor([[5]]), sampler=sampler, max_new_tokens=4, **{"cache": "dual", **options})


@pytest.mark.parametrize("kind", ["of its own", "none at all"])
@both
def test_code_that_keeps_something_else_is_told(kind, mode):
    """Copies of a family's code may take tuples of layers for their cache, or take the argument and not look at it."""

    class Copied(type(dream_double())):
        def forward(self, input_ids, attention_mask, position_ids=None, past_key_values=None, use_cache=False):
            if past_key_values is not None and kind == "of its own":
                past_key_values[0][0]
            return super().forward(input_ids, attention_mask, position_ids)

    model = Copied(dream_double().config).eval()
    ids = torch.tensor([[5, 6, 7]])
    options = {"sampler": ThresholdSampler(0.2), "max_new_tokens": 4}
    with pytest.raises(ValueError, match=r"Copied keeps no keys and values in a `Cache` of transformers: leave"):
        generate(model, ids, cache=mode, block_length=2, cache_refresh=2, **options)
    assert torch.equal(generate(model, ids, **options), generate(dream_double(), ids, **options))
