"""A row's result depends on its prompt and seed only: not on batch, order, padding or neighbours."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from batches import SAMPLERS, learned, pad, prompts, run
from helpers import one_in
from models import PAD, VOCAB

from hf_unmask import generate
from hf_unmask.generation.reading import TokenDraw, read
from hf_unmask.generation.step import Needs
from hf_unmask.generation.ties import descending, first_largest
from hf_unmask.samplers import ConfidenceSampler, RandomSampler, ThresholdSampler

TYPICAL = ("threshold", "klass", "random", "learned_canvas", "learned_portable_block")  # they read different things


def typical(*values):
    """Cases of every sampler with these values; those of samplers that read what others read are slow."""
    return [pytest.param(name, *values, marks=() if name in TYPICAL else pytest.mark.slow) for name in SAMPLERS]


@pytest.mark.parametrize(
    ("name", "temperature"),
    [*typical(0.8), *typical(0.0)],
)
def test_row_does_not_depend_on_its_batch(model64, name, temperature):
    """Prevents whole-batch fallbacks, batch-averaged quotas, noise drawn per batch and state mixed between rows."""
    rows, sampler = prompts(), SAMPLERS[name]
    alone = [run(model64, [row], sampler, temperature=temperature)[0] for row in rows]
    assert len({row[2] for row in alone}) > 1 or name not in ("threshold", "learned_block"), "rows should differ in NFE"
    assert run(model64, rows, sampler, temperature=temperature) == alone
    assert run(model64, rows, sampler, side="right", extra=2, temperature=temperature) == alone
    order = [4, 7, 1, 0, 6, 2, 5, 3]
    assert run(model64, [rows[i] for i in order], sampler, extra=3, temperature=temperature) == [
        alone[i] for i in order
    ]


@pytest.mark.parametrize("name", SAMPLERS)
def test_row_does_not_depend_on_its_batch_in_full_diffusion(model64, name):
    """Prevents a window or a step budget that is taken from the batch."""
    rows, sampler = prompts(4), SAMPLERS[name]
    alone = [run(model64, [row], sampler, block_length=None, temperature=0.8)[0] for row in rows]
    assert run(model64, rows, sampler, side="right", block_length=None, temperature=0.8) == alone


@pytest.mark.parametrize("kind", ["modernbert", "bert"])
@pytest.mark.parametrize("name", ["threshold", "random", "klass", "learned_canvas"])
def test_padding_never_shifts_positions(models64, kind, name):
    """Prevents padding that moves absolute positions (BERT) or sliding windows (ModernBERT)."""
    rows, sampler = prompts(4), SAMPLERS[name]
    alone = [run(models64[kind], [row], sampler, temperature=0.8)[0] for row in rows]
    assert run(models64[kind], rows, sampler, extra=4, temperature=0.8) == alone
    assert run(models64[kind], rows, sampler, side="right", extra=1, temperature=0.8) == alone


@pytest.mark.parametrize(("name", "block_length"), [*((name, None) for name in SAMPLERS), *typical(4)])
def test_infilled_row_does_not_depend_on_longer_canvases(model64, name, block_length):
    """Prevents rows with fewer positions to fill from seeing the widest canvas of the batch."""
    g = torch.Generator().manual_seed(1)
    ids = torch.randint(3, VOCAB - 1, (4, 14), generator=g)
    fill = torch.rand(ids.shape, generator=g) < torch.tensor([0.2, 0.9, 0.5, 0.7])[:, None]
    assert len(set(fill.sum(-1).tolist())) > 2
    options = {"sampler": SAMPLERS[name], "block_length": block_length, "temperature": 0.8}

    def fields(rows):
        out = generate(
            model64, ids[rows], fill_mask=fill[rows], attention_mask=torch.ones_like(ids[rows]),
            return_dict_in_generate=True, **options
        )  # fmt: skip
        return [tuple(v[i].tolist() for v in (out.sequences, out.step_map, out.nfe)) for i in range(len(rows))]

    assert fields([0, 1, 2, 3]) == [fields([i])[0] for i in range(4)]


@pytest.mark.parametrize("name", ["threshold", "random", "credit", "learned_canvas"])
def test_guided_row_does_not_depend_on_its_batch(model64, name):
    """Prevents the unconditional pass from masking padding or neighbours' prompts."""
    rows, options = prompts(4), {"guidance_scale": 1.7, "temperature": 0.8}
    alone = [run(model64, [row], SAMPLERS[name], **options)[0] for row in rows]
    assert run(model64, rows, SAMPLERS[name], side="right", **options) == alone


@pytest.mark.parametrize("every", one_in(2, ["position filled", "prompt masked"]))
def test_rows_of_nothing_but_masks_do_not_depend_on_their_batch(models64, every):
    """Prevents ties by symmetry that the rounding of a batch's shape decides: ModernBERT sees relative positions only,
    so that all positions of such a row are alike."""
    rows = [torch.arange(3, 3 + length) for length in (11, 5, 8)]
    filled = every == "position filled"

    def fields(rows, sampler):
        ids, mask = pad(rows)
        options = {"fill_mask": mask.bool(), "max_new_tokens": 0} if filled else {"guidance_scale": 0.0}
        out = generate(
            models64["modernbert"], ids, sampler=sampler, attention_mask=mask, return_dict_in_generate=True,
            **{"max_new_tokens": 9, "block_length": "full", "pad_token_id": PAD, **options}
        )  # fmt: skip
        real = [torch.cat([row, row.new_ones(0 if filled else 9)]) > 0 for row in mask]
        return [(out.sequences[i][keep].tolist(), out.step_map[i][keep].tolist()) for i, keep in enumerate(real)]

    greedy = replace(learned("canvas"), greedy=True, beta=1e-3)  # opens its likeliest position
    for name in ("confidence", "entropy", "margin", "factor", "entropy_bound", "klass", "credit", "greedy"):
        sampler = SAMPLERS.get(name, greedy)
        assert fields(rows, sampler) == [fields([row], sampler)[0] for row in rows], name


def test_ties_go_to_the_first_and_only_they():
    """Prevents rounding that decides between equals, and a rule that decides more than rounding would."""
    values = torch.tensor([[0.3, 0.7, 0.1, 0.7, 0.3, -math.inf]], dtype=torch.float64)
    noise = torch.tensor([[0.0, -1e-15, 0.0, 1e-15, 2e-15, 0.0]], dtype=torch.float64)
    for rounding in (noise, -noise):
        assert descending(values + rounding).tolist() == [[1, 3, 0, 4, 2, 5]]
        assert first_largest(values + rounding).tolist() == [1]
        wide = torch.zeros(1, 5000, dtype=torch.float64)
        wide[0, [700, 4900]] = (values + rounding)[0, [1, 3]]
        assert read([wide], Needs.of(), TokenDraw(), None, ()).proposal.tolist() == [700]
    apart = values + 1e6 * noise
    assert descending(apart).tolist() == [[3, 1, 4, 0, 2, 5]] and first_largest(apart).tolist() == [3]
    assert descending(apart.float()).tolist() == apart.float().argsort(descending=True, stable=True).tolist()


@pytest.mark.parametrize("name", ["threshold", "learned_block"])
def test_stopping_row_does_not_depend_on_its_batch(model64, name):
    """Prevents rows that stop early from changing those that go on."""
    rows = prompts()
    plain = run(model64, rows, SAMPLERS[name], temperature=0.8)
    stop = plain[3][0][4]  # a token that some row writes
    options = {"stop_at_eos": True, "eos_token_id": stop, "temperature": 0.8}
    alone = [run(model64, [row], SAMPLERS[name], **options)[0] for row in rows]
    assert alone != plain
    assert run(model64, rows, SAMPLERS[name], side="right", **options) == alone


@pytest.mark.parametrize("name", ["entropy", "klass", "learned_block"])
def test_row_whose_gaps_end_early_does_not_depend_on_its_batch(model64, name):
    """Prevents blocks passed over in one row from moving others, and gaps read from other rows."""
    g = torch.Generator().manual_seed(7)
    ids = torch.randint(3, VOCAB - 1, (6, 16), generator=g)
    fill = torch.rand(ids.shape, generator=g) < torch.tensor([0.8, 0.9, 0.5, 0.7, 0.8, 1.0])[:, None]
    options = {
        **{"sampler": SAMPLERS[name], "block_length": 3, "temperature": 0.8, "max_new_tokens": 5},
        **{"stop_at_eos": True, "eos_token_id": [*range(3, 9)], "suppress_tokens": [PAD]},
    }

    def fields(rows, **more):
        out = generate(
            model64, ids[rows], fill_mask=fill[rows], attention_mask=torch.ones_like(ids[rows]),
            return_dict_in_generate=True, **options, **more
        )  # fmt: skip
        assert out.complete.all()
        return [tuple(v[i].tolist() for v in (out.sequences, out.step_map, out.nfe)) for i in range(len(rows))]

    alone = [fields([i])[0] for i in range(6)]
    assert fields([0, 1, 2, 3, 4, 5]) == alone == fields([0, 1, 2, 3, 4, 5], check_every=4, slots=4)
    for row, (sequence, steps, _) in enumerate(alone):
        writes, ended, last = [*fill[row].tolist(), *[True] * 5], False, -2
        for place in (place for place, one in enumerate(writes) if one):
            ended = ended and place == last + 1  # a gap begins afresh
            assert (sequence[place] == PAD) == ended and (steps[place] >= 0 or ended)
            ended, last = ended or sequence[place] in range(3, 9), place


@pytest.mark.parametrize("name", typical())
def test_num_return_sequences_equals_alone(model64, name):
    """Prevents continuations whose randomness depends on the place in the batch."""
    rows, sampler = prompts(3), SAMPLERS[name]
    options = {"num_return_sequences": 3, "temperature": 0.8}
    together = run(model64, rows, sampler, **options)
    assert together == [out for row in rows for out in run(model64, [row], sampler, **options)]
    assert [together[i] for i in (0, 3, 6)] == run(model64, rows, sampler, temperature=0.8)


@pytest.mark.slow
@pytest.mark.parametrize(
    "sampler",
    [ThresholdSampler(0.4), RandomSampler(2), ConfidenceSampler(2), learned("canvas", dtype=torch.float32)],
    ids=lambda sampler: sampler.name,
)
def test_float32_rows_differ_at_most_by_rounding(model, sampler):
    """Prevents batch effects in float32 beyond ties within rounding: at most 1 % of the rows."""
    rows = [row for row in prompts(120) if len(row) > 2][:80]  # long enough that no two are equal
    assert len({tuple(row.tolist()) for row in rows}) == len(rows)
    together = run(model, rows, sampler, temperature=0.8)
    smaller = [out for i in range(0, 80, 4) for out in run(model, rows[i : i + 4], sampler, "right", temperature=0.8)]
    alone = [run(model, [row], sampler, temperature=0.8)[0] for row in rows[:30]]
    pairs = [*zip(together, smaller, strict=True), *zip(together, alone, strict=False)]
    assert sum(a != b for a, b in pairs) <= len(pairs) // 100


@pytest.mark.parametrize("name", ["random", "threshold", "learned_block"])
def test_seeds(model64, name):
    """Prevents hidden global randomness, and a seed without effect."""
    rows, sampler = prompts(), SAMPLERS[name]
    first = run(model64, rows, sampler, temperature=0.8, seed=11)
    torch.manual_seed(99)
    before = torch.get_rng_state()
    assert run(model64, rows, sampler, temperature=0.8, seed=11) == first
    assert torch.equal(torch.get_rng_state(), before)
    other = run(model64, rows, sampler, temperature=0.8, seed=12)
    assert all(a[0] != b[0] for a, b in zip(first, other, strict=True))


def test_seed_is_irrelevant_to_greedy_deterministic_decoding(model64):
    """Prevents noise from leaking into temperature 0."""
    rows = prompts()
    a, b = (run(model64, rows, ThresholdSampler(0.4), seed=seed) for seed in (1, 2))
    assert a == b


def test_equal_prompts_of_one_call_differ(model64):
    """Prevents a group of rollouts of one prompt from being copies."""
    rows = [prompts()[1]] * 6
    tokens = [tuple(out[0]) for out in run(model64, rows, ThresholdSampler(0.4), temperature=3.0)]
    assert len(set(tokens)) == 6
    same = [tuple(out[0]) for out in run(model64, rows, RandomSampler(2))]
    assert len(set(same)) > 1, "the order is random too"


def test_equal_prompts_differ_by_occurrence_whatever_lies_between(model64):
    """Prevents occurrence numbers that count other prompts."""
    a, b = prompts(2)
    options = {"temperature": 0.8}
    twice = run(model64, [a, a], RandomSampler(), **options)
    mixed = run(model64, [b, a, b, a], RandomSampler(), **options)
    assert [mixed[1], mixed[3]] == twice


def test_seed_per_row_equals_separate_calls(model64):
    """Prevents per-row seeds from being read in the wrong order; the trainer passes row ids."""
    rows, seeds = prompts(4), [7, 8, 7, 2**40]
    together = run(model64, rows, RandomSampler(), temperature=0.8, seed=torch.tensor(seeds))
    assert together == [
        run(model64, [row], RandomSampler(), temperature=0.8, seed=seed)[0]
        for row, seed in zip(rows, seeds, strict=True)
    ]
    equal = [rows[0]] * 2  # equal prompts with different seeds are first occurrences both
    together = run(model64, equal, RandomSampler(), temperature=0.8, seed=torch.tensor([3, 4]))
    assert together == [run(model64, [rows[0]], RandomSampler(), temperature=0.8, seed=s)[0] for s in (3, 4)]
