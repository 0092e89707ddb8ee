"""Models inside adapters of PEFT, compiled modules and other wrappers decode as they do bare."""

from __future__ import annotations

import copy

import pytest
import torch
from doubles import a2d_double, llada_double
from helpers import slow
from models import BUILDERS
from peft import LoraConfig, PromptTuningConfig, TaskType, get_peft_model
from reference_loops import batch
from torch import nn
from transformers import PreTrainedConfig

import hf_unmask
from hf_unmask import Denoiser
from hf_unmask.denoisers.wrappers import accepted, unwrapped
from hf_unmask.samplers import ThresholdSampler

PROMPTS = [[5, 6, 7, 8, 9], [5, 6], [10, 11, 12]]


class Passing(nn.Module):
    """What people write around a model: all that it gets is handed on."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, *args, **kwargs):
        return self.inner(*args, **kwargs)


class Named(nn.Module):
    """It names some of what it hands on, and has a layer of its own."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.value, self.config = inner, nn.Linear(2, 2), getattr(inner, "config", None)

    def forward(self, input_ids, attention_mask=None, **kwargs):
        return self.inner(input_ids, attention_mask=attention_mask, **kwargs)


def lora(model, scale=0.0):
    """An adapter whose change of the weights is ``scale`` times noise."""
    dtype = model.dtype
    wrapped = get_peft_model(model, LoraConfig(r=2, target_modules="all-linear")).to(dtype).eval()
    generator = torch.Generator().manual_seed(1)
    for name, weight in wrapped.named_parameters():
        if "lora_B" in name:
            weight.data.normal_(0, scale, generator=generator)
    return wrapped


def compiled(model):
    torch.compiler.reset()  # a process compiles a function anew only so often
    return torch.compile(model, backend="eager")


WRAPPERS = {
    "lora": [lora],
    "compiled": [compiled],
    "passing": [Passing],
    "named": [Named],
    "data parallel": [nn.DataParallel],
    "compiled lora in a wrapper": [lora, compiled, Passing],
    "lora of a wrapper's model, twice handed on": [lora, Passing, Named],
}


def wrap(model, name):
    model = copy.deepcopy(model)
    for wrapper in WRAPPERS[name]:
        model = wrapper(model)
    return model


def decode(model, **options):
    options = {"sampler": ThresholdSampler(0.2), "max_new_tokens": 12, "return_dict_in_generate": True} | options
    ids, mask = batch(options.pop("prompts", PROMPTS))
    out = hf_unmask.generate(model, ids, attention_mask=mask, **options)
    return out.sequences.tolist(), out.nfe.tolist()


@pytest.fixture(scope="module")
def bert():
    return BUILDERS["bert"](torch.float64)


@pytest.fixture(scope="module")
def causal():
    return a2d_double(torch.float64)


@pytest.mark.parametrize(
    "name", [slow(name) if "compiled" in name else name for name in WRAPPERS if name != "compiled lora in a wrapper"]
)
def test_a_left_padded_row_is_the_row_alone(bert, name):
    wrapped = wrap(bert, name)
    bare = [decode(bert, prompts=[row], max_new_tokens=4) for row in PROMPTS]
    tokens, nfe = decode(wrapped, max_new_tokens=4)
    assert [row[-4:] for row in tokens] == [one[0][0][-4:] for one in bare]
    assert nfe == [one[1][0] for one in bare]


@pytest.mark.parametrize(
    ("cache", "name"),
    [
        pytest.param(cache, name, marks=[pytest.mark.slow] if "compiled" in name else [])  # tracing takes its time
        for cache in (None, "prefix", "dual")
        for name in WRAPPERS
    ],
)
def test_a_causal_class_run_bidirectionally_writes_the_same_tokens(causal, cache, name):
    options = {"block_length": 4} | ({"cache": cache, "cache_refresh": 4} if cache else {})
    assert decode(wrap(causal, name), **options) == decode(causal, **options)


@pytest.mark.parametrize("name", WRAPPERS)
def test_what_a_wrapper_hides_is_read_from_the_model_inside(bert, name):
    wrapped = wrap(bert, name)
    bare, seen = Denoiser.from_model(bert), Denoiser.from_model(wrapped)
    assert seen.model is wrapped and type(seen.core) is type(bert)
    assert seen.conventions() == bare.conventions() and seen.accepts == bare.accepts
    assert seen.max_length == bare.max_length and seen.device == bare.device
    assert (seen.output_layer is None) == ("compiled" in name)  # compiled code does not see hooks that come and go


def test_adapters_stay_active(bert):
    adapted = lora(copy.deepcopy(bert), scale=0.5)
    merged = copy.deepcopy(adapted).merge_and_unload()
    assert decode(adapted) == decode(merged) != decode(bert)
    with adapted.disable_adapter():
        assert decode(adapted) == decode(bert)


@pytest.mark.parametrize("name", [name for name in WRAPPERS if "compiled" not in name])
def test_attached_before_and_after_it_was_wrapped(causal, name):
    expected = decode(causal)
    before = hf_unmask.attach(copy.deepcopy(causal))
    inside = wrap(before, name)
    assert decode(inside) == expected
    assert Denoiser.resolve(inside).model is inside
    after = hf_unmask.attach(wrap(causal, name))
    ids, mask = torch.tensor([[5, 6, 7]]), torch.ones(1, 3, dtype=torch.long)
    options = {"sampler": ThresholdSampler(0.2), "max_new_tokens": 4}
    here = after.generate(ids, attention_mask=mask, **options)
    assert torch.equal(here, hf_unmask.generate(causal, ids, attention_mask=mask, **options))


def test_conventions_given_to_an_attached_model_hold_when_it_is_wrapped():
    class Stranger(type(BUILDERS["eurobert"]())):
        """Of no known family."""

    model = BUILDERS["eurobert"]()
    model.__class__ = Stranger
    hf_unmask.attach(model, shift=0, attention="2d", mask_token_id=5)
    assert Denoiser.resolve(Passing(model)).mask_token_id == 5


def test_what_a_wrapper_does_not_hand_on_is_not_passed(bert):
    class Strict(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, input_ids, attention_mask):
            return self.inner(input_ids=input_ids, attention_mask=attention_mask)

    assert accepted(Strict(bert)) == {"input_ids", "attention_mask"}
    assert decode(Strict(bert), prompts=[[5, 6]]) == decode(bert, prompts=[[5, 6]])


def test_a_wrapper_that_computes_with_logits_is_taken_at_its_word(bert):
    class Colder(Passing):
        def forward(self, *args, **kwargs):
            output = super().forward(*args, **kwargs)
            output.logits = -output.logits
            return output

    assert decode(Colder(bert), sampler=ThresholdSampler(1.0)) != decode(bert, sampler=ThresholdSampler(1.0))


@pytest.mark.parametrize("kind", ["class", "instance"])
@pytest.mark.parametrize("cache", [None, "prefix"])
def test_a_forward_that_hands_on_what_it_does_not_name(causal, kind, cache):
    """A class that changes a family's forward, or a function put in its place: no position may be lost."""

    class Changed(type(causal)):
        def forward(self, *args, **kwargs):
            return super().forward(*args, **kwargs)

    model, options = (
        copy.deepcopy(causal),
        {"block_length": 4} | ({"cache": cache, "cache_refresh": 4} if cache else {}),
    )
    if kind == "class":
        model.__class__ = Changed
    else:
        model.forward = lambda *args, **kwargs: type(model).forward(model, *args, **kwargs)
    assert decode(model, **options) == decode(causal, **options)


@pytest.mark.slow
def test_compiled_in_place_and_compiled_forward(bert):
    for change in (
        lambda model: model.compile(backend="eager"),
        lambda model: setattr(model, "forward", torch.compile(model.forward, backend="eager")),
    ):
        model = copy.deepcopy(bert)
        change(model)
        assert Denoiser.from_model(model).output_layer is None
        assert decode(model) == decode(bert)


def test_virtual_tokens_are_refused(bert):
    config = PromptTuningConfig(task_type=TaskType.FEATURE_EXTRACTION, num_virtual_tokens=3)
    wrapped = get_peft_model(copy.deepcopy(bert), config)
    with pytest.raises(ValueError, match="puts 3 virtual tokens before the text"):
        Denoiser.from_model(wrapped)


def test_models_are_not_taken_for_wrappers(causal, bert):
    other = Named(bert)
    other.config = PreTrainedConfig()  # it reads the inner model in a way of its own
    for model in (causal, bert, llada_double(), other):
        assert unwrapped(model) is model
