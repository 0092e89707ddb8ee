"""Adapters: how conventions are settled, and that every family gets what it insists on."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from doubles import DreamDouble, backbone, dream_double, llada_double
from models import EOS, MASK, PAD, VOCAB, tiny_bert, tiny_modernbert
from native_models import BUILDERS, tiny_roberta
from torch import nn
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    ConvBertConfig,
    ConvBertForMaskedLM,
    GenerationConfig,
)

import hf_unmask
from hf_unmask import Denoiser
from hf_unmask.denoisers.families import FAMILIES
from hf_unmask.generation.step import Needs, Selection
from hf_unmask.samplers import EntropySampler, LeftToRightSampler, ThresholdSampler

IDS = torch.tensor([[5, 6, 7, 8], [PAD, PAD, 9, 10], [PAD, 11, 12, 13]])
REAL = torch.tensor([[1, 1, 1, 1], [0, 0, 1, 1], [0, 1, 1, 1]])
OPTIONS = {"sampler": ThresholdSampler(0.3), "max_new_tokens": 9, "block_length": 4, "return_dict_in_generate": True}


class FakeTokenizer:
    """As far as an adapter asks one."""

    def __init__(self, size=VOCAB, **ids):
        self.size = size
        self.__dict__.update(ids)

    def __len__(self):
        return self.size


@pytest.fixture(params=BUILDERS)
def any_model64(request):
    return BUILDERS[request.param](torch.float64)


# Resolution


def unset(model, *names):
    """Forget ids that a checkpoint would hold."""
    for source in (model.config, getattr(model, "generation_config", None)):
        for name in names:
            if source is not None:
                setattr(source, name, None)
    return model


@pytest.mark.parametrize("option, name", [("mask_token_id", "mask_token_id"), ("pad_token_id", "pad_token_id")])
def test_first_source_that_knows_an_id_wins(option, name):
    model = unset(llada_double(), name, "eos_token_id")
    model.config.eos_token_id = EOS
    tokenizer = FakeTokenizer(**{name: 13})

    def settled(**options):
        return getattr(Denoiser.from_model(model, **{"mask_token_id": MASK, **options}), option)

    free = {"mask_token_id": None}
    assert settled(tokenizer=tokenizer, **free) == 13
    setattr(model.config, name, 12)
    assert settled(tokenizer=tokenizer, **free) == 12
    setattr(model.generation_config, name, 11)
    assert settled(tokenizer=tokenizer, **free) == 11
    assert settled(**{"tokenizer": tokenizer, **free, option: 10}) == 10


def test_first_source_that_knows_stop_tokens_wins():
    model = unset(llada_double(), "eos_token_id")
    tokenizer = FakeTokenizer(eos_token_id=13)
    assert Denoiser.from_model(model, tokenizer=tokenizer).stop_token_ids == (13,)
    model.config.eos_token_id = 12
    assert Denoiser.from_model(model, tokenizer=tokenizer).stop_token_ids == (12,)
    model.generation_config.eos_token_id = [11, 14]
    assert Denoiser.from_model(model, tokenizer=tokenizer).stop_token_ids == (11, 14)
    assert Denoiser.from_model(model, tokenizer=tokenizer, stop_token_ids=[10]).stop_token_ids == (10,)
    assert Denoiser.from_model(model, tokenizer=tokenizer, stop_token_ids=[]).stop_token_ids == ()


@pytest.mark.parametrize("build, model_type", [(llada_double, "llada"), (dream_double, "Dream")])
def test_the_family_table_comes_last(build, model_type):
    model = unset(build(), "mask_token_id", "eos_token_id", "pad_token_id")
    model.get_input_embeddings().num_embeddings = 200_000  # what the adapter sees of a full vocabulary
    denoiser = Denoiser.from_model(model)
    (family,) = [family for family in FAMILIES if model_type in family.model_types]
    assert denoiser.mask_token_id == family.mask_token_id
    assert denoiser.stop_token_ids == family.stop_token_ids
    assert denoiser.pad_token_id is None and denoiser.filler_token_id == family.stop_token_ids[0]
    assert (denoiser.shift, denoiser.attention) == (family.shift, family.attention)


def test_a_wrong_id_from_the_table_is_refused_and_can_be_overridden():
    model = unset(llada_double(), "mask_token_id")
    with pytest.raises(ValueError, match="`mask_token_id` 126336 is outside the vocabulary of 60 tokens"):
        Denoiser.from_model(model)
    assert Denoiser.from_model(model, mask_token_id=MASK).mask_token_id == MASK


def test_explicit_conventions_win_over_the_table():
    with pytest.warns(UserWarning, match="have shift 1, but shift=0 was passed"):
        denoiser = Denoiser.from_model(dream_double(), shift=0, attention="2d")
    assert (denoiser.shift, denoiser.attention) == (0, "2d")


def test_a_native_model_without_mask_token_says_what_to_pass():
    model = unset(tiny_bert(), "mask_token_id")
    with pytest.raises(ValueError, match=r"BertForMaskedLM.*pass mask_token_id=\.\.\. or tokenizer="):
        Denoiser.from_model(model)
    assert Denoiser.from_model(model, tokenizer=FakeTokenizer(mask_token_id=7)).mask_token_id == 7


class Unknown(nn.Module):
    """No config, no family."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, input_ids, attention_mask):
        return SimpleNamespace(logits=self.inner(input_ids, attention_mask=attention_mask).logits)

    def get_input_embeddings(self):
        return self.inner.get_input_embeddings()


def test_an_unknown_model_needs_its_conventions():
    model = Unknown(tiny_modernbert()).eval()
    for incomplete in ({}, {"shift": 0}, {"attention": "2d"}):
        with pytest.raises(ValueError, match=r"Unknown .*shift=0 or 1 and attention='2d' or '4d'"):
            Denoiser.from_model(model, mask_token_id=MASK, **incomplete)
    with pytest.raises(ValueError, match="no mask token known for Unknown"):
        Denoiser.from_model(model, shift=0, attention="2d")
    denoiser = Denoiser.from_model(model, mask_token_id=MASK, shift=0, attention="2d")
    expected = hf_unmask.generate(model.inner, IDS, attention_mask=REAL, **OPTIONS)
    found = hf_unmask.generate(denoiser, IDS, attention_mask=REAL, **OPTIONS)
    assert torch.equal(found.step_map, expected.step_map)
    assert torch.equal(found.sequences[REAL.bool().all(1)], expected.sequences[REAL.bool().all(1)])


@pytest.mark.parametrize("wrong", [{"shift": 2}, {"attention": "3d"}])
def test_conventions_that_do_not_exist(wrong):
    with pytest.raises(ValueError, match=f"`{next(iter(wrong))}` must be .*got {next(iter(wrong.values()))!r}"):
        Denoiser.from_model(llada_double(), **wrong)


def test_native_classes_that_cannot_be_left_padded_are_refused():
    sizes = {"vocab_size": VOCAB, "pad_token_id": PAD, "eos_token_id": EOS, "bos_token_id": 2}
    bart = BartForConditionalGeneration(
        BartConfig(
            **sizes, d_model=8, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2
        )
    )
    conv = ConvBertForMaskedLM(
        ConvBertConfig(**sizes, hidden_size=16, embedding_size=16, num_hidden_layers=1, num_attention_heads=4)
    )
    for model in (bart, conv):
        with pytest.raises(ValueError, match=f"{type(model).__name__} .*cannot be left-padded"):
            Denoiser.from_model(model, mask_token_id=MASK)


def test_ids_outside_the_vocabulary():
    with pytest.raises(ValueError, match=r"`stop_token_ids\[1\]` 60 is outside the vocabulary of 60"):
        Denoiser.from_model(llada_double(), stop_token_ids=[1, 60])
    with pytest.raises(ValueError, match="`pad_token_id` -1 is outside"):
        Denoiser.from_model(llada_double(), pad_token_id=-1)
    with pytest.raises(ValueError, match="holds token 60, the model knows 0 to 59"):
        hf_unmask.generate(llada_double(), torch.tensor([[60]]), **OPTIONS)


def test_a_tokenizer_of_another_model():
    with pytest.raises(ValueError, match="the tokenizer knows 61 tokens, the model 60"):
        Denoiser.from_model(llada_double(), tokenizer=FakeTokenizer(61, mask_token_id=60))
    Denoiser.from_model(llada_double(), tokenizer=FakeTokenizer(50))  # embeddings are often padded


def test_ids_settled_explicitly_win_over_the_models_generation_config():
    model = llada_double()
    model.generation_config = GenerationConfig(pad_token_id=PAD, eos_token_id=EOS)
    model.generation_config.mask_token_id = 30
    denoiser = Denoiser.from_model(model, mask_token_id=MASK, stop_token_ids=[], pad_token_id=7)
    expected = hf_unmask.generate(backbone(), IDS, attention_mask=REAL, **OPTIONS)
    found = hf_unmask.generate(denoiser, IDS, attention_mask=REAL, **OPTIONS)
    assert torch.equal(found.sequences, expected.sequences)
    with pytest.raises(ValueError, match="no stop token"):
        hf_unmask.generate(denoiser, IDS, stop_at_eos=True, **OPTIONS)
    other = hf_unmask.generate(model, IDS, attention_mask=REAL, **OPTIONS)
    assert not torch.equal(other.sequences, expected.sequences)  # without the adapter it is 30


def test_without_a_padding_id_every_token_is_text():
    """Prevents prompt tokens from being taken for padding because an id was guessed, be it 0 or a stop token."""
    known, model = tiny_bert(torch.float64), unset(tiny_bert(torch.float64), "pad_token_id", "eos_token_id")
    ids, ones = torch.tensor([[PAD, 5, PAD, 6]]), torch.ones(1, 4, dtype=torch.long)
    expected = hf_unmask.generate(known, ids, attention_mask=ones, **OPTIONS).sequences
    cut = hf_unmask.generate(known, ids, **OPTIONS).sequences  # its config says that PAD pads
    assert not torch.equal(cut[:, 4:], expected[:, 4:])
    hf_unmask.attach(model, mask_token_id=MASK, shift=0, attention="2d")
    assert model.generate.denoiser.pad_token_id is None and model.generate.denoiser.filler_token_id == MASK
    assert torch.equal(model.generate(ids, **OPTIONS).sequences, expected)
    both = model.generate(ids.expand(2, -1), **OPTIONS).sequences  # neither padding nor end is known: no doubt
    assert torch.equal(both, expected.expand(2, -1))
    assert torch.equal(model.generate(ids, pad_token_id=PAD, **OPTIONS).sequences, cut)
    for option in ({"eos_token_id": 40}, {"eos_token_id": PAD}):
        assert torch.equal(model.generate(ids, **option, **OPTIONS).sequences, expected)
    ends = hf_unmask.Denoiser.from_model(known, pad_token_id=None, stop_token_ids=[PAD])
    assert torch.equal(hf_unmask.generate(ends, ids, eos_token_id=40, pad_token_id=40, **OPTIONS).sequences, expected)
    with pytest.raises(ValueError, match=r"'w'\] becomes padding, but .* neither .*: pass pad_token_id=..."):
        model.generate(ids, stop_strings="w", tokenizer=FakeTokenizer(), **OPTIONS)
    stop = int(expected[0, 4])
    ended = model.generate(
        ids, stop_at_eos=True, eos_token_id=[stop, 40], **{**OPTIONS, "sampler": LeftToRightSampler()}
    )
    assert ended.sequences[0, 4:].tolist() == [stop] * 9  # as in transformers, the first stop token pads


@pytest.mark.parametrize(
    "ids, reason",
    [
        ({"pad_token_id": EOS}, f"the padding token {EOS} is a stop token too"),
        ({"pad_token_id": MASK}, f"the padding token {MASK} is a mask token too"),
        ({}, "no padding token is known"),
    ],
)
def test_padding_that_cannot_be_told_is_text_and_warns(ids, reason):
    """Prevents silence where transformers warns, and stop tokens that are cut from a prompt."""
    model = unset(tiny_bert(torch.float64), "pad_token_id")
    prompts = torch.tensor([[EOS, 5, 6], [7, EOS, 8]])
    options = {**OPTIONS, **ids}
    expected = hf_unmask.generate(model, prompts, attention_mask=torch.ones_like(prompts), **options)
    with pytest.warns(UserWarning, match=rf"`attention_mask` was not passed .* 2 prompts .* {reason}:") as warned:
        found = hf_unmask.generate(model, prompts, **options)
    assert len(warned) == 1 and torch.equal(found.sequences, expected.sequences)
    hf_unmask.generate(model, prompts[:1], **options)  # a row alone is not padded


def test_same_as():
    model = llada_double()
    first = Denoiser.from_model(model)
    assert first.same_as(Denoiser.from_model(model))
    assert not first.same_as(Denoiser.from_model(model, pad_token_id=7))
    assert not first.same_as(Denoiser.from_model(llada_double()))


# Conventions at work


@pytest.mark.parametrize("build", [llada_double, dream_double])
@pytest.mark.parametrize("sampler", [ThresholdSampler(0.3), EntropySampler(k=2)], ids=str)
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_one_network_gives_the_same_tokens_in_every_family(build, sampler, temperature):
    options = {**OPTIONS, "sampler": sampler, "attention_mask": REAL, "temperature": temperature, "seed": 3}
    expected = hf_unmask.generate(backbone(torch.float64), IDS, **options)
    found = hf_unmask.generate(build(torch.float64), IDS, **options)
    assert torch.equal(found.sequences, expected.sequences)
    assert torch.equal(found.step_map, expected.step_map)
    assert len(expected.sequences[:, 4:].unique()) > 3  # a constant would match anything


@pytest.mark.parametrize(
    "build, wrong, message",
    [
        (llada_double, {"shift": 1}, None),
        (llada_double, {"mask_token_id": 30}, None),
        (llada_double, {"attention": "4d"}, r"must be \[B, S\]"),
        (dream_double, {"shift": 0}, None),
        (dream_double, {"mask_token_id": 30}, None),
        (dream_double, {"attention": "2d"}, r"must be bool \[B, 1, S, S\]"),
    ],
)
def test_a_wrong_convention_shows(build, wrong, message):
    """The doubles tell right from wrong: otherwise the test above would prove nothing."""
    with pytest.warns(UserWarning, match="was passed") if "shift" in wrong else nullcontext():
        denoiser = Denoiser.from_model(build(torch.float64), **wrong)
    if message is not None:
        with pytest.raises(ValueError, match=message):
            hf_unmask.generate(denoiser, IDS, attention_mask=REAL, **OPTIONS)
        return
    expected = hf_unmask.generate(backbone(torch.float64), IDS, attention_mask=REAL, **OPTIONS)
    found = hf_unmask.generate(denoiser, IDS, attention_mask=REAL, **OPTIONS)
    assert not torch.equal(found.sequences, expected.sequences)


def test_the_shifted_double_agrees_with_its_own_full_attention():
    model = dream_double(torch.float64)
    tokens = torch.tensor([[5, 6, MASK, MASK]])
    own = model(tokens, attention_mask="full").logits
    logits = Denoiser.from_model(model)(tokens, tokens >= 0, torch.tensor([[0, 1, 2, 3]])).logits()
    assert torch.equal(logits, own[:, [0, 0, 1, 2]])  # the first token has nothing before it


def test_shift_never_reads_padding():
    """Left padding must not change which logits predict the first real token."""
    denoiser = Denoiser.from_model(dream_double(torch.float64))
    alone = torch.tensor([[MASK, MASK, 7]])
    padded = torch.cat([torch.full((1, 3), PAD), alone], dim=1)
    real = torch.tensor([[False] * 3 + [True] * 3])
    expected = denoiser(alone, alone >= 0, torch.tensor([[0, 1, 2]])).logits()
    found = denoiser(padded, real, torch.tensor([[3, 4, 5]])).logits()
    assert torch.allclose(found, expected, rtol=0, atol=1e-6)
    garbage = padded.clone()
    garbage[:, :3] = torch.tensor([20, 21, 22])
    assert torch.equal(denoiser(garbage, real, torch.tensor([[3, 4, 5]])).logits(), found)


@pytest.mark.parametrize("build", [llada_double, dream_double])
def test_empty_prompts(build):
    model = build(torch.float64)
    alone = hf_unmask.generate(model, torch.empty(1, 0, dtype=torch.long), **OPTIONS)
    assert alone.sequences.shape == (1, 9)
    assert not (alone.sequences == MASK).any()
    mixed = hf_unmask.generate(
        model, torch.tensor([[PAD, PAD], [5, 6]]), attention_mask=torch.tensor([[0, 0], [1, 1]]), **OPTIONS
    )
    assert torch.equal(mixed.sequences[0, 2:], alone.sequences[0])
    assert torch.equal(mixed.step_map[0, 2:], alone.step_map[0])


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_row_alone_equals_the_row_in_a_padded_batch(any_model64, side):
    order = (REAL if side == "left" else -REAL).argsort(dim=1, stable=True)
    ids, real = IDS.gather(1, order), REAL.gather(1, order)
    options = {**OPTIONS, "temperature": 0.8, "seed": 5}
    batch = hf_unmask.generate(any_model64, ids, attention_mask=real, **options)
    for row in range(len(ids)):
        prompt = ids[row][real[row].bool()][None]
        alone = hf_unmask.generate(any_model64, prompt, attention_mask=torch.ones_like(prompt), **options)
        assert torch.equal(batch.sequences[row, 4:], alone.sequences[0, prompt.shape[1] :])
        assert torch.equal(batch.step_map[row, 4:], alone.step_map[0, prompt.shape[1] :])
        assert torch.equal(batch.nfe[row], alone.nfe[0])


@pytest.mark.parametrize("name", ["bert", "modernbert", "roberta", "eurobert"])
def test_padding_and_positions_do_not_shift_logits(name):
    """Without padding the adapter computes what a plain forward does; with padding nothing changes."""
    model = BUILDERS[name](torch.float64)
    pad = model.config.pad_token_id
    denoiser = Denoiser.from_model(model)
    alone = torch.arange(10, 30)[None]  # longer than ModernBERT's window
    places = torch.arange(20)[None]
    expected = model(alone, attention_mask=torch.ones_like(alone)).logits
    plain = denoiser(alone, alone >= 0, places).logits()
    assert torch.allclose(plain, expected, rtol=0, atol=1e-12)
    padded = torch.cat([torch.full((1, 7), pad), alone], dim=1)
    found = denoiser(padded, torch.arange(27)[None] >= 7, places + 7).logits()
    assert torch.allclose(found, expected, rtol=0, atol=1e-9)


def test_positions_behind_the_padding_id_shorten_the_model():
    denoiser = Denoiser.from_model(tiny_roberta())
    assert (denoiser.position_offset, denoiser.max_length) == (4, 62)
    options = {**OPTIONS, "max_new_tokens": 61}
    ids = torch.tensor([[5]])
    assert hf_unmask.generate(denoiser, ids, **options).sequences.shape == (1, 62)
    with pytest.raises(ValueError, match="prompt and new tokens make 63 positions, the model holds 62"):
        hf_unmask.generate(denoiser, torch.tensor([[5, 6]]), **options)


def test_hidden_states_come_from_the_places_of_the_logits(any_model64):
    denoiser = Denoiser.from_model(any_model64)
    tokens = torch.tensor([[5, 6, 7, MASK, MASK]])
    places = torch.tensor([[3, 1]])
    prediction = denoiser(tokens, tokens >= 0, places, hidden=True)
    logits, hidden = prediction.logits(), prediction.hidden
    assert logits.shape == (1, 2, VOCAB) and hidden.shape == (1, 2, 32)
    inputs = {"attention_mask": torch.ones_like(tokens)}
    if isinstance(any_model64, DreamDouble):
        inputs = {"attention_mask": "full"}
    own = any_model64(tokens, output_hidden_states=True, **inputs)
    assert torch.allclose(hidden, own.hidden_states[-1][:, places[0] - denoiser.shift], rtol=0, atol=1e-6)
    assert torch.allclose(logits, own.logits[:, places[0] - denoiser.shift], rtol=0, atol=1e-6)
    assert denoiser(tokens, tokens >= 0, places).hidden is None


class ReadsHidden(ThresholdSampler):
    @property
    def needs(self):
        return Needs.of("confidence", "hidden")

    def select(self, step, state, noise) -> Selection:
        assert step.hidden.shape[:2] == step.confidence.shape
        return super().select(step, state, noise)


def test_a_model_without_hidden_states_says_so():
    class Blind(Unknown):
        def forward(self, input_ids, attention_mask, output_hidden_states=False):
            return super().forward(input_ids, attention_mask)

    denoiser = Denoiser.from_model(Blind(tiny_bert()).eval(), mask_token_id=MASK, shift=0, attention="2d")
    options = {**OPTIONS, "sampler": ReadsHidden(0.3)}
    assert hf_unmask.generate(tiny_bert(), IDS, **options).complete.all()
    with pytest.raises(ValueError, match="Blind returns no hidden states"):
        hf_unmask.generate(denoiser, IDS[:1], **options)
    with pytest.raises(ValueError, match="Blind gives a padded row other logits than the row alone"):
        hf_unmask.generate(denoiser, IDS, attention_mask=REAL, **options)  # it counts positions from the padding on


@pytest.mark.parametrize("name", BUILDERS)
def test_bfloat16(name):
    model = BUILDERS[name](torch.bfloat16)
    denoiser = Denoiser.from_model(model)
    places = torch.tensor([[2, 3], [2, 3], [2, 3]])
    assert denoiser(IDS, REAL.bool(), places).logits().dtype == torch.bfloat16
    output = hf_unmask.generate(model, IDS, attention_mask=REAL, **OPTIONS)
    assert output.complete.all() and not (output.sequences[:, 4:] == MASK).any()


def test_device_is_that_of_the_embeddings():
    model = llada_double()
    assert Denoiser.from_model(model).device == torch.device("cpu")
    model.register_parameter("first", nn.Parameter(torch.empty(1, device="meta")))
    assert next(model.parameters()).device.type == "meta"
    assert Denoiser.from_model(model).device == torch.device("cpu")


def test_training_mode_warns():
    model = llada_double().train()
    with pytest.warns(UserWarning, match=r"LladaDouble is in training mode: call model\.eval\(\)"):
        hf_unmask.generate(model, IDS, attention_mask=REAL, **OPTIONS)
