"""The doctor: what is wrong about a model is found from its weights, each kind on a model that is wrong in that way."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
from commands import call
from torch import nn
from transformers.modeling_outputs import MaskedLMOutput

import hf_unmask
from hf_unmask import Denoiser, attach, check
from hf_unmask.samplers import ConfidenceSampler
from hf_unmask.tiny import held_out

PUZZLE = held_out("mini_sudoku", "validation", 1)[0]
TEXT = {"prompt": PUZZLE.prompt, "text": PUZZLE.answer + 3 * "<eos>"}


class Wrong(nn.Module):
    """The embedded model inside a class that nobody knows, wrong in one way."""

    def __init__(self, inner, roll=0, blind=False):
        super().__init__()
        self.inner, self.roll, self.blind = inner, roll, blind
        self.config = SimpleNamespace(model_type="nobody's", eos_token_id=inner.config.eos_token_id, vocab_size=None)

    def forward(self, input_ids, attention_mask=None, position_ids=None):
        if self.blind:
            attention_mask = torch.ones_like(input_ids)
        logits = self.inner(input_ids, attention_mask=attention_mask, position_ids=position_ids).logits
        return MaskedLMOutput(logits=logits.roll(-self.roll, dims=1))

    def get_input_embeddings(self):
        return self.inner.get_input_embeddings()


def failures(report):
    return {finding.name: finding for finding in report.findings if finding.verdict == "fail"}


def test_the_embedded_model_is_as_it_is_taken_for(tiny):
    report = check(*tiny, **TEXT)
    found = {finding.name: finding.verdict for finding in report.findings}
    assert report.ok and report.suggestion is None and 10 < report.passes < 40
    unsupported = {name for name, verdict in found.items() if verdict == "not supported"}
    assert unsupported == {"chat template"} and len(found) == 12
    without = check(tiny[0])  # no tokenizer: nothing that needs a text
    assert without.ok and {f.name for f in without.findings if f.verdict == "not supported"} >= {"shift", "stop tokens"}
    foreign = check(*tiny)  # English, which it never saw: no verdict rather than a wrong one
    assert foreign.ok and {f.name: f.verdict for f in foreign.findings}["shift"] == "not supported"
    with pytest.raises(ValueError, match="`text` has 3 tokens, at least 10 are needed"):
        check(*tiny, text="1+1")


@pytest.mark.parametrize(
    ("wrong", "taken_for", "name", "cure"),
    [
        ({"roll": 1}, {"shift": 0}, "shift", "attach(model, shift=1)"),
        ({}, {"shift": 1}, "shift", "attach(model, shift=0)"),
        ({}, {"mask_token_id": 0}, "mask token", "attach(model, mask_token_id=2)"),
        ({"blind": True}, {}, "padding", "rows of equal length, slots=1"),
        ({}, {"stop_token_ids": [7]}, "stop tokens", "attach(model, stop_token_ids=[1])"),
        ({}, {"stop_token_ids": []}, "stop tokens", "attach(model, stop_token_ids=[1])"),
    ],
)
def test_what_is_wrong_is_named_with_its_cure(tiny, wrong, taken_for, name, cure):
    model, tokenizer = tiny
    denoiser = Denoiser.from_model(
        Wrong(model, **wrong).eval(), tokenizer=tokenizer, **({"shift": 0, "attention": "2d"} | taken_for)
    )
    found = failures(check(denoiser, tokenizer, **TEXT))
    assert name in found and cure in found[name].cure, found


def test_what_is_not_finite_is_found(tiny):
    model = Wrong(tiny[0]).eval()
    denoiser = Denoiser.from_model(model, tokenizer=tiny[1], shift=0, attention="2d")
    hook = model.inner.model.norm.register_forward_hook(lambda _m, _i, out: out * torch.nan)
    found = failures(check(denoiser, tiny[1], **TEXT))
    hook.remove()
    assert "dtype='bfloat16'" in found["overflow"].cure


@pytest.mark.parametrize("roll", [0, 1])
def test_a_model_of_no_family_gets_a_suggestion_that_works(tiny, roll):
    model, tokenizer = Wrong(tiny[0], roll=roll).eval(), tiny[1]
    with pytest.raises(ValueError, match="`hf-unmask check` finds out which"):
        attach(model, tokenizer=tokenizer)
    report = check(model, tokenizer, **TEXT)
    assert report.ok and f"shift={roll}" in report.suggestion and "mask_token_id=2" in report.suggestion
    eval(report.suggestion, {"attach": attach, "model": model, "tokenizer": tokenizer})
    ids = tokenizer(PUZZLE.prompt, return_tensors="pt")["input_ids"]
    options = {"sampler": ConfidenceSampler(), "max_new_tokens": 12}
    assert torch.equal(model.generate(ids, **options), hf_unmask.generate(tiny[0], ids, **options))


def test_a_model_that_nothing_fits_gets_no_suggestion(tiny):
    report = check(Wrong(tiny[0], roll=3).eval(), tiny[1], **TEXT)
    assert not report.ok and report.suggestion is None and "family" in failures(report)


def test_the_command(library_logging, tiny):
    said = call("check", "tiny")
    assert said.stderr == "loads tiny, then some thirty forward passes over at most 48 tokens\n"
    done = said.stdout
    assert "mask token" in done and "forward passes" in done
    as_json = json.loads(call("check", "tiny", "--json").stdout)
    assert as_json["ok"] and {one["verdict"] for one in as_json["findings"]} == {"pass", "not supported"}
    call("check", "./nowhere", code=2)
