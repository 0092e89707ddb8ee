"""Input that cannot be used is refused with the offending value in the message; interruptions leave no trace."""

from __future__ import annotations

import re
import signal
import sys
import time
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from forked import Forked
from models import MASK, PAD, VOCAB, tiny_bert, tiny_eurobert
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import GenerationConfig, PreTrainedTokenizerFast
from transformers.generation.streamers import BaseStreamer

from hf_unmask import Denoiser, Needs, Sampler, Selection, UnmaskingGenerationConfig, generate
from hf_unmask.denoisers import head
from hf_unmask.generation.configuration import DEFAULTS
from hf_unmask.samplers import ConfidenceSampler, RandomSampler, ThresholdSampler

PROMPT = torch.tensor([[5, 17, 31], [8, 9, 10]])


def call(model, ids=PROMPT, **options):
    return generate(model, ids, **{"sampler": ThresholdSampler(0.4), "max_new_tokens": 4} | options)


def tokenizer_of(size, **options):
    inner = Tokenizer(WordLevel({f"w{i}": i for i in range(size)}, unk_token="w0"))
    return PreTrainedTokenizerFast(tokenizer_object=inner, **options)


class Ended(BaseStreamer):
    def __init__(self):
        self.values, self.ended = [], 0

    def put(self, value):
        self.values.append(value)

    def end(self):
        self.ended += 1


# Options: the option's name and value appear in the message

OPTIONS = [
    ({"max_new_tokens": -1}, "`max_new_tokens`", "-1"),
    ({"max_new_tokens": 3.5}, "`max_new_tokens`", "3.5"),
    ({"max_new_tokens": None}, "`max_new_tokens`", "None"),
    ({"block_length": 0}, "`block_length`", "0"),
    ({"block_length": 2.5}, "`block_length`", "2.5"),
    ({"num_return_sequences": 0}, "`num_return_sequences`", "0"),
    ({"temperature": -0.5}, "`temperature`", "-0.5"),
    ({"temperature": float("inf")}, "`temperature`", "inf"),
    ({"temperature": float("nan")}, "`temperature`", "nan"),
    ({"temperature": 1e-39}, "`temperature`", "1e-39"),
    ({"temperature": "hot"}, "`temperature`", "'hot'"),
    ({"temperature": 1.0, "top_k": -1}, "`top_k`", "-1"),
    ({"temperature": 1.0, "top_k": False}, "`top_k`", "False"),
    ({"temperature": 1.0, "top_p": 0.0}, "`top_p`", "0.0"),
    ({"temperature": 1.0, "top_p": 1.5}, "`top_p`", "1.5"),
    ({"temperature": 1.0, "top_p": float("nan")}, "`top_p`", "nan"),
    ({"top_k": 5}, "top_k=5", "`temperature` is 0"),
    ({"top_p": 0.5}, "top_p=0.5", "`temperature` is 0"),
    ({"do_sample": False, "temperature": 0.9}, "`do_sample=False`", "`temperature=0.9`"),
    ({"do_sample": True, "temperature": 0}, "`do_sample=True`", "`temperature=0`"),
    ({"generation_config": {"num_beams": 4}}, "`generation_config`", "{'num_beams': 4}"),
    ({"generation_config": 4}, "`generation_config`", "got 4"),
    ({"generation_config": "config.json"}, "`generation_config`", "'config.json'"),
    ({"generation_config": GenerationConfig(blok_length=4)}, "unknown option blok_length", "block_length"),
    ({"cache": "full"}, "`cache`", "'full'"),
    ({"block_length": "all"}, "`block_length`", "'all'"),
    ({"num_beams": 4}, "`num_beams=4`", "there are no beams"),
    ({"repetition_penalty": 1.2}, "`repetition_penalty=1.2`", "no meaning"),
    ({"guidance_scale": float("nan")}, "`guidance_scale`", "nan"),
    ({"suppress_tokens": [3, VOCAB]}, "`suppress_tokens`", str(VOCAB)),
    ({"suppress_tokens": [-100]}, "`suppress_tokens`", "-100"),
    ({"suppress_tokens": list(range(VOCAB))}, "`suppress_tokens`", f"none of the {VOCAB} tokens"),
    ({"stop_strings": ["end", ""], "tokenizer": tokenizer_of(5)}, "`stop_strings`", "''"),
    ({"stop_strings": "end"}, "`stop_strings`", "'end'"),
    ({"seed": 1.5}, "`seed`", "1.5"),
    ({"seed": True}, "`seed`", "True"),
    ({"seed": [1, 2]}, "`seed`", "[1, 2]"),
    ({"seed": 2**70}, "`seed`", str(2**70)),
    ({"seed": torch.tensor([1, 2, 3])}, "`seed`", "shape (3,)"),
    ({"seed": torch.tensor([1.0, 2.0])}, "`seed`", "float32"),
    ({"fill_mask": torch.ones(2, 2, dtype=torch.bool)}, "`fill_mask`", "(2, 2)"),
    ({"fill_mask": [[1, 0, 0]]}, "`fill_mask`", "list"),
    ({"attention_mask": torch.ones(3, 3)}, "`attention_mask`", "(3, 3)"),
    ({"mask_token_id": VOCAB}, "`mask_token_id`", str(VOCAB)),
    ({"mask_token_id": -1}, "`mask_token_id`", "-1"),
    ({"eos_token_id": [1, 77]}, "`stop_token_ids[1]`", "77"),
    ({"pad_token_id": 99}, "`pad_token_id`", "99"),
    ({"sampler": "treshold"}, "sampler", "'treshold'"),
    ({"sampler": 0.9}, "`sampler`", "0.9"),
    ({"sampler": ThresholdSampler}, "`sampler`", "ThresholdSampler"),
    ({"sampler": None}, "`sampler`", "None"),
]


@pytest.mark.parametrize(("options", "name", "value"), OPTIONS, ids=lambda value: str(value)[:40])
def test_option_out_of_range(model, options, name, value):
    """Prevents options that are ignored, cut off or reported from the depths of a library."""
    streamer = Ended()
    with pytest.raises(ValueError) as caught:
        call(model, PROMPT, streamer=streamer, **options)
    assert name in str(caught.value) and value in str(caught.value)
    assert streamer.ended == 1, "who waits for the streamer is not left waiting"


@pytest.mark.parametrize("name", ["max_new_token", "logits_processor", "stopping_criteria", "past_key_values"])
def test_unknown_option(model, name):
    """Prevents misspelt options from being swallowed; the message lists the options there are."""
    with pytest.raises(ValueError) as caught:
        call(model, **{name: 4})
    assert name in str(caught.value) and all(option in str(caught.value) for option in DEFAULTS)
    with pytest.raises(ValueError, match="temprature"):
        UnmaskingGenerationConfig(temprature=1.0)


@pytest.mark.parametrize(
    "setting",
    [
        {"num_beams": 4},
        {"repetition_penalty": 1.2},
        {"bad_words_ids": [[3]]},
        {"penalty_alpha": 0.6},
        {"max_time": 2.0},
    ],
    ids=str,
)
def test_unsupported_setting(model, setting):
    """Prevents settings of left-to-right decoding from being accepted without effect."""
    text = re.escape("{}={}".format(*next(iter(setting.items()))))
    with pytest.raises(ValueError, match=text):
        call(model, generation_config=GenerationConfig(**setting))
    with pytest.raises(ValueError, match=text):
        UnmaskingGenerationConfig(**setting)


def changed(config, **values):
    for name, value in values.items():
        setattr(config, name, value)
    return config


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (changed(UnmaskingGenerationConfig(do_sample=False), temperature=0.9), "`do_sample=False` contradicts"),
        (changed(UnmaskingGenerationConfig(), num_beams=4), "`num_beams=4` has no meaning"),
        (changed(UnmaskingGenerationConfig(), blok_length=4), "unknown option blok_length"),
    ],
)
def test_a_config_that_was_changed_is_checked_again(model, config, message):
    """Prevents settings made on the object from being read past."""
    with pytest.raises(ValueError, match=message):
        call(model, generation_config=config)


def test_a_models_config_that_is_none():
    """Prevents a dictionary on the model from being read as if it were empty."""
    model = tiny_eurobert()
    model.generation_config = {"temperature": 0.9}
    with pytest.raises(ValueError, match=r"`generation_config` must be a GenerationConfig, got \{'temperature'"):
        call(model)


# Token ids

IDS = [
    (torch.zeros(0, 3, dtype=torch.long), "(0, 3)"),
    (torch.tensor([5, 6]), "(2,)"),
    (torch.tensor([[5.0, 6.0]]), "float32"),
    ([[5, 6]], "list"),
    (torch.tensor([[5, VOCAB]]), f"token {VOCAB}"),
    (torch.tensor([[5, -100]]), "token -100"),
]


@pytest.mark.parametrize(("ids", "value"), IDS, ids=[value for _, value in IDS])
def test_input_ids(model, ids, value):
    """Prevents empty batches, floats and foreign ids from reaching the embedding."""
    with pytest.raises(ValueError, match="`input_ids`") as caught:
        call(model, ids)
    assert value in str(caught.value)


def test_padding_outside_the_vocabulary(model):
    """Prevents a crash in the embedding, which sees padding too (on a GPU it would take the process down)."""
    with pytest.raises(ValueError, match="token 99"):
        call(model, torch.tensor([[99, 5]]), attention_mask=torch.tensor([[0, 1]]))


@pytest.mark.parametrize("build", [tiny_eurobert, tiny_bert])
def test_prompt_longer_than_the_model(build):
    """Prevents positions that the model has never seen; padding does not count."""
    model = build()
    ids = torch.full((1, 126), 5)
    with pytest.raises(ValueError, match=r"130 positions.*128"):
        call(model, ids)
    padded = torch.cat([torch.full((1, 10), PAD), ids[:, :124]], 1)
    mask = (padded != PAD).long()
    assert call(model, padded, attention_mask=mask, sampler=RandomSampler(4)).shape == (1, 138)


def test_fill_mask_on_padding(model):
    """Prevents tokens from being written into padding."""
    with pytest.raises(ValueError, match=r"`fill_mask`.*\[1, 0\]"):
        call(
            model,
            torch.tensor([[5, 6], [PAD, 7]]),
            attention_mask=torch.tensor([[1, 1], [0, 1]]),
            fill_mask=torch.tensor([[True, False], [True, False]]),
        )


def test_mask_token_missing():
    """Prevents a guessed mask token."""
    model, bare = tiny_bert(), tiny_bert()
    bare.config.mask_token_id = None
    with pytest.raises(ValueError, match=r"no mask token known for BertForMaskedLM"):
        call(bare)
    expected = call(model)
    assert torch.equal(call(bare, mask_token_id=MASK), expected)
    tokenizer = tokenizer_of(VOCAB, mask_token=f"w{MASK}")
    assert torch.equal(call(bare, tokenizer=tokenizer), expected), "as the message says, the tokenizer is asked"


def test_mask_token_outside_the_vocabulary():
    """Prevents an index error in the embedding."""
    model = tiny_eurobert()
    model.config.mask_token_id = 126336
    with pytest.raises(ValueError, match="126336.*60 tokens"):
        call(model)


def test_tokenizer_of_another_model(model):
    """Prevents text from being made of the wrong words."""
    tokenizer = tokenizer_of(VOCAB + 4)
    with pytest.raises(ValueError, match=r"64 tokens, the model 60"):
        Denoiser.from_model(model, tokenizer=tokenizer)
    with pytest.raises(ValueError, match=r"64 tokens, the model 60"):
        call(model, tokenizer=tokenizer, stop_strings="w3")


def test_stop_at_eos_without_stop_token():
    """Prevents waiting for a token that does not exist."""
    model = tiny_eurobert()
    model.config.eos_token_id = None
    with pytest.raises(ValueError, match="`stop_at_eos` is True"):
        call(model, stop_at_eos=True)


def test_streamer_with_a_batch(model):
    """Prevents rows from being mixed on one screen."""
    with pytest.raises(ValueError, match="batch has 2"):
        call(model, streamer=Ended())
    with pytest.raises(ValueError, match="batch has 3"):
        call(model, PROMPT[:1], streamer=Ended(), num_return_sequences=3)


# Logits


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("sampler", [ThresholdSampler(1.0), RandomSampler(), ConfidenceSampler()], ids=str)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_not_finite(value, sampler, temperature, monkeypatch):
    """Prevents text made from NaN; the message says where."""
    monkeypatch.setattr(head, "FEW", 0)
    model = tiny_eurobert()
    calls = []

    def poison(module, args, output):
        calls.append(1)
        if len(calls) == 6:  # twice a step: one position of each row inside the model, then what is read
            output[-1, 7] = value

    model.lm_head.register_forward_hook(poison)
    with pytest.raises(ValueError, match=r"NaN or infinite.*float16.*step 2, row 1"):
        call(model, sampler=sampler, temperature=temperature, max_new_tokens=6)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_poisoned_weights(value):
    """Prevents a broken checkpoint from decoding anything."""
    model = tiny_eurobert()
    with torch.no_grad():
        model.lm_head.weight[9, 3], model.lm_head.weight[10, 3] = value, -value
    with pytest.raises(ValueError, match=r"NaN or infinite.*step 0, row 0"):
        call(model)


def test_row_of_the_fault_is_the_users_row(model):
    """Prevents a row number that counts only the rows that are left."""
    broken = tiny_eurobert()

    def poison(module, args, output):
        if len(output.logits) == 1:
            output.logits[:] = float("nan")
        return output

    broken.register_forward_hook(poison)
    gaps = torch.tensor([[True, False, False], [True, True, True]])
    with pytest.raises(ValueError, match="step 1, row 1"):
        call(broken, sampler=RandomSampler(), fill_mask=gaps, max_new_tokens=None)


def test_float16_overflow():
    """Prevents half precision that overflows from going unnoticed; half precision that fits works."""
    model = tiny_eurobert(torch.float16)
    assert (call(model)[:, 3:] != MASK).all()
    with torch.no_grad():
        model.lm_head.weight *= 20000
    with pytest.raises(ValueError, match="float16 overflows easily"):
        call(model)


def test_impossible_tokens_are_no_fault(model):
    """Prevents -inf logits, which merely forbid a token, from being refused."""
    other = tiny_eurobert()

    def forbid(module, args, output):
        output.logits[..., 30:] = -float("inf")
        return output

    other.register_forward_hook(forbid)
    assert (call(other, temperature=2.0)[:, 3:] < 30).all()


# Samplers


@dataclass(frozen=True)
class Scripted(Sampler):
    name: ClassVar[str] = "scripted"
    rule: object = None

    @property
    def needs(self):
        return Needs.of("confidence")

    def select(self, step, state, noise):
        return self.rule(step)


SELECTIONS = {
    "nothing": (lambda s: Selection(torch.zeros_like(s.eligible)), r"opened nothing.*step 0, row 0"),
    "one row": (
        lambda s: Selection(s.eligible & (s.offset == s.steps[:, None]) & (torch.arange(2) + s.steps < 2)[:, None]),
        r"opened nothing.*step 1, row 1",
    ),
    "ineligible": (lambda s: Selection(s.offset == 0), r"not eligible.*step 1, row 0"),
    "float": (lambda s: Selection(s.confidence), r"must return bool of shape \(2, 4\), got torch.float32"),
    "shape": (lambda s: Selection(s.eligible[:, :2]), r"got torch.bool of shape \(2, 2\)"),
    "token shape": (
        lambda s: Selection(s.eligible, tokens=s.proposal[:1]),
        r"tokens.*got torch.int64 of shape \(1, 4\)",
    ),
    "token dtype": (lambda s: Selection(s.eligible, tokens=s.confidence), r"tokens.*got torch.float32"),
    "reopen": (lambda s: Selection(s.eligible, reopen=s.eligible), "reopen"),
}


@pytest.mark.parametrize("name", SELECTIONS)
def test_sampler_that_breaks_its_promise(model, name):
    """Prevents stalls, overwritten tokens and silent broadcasting by a sampler's mistake."""
    rule, message = SELECTIONS[name]
    with pytest.raises(RuntimeError, match=message):
        call(model, sampler=Scripted(rule))


def test_ineligible_position_of_a_later_block(model):
    """Prevents a canvas-wide sampler from writing ahead of its block."""

    class Ahead(Scripted):
        @property
        def needs(self):
            return Needs.of(where="canvas")

    with pytest.raises(RuntimeError, match="not eligible.*step 0, row 0"):
        call(model, sampler=Ahead(lambda step: Selection(step.masked)), block_length=2)


# Interruptions


def test_interrupt(model):
    """Prevents a hanging streamer and a model left in a bad state by Ctrl-C."""
    expected = call(model, PROMPT[:1], sampler=RandomSampler())
    streamer, seen = Ended(), []

    def stop(event):
        seen.append(event)
        if len(seen) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        call(model, PROMPT[:1], sampler=RandomSampler(), streamer=streamer, on_step=stop)
    assert len(seen) == 2 and streamer.ended == 1
    assert torch.is_grad_enabled()
    assert torch.equal(call(model, PROMPT[:1], sampler=RandomSampler()), expected)


def test_failing_streamer_is_reported(model):
    """Prevents errors of a streamer from being swallowed."""

    class Broken(Ended):
        def put(self, value):
            raise OSError("pipe closed")

    streamer = Broken()
    with pytest.raises(OSError, match="pipe closed"):
        call(model, PROMPT[:1], streamer=streamer)
    assert streamer.ended == 1


def interrupted():
    """Two generations, the first of which waits for Ctrl-C."""
    model, streamer = tiny_eurobert(), Ended()
    ids = torch.tensor([[5, 6]])

    def ready(event):
        if event.steps[0] == 3:
            sys.stdout.write("ready\n")
        time.sleep(0.1)

    try:
        generate(model, ids, sampler=RandomSampler(), max_new_tokens=100, streamer=streamer, on_step=ready)
        sys.stdout.write("not interrupted\n")
    except KeyboardInterrupt:
        again = generate(model, ids, sampler=RandomSampler(), max_new_tokens=3)
        sys.stdout.write(f"interrupted {streamer.ended} {again.shape[1]}\n")


def test_real_interrupt():
    """Prevents Ctrl-C from being swallowed or from killing the process without clean-up."""
    with Forked(interrupted) as process:
        process.wait_until(lambda: process.out == "ready\n")
        process.send_signal(signal.SIGINT)
        assert process.wait() == 0, process.err
        assert process.out == "ready\ninterrupted 1 5\n", process.err
