"""Samplers as text."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from typing import ClassVar, get_args, get_type_hints

import pytest
from helpers import ALL_SAMPLERS
from hypothesis import given, settings
from hypothesis import strategies as st

import hf_unmask.samplers
from hf_unmask.policy.hub.pretrained import SPEC_OPTIONS
from hf_unmask.samplers import (
    ConfidenceSampler,
    CreditSampler,
    DilatedSampler,
    EntropyBoundSampler,
    EosSuppressSampler,
    FactorSampler,
    KLASSSampler,
    MarginSampler,
    PCSampler,
    RandomSampler,
    Sampler,
    ThresholdSampler,
)
from hf_unmask.samplers.catalogue import HEURISTICS, LEARNED_PARAMETERS, SAMPLER
from hf_unmask.samplers.pc import frequency_table
from hf_unmask.samplers.specs import parse_sampler, parse_samplers, sampler_table

share = st.floats(0, 1)
positive = st.floats(1e-300, 1e300)
count = st.integers(1, 10**6)
plain = st.one_of(
    st.builds(ThresholdSampler, share),
    st.builds(FactorSampler, positive),
    st.builds(EntropyBoundSampler, st.floats(0, allow_nan=False)),
    st.builds(KLASSSampler, share, positive, count),
    st.builds(CreditSampler, positive, share, positive, share),
    st.builds(DilatedSampler, st.integers(2, 99)),
    st.builds(PCSampler, count, decay=positive, alpha=positive),
    st.builds(ConfidenceSampler, count),
    st.builds(MarginSampler, steps_per_block=st.none() | count),
    st.builds(RandomSampler, steps_per_block=count),
)
samplers = st.recursive(plain, lambda inner: st.builds(EosSuppressSampler, inner), max_leaves=3)


@settings(max_examples=50, deadline=None)
@given(samplers)
def test_round_trip(sampler):
    assert parse_sampler(str(sampler)) == sampler
    assert parse_samplers([str(sampler)]) == [sampler]


@pytest.mark.parametrize("sampler", ALL_SAMPLERS.values(), ids=ALL_SAMPLERS.keys())
def test_round_trip_of_each_class(sampler):
    assert parse_sampler(str(sampler)) == sampler
    assert parse_sampler(str(type(sampler)())) == type(sampler)() == parse_sampler(sampler.name)


def test_round_trip_of_a_file(tmp_path):
    path = tmp_path / "table(1).json"
    frequency_table([1, 2, 2], path)
    sampler = EosSuppressSampler(PCSampler(frequencies=str(path)))
    assert parse_sampler(str(sampler)) == sampler


def test_values():
    assert parse_sampler(" threshold:threshold=1 ") == ThresholdSampler(1.0)
    assert isinstance(parse_sampler("threshold:threshold=1").threshold, float)
    assert parse_sampler("confidence:steps_per_block=4") == ConfidenceSampler(steps_per_block=4)
    assert parse_sampler("confidence:k=2;steps_per_block=None") == ConfidenceSampler(k=2)
    wrapped = parse_sampler("eos_suppress(eos_suppress(klass:tau=0.5;n=3))")
    assert wrapped == EosSuppressSampler(EosSuppressSampler(KLASSSampler(tau=0.5, n=3)))
    assert str(wrapped) == "eos_suppress(eos_suppress(klass:tau=0.5;n=3))"


def test_sweeps():
    ten = parse_samplers(["threshold:threshold=0.5..0.95/10"])
    expected = [0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95]  # exactly, not 0.6000000000000001
    assert ten == [ThresholdSampler(t) for t in expected]
    assert parse_samplers(["confidence:k=1..7/3"]) == [ConfidenceSampler(k) for k in (1, 4, 7)]
    assert parse_samplers(["factor:factor=1e-1..2e-1/2"]) == [FactorSampler(0.1), FactorSampler(0.2)]
    assert parse_samplers(["eos_suppress(threshold:threshold=0.9..0.8/2)"]) == [
        EosSuppressSampler(ThresholdSampler(0.9)),
        EosSuppressSampler(ThresholdSampler(0.8)),
    ]


def test_several_samplers_and_several_sweeps():
    assert parse_samplers(["random threshold", "factor"]) == [RandomSampler(), ThresholdSampler(), FactorSampler()]
    assert parse_samplers("random factor") == [RandomSampler(), FactorSampler()]
    grid = parse_samplers(["klass:tau=0.6..0.9/2;n=1..2/2"])
    assert [(s.tau, s.n) for s in grid] == [(0.6, 1), (0.6, 2), (0.9, 1), (0.9, 2)]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("thresold", ["'thresold'", "did you mean 'threshold'", "learned", "confidence"]),
        ("zzz", ["unknown sampler 'zzz'", "allowed: confidence"]),
        ("threshold:thresh=0.5", ["unknown parameter 'thresh'", "did you mean 'threshold'"]),
        ("klass:zz=1", ["unknown parameter 'zz'", "allowed: tau, eps, n"]),
        ("threshold:threshold=high", ["`threshold` must be float", "default 0.9", "'high'"]),
        ("confidence:k=1.5", ["`k` must be int", "'1.5'"]),
        ("confidence:steps_per_block=no", ["`steps_per_block` must be int or None", "'no'"]),
        ("confidence:k=None", ["`k` must be int", "'None'"]),
        ("threshold:threshold=1.5", ["`threshold`", "<= 1.0", "1.5"]),
        ("threshold:threshold=nan", ["`threshold`", "nan"]),
        ("confidence:k=2;steps_per_block=2", ["either `k` or `steps_per_block`"]),
        ("threshold:0.9;0.8", ["'0.8' is not key=value"]),
        ("threshold:0.9;threshold=0.8", ["'threshold' is given twice"]),
        ("threshold:high", ["`threshold` must be float", "'high'"]),
        ("threshold:0.1..0.3", ["is not a sweep: write threshold=FIRST..LAST/POINTS"]),
        ("confidence:steps_per_block=2;schedule=early", ["`schedule` must be even or late", "'early'"]),
        ("learned:tiny-speed", ["did you mean builtin:tiny-speed?"]),
        ("learned:builtin:tiny-speed;sped=1", ["unknown parameter 'sped' of learned; did you mean 'speed'?"]),
        ("threshold:threshold=", ["'threshold=' is not key=value"]),
        ("threshold:threshold=0.9;", ["'' is not key=value"]),
        ("klass:n=1;n=2", ["'n' is given twice"]),
        ("threshold:threshold=0.1..0.3", ["'threshold=0.1..0.3' is not a sweep", "FIRST..LAST/POINTS"]),
        ("threshold:threshold=0.1..0.3/x", ["is not a sweep"]),
        ("threshold:threshold=0.1..0.3/1", ["0.1..0.3/1", "at least 2 points"]),
        ("confidence:k=1..2/3", ["k=1.5", "`k` must be int"]),
        ("klass(threshold)", ["'klass' wraps no other sampler", "eos_suppress"]),
        ("eos_suppress()", ["unknown sampler ''"]),
        ("eos_suppress(thresold)", ["did you mean 'threshold'"]),
        ("eos_suppress:inner=threshold", ["`inner` is given in brackets: eos_suppress(threshold)"]),
        ("pc:frequencies=nowhere.json", ["nowhere.json"]),
        ("learned", ["name the policy first"]),
        ("learned:speed=1", ["name the policy first"]),
        ("learned:org/policy;speed", ["'speed' is not key=value"]),
    ],
)
def test_errors_show_the_text_and_what_is_allowed(text, words):
    with pytest.raises(ValueError) as caught:
        parse_samplers([text])
    message = str(caught.value)
    assert message.startswith("sampler spec ")
    for word in [text.partition("=")[0], *words]:
        assert word in message


def test_nothing_given():
    for texts in ([], [""], "  "):
        with pytest.raises(ValueError, match="no sampler given; allowed: confidence"):
            parse_samplers(texts)


def test_a_sweep_is_not_one_sampler():
    with pytest.raises(ValueError, match="is a sweep"):
        parse_sampler("threshold:threshold=0.5..0.9/2")


@dataclass(frozen=True)
class Recorded(Sampler):
    """Stands for the learned sampler: it keeps what the parser hands over."""

    name: ClassVar[str] = "learned"
    policy: str = ""
    options: tuple[tuple[str, str], ...] = ()

    @classmethod
    def from_spec(cls, name: str, options: dict[str, str]) -> Recorded:
        return cls(name, tuple(options.items()))


def test_learned_specs_reach_the_learned_class(monkeypatch):
    monkeypatch.setattr(hf_unmask.samplers, "LearnedUnmaskingSampler", Recorded, raising=False)
    assert parse_sampler("learned:builtin:tiny-full") == Recorded("builtin:tiny-full")
    assert parse_sampler("learned:a/b;revision=abc;beta=2") == Recorded("a/b", (("revision", "abc"), ("beta", "2")))
    speeds = [s.options for s in parse_samplers(["learned:org/policy;speed=0..1/6"])]
    assert speeds == [(("speed", v),) for v in ("0", "0.2", "0.4", "0.6", "0.8", "1")]
    assert parse_sampler("eos_suppress(learned:a/b;beta=2)") == EosSuppressSampler(Recorded("a/b", (("beta", "2"),)))


def test_the_first_parameter_needs_no_name():
    assert parse_sampler("threshold:0.8") == ThresholdSampler(0.8)
    assert str(parse_sampler("threshold:0.8")) == "threshold:threshold=0.8"
    assert parse_sampler("klass:0.8;n=3") == KLASSSampler(0.8, n=3)
    assert parse_sampler("eos_suppress(confidence:4)") == EosSuppressSampler(ConfidenceSampler(4))
    assert parse_samplers(["threshold:0.5..0.9/3 confidence:2"]) == [
        *map(ThresholdSampler, (0.5, 0.7, 0.9)),
        ConfidenceSampler(2),
    ]


def test_words_are_values_too():
    """A schedule could not be said in a spec."""
    sampler = ConfidenceSampler(steps_per_block=4, schedule="late")
    assert parse_sampler(str(sampler)) == parse_sampler("confidence:steps_per_block=4;schedule=late") == sampler


def test_the_catalogue_says_what_the_classes_say():
    """It is read where a class would take seconds to load: a parameter that it does not know, another default."""
    for row in HEURISTICS.values():
        cls = row.load()
        assert (cls.name, cls.__name__, cls.__doc__.strip().splitlines()[0]) == (row.name, row.class_name, row.summary)
        assert re.search(r"https://[^\s,;)]+[^\s,;).]", cls.__doc__).group() == row.source
        declared, types = dataclasses.fields(cls), get_type_hints(cls)
        assert [f"{one.name}={one.default}" for one in declared] == row.shown_parameters.split(", ")
        for one, parameter in zip(declared, row.parameters, strict=True):
            kinds = get_args(types[one.name]) or (types[one.name],)
            assert parameter.kinds == tuple(SAMPLER if kind is Sampler else kind for kind in kinds)
    assert {one.name: one.kinds[0] for one in LEARNED_PARAMETERS} == SPEC_OPTIONS


def said(ask, *arguments, **options):
    try:
        ask(*arguments, **options)
    except ValueError as error:
        return str(error)
    return None


@pytest.mark.parametrize("name", [name for name in HEURISTICS if name != "eos_suppress"])
def test_the_catalogue_refuses_what_the_class_refuses(name):
    """A value out of its range that is found after seconds of imports, or said in other words."""
    row = HEURISTICS[name]
    for parameter in row.parameters:
        kind = next((kind for kind in parameter.kinds if kind in (int, float)), None)
        for value in () if kind is None else map(kind, (-1, 0, 1, 2, 3.0e9)):
            assert said(row.check, {parameter.name: value}) == said(row.load(), **{parameter.name: value})


def test_table():
    rows = {row.name: row for row in sampler_table()}
    assert sorted(rows) == [row.name for row in sampler_table()] == sorted([*ALL_SAMPLERS, "learned"])
    for name, sampler in ALL_SAMPLERS.items():
        assert rows[name].class_name == type(sampler).__name__
        assert all(f"{f.name}=" in rows[name].parameters for f in dataclasses.fields(sampler))
    for row in rows.values():
        assert row.summary.endswith(".")
        assert row.source.startswith("https://") and row.source[-1].isalnum()
    assert rows["threshold"].parameters == "threshold=0.9, minimum=1"
