"""Every field of transformers' ``GenerationConfig``: used, accepted where it asks for nothing, or refused."""

from __future__ import annotations

import copy
import functools
import re

import pytest
import torch
from doubles import llada_double
from helpers import one_in
from transformers import CompileConfig, GenerationConfig, WatermarkingConfig

import hf_unmask
from hf_unmask import UnmaskingGenerationConfig, attach
from hf_unmask.generation.configuration import DEFAULTS
from hf_unmask.generation.fields import FOREIGN, METADATA, asking
from hf_unmask.samplers import ConfidenceSampler

IDS = torch.tensor([[5, 6, 7, 8], [9, 10, 11, 12]])
SAMPLER = ConfidenceSampler(k=2)
QUICK = {"num_hidden_layers": 1}
NEW = {"max_new_tokens": 4}
DRAW = {"do_sample": True, "temperature": 0.9, "top_k": 0}
#: A value that asks for something, for every field that can.
ASKING = {
    "min_length": 6,
    "min_new_tokens": 3,
    "exponential_decay_length_penalty": (2, 1.5),
    "forced_eos_token_id": 1,
    "max_time": 9.0,
    "num_beams": 4,
    "num_beam_groups": 2,
    "diversity_penalty": 0.5,
    "constraints": [object],
    "force_words_ids": [[3]],
    "repetition_penalty": 1.05,
    "no_repeat_ngram_size": 2,
    "penalty_alpha": 0.6,
    "dola_layers": "high",
    "min_p": 0.1,
    "epsilon_cutoff": 0.1,
    "eta_cutoff": 0.1,
    "typical_p": 0.5,
    "top_h": 0.5,
    "bad_words_ids": [[3]],
    "begin_suppress_tokens": [3],
    "sequence_bias": [[[3], 2.0]],
    "forced_bos_token_id": 3,
    "watermarking_config": WatermarkingConfig(),
    "renormalize_logits": True,
    "remove_invalid_values": True,
    "token_healing": True,
    "cache_implementation": "dynamic",
    "cache_config": {"backend": "quanto"},
    "max_cache_len": 50,
    "prefill_chunk_size": 4,
    "compile_config": CompileConfig(),
    "continuous_batching_config": {"page_size": 4},
    "output_attentions": True,
    "output_hidden_states": True,
    "output_scores": True,
    "output_logits": True,
    "encoder_repetition_penalty": 1.2,
    "encoder_no_repeat_ngram_size": 2,
    "is_assistant": True,
    "use_mtp": True,
    "prompt_lookup_num_tokens": 3,
    "assistant_early_exit": 1,
    "speculation_type": "dflash",
}
IDLE = {name: 3 for name, field in FOREIGN.items() if field.neutral is None} | {
    "early_stopping": True,
    "assistant_ensemble_weight": 0.5,
}
#: transformers itself stops these before it hands over.
STOPPED = {"token_healing": "must pass the model's tokenizer"}

pytestmark = pytest.mark.filterwarnings("ignore:Passing ContinuousBatchingConfig through:FutureWarning")


def doors(**options):
    """The tokens of each door."""
    yield lambda model: hf_unmask.generate(model, IDS, sampler=SAMPLER, **NEW, **options)
    yield lambda model: attach(model).generate(IDS, sampler=SAMPLER, **NEW, **options)
    yield lambda model: model.generate(IDS, custom_generate=SAMPLER, **NEW, **options)


@functools.cache
def bare(**options):
    return hf_unmask.generate(llada_double(**QUICK), IDS, sampler=SAMPLER, **NEW, **options)


def test_the_table_knows_every_field_that_transformers_has_and_no_other():
    """A version of transformers that adds a field fails here."""
    fields = {name for name in vars(GenerationConfig()) if not name.startswith("_")} - METADATA
    assert fields - DEFAULTS.keys() == FOREIGN.keys()
    documented = set(re.findall(r"^        (\w+) ?:? ?\(", GenerationConfig.__doc__, re.MULTILINE))
    assert len(documented) > 60 and documented <= DEFAULTS.keys() | FOREIGN.keys()
    assert not asking(GenerationConfig._get_default_generation_params())
    assert ASKING.keys() | IDLE.keys() == FOREIGN.keys() and not ASKING.keys() & IDLE.keys()


@pytest.mark.parametrize("name", one_in(3, ASKING))
def test_a_call_that_asks_for_it_is_refused_with_the_reason_in_every_door(name):
    setting = {name: ASKING[name]}
    options = DRAW if FOREIGN[name].draws else {}
    config = GenerationConfig(**setting, **options)
    reason = re.escape(f"has no meaning for masked diffusion: {FOREIGN[name].why}")
    for given in ({**setting, **options}, {"generation_config": config}):
        for door, generate in enumerate(doors(**given)):
            with pytest.raises(ValueError, match=STOPPED[name] if door == 2 and name in STOPPED else reason) as caught:
                generate(llada_double(**QUICK))
            assert name in str(caught.value) or name in STOPPED
    with pytest.raises(ValueError, match=reason):
        UnmaskingGenerationConfig(**setting)


@pytest.mark.parametrize("name", one_in(3, ASKING))
def test_what_the_models_own_config_asks_for_is_left_out_with_a_warning_in_every_door(name):
    """A checkpoint that ships ``repetition_penalty=1.05`` for its own loop decodes, and says how to be rid of that."""
    options = DRAW if FOREIGN[name].draws else {}
    model, expected = llada_double(**QUICK), bare(**options)
    setattr(model.generation_config, name, ASKING[name])
    for given in (options, {"generation_config": UnmaskingGenerationConfig(**options)}):
        for door, generate in enumerate(doors(**given)):
            if door == 2 and name in STOPPED and given is options:
                continue
            with pytest.warns(UserWarning, match=rf"asks for {name}=.*model\.generation_config\.{name} = None"):
                assert torch.equal(generate(model), expected)
    setattr(model.generation_config, name, None)  # the cure
    assert all(torch.equal(generate(model), expected) for generate in doors(**options))


@pytest.mark.parametrize("name", sorted(FOREIGN))
def test_a_value_that_asks_for_nothing_is_accepted_in_every_door(name):
    """Also instead of what the model's own config asks for, without a warning."""
    values = [IDLE[name]] if name in IDLE else [value for value in FOREIGN[name].neutral if value is not None]
    options = DRAW if FOREIGN[name].draws else {}
    expected = bare(**options)
    for value in values:
        model = llada_double(**QUICK)
        setattr(model.generation_config, name, ASKING.get(name))
        found = [generate(model) for generate in doors(**options, **{name: value})]
        assert all(torch.equal(tokens, expected) for tokens in found)


@pytest.mark.parametrize("name", ["typical_p", "min_p", "top_h"])
def test_cuts_of_a_draw_mean_nothing_where_nothing_is_drawn(name):
    model = llada_double(**QUICK)
    model.generation_config.update(do_sample=True, temperature=0.9, **{name: ASKING[name]})
    for generate in doors(do_sample=False):
        assert torch.equal(generate(model), bare())


def test_a_copy_of_the_models_own_config_asks_for_what_the_model_asks_for():
    model = llada_double(**QUICK)
    model.generation_config.update(repetition_penalty=1.05)
    model.generation_config.steps = 512  # of the model's own loop
    config = copy.deepcopy(model.generation_config)
    config.block_length = 4
    for generate in doors(generation_config=config):
        with pytest.warns(UserWarning, match=r"asks for repetition_penalty=1\.05"):
            assert torch.equal(generate(model), bare(block_length=4))
    config.steps = 8
    for generate in doors(generation_config=config):
        with pytest.raises(ValueError, match="unknown option steps of"):
            generate(model)
