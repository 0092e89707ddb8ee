"""Paths in specs: whatever a folder is called, ``str(sampler)`` says which one, and commands understand it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import ClassVar

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from policies import CONDITIONED, make_policy

import hf_unmask.samplers
from hf_unmask.results.frontier import method_of
from hf_unmask.results.spec_text import policy_of, quoted, unquoted
from hf_unmask.samplers import EosSuppressSampler, LearnedUnmaskingSampler, PCSampler, Sampler
from hf_unmask.samplers.pc import frequency_table
from hf_unmask.samplers.specs import parse_sampler, parse_samplers
from hf_unmask.trainers.experts import parse_experts

NASTY = [
    *("lr=1e-4", "my runs", " begins", "ends ", "a;b=2", "a@b", "x@10", "x@full", "speed=1", "beta=2;speed=1"),
    *("t=0..1/5".replace("/", "⁄"), "0..1", "1..2", "..x", "None", "it's", "'", '"', '""', "'a'", 'a"b', '="x y"'),
    *(
        "a(b",
        "a)b",
        "(learned:x)",
        "learned:x",
        "random",
        "my random",
        "a threshold:threshold=0.5 b",
        "a\nb",
        "\t",
        "#",
    ),
    *("a,b", "$HOME", "`x`", "a\\b", "a&b|c", "%41", "ü ⟂ 你", "\u00a0", ":", "x:y", "-", "--samplers", "*", "[x]"),
]
#: Those of them that stand in a spec as they are.
PLAIN = {"..x", "a(b", "a)b", "(learned:x)", "learned:x", "random", "#", "a,b", "$HOME", "`x`", "a\\b", "%41"}
PLAIN |= {"a&b|c", ":", "x:y", "-", "--samplers", "*", "[x]"}
names = st.one_of(
    st.sampled_from(NASTY),
    st.text("ab1 =;:@.'\"()/", min_size=1, max_size=12),
    st.text(st.characters(exclude_characters="\0/", exclude_categories=["Cs"]), min_size=1, max_size=20),
)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """The working directory, with one policy that is to be found under many names."""
    root, before = tmp_path_factory.mktemp("paths"), os.getcwd()
    LearnedUnmaskingSampler(make_policy(**CONDITIONED)).save_pretrained(root / "policy")
    os.chdir(root)
    yield root
    os.chdir(before)


def placed(root, path):
    """The policy, under a path relative to the working directory."""
    place = root / path
    assume(root in (place.parent.resolve() / "x").parents)
    try:
        assume(not place.exists())
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(root / "policy")
    except OSError:  # no name of a file
        assume(False)
    return place


@settings(max_examples=20, deadline=None)
@given(name=names, relative=st.booleans())
@pytest.mark.slow
def test_every_folder_comes_back(root, name, relative):
    assume(not (relative and name.startswith(("~", "builtin:", "/"))))
    path = name if relative else str(root / name.lstrip("/"))
    place = placed(root, path)
    try:
        sampler = LearnedUnmaskingSampler.from_pretrained(path, greedy=True)
        spec, wrapped = str(sampler), str(EosSuppressSampler(EosSuppressSampler(sampler)))
        again = parse_sampler(spec)
        assert (again.source, again.greedy, str(again)) == (path, True, spec)
        found = parse_samplers([f"random {wrapped} learned:{quoted(path)};speed=0..1/3 threshold"])
        assert [str(s) for s in found[:2]] == ["random", wrapped] and str(found[-1]) == "threshold"
        assert [s.speed for s in found[2:-1]] == [0, 0.5, 1]
    finally:
        place.unlink()


@dataclass(frozen=True)
class Named(Sampler):
    """Stands for the learned sampler: it loads nothing."""

    name: ClassVar[str] = "learned"
    source: str = ""
    options: tuple[tuple[str, str], ...] = ()

    @classmethod
    def from_spec(cls, name, options):
        return cls(name, tuple(options.items()))

    def __str__(self):
        return ";".join([f"learned:{quoted(self.source)}", *(f"{key}={quoted(value)}" for key, value in self.options)])


@pytest.fixture(scope="module")
def nothing_is_loaded():
    """The learned class, replaced by `Named`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hf_unmask.samplers, "LearnedUnmaskingSampler", Named, raising=False)
        yield


@settings(max_examples=300, deadline=None)
@given(source=names, revision=names, depth=st.integers(0, 2))
def test_every_text_comes_back(nothing_is_loaded, source, revision, depth):
    sampler = Named(source, (("revision", revision), ("greedy", "True")))
    for _ in range(depth):
        sampler = EosSuppressSampler(sampler)
    spec = str(sampler)
    assert parse_sampler(spec) == sampler
    assert parse_samplers([f"random {spec} threshold", spec])[1::2] == [sampler, sampler]
    found = parse_experts([f"{spec}@7", f"{spec}@full", spec], 3)
    assert [(expert.sampler, expert.block_length) for expert in found] == [(sampler, 7), (sampler, None), (sampler, 3)]
    assert policy_of(spec) == source
    assert method_of(spec) == depth * "eos_suppress(" + f"learned:{quoted(source)}" + depth * ")"


@settings(max_examples=200, deadline=None)
@given(st.text())
def test_quotes_are_undone(text):
    assert unquoted(quoted(text)) == text


@settings(max_examples=30, deadline=None)
@given(names)
def test_a_file_in_a_value_comes_back(root, name):
    path = root / "tables" / name.replace("/", "⁄")
    path.parent.mkdir(exist_ok=True)
    assume(name not in (".", ".."))
    frequency_table([1, 2, 2], path)
    os.chdir(path.parent)
    try:
        for table in (str(path), path.name):
            sampler = EosSuppressSampler(PCSampler(frequencies=table))
            assert parse_samplers([f"random {sampler}"])[1] == sampler == parse_sampler(str(sampler))
    finally:
        os.chdir(root)


@pytest.mark.parametrize(
    ("text", "paths"),
    [
        ("learned:runs/lr=1e-4", ["runs/lr=1e-4"]),
        ("learned:my runs/x", ["my runs/x"]),
        ("learned:my  runs/x;speed=0..1/2 random", ["my  runs/x", "my  runs/x", None]),
        ("random eos_suppress(learned:my runs/x;beta=2)", [None, "my runs/x"]),
        ("eos_suppress(learned:my runs/x) random", ["my runs/x", None]),
        ("learned:'my runs/x';beta=2 learned:\"my runs/x\"", ["my runs/x", "my runs/x"]),
        ("learned:runs/t=0..1/2", ["runs/t=0..1/2"]),  # a sweep stands in a value, never in a path
        ("learned:runs/../runs/lr=1e-4", ["runs/../runs/lr=1e-4"]),
        ('learned:"runs/x@10"', ["runs/x@10"]),
        ('learned:"speed=1"', ["speed=1"]),
        ("learned:./speed=1", ["./speed=1"]),
    ],
)
def test_paths_as_they_are_typed(root, text, paths):
    """A path that is cut at a sign and then looked up on the Hub."""
    for path in {path for path in paths if path is not None}:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        if not (root / path).exists():
            (root / path).symlink_to(root / "policy")
    assert [policy_of(str(sampler)) for sampler in parse_samplers([text])] == paths


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('learned:"my runs/x', ["'\"my runs/x'", "must end"]),
        ('learned:"my" runs/x', ["the quote in '\"my\" runs/x' must end"]),
        ("learned:'a'b;speed=1", ["\"'a'b\" must end"]),
        ("learned:my nowhere/x", ["no folder 'my nowhere/x'", "no sampler 'nowhere/x'", "allowed: confidence"]),
        ("learned:builtin:tiny-full thresold", ["no sampler 'thresold'", "did you mean 'threshold'"]),
        ("learned:policy;beta=2 runs/x", ["unknown sampler 'runs/x'"]),
        ('learned:""', ["name the policy first"]),
        ("learned:speed=1;beta=2", ["name the policy first"]),
        ('pc:frequencies="None"', ["None: not a JSON object"]),
    ],
)
def test_what_is_wrong_with_a_path_is_said(root, text, words):
    with pytest.raises(ValueError) as caught:
        parse_samplers([text])
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("spec", ["learned:a@b", "learned:a@10@b"])
def test_an_at_sign_in_an_experts_path_is_pointed_out(spec):
    with pytest.raises(ValueError, match="got 'b'; a path that holds an @ stands in quotes"):
        parse_experts([spec], 4)


def test_what_needs_no_quotes_has_none():
    """Specs are written into results: what was there before stays as it was."""
    for text in ("builtin:tiny-full", "org/name", "runs/lr=1e-4", "../up/x", "/abs/x-1.0_b", "~/x", "table(1).json"):
        assert quoted(text) == text
    for text in NASTY:
        assert (quoted(text) == text) == (text in PLAIN)
