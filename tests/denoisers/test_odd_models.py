"""Models that are off-loaded, answer in tuples, were resized, forbid tokens, or have segments; policies gone bad."""

from __future__ import annotations

import math

import pytest
import torch
from accelerate import cpu_offload
from models import MASK, PAD, VOCAB, tiny_bert, tiny_eurobert, tiny_modernbert
from policies import make_policy
from transformers import BertForMaskedLM, GenerationMixin

import hf_unmask
from hf_unmask import Denoiser, LearnedUnmaskingSampler, attach, generate, generate_stream
from hf_unmask.denoisers import head
from hf_unmask.doors.block import require_usable
from hf_unmask.evaluation.environment import weights_fingerprint
from hf_unmask.generation.reading import guided
from hf_unmask.hub_generate import generate_with
from hf_unmask.samplers import EosSuppressSampler, RandomSampler, ThresholdSampler

PROMPT = torch.tensor([[5, 17, 31], [8, 9, 10]])
SAMPLER = ThresholdSampler(0.4)


def call(model, ids=PROMPT, **options):
    return generate(model, ids, **{"sampler": SAMPLER, "max_new_tokens": 4, **options})


# Where the weights are


@pytest.mark.parametrize("few", [0, head.FEW])
def test_off_loaded_weights(model, few, monkeypatch):
    """Prevents token ids from being sent to the device "meta", where off-loaded weights are; the hooks know better."""
    monkeypatch.setattr(head, "FEW", few)
    away = tiny_eurobert()
    cpu_offload(away, execution_device="cpu")
    assert away.get_input_embeddings().weight.is_meta
    assert Denoiser.from_model(away).device == torch.device("cpu")
    assert torch.equal(call(away), call(model))
    assert weights_fingerprint(away) == weights_fingerprint(model), "an evaluation goes on with the same weights"
    assert hf_unmask.check(away).ok


def test_weights_that_were_never_loaded():
    """Prevents tokens from a model without numbers."""
    with torch.device("meta"):
        empty = BertForMaskedLM(tiny_bert().config).eval()
    with pytest.raises(ValueError, match="are on no device .*: load them, e.g. by from_pretrained"):
        call(empty)


# What a model returns


def test_tuples_with_logits_first():
    """Prevents `config.return_dict=False` from ending in an attribute that a tuple lacks."""
    model = tiny_bert()
    denoiser, places = Denoiser.from_model(model), torch.tensor([[1], [2]])
    expected, states = call(model), denoiser(PROMPT, None, places, hidden=True).hidden
    model.config.return_dict = False
    assert isinstance(model(PROMPT), tuple)
    assert torch.equal(call(model), expected)
    assert torch.equal(denoiser(PROMPT, None, places, hidden=True).hidden, states)


def test_classes_that_fail_with_tuples():
    """Prevents transformers' own error on a class that reads its body's tuple as an output: the cure is named."""
    model = tiny_eurobert()
    model.config.return_dict = False
    with pytest.raises(AttributeError):
        model(PROMPT)
    with pytest.raises(ValueError, match="EuroBertForMaskedLM fails with `config.return_dict=False`: set it to True"):
        call(model)


def test_a_body_without_a_head():
    """Prevents hidden states from being taken for logits."""
    with pytest.raises(ValueError, match="BertModel returns no logits: load it with a head that predicts tokens"):
        call(attach(tiny_bert().bert, shift=0, attention="2d", mask_token_id=MASK))


# Resized embeddings


@pytest.mark.parametrize("size", [VOCAB + 4, VOCAB - 1])
@pytest.mark.filterwarnings("ignore:The new")
def test_resized_after_it_was_attached(size):
    """Prevents an adapter that knows another vocabulary than its model, whichever door is taken."""
    model = attach(tiny_eurobert(), mask_token_id=40)
    denoiser = model.generate.denoiser
    model.resize_token_embeddings(size, mean_resizing=False)
    message = rf"has {size} tokens, but had {VOCAB} when .* call hf_unmask.detach\(model\), then attach it again"
    with pytest.raises(ValueError, match=message):
        model.generate(PROMPT, sampler=SAMPLER, max_new_tokens=4)
    for door in (model, denoiser):
        with pytest.raises(ValueError, match=message):
            call(door)
    again = attach(hf_unmask.detach(model), mask_token_id=40)
    assert (again.generate(PROMPT, sampler=SAMPLER, max_new_tokens=4) < size).all()


# Guidance on tokens that are forbidden


def test_guided_logits():
    """Prevents NaN of -inf minus -inf, and a token that one pass forbids from becoming infinitely likely."""
    inf, nan = math.inf, math.nan
    conditional = torch.tensor([[1.0, -inf, -inf, 2.0, nan, inf, nan]])
    plain = torch.tensor([[3.0, -inf, 1.0, -inf, 1.0, 1.0, -inf]])
    for scale in (0.0, 0.5, 2.5, -1.0):
        found = guided(conditional, plain, scale)[0]
        assert found[0] == 3.0 - 2.0 * scale
        assert (found[1:4] == -inf).all(), "what either pass forbids is forbidden"
        assert found[4].isnan() and found[6].isnan(), "a fault stays one"
        assert not found[5].isfinite()


def test_guidance_with_tokens_that_the_model_forbids(model64):
    """Prevents padded vocabularies, whose last logits are -inf, from being an error under guidance."""
    forbidding = tiny_eurobert(torch.float64)

    def forbid(module, args, output):
        output.logits[..., 22] = -math.inf
        return output

    forbidding.register_forward_hook(forbid)
    expected = call(model64, guidance_scale=2.0, suppress_tokens=[22])
    assert torch.equal(call(forbidding, guidance_scale=2.0), expected)
    assert not torch.equal(call(model64, guidance_scale=2.0), expected)


# A policy gone bad


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("wrap", [lambda sampler: sampler, EosSuppressSampler], ids=["plain", "wrapped"])
def test_a_policy_whose_weights_are_not_finite(model, value, wrap):
    """Prevents positions opened by NaN, which looks like decoding."""
    sampler = LearnedUnmaskingSampler(make_policy())
    call(model, sampler=wrap(sampler))
    with torch.no_grad():
        sampler.policy.query.weight[2, 3] = value
    message = "`query.weight`: found values that are not finite, expected finite values: load it again"
    with pytest.raises(ValueError, match=message):
        call(model, sampler=wrap(sampler))
    with pytest.raises(ValueError, match=message):
        require_usable(wrap(sampler), "an engine", whole_canvas=True, stops=True)


# Segments

IDS = torch.tensor([[5, 17, 31, 8, 9]])
TYPES = torch.tensor([[0, 0, 1, 1, 1]])
SHORT = torch.tensor([[20, 21]])


class GeneratingBert(BertForMaskedLM, GenerationMixin):
    """A class whose ``generate`` is transformers', as that of remote code is."""


@pytest.fixture(scope="module")
def bert():
    return tiny_bert(torch.float64)


def by_hand(model, ids, types, new):
    """Left to right, one token per pass, from the model alone; new tokens are of the last one's segment."""
    canvas = torch.cat([ids, torch.full((1, new), MASK)], dim=1)
    types = torch.cat([types, types[:, -1:].expand(1, new)], dim=1)
    for place in range(ids.shape[1], canvas.shape[1]):
        logits = model(input_ids=canvas, token_type_ids=types).logits[0, place]
        logits[MASK] = -math.inf
        canvas[0, place] = logits.argmax()
    return canvas


@torch.no_grad()
def test_segments_are_used_and_extended(bert):
    """Prevents segments from being refused, dropped, or ending with the prompt."""
    options = {"max_new_tokens": 6, "block_length": 1, "token_type_ids": TYPES}
    expected = by_hand(bert, IDS, TYPES, 6)
    assert torch.equal(call(bert, IDS, **options), expected)
    assert not torch.equal(call(bert, IDS, **{**options, "token_type_ids": None}), expected)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("sampler", [SAMPLER, RandomSampler()], ids=str)
def test_segments_of_padded_rows(bert, side, sampler):
    """Prevents segments that stay behind when rows are left-padded, trimmed or joined by others, and those of
    padding that are read."""
    options = {"sampler": sampler, "max_new_tokens": 6, "temperature": 0.7}
    alone = [call(bert, IDS, token_type_ids=TYPES, **options), call(bert, SHORT, **options)]
    gap = torch.zeros(1, 3, dtype=torch.long)
    order = (lambda row, hole: [hole, row]) if side == "left" else (lambda row, hole: [row, hole])
    rows = torch.cat([IDS, torch.cat(order(SHORT, gap), 1)])
    mask = torch.cat([torch.ones_like(IDS), torch.cat(order(torch.ones_like(SHORT), gap), 1)])
    types = torch.cat([TYPES, torch.cat(order(SHORT * 0, gap + 1), 1)])
    for slots in (None, 1):
        found = call(bert, rows, attention_mask=mask, token_type_ids=types, slots=slots, **options)
        assert torch.equal(found[:1], alone[0])
        assert torch.equal(found[1, 3:] if side == "left" else torch.cat([found[1, :2], found[1, 5:]]), alone[1][0])
    lists = [SHORT[0].tolist(), IDS[0].tolist()]
    stream = generate_stream(bert, lists, token_type_ids=[[0, 0], TYPES[0].tolist()], slots=1, **options)
    assert [row.output.sequences.tolist() for row in stream] == [alone[1].tolist(), alone[0].tolist()]


def test_an_encoding_through_every_door(bert, tmp_path):
    """Prevents what a BERT tokenizer returns from being an unknown option of one of them."""
    encoding = {"input_ids": IDS, "attention_mask": torch.ones_like(IDS), "token_type_ids": TYPES}
    attached, own = attach(tiny_bert(torch.float64)), GeneratingBert(bert.config).double().eval()
    own.load_state_dict(bert.state_dict())
    attach(own, shift=0, attention="2d")
    drawn = {"do_sample": True, "temperature": 0.8, "seed": 5, "num_return_sequences": 2}
    for options in ({"max_new_tokens": 4}, {"max_new_tokens": 4, **drawn}):
        expected = generate(bert, **encoding, sampler=SAMPLER, **options)
        assert torch.equal(attached.generate(**encoding, sampler=SAMPLER, **options), expected)
        assert torch.equal(own.generate(**encoding, custom_generate=SAMPLER, pad_token_id=PAD, **options), expected)
    sampler = LearnedUnmaskingSampler(make_policy())
    sampler.save_pretrained(tmp_path)
    expected = generate(bert, **encoding, sampler=sampler, max_new_tokens=4)
    assert torch.equal(generate_with(str(tmp_path), bert, **encoding, max_new_tokens=4), expected)


@pytest.mark.parametrize("build", [tiny_eurobert, tiny_modernbert])
def test_segments_of_a_model_without(build):
    """Prevents zeros, which say nothing, from being refused, and others from being ignored."""
    model = build()
    zeros = torch.zeros_like(PROMPT)
    assert torch.equal(call(model, token_type_ids=zeros), call(model))
    with pytest.raises(ValueError, match=r"`token_type_ids` holds 1, \w+ has 1 type\(s\) of tokens: drop"):
        call(model, token_type_ids=zeros + 1)


@pytest.mark.parametrize(
    ("types", "message"),
    [
        (TYPES + 1, r"`token_type_ids` holds 2, BertForMaskedLM has 2 type\(s\)"),
        (TYPES - 1, "`token_type_ids` holds -1"),
        (TYPES.float(), "`token_type_ids` must be long, got torch.float32"),
        (TYPES[:, :2], r"`token_type_ids` must be a tensor of the shape of `input_ids` \(1, 5\), got \(1, 2\)"),
        (TYPES.tolist(), r"`token_type_ids` must be a tensor .* list \[\[0, 0, 1, 1, 1\]\]"),
    ],
)
def test_segments_that_cannot_be_used(bert, types, message):
    """Prevents an index error in the embedding."""
    with pytest.raises(ValueError, match=message):
        call(bert, IDS, token_type_ids=types)
    with pytest.raises(ValueError, match=r"`token_type_ids` must be lists as long as the prompts, got \[\[0\]\]"):
        generate_stream(bert, [[5, 6]], token_type_ids=[[0]], sampler=SAMPLER, max_new_tokens=2)
