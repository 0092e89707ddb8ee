"""Three doors, one loop: ``hf_unmask.generate``, ``attach`` and ``custom_generate``."""

from __future__ import annotations

import copy
import functools
import io
import itertools
import pickle

import pytest
import torch
from doubles import CACHE, DreamDouble, LladaDouble, a2d_double, dream_double, llada_double
from helpers import one_in
from models import EOS, MASK, PAD, tiny_bert
from transformers import DynamicCache, GenerationConfig, LogitsProcessor, StoppingCriteria, TemperatureLogitsWarper

import hf_unmask
from hf_unmask import AttachedGenerate, UnmaskingGenerationConfig, attach, detach
from hf_unmask.generation.custom_generate import FILLED_IN
from hf_unmask.samplers import ConfidenceSampler

IDS = torch.tensor([[5, 6, 7, 8], [PAD, PAD, 9, 10]])
REAL = torch.tensor([[1, 1, 1, 1], [0, 0, 1, 1]])
SAMPLER = ConfidenceSampler(k=2)
QUICK = {"num_hidden_layers": 1}
BASE = {"attention_mask": REAL, "max_new_tokens": 8}
DRAW = {"do_sample": True, "temperature": 0.9}
OPTIONS = {
    "greedy": BASE,
    "blocks": {**BASE, "block_length": 4},
    "draw": {**BASE, **DRAW, "seed": 3},
    "draw at temperature 1 from all tokens": {**BASE, "do_sample": True},
    "cut draw": {**BASE, **DRAW, "seed": 3, "top_k": 5, "top_p": 0.8},
    "top_k of transformers' default": {**BASE, "do_sample": True, "temperature": 3.0, "top_k": 50},
    "several rows a prompt": {**BASE, **DRAW, "num_return_sequences": 3},
    "a seed per prompt": {**BASE, **DRAW, "num_return_sequences": 2, "seed": torch.tensor([7, 8])},
    "padding is told from the tokens": {"max_new_tokens": 8},
    "right padding": {**BASE, "attention_mask": REAL.flip(1)},
    "config": {
        "attention_mask": REAL,
        "generation_config": UnmaskingGenerationConfig(max_new_tokens=8, block_length=4, stop_at_eos=True),
    },
    "config with a draw": {
        "attention_mask": REAL,
        "generation_config": UnmaskingGenerationConfig(max_new_tokens=8, temperature=0.9, seed=4),
    },
    "plain config": {"attention_mask": REAL, "generation_config": GenerationConfig(max_new_tokens=8)},
    "plain config with a draw": {
        "attention_mask": REAL,
        "generation_config": GenerationConfig(max_new_tokens=8, do_sample=True, temperature=3.0),
    },
    "guidance": {**BASE, "guidance_scale": 2.0},
    "suppressed tokens": {**BASE, "suppress_tokens": [54, 28]},
    "stop": {**BASE, "stop_at_eos": True, "eos_token_id": 54},
    "infilling": {**BASE, "fill_mask": torch.tensor([[0, 1, 0, 0], [0, 0, 0, 1]]), "max_new_tokens": 3},
    "another mask token": {**BASE, "mask_token_id": 30},
    "slots and few looks": {**BASE, "slots": 1, "check_every": 3},
    "what asks for nothing": {**BASE, **DRAW, "num_beams": 1, "repetition_penalty": 1.0, "top_k": 0, "top_p": 1.0},
    "a config that asks for nothing": {
        "attention_mask": REAL,
        "generation_config": GenerationConfig(max_new_tokens=8, num_beams=1, top_k=0, do_sample=True, typical_p=1.0),
    },
    "drawing turned off": {**BASE, "generation_config": UnmaskingGenerationConfig(temperature=0.9), "do_sample": False},
    "drawing turned on": {**BASE, "generation_config": UnmaskingGenerationConfig(block_length=4), "do_sample": True},
    "everything": {**BASE, "return_dict_in_generate": True, "output_trajectory": True},
}


def equal(found, expected):
    if isinstance(expected, torch.Tensor):
        return torch.equal(found, expected)
    tensors = [name for name, value in expected.items() if isinstance(value, torch.Tensor)]
    assert type(found) is type(expected) and "nfe" in tensors
    return all(torch.equal(found[name], expected[name]) for name in tensors)


@pytest.mark.parametrize("name", OPTIONS)
def test_three_doors_give_the_same(name):
    options = OPTIONS[name]
    model = llada_double(torch.float64, **QUICK)
    expected = hf_unmask.generate(model, IDS, sampler=SAMPLER, **options)
    assert equal(model.generate(IDS, custom_generate=SAMPLER, **options), expected)
    assert "generate" not in vars(model)
    attach(model)
    assert equal(model.generate(IDS, sampler=SAMPLER, **options), expected)
    assert equal(model.generate(IDS, custom_generate=SAMPLER, **options), expected)
    assert equal(hf_unmask.generate(model, IDS, sampler=SAMPLER, **options), expected)


MODEL_CONFIGS = {
    "plain": GenerationConfig(pad_token_id=PAD, eos_token_id=EOS, block_length=4, mask_token_id=MASK),
    "plain with a draw": GenerationConfig(do_sample=True, temperature=2.0, top_k=7, pad_token_id=PAD),
    "own": UnmaskingGenerationConfig(block_length=4, pad_token_id=PAD, stop_at_eos=True),
    "own with a draw": UnmaskingGenerationConfig(temperature=2.0, top_p=0.9, seed=5, pad_token_id=PAD),
    "plain, cuts off": GenerationConfig(do_sample=True, temperature=2.0, top_k=0, top_p=1.0),
    "plain, temperature without a draw": GenerationConfig(temperature=0.6, top_k=3),
}
CALLS = [
    {},
    {"do_sample": False},
    {"do_sample": True},
    {"do_sample": True, "temperature": 0.5},
    {"do_sample": True, "top_k": 0, "top_p": 1.0},
    {"generation_config": GenerationConfig(do_sample=True, temperature=2.0, top_k=5)},
    {"generation_config": GenerationConfig(top_k=5)},
    {"generation_config": UnmaskingGenerationConfig(temperature=0.5)},
    {"generation_config": UnmaskingGenerationConfig(block_length="full")},
]


@pytest.mark.parametrize(("name", "call"), one_in(2, itertools.product(MODEL_CONFIGS, CALLS)), ids=str)
def test_three_doors_read_the_models_own_config_alike(name, call):
    model = llada_double(torch.float64, **QUICK)
    model.generation_config = copy.deepcopy(MODEL_CONFIGS[name])
    expected = hf_unmask.generate(model, IDS, sampler=SAMPLER, **BASE, **call)
    assert torch.equal(model.generate(IDS, custom_generate=SAMPLER, **BASE, **call), expected)
    assert torch.equal(attach(model).generate(IDS, sampler=SAMPLER, **BASE, **call), expected)


GREEDY = [
    {"do_sample": False},
    {"temperature": 0.0},
    {"generation_config": GenerationConfig(do_sample=False)},
    {"generation_config": UnmaskingGenerationConfig()},
    {"generation_config": UnmaskingGenerationConfig(temperature=0.9), "do_sample": False},
    {"generation_config": UnmaskingGenerationConfig(temperature=0.9, top_k=3), "temperature": 0.0},
]


@pytest.mark.parametrize("call", one_in(2, GREEDY), ids=str)
@pytest.mark.parametrize("name", [name for name in MODEL_CONFIGS if "with" in name or "cuts" in name])
def test_greedy_is_greedy_whatever_the_model_says(name, call):
    """Catches a model's config that draws tokens although the call has turned that off."""
    model = llada_double(torch.float64, **QUICK)
    expected = hf_unmask.generate(model, IDS, sampler=SAMPLER, **BASE)
    model.generation_config = copy.deepcopy(MODEL_CONFIGS[name])
    assert torch.equal(hf_unmask.generate(model, IDS, sampler=SAMPLER, **BASE, **call), expected)
    assert torch.equal(model.generate(IDS, custom_generate=SAMPLER, **BASE, **call), expected)
    assert torch.equal(attach(model).generate(IDS, sampler=SAMPLER, **BASE, **call), expected)
    (row,) = hf_unmask.generate_stream(model, [[5, 6, 7, 8]], sampler=SAMPLER, max_new_tokens=8, **call)
    assert torch.equal(row.output.sequences, expected[:1])


def test_a_config_of_temperature_0_is_greedy():
    """In transformers' own door a model that draws refuses it: there a temperature is above 0."""
    model = llada_double(torch.float64, **QUICK)
    expected = hf_unmask.generate(model, IDS, sampler=SAMPLER, **BASE)
    config = GenerationConfig(temperature=0.0)
    assert torch.equal(model.generate(IDS, custom_generate=SAMPLER, generation_config=config, **BASE), expected)
    model.generation_config.update(do_sample=True, temperature=2.0)
    assert torch.equal(hf_unmask.generate(model, IDS, sampler=SAMPLER, generation_config=config, **BASE), expected)


@pytest.mark.parametrize(
    ("own", "off"),
    [({"block_length": 2}, {"block_length": "full"}), ({"cache": "prefix", "cache_refresh": 4}, {"cache": "off"})],
)
def test_what_the_model_turns_on_can_be_turned_off(own, off):
    """Catches full diffusion, or no cache, that a caller cannot ask for because None says nothing."""
    model, sampler = a2d_double(), ConfidenceSampler()
    expected = hf_unmask.generate(model, IDS, sampler=sampler, **BASE)
    model.generation_config = UnmaskingGenerationConfig(pad_token_id=PAD, **own)
    assert not torch.equal(hf_unmask.generate(model, IDS, sampler=sampler, **BASE), expected)
    assert torch.equal(hf_unmask.generate(model, IDS, sampler=sampler, **BASE, **off), expected)
    assert torch.equal(attach(model).generate(IDS, sampler=sampler, **BASE, **off), expected)
    config = UnmaskingGenerationConfig(max_new_tokens=8, **off)
    found = model.generate(IDS, custom_generate=sampler, attention_mask=REAL, generation_config=config)
    assert torch.equal(found, expected)


@pytest.mark.parametrize(
    "config",
    [
        UnmaskingGenerationConfig(),
        UnmaskingGenerationConfig(temperature=0.9),
        UnmaskingGenerationConfig(temperature=0.9, top_k=5, top_p=0.8, seed=4, block_length=4),
        UnmaskingGenerationConfig(do_sample=True),
        UnmaskingGenerationConfig(block_length="full", cache="off", repetition_penalty=1.0),
        UnmaskingGenerationConfig(max_new_tokens=8, stop_at_eos=True, eos_token_id=54, suppress_tokens=[28]),
        UnmaskingGenerationConfig(temperature=0.9, seed=torch.tensor([7, 8])),
    ],
    ids=lambda config: config.to_json_string(),
)
def test_a_saved_config_says_what_it_said(config, tmp_path):
    """Catches a draw that is greedy once it was on disk, whichever class reads the file, and on a model, too."""
    config.save_pretrained(tmp_path)
    if isinstance(config.seed, torch.Tensor):  # of one call
        config = UnmaskingGenerationConfig(temperature=0.9)
    model = llada_double(torch.float64, **QUICK)
    model.generation_config.update(do_sample=True, temperature=3.0, top_k=4, block_length=2)
    options = {"sampler": SAMPLER, **BASE}
    expected = hf_unmask.generate(model, IDS, generation_config=config, **options)
    for kind in (UnmaskingGenerationConfig, GenerationConfig):
        loaded = kind.from_pretrained(tmp_path)
        assert torch.equal(hf_unmask.generate(model, IDS, generation_config=loaded, **options), expected)
        assert torch.equal(model.generate(IDS, custom_generate=SAMPLER, generation_config=loaded, **BASE), expected)
    assert UnmaskingGenerationConfig.from_pretrained(tmp_path) == config

    model.generation_config = config
    expected = hf_unmask.generate(model, IDS, **options)
    model.save_pretrained(tmp_path / "model")
    again = LladaDouble.from_pretrained(tmp_path / "model").eval()
    assert type(again.generation_config) is GenerationConfig
    assert torch.equal(hf_unmask.generate(again, IDS, **options), expected)


def test_beams_of_the_models_config_make_no_rows():
    """Catches prompts that transformers has repeated once per beam before it hands them over."""
    model = llada_double(torch.float64, **QUICK)
    model.generation_config.num_beams = 4
    for options in ({}, {**DRAW, "num_return_sequences": 2}):
        expected = hf_unmask.generate(llada_double(torch.float64, **QUICK), IDS, sampler=SAMPLER, **BASE, **options)
        with pytest.warns(UserWarning, match="asks for num_beams=4"):
            assert torch.equal(model.generate(IDS, custom_generate=SAMPLER, **BASE, **options), expected)
    config = GenerationConfig(max_new_tokens=8, num_beams=4)
    with pytest.warns(UserWarning, match="asks for num_beams=4"):  # called directly, it gets every prompt once
        found = SAMPLER(model, IDS, generation_config=config, attention_mask=REAL)
    assert torch.equal(found, hf_unmask.generate(llada_double(torch.float64, **QUICK), IDS, sampler=SAMPLER, **BASE))


def test_a_cache_through_transformers_own_door():
    """There ``cache`` is transformers' word from 5.24 on, for what it prepares itself."""
    model, sampler = a2d_double(), ConfidenceSampler()
    options = {**BASE, "block_length": 4, "cache_refresh": 8}
    expected = hf_unmask.generate(model, IDS, sampler=sampler, cache="dual", **options)
    assert not torch.equal(hf_unmask.generate(model, IDS, sampler=sampler, **BASE, block_length=4), expected)
    found = model.generate(IDS, custom_generate=sampler, unmask_cache="dual", **options)
    assert torch.equal(found, expected)
    found = model.generate(IDS, custom_generate=sampler, cache="dual", use_cache=False, **options)
    assert torch.equal(found, expected)
    config = UnmaskingGenerationConfig(max_new_tokens=8, block_length=4, cache="dual", cache_refresh=8)
    found = model.generate(IDS, custom_generate=sampler, generation_config=config, attention_mask=REAL)
    assert torch.equal(found, expected)
    # from 5.24 on transformers hands over its own one besides, and Python refuses the two
    refused = "starts from its prompt alone: drop the DynamicCache|multiple values for keyword argument 'cache'"
    with pytest.raises((ValueError, TypeError), match=refused):
        model.generate(IDS, custom_generate=sampler, **BASE, **{CACHE: DynamicCache()})


def test_ids_given_to_attach_win_over_the_models_config_in_every_door():
    model = llada_double(torch.float64, **QUICK)
    expected = hf_unmask.generate(model, IDS, sampler=SAMPLER, **BASE)
    model.generation_config = GenerationConfig(pad_token_id=PAD, eos_token_id=EOS)
    model.generation_config.mask_token_id = 30
    assert not torch.equal(hf_unmask.generate(model, IDS, sampler=SAMPLER, **BASE), expected)
    attach(model, mask_token_id=MASK)
    for found in (
        hf_unmask.generate(model, IDS, sampler=SAMPLER, **BASE),
        model.generate(IDS, sampler=SAMPLER, **BASE),
        model.generate(IDS, custom_generate=SAMPLER, **BASE),
    ):
        assert torch.equal(found, expected)


def test_what_transformers_fills_in_is_known():
    """The door drops these values: if transformers changes them, it has to follow."""
    defaults = GenerationConfig._get_default_generation_params()
    assert {name: defaults[name] for name in FILLED_IN} == FILLED_IN


def test_listeners_reach_the_loop_through_every_door():
    class Streamer:
        def __init__(self):
            self.tokens, self.ended = [], False

        def put(self, value):
            self.tokens += value.flatten().tolist()

        def end(self):
            self.ended = True

    model = attach(llada_double(**QUICK))
    for options in ({"sampler": SAMPLER}, {"custom_generate": SAMPLER}):
        streamer, events = Streamer(), []
        word = "streamer" if "sampler" in options else "unmask_streamer"
        found = model.generate(IDS[:1], max_new_tokens=8, on_step=events.append, **{word: streamer}, **options)
        assert streamer.tokens == found[0].tolist() and streamer.ended and events


# What would be ignored is refused


class Processor(LogitsProcessor):
    def __call__(self, input_ids, scores):
        return scores


class Criterion(StoppingCriteria):
    def __call__(self, input_ids, scores, **kwargs):
        return False


@pytest.mark.parametrize(
    "options, message",
    [
        ({"logits_processor": [Processor()]}, r"`logits_processor` \['Processor'\]"),
        # of a class that transformers builds itself from options, but passed by hand
        ({"logits_processor": [TemperatureLogitsWarper(0.5)]}, r"`logits_processor` \['TemperatureLogitsWarper'\]"),
        ({"stopping_criteria": [Criterion()]}, r"`stopping_criteria` \['Criterion'\]"),
        ({"prefix_allowed_tokens_fn": lambda *_: [5]}, r"\['PrefixConstrainedLogitsProcessor'\]"),
        ({"guidance_scale": 2.0, "negative_prompt_ids": IDS}, r"\['UnbatchedClassifierFreeGuidance"),
        ({"repetition_penalty": 1.5}, "`repetition_penalty=1.5` has no meaning"),
        ({"no_repeat_ngram_size": 2}, "`no_repeat_ngram_size=2` has no meaning"),
        ({"num_beams": 2}, "`num_beams=2` has no meaning"),
        ({"max_time": 1.0}, "`max_time=1.0` has no meaning"),
        ({"renormalize_logits": True}, "`renormalize_logits=True` has no meaning"),
        ({"output_hidden_states": True}, "`output_hidden_states=True` has no meaning"),
        ({"output_scores": True}, "`output_scores=True` has no meaning"),
        ({"temperature": 0.5}, "`temperature=0.5` needs `do_sample=True`"),
        ({"blok_length": 4}, "blok_length"),  # by transformers itself
    ],
    ids=lambda value: value if isinstance(value, str) else "+".join(value),
)
def test_custom_generate_refuses_what_it_would_ignore(options, message):
    with pytest.raises(ValueError, match=message):
        llada_double(**QUICK).generate(IDS, custom_generate=SAMPLER, **BASE, **options)


def test_a_sampler_called_directly_refuses_unknown_options():
    with pytest.raises(ValueError, match="unknown option max_new_tokens, streamer of"):
        SAMPLER(llada_double(**QUICK), IDS, max_new_tokens=8, streamer=object())
    with pytest.raises(ValueError, match=r"`generation_config` must be a GenerationConfig, got \{'num_beams': 4"):
        SAMPLER(llada_double(**QUICK), IDS, generation_config={"num_beams": 4})
    config = GenerationConfig(max_new_tokens=8)
    found = SAMPLER(tiny_bert(), IDS, generation_config=config, attention_mask=REAL)
    assert torch.equal(found, hf_unmask.generate(tiny_bert(), IDS, sampler=SAMPLER, **BASE))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"logits_processor": [Processor()]}, "unknown option logits_processor"),
        ({"repetition_penalty": 1.5}, "`repetition_penalty=1.5` has no meaning"),
        (
            {"generation_config": {"num_beams": 4}},
            r"`generation_config` must be a GenerationConfig, got \{'num_beams': 4",
        ),
        ({"generation_config": GenerationConfig(repetition_penalty=1.5)}, "`repetition_penalty=1.5` has no meaning"),
        ({"custom_generate": SAMPLER}, "unknown option custom_generate"),
        ({"inputs": IDS}, "unknown option inputs"),
    ],
    ids=lambda value: value if isinstance(value, str) else "+".join(value),
)
def test_an_attached_model_refuses_what_it_would_ignore(options, message):
    with pytest.raises(ValueError, match=message):
        attach(llada_double(**QUICK)).generate(IDS, sampler=SAMPLER, **BASE, **options)


# attach and detach


@pytest.mark.parametrize("word", ["input_ids", "inputs"])
def test_ids_by_keyword(word):
    model = attach(dream_double(**QUICK))
    expected = hf_unmask.generate(model, IDS, sampler=SAMPLER, **BASE)
    assert torch.equal(model.generate(**{word: IDS}, sampler=SAMPLER, **BASE), expected)


def test_without_a_sampler_the_models_own_generate_runs():
    model = llada_double(**QUICK)
    options = {"attention_mask": REAL, "max_new_tokens": 3, "use_cache": False}
    expected = model.generate(IDS, **options)
    assert torch.equal(attach(model).generate(IDS, **options), expected)
    assert not torch.equal(model.generate(IDS, sampler=SAMPLER, **BASE)[:, : expected.shape[1]], expected)

    model = dream_double(**QUICK)
    expected = model.diffusion_generate(IDS, 3)
    assert torch.equal(model.generate(IDS, max_new_tokens=3, sampler=SAMPLER, stepz=3), expected)  # swallowed
    attach(model)
    assert torch.equal(model.generate(IDS, max_new_tokens=3, stepz=3), expected)
    with pytest.raises(ValueError, match="unknown option stepz"):
        model.generate(IDS, max_new_tokens=3, sampler=SAMPLER, stepz=3)

    with pytest.raises(TypeError, match=r"BertForMaskedLM has no generate of its own: pass sampler=ThresholdSampler"):
        attach(tiny_bert()).generate(IDS, **BASE)


def test_attaching_twice():
    model = attach(llada_double(**QUICK))
    first = model.generate
    assert attach(model) is model and model.generate is first
    attach(model, mask_token_id=MASK)  # the same, spelled out
    assert model.generate is first
    with pytest.raises(ValueError, match=r"attached with .*'mask_token_id': 59.*not .*30.*detach"):
        attach(model, mask_token_id=30)
    assert model.generate is first
    attach(detach(model), mask_token_id=30)
    assert model.generate.denoiser.mask_token_id == 30
    assert attach(model) is model  # no arguments: nothing is contradicted
    assert model.generate.denoiser.mask_token_id == 30


def test_ids_from_a_tokenizer():
    model = tiny_bert()
    del model.config.mask_token_id
    with pytest.raises(ValueError, match="no mask token known"):
        attach(model)
    assert "generate" not in vars(model)

    class Tokenizer:
        mask_token_id, eos_token_id = MASK, 54

        def __len__(self):
            return 50

    model.config.eos_token_id = None
    attach(model, tokenizer=Tokenizer())
    assert model.generate.denoiser.conventions()["stop_token_ids"] == (54,)
    expected = hf_unmask.generate(tiny_bert(), IDS, sampler=SAMPLER, stop_at_eos=True, eos_token_id=54, **BASE)
    assert torch.equal(model.generate(IDS, sampler=SAMPLER, stop_at_eos=True, **BASE), expected)
    attach(model)  # the tokenizer need not be repeated


def test_detach_restores():
    model = llada_double(**QUICK)
    assert detach(model) is model
    detach(attach(model))
    assert "generate" not in vars(model) and model.generate.__func__ is LladaDouble.generate


def test_a_generate_on_the_instance_is_kept_and_restored():
    """As ``from_pretrained(..., trust_remote_code=True)`` leaves one."""

    def bundled(model, input_ids, **options):
        return model, input_ids, options

    model = llada_double(**QUICK)
    model.generate = before = functools.partial(bundled, model=model)
    attach(model)
    assert model.generate(input_ids=IDS, steps=4) == (model, IDS, {"steps": 4})
    assert model.generate(IDS, sampler=SAMPLER, **BASE).shape == (2, 12)
    twin = copy.deepcopy(model)
    assert twin.generate(input_ids=IDS)[0] is twin
    assert detach(model).generate is before


def test_a_deepcopy_is_attached_to_itself():
    model = attach(tiny_bert())
    expected = model.generate(IDS, sampler=SAMPLER, **BASE)
    twin = copy.deepcopy(model)
    assert isinstance(twin.generate, AttachedGenerate) and twin.generate.denoiser.model is twin
    assert torch.equal(twin.generate(IDS, sampler=SAMPLER, **BASE), expected)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.copy_(torch.randn_like(parameter))
    assert not torch.equal(twin.generate(IDS, sampler=SAMPLER, **BASE), expected)
    assert torch.equal(model.generate(IDS, sampler=SAMPLER, **BASE), expected)
    attach(twin, mask_token_id=MASK)  # the copy's adapter is that of the copy
    assert "generate" not in vars(detach(twin)) and "generate" in vars(model)


@pytest.mark.parametrize("build", [llada_double, dream_double, tiny_bert])
def test_saved_and_loaded(build, tmp_path):
    model = attach(build())
    expected = model.generate(IDS, sampler=SAMPLER, **BASE)
    model.save_pretrained(tmp_path)
    assert isinstance(model.generate, AttachedGenerate)
    loaded = type(model).from_pretrained(tmp_path).eval()
    assert "generate" not in vars(loaded)
    assert torch.equal(attach(loaded).generate(IDS, sampler=SAMPLER, **BASE), expected)


def through_pickle(model):
    return pickle.loads(pickle.dumps(model))


def through_torch(model):
    buffer = io.BytesIO()
    torch.save(model, buffer)
    return torch.load(io.BytesIO(buffer.getvalue()), weights_only=False)


@pytest.mark.parametrize("through", [through_pickle, through_torch])
@pytest.mark.parametrize("build", [llada_double, dream_double, tiny_bert])
def test_pickling_loses_the_attachment_and_says_so(build, through):
    model = attach(build())
    expected = model.generate(IDS, sampler=SAMPLER, **BASE)
    loaded = through(model)
    for options in ({"sampler": SAMPLER}, {}):
        with pytest.raises(RuntimeError, match=r"attached when it was pickled.*attach\(model\) again.*detach"):
            loaded.generate(IDS, **BASE, **options)
    assert torch.equal(attach(loaded).generate(IDS, sampler=SAMPLER, **BASE), expected)
    assert isinstance(model.generate, AttachedGenerate)
    assert "generate" not in vars(detach(through(model)))


def test_one_sampler_serves_several_models():
    models = [attach(llada_double(seed=seed)) for seed in (0, 1)]
    sampler = ConfidenceSampler(k=2)
    first = [model.generate(IDS, sampler=sampler, **BASE) for model in models]
    again = [model.generate(IDS, sampler=sampler, **BASE) for model in reversed(models)]
    assert not torch.equal(*first)
    assert torch.equal(first[0], again[1]) and torch.equal(first[1], again[0])


def test_a_spec_is_a_sampler_everywhere():
    """Attached, in a function, as a stream, and where transformers would look for a repository of the name."""
    model, rule = attach(llada_double(**QUICK)), ConfidenceSampler(k=2)
    expected = model.generate(IDS, sampler=rule, **BASE)
    assert torch.equal(model.generate(IDS, sampler="confidence:2", **BASE), expected)
    assert torch.equal(hf_unmask.generate(model, IDS, sampler="confidence:2", **BASE), expected)
    (row,) = hf_unmask.generate_stream(model, IDS[:1].tolist(), sampler="confidence:2", max_new_tokens=8)
    assert torch.equal(row.output.sequences, expected[:1])
    assert torch.equal(model.generate(IDS, custom_generate="confidence:2", **BASE), expected)


def test_something_that_is_no_sampler():
    with pytest.raises(ValueError, match="`sampler` must be a sampler such as ThresholdSampler"):
        attach(dream_double(**QUICK)).generate(IDS, sampler=0.9, **BASE)
    with pytest.raises(ValueError, match="did you mean 'threshold'"):
        attach(dream_double(**QUICK)).generate(IDS, sampler="thresold", **BASE)
    assert DreamDouble.generate is type(dream_double(**QUICK)).generate  # the class is never patched
