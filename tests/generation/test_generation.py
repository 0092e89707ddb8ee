"""The loop and its options: what is opened when, what is counted, who is told."""

from __future__ import annotations

import math
from dataclasses import dataclass
from threading import Thread
from typing import ClassVar

import pytest
import torch
from helpers import ALL_SAMPLERS, one_in
from models import EOS, MASK, PAD, VOCAB, tiny_bert, tiny_eurobert
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import (
    GenerationConfig,
    PreTrainedTokenizerFast,
    TextDiffusionStreamer,
    TextIteratorStreamer,
    TextStreamer,
)

from hf_unmask import Needs, Sampler, Selection, UnmaskingGenerationConfig, UnmaskOutput, generate
from hf_unmask.samplers import (
    ConfidenceSampler,
    EntropySampler,
    LeftToRightSampler,
    MarginSampler,
    RandomSampler,
    ThresholdSampler,
)

PROMPT = torch.tensor([[5, 17, 31, 8]])
every_sampler = pytest.mark.parametrize("sampler", ALL_SAMPLERS.values(), ids=ALL_SAMPLERS)


@pytest.fixture(scope="module")
def tokenizer():
    special = {"[PAD]": PAD, "[EOS]": EOS, "[BOS]": 2, "[MASK]": MASK}
    words = {f"w{i}": i for i in range(3, VOCAB - 1)}
    inner = Tokenizer(WordLevel(special | words, unk_token="[PAD]"))
    inner.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="[PAD]", eos_token="[EOS]", mask_token="[MASK]",
        clean_up_tokenization_spaces=False,
    )  # fmt: skip


def fill(model, ids=PROMPT, sampler=None, **options):
    options = {"max_new_tokens": 12, "pad_token_id": PAD} | options
    mask = torch.ones_like(ids)
    return generate(
        model,
        ids,
        sampler=sampler or ThresholdSampler(0.4),
        attention_mask=mask,
        return_dict_in_generate=True,
        **options,
    )


def many_prompts(rows=6, width=4):
    return torch.randint(3, VOCAB - 1, (rows, width), generator=torch.Generator().manual_seed(2))


def counting(model):
    """Number of forward passes so far, as a list that grows, and the hook's handle."""
    calls = []
    return calls, model.register_forward_hook(lambda *_: calls.append(1))


# Blocks and counts


@every_sampler
@pytest.mark.parametrize("block_length", one_in(2, [3, 5, 12, 40, None]))
def test_blocks_open_in_order_and_counts_add_up(model64, sampler, block_length):
    """Prevents blocks that open early, stalled steps and counts that do not belong to the row."""
    ids = many_prompts()
    out = fill(model64, ids, sampler, block_length=block_length, temperature=0.7)
    size = min(block_length or 12, 12)
    assert torch.equal(out.sequences[:, :4], ids)
    assert (out.step_map[:, :4] == -1).all()
    for row, steps in zip(out.step_map[:, 4:], out.steps.tolist(), strict=True):
        assert sorted(set(row.tolist())) == list(range(steps)), "every step opens something"
        blocks = row.split(size)
        assert all(a.max() < b.min() for a, b in zip(blocks, blocks[1:], strict=False))
        assert all(len(block.unique()) <= len(block) for block in blocks)
    assert torch.equal(out.nfe, out.steps)
    assert torch.allclose(out.tokens_per_forward, 12 / out.nfe)
    assert out.complete.all() and out.complete.dtype == torch.bool
    assert not (out.sequences[:, 4:] == MASK).any()


def test_last_block_is_shorter(model64):
    """Prevents a refusal, or tokens beyond the canvas, where block_length does not divide."""
    out = fill(model64, sampler=ConfidenceSampler(steps_per_block=2), block_length=5)
    assert out.sequences.shape == (1, 16)
    assert [block.max().item() for block in out.step_map[0, 4:].split(5)] == [1, 3, 5]


@every_sampler
def test_one_forward_pass_per_step(model, sampler):
    """Prevents hidden forward passes: NFE is what a hook on the model counts."""
    calls, hook = counting(model)
    out = fill(model, sampler=sampler, block_length=6)
    hook.remove()
    assert len(calls) == out.nfe.item()


def test_guidance_doubles_nfe_but_not_steps(model):
    """Prevents guidance that looks free."""
    calls, hook = counting(model)
    out = fill(model, sampler=RandomSampler(2), guidance_scale=1.5)
    hook.remove()
    assert out.steps.item() == 6 and out.nfe.item() == 12 == len(calls)
    assert out.tokens_per_forward.item() == 1.0


def test_batch_makes_as_many_passes_as_its_slowest_row(model):
    """Prevents a batch that waits for nobody, or rows that stay after they finished."""
    widths = []
    hook = model.register_forward_pre_hook(
        lambda _module, _args, kwargs: widths.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    out = fill(model, many_prompts(8), block_length=6)
    hook.remove()
    assert len(widths) == out.nfe.max() and len(out.nfe.unique()) > 1
    assert widths == [int((out.nfe > step).sum()) for step in range(len(widths))]


# Infilling


@pytest.mark.parametrize("sampler", [ThresholdSampler(0.4), RandomSampler(2)], ids=str)
def test_fill_mask_opens_these_positions_only(model64, sampler):
    """Prevents text around a gap from being changed."""
    ids, gaps = many_prompts(3, 10), torch.zeros(3, 10, dtype=torch.bool)
    gaps[0, [1, 4, 5]] = gaps[1, [0, 9]] = True
    out = fill(model64, ids, sampler, fill_mask=gaps, max_new_tokens=None)
    assert out.sequences.shape == ids.shape
    assert torch.equal(out.sequences[~gaps], ids[~gaps])
    assert torch.equal(out.step_map >= 0, gaps)
    assert out.complete.all() and (out.sequences != MASK).all()
    assert out.nfe[2] == out.steps[2] == out.tokens_per_forward[2] == 0, "nothing to fill costs nothing"


def test_fill_mask_and_new_tokens_together(model64):
    """Prevents one of the two from being ignored."""
    gaps = torch.tensor([[False, True, False, False]])
    out = fill(model64, fill_mask=gaps, max_new_tokens=3)
    assert (out.step_map >= 0).tolist() == [[False, True, False, False, True, True, True]]


def test_no_new_tokens_fills_the_mask_tokens_of_the_prompt(model64):
    """Prevents mask tokens from being left in a prompt that was given to be filled."""
    ids = torch.tensor([[5, MASK, 7, MASK, MASK, 9]])
    out = fill(model64, ids, max_new_tokens=0)
    assert ((out.step_map >= 0) == (ids == MASK)).all()
    assert torch.equal(out.sequences[ids != MASK], ids[ids != MASK]) and (out.sequences != MASK).all()
    same = fill(model64, ids, fill_mask=ids == MASK, max_new_tokens=None)
    assert torch.equal(same.sequences, out.sequences)


def test_mask_token_in_the_prompt_is_kept_with_one_warning(model64):
    """Prevents a prompt that mentions the mask token from being rewritten silently."""
    ids = torch.tensor([[5, MASK, 7], [8, 9, MASK]])
    with pytest.warns(UserWarning, match=f"mask token {MASK}") as caught:
        out = fill(model64, ids, block_length=4, num_return_sequences=2)
    assert len(caught) == 1
    assert torch.equal(out.sequences[:, :3], ids.repeat_interleave(2, 0))
    assert (out.sequences[:, 3:] != MASK).all() and out.complete.all()


@pytest.mark.parametrize("new", [0, 5])
def test_empty_prompt(model64, new):
    """Prevents unconditional generation from crashing on reductions over nothing."""
    ids = torch.zeros(3, 0, dtype=torch.long)
    out = fill(model64, ids, max_new_tokens=new, temperature=3.0, output_trajectory=True)
    assert out.sequences.shape == (3, new) and out.complete.all()
    assert (out.nfe > 0).all() == (new > 0)
    assert new == 0 or len({tuple(row.tolist()) for row in out.sequences}) == 3


# Early ends


def test_stop_at_eos_pads_what_follows(model64):
    """Prevents text behind the end of text, and steps counted that were not made."""
    plain = fill(model64, sampler=LeftToRightSampler())
    text = plain.sequences[0, 4:].tolist()
    stop = text[5]
    at = text.index(stop)
    options = {"sampler": LeftToRightSampler(), "eos_token_id": stop}
    assert torch.equal(fill(model64, **options).sequences, plain.sequences), "off by default"
    calls, hook = counting(model64)
    out = fill(model64, stop_at_eos=True, **options)
    hook.remove()
    assert out.sequences[0, 4:].tolist() == text[: at + 1] + [PAD] * (11 - at)
    assert out.steps.item() == out.nfe.item() == len(calls) == at + 1
    assert out.complete.item() and out.tokens_per_forward.item() == 1.0
    listed = fill(model64, sampler=LeftToRightSampler(), stop_at_eos=True, eos_token_id=[2, stop])
    assert torch.equal(listed.sequences, out.sequences)


@pytest.mark.parametrize("sampler", [RandomSampler(2), ThresholdSampler(0.4), ConfidenceSampler()], ids=str)
def test_stop_token_waits_for_the_text_before_it(model64, sampler):
    """Prevents an early stop token from cutting text that is still masked in front of it."""
    ids = many_prompts(8)
    plain = fill(model64, ids, sampler)
    stop = plain.sequences[:, 4:].flatten().mode().values.item()
    out = fill(model64, ids, sampler, stop_at_eos=True, eos_token_id=stop)
    early = 0
    for row in range(8):
        text, when = plain.sequences[row, 4:].tolist(), plain.step_map[row, 4:]
        ends = [i for i, token in enumerate(text) if token == stop]
        steps, end = min([(int(when[: i + 1].max()) + 1, i + 1) for i in ends] + [(int(plain.steps[row]), 12)])
        if ends:
            end = min(i + 1 for i in ends if int(when[: i + 1].max()) < steps)
        assert out.steps[row] == steps
        assert out.sequences[row, 4:].tolist() == text[:end] + [PAD] * (12 - end)
        early += steps < plain.steps[row]
    assert early and out.complete.all()


def test_stop_strings_span_tokens(model64, tokenizer):
    """Prevents stop strings that are only found inside one token, or never."""
    text = fill(model64, sampler=LeftToRightSampler()).sequences[0, 4:].tolist()
    string = tokenizer.decode(text[3:5])[:-1] + tokenizer.decode(text[4:5])[-1:]
    end = next(i for i in range(1, 13) if string in tokenizer.decode(text[:i]))
    for strings in (string, ["never", string]):
        out = fill(model64, sampler=LeftToRightSampler(), stop_strings=strings, tokenizer=tokenizer)
        assert out.sequences[0, 4:].tolist() == text[:end] + [PAD] * (12 - end)
        assert out.steps.item() == end
    out = fill(model64, sampler=LeftToRightSampler(), stop_strings="never", tokenizer=tokenizer)
    assert out.sequences[0, 4:].tolist() == text


GAPS = torch.tensor([[False, True, True, True, False, False, True, True, False]])


def in_gaps(model, gaps=GAPS, **options):
    """A prompt with gaps and four new tokens, written from left to right."""
    ids = many_prompts(1, 9)
    options |= {"suppress_tokens": [PAD]}
    out = fill(model, ids, LeftToRightSampler(), fill_mask=gaps, max_new_tokens=4, **options)
    assert torch.equal(out.sequences[:, :9][~gaps], ids[~gaps]) and out.complete.all()
    return out


def test_stop_strings_are_not_read_across_gaps(model64, tokenizer):
    """Prevents the end of one gap and the beginning of the next from making a stop string."""
    text = in_gaps(model64).sequences[0]
    across, inside = (tokenizer.decode(text[place]) for place in ([3, 6], [1, 2]))
    for ends in ("gap", "row"):
        found = in_gaps(model64, stop_strings=across, stop_ends=ends, tokenizer=tokenizer)
        assert torch.equal(found.sequences[0], text)
    found = in_gaps(model64, stop_strings=inside, tokenizer=tokenizer).sequences[0]
    assert found[3] == PAD and (found[[6, 7, 9, 10]] != PAD).all() and torch.equal(found[:3], text[:3])
    found = in_gaps(model64, stop_strings=inside, stop_ends="row", tokenizer=tokenizer)
    assert (found.sequences[0, [3, 6, 7, 9, 10, 11, 12]] == PAD).all() and found.steps == 2


@pytest.mark.parametrize("block_length", [None, 2, 1])
def test_a_stop_token_ends_its_gap(model64, block_length):
    """Prevents an end in one gap from emptying later gaps and new tokens, and blocks with nothing to decide."""
    plain = in_gaps(model64).sequences[0]
    options = {"stop_at_eos": True, "eos_token_id": int(plain[1]), "block_length": block_length}
    options |= {"suppress_tokens": [PAD]}
    out = in_gaps(model64, **options)
    left = GAPS.clone()
    left[0, :4] = False
    ids = torch.cat([plain[:2], torch.tensor([PAD, PAD]), plain[4:9]])[None]
    # the gap's end is given
    rest = fill(model64, ids, LeftToRightSampler(), fill_mask=left, max_new_tokens=4, **options)
    assert torch.equal(out.sequences, rest.sequences) and out.steps == rest.steps + 1
    assert torch.equal(out.step_map[0, 6:], torch.where(rest.step_map[0, 6:] >= 0, rest.step_map[0, 6:] + 1, -1))
    row = in_gaps(model64, stop_ends="row", **options)
    assert row.steps == 1 and (row.sequences[0, [2, 3, 6, 7, 9, 10, 11, 12]] == PAD).all()


# Token draw


def first_tokens(model, rows, **options):
    """One position of one prompt, drawn under many seeds."""
    out = fill(
        model, PROMPT.expand(rows, -1), LeftToRightSampler(), max_new_tokens=1, seed=torch.arange(rows), **options
    )
    return out.sequences[:, 4].bincount(minlength=VOCAB).double()


def distribution(model):
    with torch.no_grad():
        ids = torch.cat([PROMPT, torch.tensor([[MASK]])], 1)
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0, -1].double()
    logits[MASK] = -math.inf
    return logits


def cut_top_k(logits, k):
    return logits.masked_fill(logits < logits.topk(k).values[-1], -math.inf)


def cut_top_p(logits, p):
    probs = logits.softmax(-1)
    order = probs.argsort(descending=True)
    keep, mass = [], 0.0
    for token in order.tolist():
        if mass < p:
            keep.append(token)
        mass += probs[token].item()
    return torch.full_like(logits, -math.inf).index_copy(0, torch.tensor(keep), logits[keep])


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"temperature": 1.0}, lambda z: z),
        ({"temperature": 0.6}, lambda z: z / 0.6),
        ({"temperature": 2.5}, lambda z: z / 2.5),
        ({"do_sample": True}, lambda z: z),
        ({"temperature": 1.5, "top_k": 4}, lambda z: cut_top_k(z / 1.5, 4)),
        ({"temperature": 1.5, "top_p": 0.6}, lambda z: cut_top_p(z / 1.5, 0.6)),
        ({"temperature": 2.0, "top_k": 12, "top_p": 0.8}, lambda z: cut_top_p(cut_top_k(z / 2.0, 12), 0.8)),
        ({"temperature": 1.0, "suppress_tokens": [28, 7]}, lambda z: z.index_fill(0, torch.tensor([28, 7]), -math.inf)),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)  # fmt: skip
def test_tokens_are_drawn_from_the_stated_distribution(model, options, expected):
    """Prevents biased draws, and cuts applied in another order (chi-square, five standard deviations)."""
    rows = 2000
    counts = first_tokens(model, rows, **options)
    probs = expected(distribution(model)).softmax(-1)
    assert (counts[probs == 0] == 0).all()
    large = probs * rows >= 5
    observed = torch.cat([counts[large], counts[~large].sum()[None]])
    wanted = torch.cat([probs[large], probs[~large].sum()[None]]) * rows
    wanted, observed = wanted[wanted > 1], observed[wanted > 1]
    freedom = len(wanted) - 1
    assert freedom >= 2
    assert ((observed - wanted) ** 2 / wanted).sum() < freedom + 5 * math.sqrt(2 * freedom)


@pytest.mark.parametrize("cut", [{"top_k": 1}, {"top_p": 1e-6}])
def test_narrowest_cut_is_greedy(model64, cut):
    """Prevents cuts that keep one token too many or none."""
    ids = many_prompts()
    greedy = fill(model64, ids)
    assert torch.equal(fill(model64, ids, temperature=1.3, **cut).sequences, greedy.sequences)


@pytest.mark.parametrize("temperature", [0.0, 50.0])
def test_mask_and_suppressed_tokens_are_never_written(model, temperature):
    """Prevents a mask token as output, which would be filled again or shown to the user."""
    model = tiny_eurobert()
    with torch.no_grad():
        model.lm_head.weight[MASK] *= 0
        model.lm_head.weight[7:] *= 0  # the mask token is as good as any other
    ids = many_prompts(40)
    banned = [3, 4, 20]
    out = fill(model, ids, RandomSampler(3), temperature=temperature, suppress_tokens=banned)
    written = out.sequences[:, 4:]
    assert out.complete.all() and not torch.isin(written, torch.tensor([MASK, *banned])).any()


@pytest.mark.parametrize("sampler", [ConfidenceSampler(), MarginSampler(), EntropySampler()], ids=str)
def test_suppressed_tokens_take_part_in_no_quantity(model64, sampler):
    """Prevents confidence that counts tokens which cannot be written: suppressing all but two decides everything."""
    keep = {11, 12}
    suppress = [token for token in range(VOCAB) if token not in keep]
    out = fill(model64, sampler=sampler, suppress_tokens=suppress, output_trajectory=True)
    assert set(out.sequences[0, 4:].tolist()) <= keep
    shown = out.trajectory.confidence[~out.trajectory.confidence.isnan()]
    assert (shown >= 0.5 - 1e-6).all()


# Return values and repetitions


def test_return_types(model):
    """Prevents outputs whose type or shape depends on the batch."""
    ids = many_prompts(3)
    tokens = generate(model, ids, sampler=RandomSampler(), max_new_tokens=4)
    assert isinstance(tokens, torch.Tensor) and tokens.shape == (3, 8) and tokens.dtype == torch.long
    out = fill(model, ids, max_new_tokens=4)
    assert isinstance(out, UnmaskOutput) and out.trajectory is None
    assert {name: (value.shape, value.dtype) for name, value in out.items()} == {
        "sequences": ((3, 8), torch.long),
        "nfe": ((3,), torch.long),
        "forwards_run": ((3,), torch.long),
        "steps": ((3,), torch.long),
        "tokens_per_forward": ((3,), torch.float32),
        "step_map": ((3, 8), torch.long),
        "complete": ((3,), torch.bool),
    }


def test_num_return_sequences_repeats_rows_in_place(model):
    """Prevents sequences grouped by repetition instead of by prompt."""
    ids = many_prompts(3)
    out = fill(model, ids, num_return_sequences=4, temperature=3.0)
    assert torch.equal(out.sequences[:, :4], ids.repeat_interleave(4, 0))
    assert len({tuple(row.tolist()) for row in out.sequences}) == 12


def test_inputs_are_left_alone(model):
    """Prevents edits of the caller's tensors and gradients kept by accident."""
    ids, gaps = many_prompts(), torch.zeros(6, 4, dtype=torch.bool)
    gaps[:, 1] = True
    before, gaps_before = ids.clone(), gaps.clone()
    out = fill(model, ids, fill_mask=gaps)
    assert torch.equal(ids, before) and torch.equal(gaps, gaps_before)
    assert not out.tokens_per_forward.requires_grad


def test_trajectory(model64):
    """Prevents frames that lag a step behind, or that forget rows which have left."""
    ids = many_prompts(8)
    out = fill(model64, ids, block_length=6, output_trajectory=True)
    t = out.trajectory
    steps = int(out.steps.max())
    assert t.tokens.shape == t.masked.shape == t.confidence.shape == (8, steps, 12)
    assert len(out.steps.unique()) > 1
    assert torch.equal(t.tokens[:, -1], out.sequences[:, 4:]) and not t.masked[:, -1].any()
    assert not (t.masked[:, 1:] & ~t.masked[:, :-1]).any(), "an open position stays open"
    frame = torch.arange(steps)[None, :, None]
    assert torch.equal(t.masked, out.step_map[:, None, 4:] > frame)
    assert torch.equal(t.tokens == MASK, t.masked)
    opened = out.step_map[:, None, 4:] == frame
    assert ((t.confidence[opened] > 0) & (t.confidence[opened] <= 1)).all()


def test_on_step_events(model64):
    """Prevents events about other rows, other steps or other positions."""
    events = []
    out = fill(model64, many_prompts(8), block_length=6, on_step=events.append)
    assert len(events) == out.steps.max()
    for number, event in enumerate(events):
        assert torch.equal(event.rows, (out.steps > number).nonzero()[:, 0])
        assert (event.steps == number + 1).all()
        step_map = out.step_map[event.rows, 4:]
        assert torch.equal(event.opened, step_map == number)
        assert torch.equal(event.masked, step_map > number)
        assert torch.equal(event.tokens, out.sequences[event.rows, 4:].masked_fill(event.masked, MASK))
        assert not event.confidence[event.opened].isnan().any()


def test_event_confidence_is_nan_where_nothing_was_read(model64):
    """Prevents made-up confidences of samplers that read none."""
    events = []
    fill(model64, sampler=RandomSampler(4), on_step=events.append)
    assert all(event.confidence.isnan().all() for event in events)


# Streamers


class Collecting(TextStreamer):
    def __init__(self, tokenizer, **options):
        super().__init__(tokenizer, **options)
        self.text, self.ended = "", 0

    def on_finalized_text(self, text, stream_end=False):
        self.text += text
        self.ended += stream_end


@pytest.mark.parametrize("sampler", [LeftToRightSampler(), RandomSampler(2), ThresholdSampler(0.4)], ids=str)
@pytest.mark.parametrize("skip_prompt", [False, True])
def test_text_streamer_prints_the_result(model64, tokenizer, sampler, skip_prompt):
    """Prevents text that is streamed twice, out of order or while it is still masked."""
    streamer = Collecting(tokenizer, skip_prompt=skip_prompt)
    out = fill(model64, sampler=sampler, block_length=6, streamer=streamer)
    shown = out.sequences[0, 4:] if skip_prompt else out.sequences[0]
    assert streamer.text == tokenizer.decode(shown) and streamer.ended == 1


@pytest.mark.parametrize("skip_prompt", [False, True])
@pytest.mark.parametrize("side", ["left", "right", None])
def test_streamer_shows_the_text_between_gaps(model64, tokenizer, side, skip_prompt):
    """Prevents what is written into several gaps from being run together into one text."""
    ids, gaps = many_prompts(1, 9), GAPS
    mask, extra = torch.ones_like(ids), {"left": (2, 0), "right": (0, 2), None: (0, 0)}[side]
    ids, mask, gaps = (torch.nn.functional.pad(one, extra) for one in (ids, mask, gaps))
    streamer = Collecting(tokenizer, skip_prompt=skip_prompt)
    out = generate(
        model64, ids, sampler=RandomSampler(2), attention_mask=mask, fill_mask=gaps, max_new_tokens=3, streamer=streamer
    )
    real = torch.cat([mask, mask.new_ones(1, 3)], 1) > 0
    text = (
        out[0, extra[0] + 1 :][real[0, extra[0] + 1 :]]
        if skip_prompt
        else torch.cat([out[:, : extra[0]], out[real][None]], 1)[0]
    )
    assert streamer.text == tokenizer.decode(text) and streamer.ended == 1


def test_streamer_and_early_end(model64, tokenizer):
    """Prevents a streamer that shows text behind the end of text."""
    stop = fill(model64, sampler=LeftToRightSampler()).sequences[0, 9].item()
    streamer = Collecting(tokenizer, skip_prompt=True)
    out = fill(model64, sampler=LeftToRightSampler(3), streamer=streamer, stop_at_eos=True, eos_token_id=stop)
    assert streamer.text == tokenizer.decode(out.sequences[0, 4:]) and streamer.ended == 1


def test_text_iterator_streamer(model64, tokenizer):
    """Prevents a consumer in another thread from waiting for ever."""
    streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, timeout=30)
    results = []
    thread = Thread(target=lambda: results.append(fill(model64, streamer=streamer)))
    thread.start()
    text = "".join(streamer)
    thread.join()
    assert text == tokenizer.decode(results[0].sequences[0, 4:])


def test_text_diffusion_streamer(model64, tokenizer, capsys):
    """Prevents drafts that stay on the screen, or that the final text lacks."""
    drafts, final = [], []

    class Seen(TextDiffusionStreamer):
        def put_draft(self, value, **kwargs):
            drafts.append(value.clone())
            super().put_draft(value, **kwargs)

        def put(self, value):
            final.extend(value.flatten().tolist())
            super().put(value)

    out = fill(model64, sampler=RandomSampler(3), streamer=Seen(tokenizer))
    assert final == out.sequences[0].tolist()
    assert any((draft == MASK).any() for draft in drafts)
    printed = capsys.readouterr().out
    assert printed.count("\0337") == printed.count("\0338") == len(drafts)
    assert printed.endswith("\n")


@pytest.mark.parametrize("ids", [PROMPT, torch.zeros(1, 0, dtype=torch.long)], ids=["prompt", "empty"])
def test_streamer_ends_when_nothing_is_to_do(model64, tokenizer, ids):
    """Prevents an unfinished stream when the canvas is empty."""
    streamer = Collecting(tokenizer)
    fill(model64, ids, max_new_tokens=0, streamer=streamer)
    assert streamer.ended == 1


# Options and where they come from


def test_model_generation_config_supplies_defaults():
    """Prevents a checkpoint's own settings from being ignored, or from winning over the call."""
    model = tiny_eurobert()
    model.generation_config = UnmaskingGenerationConfig(max_new_tokens=6, block_length=3, temperature=1.5, seed=4)
    ids = many_prompts()
    plain = generate(model, ids, sampler=RandomSampler(), return_dict_in_generate=True)
    assert plain.sequences.shape == (6, 10)
    assert (plain.step_map[:, 4:7].amax(1) < plain.step_map[:, 7:].amin(1)).all()
    bare = tiny_eurobert()
    explicit = generate(bare, ids, sampler=RandomSampler(), max_new_tokens=6, block_length=3, temperature=1.5, seed=4)
    assert torch.equal(plain.sequences, explicit)
    config = UnmaskingGenerationConfig(max_new_tokens=5, block_length=2, temperature=1.5, seed=5)
    by_config = generate(model, ids, sampler=RandomSampler(), generation_config=config)
    assert torch.equal(
        by_config,
        generate(bare, ids, sampler=RandomSampler(), max_new_tokens=5, block_length=2, temperature=1.5, seed=5),
    )
    by_option = generate(model, ids, sampler=RandomSampler(), generation_config=config, max_new_tokens=2)
    assert by_option.shape == (6, 6)


GREEDY = [
    ({}, {"do_sample": False}),
    ({}, {"temperature": 0.0}),
    ({}, {"generation_config": UnmaskingGenerationConfig(max_new_tokens=6)}),
    ({}, {"generation_config": UnmaskingGenerationConfig(do_sample=False)}),
    ({}, {"generation_config": GenerationConfig(do_sample=False)}),
    ({}, {"generation_config": GenerationConfig(do_sample=True, temperature=0.8), "do_sample": False}),
    ({"do_sample": None, "temperature": 0.7}, {}),
    ({"do_sample": False}, {}),
]


@pytest.mark.parametrize(("own", "call"), GREEDY, ids=str)
def test_greedy_when_asked_for(own, call):
    """Prevents a checkpoint's sampling settings from making greedy calls random, or from refusing them."""
    model = tiny_eurobert()
    expected = generate(model, PROMPT, sampler=LeftToRightSampler(), max_new_tokens=6)
    sampling = {"do_sample": True, "temperature": 5.0, "top_k": 50, "top_p": 0.95}
    config = GenerationConfig(max_new_tokens=6)
    for name, value in (own or sampling).items():
        setattr(config, name, value)
    model.generation_config = config
    assert torch.equal(generate(model, PROMPT, sampler=LeftToRightSampler(), **call), expected)


SAMPLED = [
    ({"do_sample": True, "temperature": 5.0}, {}),
    ({}, {"temperature": 5.0}),
    ({}, {"do_sample": True, "temperature": 5.0}),
    ({"do_sample": True, "temperature": 0.1}, {"temperature": 5.0}),
    ({"do_sample": False}, {"temperature": 5.0}),
    ({"do_sample": True, "temperature": 5.0}, {"do_sample": True}),
    ({"do_sample": True, "temperature": 0.1}, {"generation_config": GenerationConfig(do_sample=True, temperature=5.0)}),
    ({"do_sample": False}, {"generation_config": GenerationConfig(do_sample=True, temperature=5.0)}),
    ({"do_sample": False}, {"generation_config": UnmaskingGenerationConfig(temperature=5.0)}),
]


@pytest.mark.parametrize(("own", "call"), SAMPLED, ids=str)
def test_sampled_when_asked_for(own, call):
    """Prevents sampling settings from being lost on their way from config to call."""
    model = tiny_eurobert()
    expected = generate(model, PROMPT, sampler=LeftToRightSampler(), max_new_tokens=6, temperature=5.0)
    model.generation_config = GenerationConfig(max_new_tokens=6, **own)
    assert torch.equal(generate(model, PROMPT, sampler=LeftToRightSampler(), **call), expected)


def test_do_sample_false_contradicts_a_temperature(model):
    """Prevents one of two contradicting options from winning silently."""
    with pytest.raises(ValueError, match=r"do_sample=False.*temperature=0.7"):
        fill(model, do_sample=False, temperature=0.7)


def test_config_round_trip(tmp_path):
    """Prevents options that a saved generation_config.json forgets."""
    config = UnmaskingGenerationConfig(
        max_new_tokens=7, block_length=3, temperature=0.5, top_k=4, top_p=0.9, guidance_scale=1.5,
        suppress_tokens=[3, 4], stop_at_eos=True, stop_strings=["a"], num_return_sequences=2, seed=9,
        mask_token_id=MASK, eos_token_id=[1, 2], pad_token_id=PAD, output_trajectory=True,
    )  # fmt: skip
    config.save_pretrained(tmp_path)
    loaded = UnmaskingGenerationConfig.from_pretrained(tmp_path)
    assert loaded.to_dict() == config.to_dict()
    assert (loaded.block_length, loaded.seed, loaded.stop_at_eos, loaded.temperature) == (3, 9, True, 0.5)
    default = UnmaskingGenerationConfig()
    default.save_pretrained(tmp_path)
    assert UnmaskingGenerationConfig.from_pretrained(tmp_path).to_dict() == default.to_dict()


def test_config_with_tensors_can_be_saved_and_used(tmp_path, model):
    """Prevents per-call tensors from breaking serialisation or from getting lost."""
    gaps = torch.tensor([[False, True, False, True]])
    config = UnmaskingGenerationConfig(max_new_tokens=0, fill_mask=gaps, seed=torch.tensor([3]), temperature=1.0)
    config.save_pretrained(tmp_path)
    assert UnmaskingGenerationConfig.from_pretrained(tmp_path).fill_mask is None
    assert config.fill_mask is gaps
    assert str(config)
    out = generate(model, PROMPT, sampler=RandomSampler(), generation_config=config, return_dict_in_generate=True)
    assert torch.equal(out.step_map >= 0, gaps)


def test_padding_is_inferred_without_a_mask(model64):
    """Prevents padding from being read as text when no attention_mask is given."""
    padded = torch.cat([torch.tensor([[PAD, PAD]]), PROMPT], 1)
    options = {"sampler": ThresholdSampler(0.4), "max_new_tokens": 8}
    expected = generate(model64, PROMPT, **options)[:, 4:]
    assert torch.equal(generate(model64, padded, **options)[:, 6:], expected)


# Samplers of one's own


@dataclass(frozen=True)
class Scripted(Sampler):
    """Calls a function of the step; for rules that no shipped sampler has."""

    name: ClassVar[str] = "scripted"
    may_stall: ClassVar[bool] = True
    rule: object = None
    state: object = None

    @property
    def needs(self):
        return Needs.of("confidence")

    def init(self, rows, length, device):
        return self.state and self.state(rows, length)

    def select(self, step, state, noise):
        return self.rule(step, state)


def test_sampler_that_may_stall_leaves_masks(model64):
    """Prevents endless loops, and results that look complete although masks are left."""
    sampler = Scripted(lambda step, _: Selection(step.eligible & (step.offset == 0)))
    out = fill(model64, many_prompts(2), sampler, block_length=4)
    assert not out.complete.any()
    assert (out.steps == 12).all(), "at most block_length steps per block"
    assert (out.step_map[0, 4:] >= 0).nonzero()[:, 0].tolist() == [0, 4, 8]
    assert (out.sequences[:, 4:] == MASK).sum(-1).tolist() == [9, 9]
    assert torch.allclose(out.tokens_per_forward, torch.tensor(3 / 12))


def test_sampler_state_follows_its_row(model64):
    """Prevents memory that stays in place when other rows leave the batch."""
    seen = []

    def rule(step, state):
        number, (history, nothing) = state
        first = step.steps == 0
        number = torch.where(first, step.length, number)
        assert torch.equal(number, step.length)
        history = history + step.confidence.sum(-1, keepdim=True) * 0 + 1
        assert (history[:, 0] == step.steps + 1).all() and nothing is None
        seen.append(len(number))
        return Selection(step.eligible & (step.offset == step.block_steps[:, None]), (number, (history, None)))

    sampler = Scripted(rule, lambda rows, length: (torch.zeros(rows).long(), (torch.zeros(rows, length), None)))
    gaps = torch.arange(9) < torch.tensor([3, 9, 1, 7, 5])[:, None]
    out = fill(model64, many_prompts(5, 9), sampler, fill_mask=gaps, max_new_tokens=None)
    assert out.steps.tolist() == [3, 9, 1, 7, 5] and seen == [5, 4, 4, 3, 3, 2, 2, 1, 1]


def test_step_describes_the_row(model64):
    """Prevents wrong places, lengths or counters in what samplers read, in the second and in a shorter last block."""
    steps = []

    def rule(step, state):
        steps.append(step)
        return Selection(step.eligible & (step.eligible.cumsum(-1) <= 2))

    out = fill(model64, sampler=Scripted(rule), max_new_tokens=7, block_length=4)
    assert out.steps.item() == 4
    assert [step.steps.item() for step in steps] == [0, 1, 2, 3]
    assert [step.block_steps.item() for step in steps] == [0, 1, 0, 1]
    assert steps[0].index.tolist() == [[0, 1, 2, 3]] and steps[2].index[0, :3].tolist() == [4, 5, 6]
    assert steps[2].valid.tolist() == [[True, True, True, False]]
    assert steps[2].offset[0, :3].tolist() == [0, 1, 2]
    assert steps[3].eligible.tolist() == [[False, False, True, False]]
    assert steps[0].length.item() == 7 and steps[0].block_length == 4
    assert steps[1].time.item() == pytest.approx(1 / 7)


def test_sampler_may_write_its_own_tokens(model64):
    """Prevents a sampler's tokens from being replaced by proposals, or written at closed positions."""
    sampler = Scripted(
        lambda step, _: Selection(step.eligible & (step.offset < 2), tokens=torch.full_like(step.proposal, 33))
    )
    out = fill(model64, sampler=sampler, max_new_tokens=4, block_length=4)
    assert out.sequences[0, 4:].tolist() == [33, 33, MASK, MASK]


def test_undeclared_quantity_is_an_error(model64):
    """Prevents samplers from reading what is not computed."""
    with pytest.raises(ValueError, match="'entropy'"):
        fill(model64, sampler=Scripted(lambda step, _: step.entropy))


def test_training_mode_is_reported():
    """Prevents dropout during generation."""
    model = tiny_bert()
    model.config.hidden_dropout_prob = 0.0
    with pytest.warns(UserWarning, match=r"model.eval\(\)"):
        fill(model.train(), max_new_tokens=1)
