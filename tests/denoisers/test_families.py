"""The adapter table, row by row: its data, what a wrong convention does, and the families' own decoding restated."""

from __future__ import annotations

import pytest
import torch
from doubles import ROWS, LladaDouble, LladaDoubleConfig, a2d_double, backbone, block_causal, row_double
from helpers import one_in
from models import MASK
from reference_loops import llada, ours, random_prompts
from transformers.generation.streamers import BaseStreamer

import hf_unmask
from hf_unmask import Denoiser
from hf_unmask.denoisers.families import FAMILIES, NATIVE, known_family, rows, table
from hf_unmask.samplers import ConfidenceSampler, EntropySampler, MarginSampler, ThresholdSampler

IDS = torch.tensor([[5, 6, 7, 8, 9], [10, 11, 12, 13, 14]])
PADDED = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
OPTIONS = {"sampler": ThresholdSampler(0.3), "max_new_tokens": 11, "return_dict_in_generate": True}
BLOCKED = [name for name, row in ROWS.items() if row.block]
OTHERS = [name for name in ROWS if name not in BLOCKED]


def double(name, dtype=torch.float32, **config):
    return a2d_double(dtype) if name == "a2d-qwen3" else row_double(name, dtype, **config)


def in_full_vocabulary(model):
    """What the adapter sees of a checkpoint whose configs name no ids."""
    for source in (model.config, getattr(model, "generation_config", None)):
        for name in ("mask_token_id", "eos_token_id", "pad_token_id"):
            if source is not None:
                setattr(source, name, None)
    model.get_input_embeddings().num_embeddings = 200_000
    return model


@pytest.mark.parametrize("name", ROWS)
def test_the_table_holds_what_the_families_publish(name):
    """An edited mask id, stop id, shift, mask convention or block length, a cache that the forward does not take."""
    row = ROWS[name]
    model = in_full_vocabulary(double(name))
    if row.mask is None:
        with pytest.raises(ValueError, match="no mask token known"):
            Denoiser.from_model(model)
        denoiser = Denoiser.from_model(model, mask_token_id=7)
    else:
        denoiser = Denoiser.from_model(model)
        assert denoiser.mask_token_id == row.mask
    assert denoiser.stop_token_ids == row.stops
    assert (denoiser.shift, denoiser.attention, denoiser.block_length) == (row.shift, row.attention, row.block)
    assert (denoiser.cache_refusal is None) is row.caches


def test_every_row_has_a_double_or_says_that_it_has_none():
    """A support level that nothing backs."""
    covered = {known_family(double(name)).name for name in ROWS}
    promised = {family.name for family in rows() if family.support in ("double", "expected")}
    assert promised - covered == {"DreamOn", "Nemotron-Labs-Diffusion"}  # Dream's double, and refused: tests below
    assert covered <= promised
    assert [family.support for family in (NATIVE, FAMILIES[0])] == ["real weights", "native class"]
    assert len({family.name for family in rows()}) == len(rows())


def test_a_class_name_wins_over_a_shared_model_type():
    """LLaDA-MoE under LLaDA's model type would be filled with LLaDA's mask id, an ordinary token there."""
    kind = type("LLaDAMoEModelLM", (type(double("llada")),), {})
    model = in_full_vocabulary(kind(double("llada").config))
    assert Denoiser.from_model(model).mask_token_id == ROWS["lladamoe"].mask


@pytest.mark.parametrize("name", ROWS)
def test_hidden_states_are_as_the_table_says(name):
    """A policy that reads them, chosen by the table, that fails at its first pass; an error that does not name it."""
    model, tokens = double(name), IDS[:1]
    family, row = known_family(model), ROWS[name]
    ask = Denoiser.from_model(model)
    assert family.hidden_states is row.hidden
    assert {line["family"]: line["hidden states"] for line in table()}[family.name] == ("yes" if row.hidden else "no")
    if row.hidden:
        assert ask(tokens, None, tokens[:, :2] * 0, hidden=True).hidden.shape == (1, 2, 32)
    else:
        with pytest.raises(ValueError, match="no hidden states .* .`hf-unmask models` says which families do."):
            ask(tokens, None, tokens[:, :2] * 0, hidden=True)


def test_dream_on_keeps_its_length_without_its_token_for_two_masks():
    """A family that grows its canvas, decoded by Dream's row: the token that grows it is never written if told so."""
    assert known_family(row_double("Dream")).name == "Dream"
    expands = int(hf_unmask.generate(row_double("Dream"), IDS, **OPTIONS).sequences[0, 6])
    found = hf_unmask.generate(row_double("Dream"), IDS, suppress_tokens=[expands], **OPTIONS)
    assert expands not in found.sequences[:, IDS.shape[1] :]


@pytest.mark.parametrize("kind", ["bd3lm", "diffusion_gemma", "nemotron_labs_diffusion"])
def test_families_that_cannot_be_asked_are_refused(kind):
    """A model without a plain canvas that is decoded as if it had one."""
    model = row_double("llada")
    model.config.model_type = kind
    model.__class__ = type("Foreign", (type(model),), {})
    with pytest.raises(ValueError, match=f"Foreign .model_type '{kind}'. cannot be used"):
        Denoiser.from_model(model)


# Conventions at work


@pytest.mark.parametrize("name", [name for name in OTHERS if name != "a2d-qwen3"])
def test_one_network_gives_the_same_tokens_in_every_family(name):
    """A shift, mask or padding that does not fit the family."""
    paddable = ROWS[name].attention != "own"
    options = {**OPTIONS, "block_length": 4, **({"attention_mask": PADDED} if paddable else {})}
    expected = hf_unmask.generate(backbone(torch.float64), IDS, **options)
    found = hf_unmask.generate(row_double(name, torch.float64), IDS, **options)
    assert torch.equal(found.sequences, expected.sequences) and torch.equal(found.nfe, expected.nfe)


def test_a_causal_class_is_read_at_its_own_positions_and_bidirectionally():
    """An A2D model taken for an autoregressive one: shifted, or blind to what follows."""
    model = a2d_double(torch.float64)
    tokens = torch.tensor([[5, 6, MASK, 8, 9]])
    logits = Denoiser.from_model(model)(tokens, tokens >= 0, torch.tensor([[2]])).logits()
    seen = {"attention_mask": torch.ones_like(tokens), "position_ids": torch.arange(5)[None]}
    assert torch.equal(logits[:, 0], model(tokens, **seen).logits[:, 2])
    tokens[:, 4] = 10
    assert not torch.equal(Denoiser.from_model(model)(tokens, tokens >= 0, torch.tensor([[2]])).logits(), logits)


@pytest.mark.parametrize("name", ROWS)
def test_a_wrong_convention_shows(name):
    """The doubles tell right from wrong, or the tests above prove nothing; a wrong shift is told before."""
    row, model = ROWS[name], double(name, torch.float64)
    expected = hf_unmask.generate(model, IDS, **OPTIONS).sequences
    with pytest.warns(UserWarning, match=f"have shift {row.shift}, but shift={1 - row.shift} was passed"):
        wrong = Denoiser.from_model(model, shift=1 - row.shift)
    assert not torch.equal(hf_unmask.generate(wrong, IDS, **OPTIONS).sequences, expected)
    assert not torch.equal(hf_unmask.generate(model, IDS, mask_token_id=30, **OPTIONS).sequences, expected)


def test_layers_that_know_what_they_attend_to_in_the_config_alone():
    """A2D's code asks the layer: without the shim it does not run at all."""
    with pytest.raises(AttributeError, match="attention_type"):
        hf_unmask.generate(a2d_double(shims=()), IDS, **OPTIONS)


def test_a2d_takes_both_forms_of_a_mask():
    """[B, S] becomes numbers to add, [B, 1, S, S] is passed on: the same tokens, padded too."""
    model = a2d_double(torch.float64)
    expected = hf_unmask.generate(model, IDS, attention_mask=PADDED, **OPTIONS)
    whole = Denoiser.from_model(model, attention="4d")
    assert torch.equal(hf_unmask.generate(whole, IDS, attention_mask=PADDED, **OPTIONS).sequences, expected.sequences)


# one ignores what it is given, the other takes both
@pytest.mark.parametrize("name", [name for name in ROWS if name not in ("Fast_dLLM_Qwen", "a2d-qwen3")])
def test_a_wrong_mask_convention_shows(name):
    """A padding mask where a model wants blocks, and the like."""
    attention = "2d" if ROWS[name].attention in ("4d", "block", "block-additive") else "4d"
    with pytest.raises((ValueError, TypeError), match="attention_mask"):
        hf_unmask.generate(Denoiser.from_model(double(name), attention=attention), IDS, **OPTIONS)


@pytest.mark.parametrize("name", ["Fast_dLLM_Qwen", "mdlm"])
def test_models_without_a_padding_mask_refuse_padded_rows(name):
    """Padding that such a model reads as text."""
    with pytest.raises(ValueError, match="takes no padding mask, but row 0 is padded: pass rows of equal length"):
        hf_unmask.generate(row_double(name), IDS, attention_mask=PADDED, **OPTIONS)


@pytest.mark.parametrize("name", ["Fast_dLLM_Qwen", "mdlm"])
def test_models_without_a_padding_mask_fill_unequal_rows_one_at_a_time(name):
    """Padding that is left when a row is alone."""
    model = row_double(name, torch.float64)
    batch = hf_unmask.generate(model, IDS, attention_mask=PADDED, slots=1, **OPTIONS)
    prompts = [IDS[row][PADDED[row].bool()].tolist() for row in range(2)]
    streamed = list(
        hf_unmask.generate_stream(model, prompts, slots=1, sampler=ThresholdSampler(0.3), max_new_tokens=11)
    )
    for row, prompt in enumerate(prompts):
        alone = hf_unmask.generate(model, torch.tensor([prompt]), **OPTIONS)
        assert torch.equal(batch.sequences[row, 5:], alone.sequences[0, len(prompt) :])
        assert torch.equal(streamed[row].output.sequences[0], alone.sequences[0])
        padded = hf_unmask.generate(model, IDS[row : row + 1], attention_mask=PADDED[row : row + 1], **OPTIONS)
        assert torch.equal(padded.sequences[0, 5:], alone.sequences[0, len(prompt) :])


class Unmasking(LladaDouble):
    """Code that takes an attention mask and does not use it, as older copies of LLaDA's."""

    def forward(self, input_ids, attention_mask=None, **options):
        return super().forward(input_ids, attention_mask=torch.ones_like(input_ids), **options)


class Causal(LladaDouble):
    """Code that sees what lies before a position alone as soon as its mask holds a 0: no padding leaks."""

    def forward(self, input_ids, attention_mask=None, **options):
        if attention_mask is None or bool(attention_mask.all()):
            return super().forward(input_ids, attention_mask=attention_mask, **options)
        before = torch.ones(2 * input_ids.shape[1:], dtype=torch.bool).tril() & attention_mask[:, None, None].bool()
        return self.backbone(input_ids, attention_mask=before | torch.eye(len(before[0, 0]), dtype=torch.bool))


@pytest.mark.parametrize("kind", [Unmasking, Causal])
def test_a_model_that_misreads_its_mask_is_found_at_its_first_padded_batch(kind):
    """Prevents padded rows with wrong tokens, silently."""
    model = kind(LladaDoubleConfig()).eval()
    equal = hf_unmask.generate(model, IDS, attention_mask=torch.ones_like(IDS), **OPTIONS)
    for _ in range(2):
        with pytest.raises(ValueError, match="other logits than the row alone: they differ by .* or slots=1"):
            hf_unmask.generate(model, IDS, attention_mask=PADDED, **OPTIONS)
    alone = hf_unmask.generate(model, IDS, attention_mask=PADDED, slots=1, **OPTIONS)
    assert torch.equal(alone.sequences[1], equal.sequences[1])


def test_a_model_that_reads_its_mask_is_looked_at_once():
    for name in ("llada", "Dream", "sdar"):
        double, passes = row_double(name), []
        hook = double.register_forward_hook(lambda *_, passes=passes: passes.append(1))
        first, again = (hf_unmask.generate(double, IDS, attention_mask=PADDED, **OPTIONS) for _ in range(2))
        hook.remove()
        assert torch.equal(first.sequences, again.sequences)
        assert len(passes) == 2 * int(first.nfe.max()) + 2  # looked at once


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", one_in(2, ["llada", "lladamoe", "Dream", "llada2_moe", "sdar", "a2d-qwen3"]))
def test_a_row_alone_equals_the_row_in_a_padded_batch(name, side):
    """Blocks counted from padding, positions that padding shifts, LLaDA's right padding."""
    model, real = double(name, torch.float64), PADDED
    real = real if side == "left" else real.flip(1)
    batch = hf_unmask.generate(model, IDS, attention_mask=real, **OPTIONS)
    for row in range(2):
        prompt = IDS[row][real[row].bool()][None]
        alone = hf_unmask.generate(model, prompt, attention_mask=torch.ones_like(prompt), **OPTIONS)
        assert torch.equal(batch.sequences[row, 5:], alone.sequences[0, prompt.shape[1] :])
        assert torch.equal(batch.nfe[row], alone.nfe[0])


class Written(BaseStreamer):
    """What a streamer of transformers hears."""

    def __init__(self):
        self.tokens = []

    def put(self, value):
        self.tokens += value.flatten().tolist()

    def end(self):
        self.tokens.append("end")


@pytest.mark.parametrize("name", ROWS)
def test_streamed_rows_are_those_of_a_batch(name):
    """Rows of unequal length in slots, one of them at a time where rows cannot be padded; the text as it is written."""
    model, prompts = double(name, torch.float64), [[7, 8, 9], [10, 11, 12, 13, 14]]
    options = {"sampler": ThresholdSampler(0.3), "max_new_tokens": 5}
    slots = 1 if ROWS[name].attention == "own" else 2
    streamed = [*hf_unmask.generate_stream(model, prompts, slots=slots, **options)]
    for prompt, row in zip(prompts, streamed, strict=True):
        streamer = Written()
        alone = hf_unmask.generate(model, torch.tensor([prompt]), streamer=streamer, **OPTIONS | options)
        assert torch.equal(row.output.sequences, alone.sequences) and torch.equal(row.output.nfe, alone.nfe)
        assert streamer.tokens == [*alone.sequences[0].tolist(), "end"]


# Blocks of the model's own


def test_blocks_are_those_of_the_model():
    """A block length that cuts across the model's blocks, gaps inside a prompt, blocks that nothing defines."""
    model = row_double("sdar", block_size=6)
    assert Denoiser.from_model(model).block_length == 6
    hf_unmask.generate(model, IDS, block_length=3, **OPTIONS)
    with pytest.raises(ValueError, match="`block_length` 4 does not divide the model's block of 6 tokens"):
        hf_unmask.generate(model, IDS, block_length=4, **OPTIONS)
    with pytest.raises(ValueError, match="cannot fill gaps in a prompt of 5 positions"):
        fill = torch.tensor([[0, 1, 0, 0, 0], [0, 0, 0, 0, 1]])
        hf_unmask.generate(model, IDS, sampler=ThresholdSampler(0.3), fill_mask=fill, max_new_tokens=0)
    with pytest.raises(ValueError, match="attention 'block' means blocks: pass block_length="):
        Denoiser.from_model(row_double("llada"), attention="block")
    with pytest.raises(ValueError, match="`block_length` must be an int of at least 1, got 0"):
        Denoiser.from_model(model, block_length=0)
    assert Denoiser.from_model(row_double("Fast_dLLM_Qwen", bd_size=8)).block_length == 8


@pytest.mark.parametrize("where", ["eligible", "canvas"])
def test_the_first_block_holds_the_end_of_the_prompt(where):
    """Blocks counted from the canvas: 5 prompt tokens leave 3 places in the model's second block of 4."""

    class Everywhere(ThresholdSampler):
        @property
        def needs(self):
            return hf_unmask.Needs.of("confidence", where=where)

    model = row_double("sdar", torch.float64)
    options = OPTIONS | {"sampler": Everywhere(1.0), "max_new_tokens": 9}
    events = []
    order = hf_unmask.generate(model, IDS[:1], **options, whole_blocks=False, on_step=events.append)
    blocks = [sorted(order.step_map[0, part].tolist()) for part in (slice(5, 8), slice(8, 12), slice(12, 14))]
    assert blocks == [[0, 1, 2], [3, 4, 5, 6], [7, 8]] and len(events) == 9


def test_the_last_block_is_decoded_whole_and_cut():
    """Two positions of a block of four: what was not asked for is computed, and seen by nobody but the count of passes.

    Prevents listeners and outputs that are longer than what was asked for, and rows that depend on their neighbours'.
    """
    model = row_double("sdar", torch.float64)
    options = OPTIONS | {"sampler": ConfidenceSampler(), "max_new_tokens": 9, "output_trajectory": True}
    events, shown = [], Shown()
    whole = hf_unmask.generate(model, IDS[:1], **options, on_step=events.append, streamer=shown)
    assert whole.sequences.shape == whole.step_map.shape == (1, 14) and (whole.step_map[:, 5:] >= 0).all()
    assert whole.nfe.tolist() == [11] and whole.tokens_per_forward.tolist() == [pytest.approx(9 / 11)]
    assert {event.tokens.shape for event in events} == {(1, 9)} and len(events) == 11
    assert whole.trajectory.tokens.shape == (1, 11, 9)
    assert shown.tokens == whole.sequences[0].tolist() and max(map(len, shown.drafts)) <= 9
    longer = hf_unmask.generate(model, IDS[:1], **options | {"max_new_tokens": 11})
    assert torch.equal(longer.sequences[:, :14], whole.sequences) and torch.equal(longer.nfe, whole.nfe)
    batch = hf_unmask.generate(model, IDS, attention_mask=PADDED, **options)
    for row in range(2):
        prompt = IDS[row][PADDED[row].bool()][None]
        alone = hf_unmask.generate(model, prompt, **options)
        assert torch.equal(batch.sequences[row, 5:], alone.sequences[0, prompt.shape[1] :])
        assert torch.equal(batch.nfe[row], alone.nfe[0])
    nothing = hf_unmask.generate(model, IDS, **options | {"max_new_tokens": 0})
    assert nothing.nfe.tolist() == [0, 0] and torch.equal(nothing.sequences, IDS)
    with pytest.raises(ValueError, match="`whole_blocks=True` is for models with blocks of their own"):
        hf_unmask.generate(row_double("llada"), IDS, **OPTIONS, whole_blocks=True)


class Shown(BaseStreamer):
    """What a streamer was shown."""

    def __init__(self):
        self.tokens, self.drafts = [], []

    def put(self, value):
        self.tokens += value.flatten().tolist()

    def put_draft(self, value):
        self.drafts.append(value.tolist())

    def end(self):
        pass


# The families' own decoding


@torch.no_grad()
def probabilities(model, sequence, block=None):
    """[S][V]; the mask token is never written, on either side. With ``block`` under a block-causal mask."""
    ids = torch.tensor([sequence])
    inputs = {"attention_mask": torch.ones_like(ids)}
    if block is not None:
        inputs["attention_mask"] = block_causal(torch.arange(len(sequence))[None], block)
    logits = model(ids, **inputs).logits[0]
    logits[:, MASK] = -float("inf")
    return logits.softmax(-1)


THRESHOLD = 0.08  # passed by some positions of the doubles


def block_decoding(model, prompt, gen_length, block, steps, threshold):
    """LLaDA2, SDAR, Fast-dLLM v2: whole blocks from the first token on, each step at least its quota, all that pass.

    The block attends to itself and to what lies before it; later blocks do not exist yet.
    """
    total = -(-(len(prompt) + gen_length) // block) * block
    sequence, passes = prompt + [MASK] * (total - len(prompt)), 0
    quota = [block // steps + (step < block % steps) for step in range(steps)]
    for start in range(len(prompt) // block * block, total, block):
        for step in range(steps):
            places = [i for i in range(start, start + block) if sequence[i] == MASK]
            if not places:
                break
            passes += 1
            best = probabilities(model, sequence[: start + block], block).max(-1)
            ranked = sorted(places, key=lambda i: float(best.values[i]), reverse=True)
            passed = [i for i in places if float(best.values[i]) > threshold]
            for i in passed if len(passed) >= quota[step] else ranked[: quota[step]]:
                sequence[i] = int(best.indices[i])
    return sequence[len(prompt) : len(prompt) + gen_length], passes


@pytest.mark.parametrize(
    "name, block, steps",
    [
        pytest.param("llada2_moe", 8, 4, marks=pytest.mark.slow),
        ("sdar", 4, 2),
        ("Fast_dLLM_Qwen", 4, 4),
        pytest.param("llada2_moe", 8, 8, marks=pytest.mark.slow),
        pytest.param("sdar", 4, 4, marks=pytest.mark.slow),
    ],
)
def test_block_decoding_with_a_threshold_and_a_minimum(name, block, steps):
    """Blocks out of place, later blocks seen, a minimum per step that is not kept. 20 prompts, one after the other."""
    model, reference = row_double(name), backbone()
    denoiser = Denoiser.from_model(model, block_length=block)
    sampler, passed = ThresholdSampler(THRESHOLD, minimum=block // steps), 0
    for number, prompt in enumerate(random_prompts()):
        gen_length = block + number % block  # most do not fill the last block
        expected = block_decoding(reference, prompt, gen_length, block, steps, THRESHOLD)
        options = {"sampler": sampler, "max_new_tokens": gen_length, "return_dict_in_generate": True}
        found = hf_unmask.generate(denoiser, torch.tensor([prompt]), **options)
        assert (found.sequences[0, len(prompt) :].tolist(), int(found.nfe)) == expected
        most = -(-(len(prompt) + gen_length) // block) - len(prompt) // block
        passed += int(found.nfe) < steps * most
    assert passed > 5, "the threshold should open more than the minimum now and then"


def dream_quotas(gen_length, steps, eps=1e-3):
    """How many tokens each step commits: the mean number of masks left times the share of time that passes."""
    times, left, quotas = torch.linspace(1, eps, steps + 1), gen_length, []
    for i in range(steps):
        count = int(left * (1 - times[i + 1] / times[i])) if i < steps - 1 else left
        quotas.append(count)
        left -= count
    return quotas


def dream(model, prompt, gen_length, steps, score):
    """All positions at once; steps whose quota is 0 change nothing."""
    sequence = prompt + [MASK] * gen_length
    for quota in dream_quotas(gen_length, steps):
        probs = probabilities(model, sequence)
        places = [i for i, token in enumerate(sequence) if token == MASK]
        for i in sorted(places, key=lambda i: float(score(probs[i])), reverse=True)[:quota]:
            sequence[i] = int(probs[i].argmax())
    return sequence[len(prompt) :]


LATE = {"steps_per_block": 7, "schedule": "late"}


@pytest.mark.parametrize(
    "sampler, score",
    [
        pytest.param(ConfidenceSampler(**LATE), lambda p: p.max(), marks=pytest.mark.slow),
        pytest.param(MarginSampler(**LATE), lambda p: -p.topk(2).values.diff()[0], marks=pytest.mark.slow),
        (EntropySampler(**LATE), lambda p: (p * (p + 1e-10).log()).sum()),
    ],
    ids=["maskgit_plus", "topk_margin", "entropy"],
)
def test_dream(sampler, score):
    """A shift that is off at the first position or under padding, another order, another quota; 20 prompts, padded."""
    prompts = random_prompts()
    tokens, nfe, _ = ours(row_double("Dream"), prompts, sampler, max_new_tokens=12)
    assert tokens == [dream(backbone(), prompt, 12, 7, score) for prompt in prompts]
    assert set(nfe) == {sum(quota > 0 for quota in dream_quotas(12, 7))}


@pytest.mark.parametrize(("masks", "steps"), [(32, 12), (12, 7), (5, 9), (64, 64), (100, 3)])
def test_the_late_schedule_counts_as_dream_does(masks, steps):
    """32 positions in 12 steps: 2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 4. Steps that open nothing are not made."""
    options = {"max_new_tokens": masks, "return_dict_in_generate": True}
    sampler = EntropySampler(steps_per_block=steps, schedule="late")
    found = hf_unmask.generate(row_double("Dream"), IDS[:1], sampler=sampler, **options)
    opened = found.step_map[0, 5:].bincount().tolist()
    assert opened == [quota for quota in dream_quotas(masks, steps) if quota]
    if (masks, steps) == (32, 12):
        assert opened == [2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 4]


def test_bd3lm_blocks_of_an_a2d_model():
    """dllm's block sampler on prompts of whole blocks: an even share of each block per step, nothing behind it seen."""
    model, block, steps = a2d_double(), 4, 2
    denoiser = Denoiser.from_model(model, attention="block", block_length=block)
    for number, prompt in enumerate(random_prompts()):
        prompt = (prompt * block)[: block * (1 + number % 3)]
        expected = block_decoding(model, prompt, 3 * block, block, steps, float("inf"))
        options = {"sampler": ConfidenceSampler(steps_per_block=steps), "max_new_tokens": 3 * block}
        found = hf_unmask.generate(denoiser, torch.tensor([prompt]), **options, return_dict_in_generate=True)
        assert (found.sequences[0, len(prompt) :].tolist(), int(found.nfe)) == expected


def test_llada_low_confidence_in_float32():
    """Quotas, blocks and padding of the family's double; 20 prompts of unequal length in one batch."""
    prompts = random_prompts()
    sampler = ConfidenceSampler(steps_per_block=3)
    tokens, _, _ = ours(row_double("llada"), prompts, sampler, max_new_tokens=12, block_length=6)
    assert tokens == [llada(backbone(), prompt, 12, 6, 6)[0] for prompt in prompts]
