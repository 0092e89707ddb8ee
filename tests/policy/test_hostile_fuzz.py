"""Whatever config.json and model.safetensors hold: a policy that works, or `PolicyLoadError`."""

from __future__ import annotations

import json
import math
import tempfile
from pathlib import Path

import pytest
import torch
from hostile_repos import CONFIG, WEIGHTS, join, split, write_policy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoConfig, PreTrainedConfig

from hf_unmask.policy import PolicyLoadError, UnmaskingPolicyConfig, load_policy

COUNTS = [30, pytest.param(2500, marks=pytest.mark.slow)]  # slow: 10,000 for the config, 10,000 for the weights
OWN_KEYS = sorted(UnmaskingPolicyConfig().to_dict())
FOREIGN_KEYS = sorted(
    {f for f in PreTrainedConfig().to_dict()} | {"torch_dtype", "num_labels", "rope_scaling", "per_layer_config"}
)
INTEGERS = st.integers() | st.sampled_from([0, -1, 1, 2, 8, 16, 2**31, 2**63, 2**64, 10**9, 10**400])
SCALARS = st.none() | st.booleans() | INTEGERS | st.floats() | st.text(max_size=20)
NAMES = st.sampled_from([*OWN_KEYS, *FOREIGN_KEYS, "__float__", "auto_map"]) | st.text(max_size=8)
ANYTHING = st.recursive(
    SCALARS | st.sampled_from(["x" * 10**4, "float32", "load", "canvas", "unmask_policy", "Infinity", "\ud800"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=8,
)
CHANGES = st.dictionaries(NAMES, ANYTHING, max_size=3)
#: (what, where, with): bytes replaced, cut or inserted at a fraction of the file.
EDITS = st.lists(
    st.tuples(st.sampled_from(["replace", "cut", "insert"]), st.floats(0, 1), st.binary(min_size=1, max_size=9)),
    min_size=1,
    max_size=4,
)
ENTRIES = st.fixed_dictionaries(
    {},
    optional={
        "dtype": st.sampled_from(["F32", "F16", "BF16", "F64", "I8", "BOOL", "F4", "f32", ""]) | ANYTHING,
        "shape": st.lists(INTEGERS, max_size=3) | ANYTHING,
        "data_offsets": st.lists(INTEGERS, min_size=2, max_size=2) | ANYTHING,
        "extra": ANYTHING,
    },
)


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """Contents of a good folder."""
    folder = tmp_path_factory.mktemp("good")
    write_policy(folder)
    return (folder / CONFIG).read_bytes(), (folder / WEIGHTS).read_bytes()


def fuzz(count, strategy, check):
    @settings(max_examples=count, deadline=None, suppress_health_check=list(HealthCheck))
    @given(strategy)
    def run(example):
        check(example)

    run()


def tidy(error):
    text = str(error)
    assert text.isprintable() and len(text) < 2500, text


def load(config, weights):
    """A policy that works, or None for one that was refused."""
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / CONFIG).write_bytes(config)
        (Path(name) / WEIGHTS).write_bytes(weights)
        try:
            policy = load_policy(name)
        except PolicyLoadError as error:
            return tidy(error)
    policy.config.validate()
    assert all(p.isfinite().all() and p.dtype == torch.float32 for p in policy.parameters())
    speed = torch.tensor([0.5]) if policy.config.speed_conditioned else None
    confidences, masked = torch.full((1, 3, policy.config.top_k), 0.5), torch.ones(1, 3, dtype=torch.bool)
    assert policy(confidences, masked, torch.zeros(1), speed=speed).shape == (1, 3)
    return policy


def edited(data, edits):
    for what, where, piece in edits:
        start = int(where * len(data))
        if what == "cut":
            data = data[:start]
        else:
            data = data[:start] + piece + data[start + len(piece) * (what == "replace") :]
    return data


def as_text(values):
    """JSON with everything that Python's reader accepts: NaN, halves of characters."""
    return json.dumps(values).encode()


@pytest.mark.parametrize("count", COUNTS)
def test_changed_keys_of_the_config(good, count):
    fuzz(count, CHANGES, lambda changes: load(as_text(json.loads(good[0]) | changes), good[1]))


@pytest.mark.parametrize("count", COUNTS)
def test_changed_bytes_of_the_config(good, count):
    fuzz(count, EDITS | ANYTHING.map(as_text) | st.binary(), lambda change: load(config_of(good, change), good[1]))


def config_of(good, change):
    return change if isinstance(change, bytes) else edited(good[0], change)


@pytest.mark.parametrize("count", COUNTS)
def test_changed_header_of_the_weights(good, count):
    header, body = split(good[1])
    names = st.sampled_from(["head.bias", "query.weight", "mask_embedding.weight", "__metadata__"]) | st.text(
        max_size=9
    )
    changes = st.dictionaries(names, ENTRIES | ANYTHING | st.none(), min_size=1, max_size=3)
    lengths = st.none() | st.integers(0, 2**64 - 1) | st.integers(0, len(good[1]))

    def check(change):
        changed, length = change
        load(good[0], join({k: v for k, v in (header | changed).items() if v is not None}, body, length))

    fuzz(count, st.tuples(changes, lengths), check)


@pytest.mark.parametrize("count", COUNTS)
def test_changed_offsets_and_shapes(good, count):
    """Small steps from a good header: some of these are accepted by careless readers."""
    header, body = split(good[1])
    names = sorted(header.keys() - {"__metadata__"})
    step = st.tuples(st.sampled_from(names), st.sampled_from(["shape", "data_offsets"]), st.integers(0, 1), INTEGERS)

    def check(steps):
        changed = json.loads(json.dumps(header))
        for name, key, place, by in steps:
            changed[name][key][place % len(changed[name][key])] += by
        policy = load(good[0], join(changed, body))
        assert policy is None or changed == header

    fuzz(count, st.lists(step, min_size=1, max_size=3), check)


@pytest.mark.parametrize("count", COUNTS)
def test_changed_bytes_of_the_weights(good, count):
    fuzz(count, EDITS | st.binary(), lambda change: load(good[0], weights_of(good, change)))


def weights_of(good, change):
    return change if isinstance(change, bytes) else edited(good[1], change)


@pytest.mark.parametrize("count", COUNTS)
def test_any_value_in_a_tensor(good, count):
    """Values arrive bit for bit unless they are not finite."""
    header, body = split(good[1])
    begin, end = header["query.bias"]["data_offsets"]

    def check(values):
        piece = torch.tensor(values, dtype=torch.float32)
        changed = body[:begin] + piece.numpy().tobytes() + body[end:]
        policy = load(good[0], join(header, changed))
        assert (policy is not None) == bool(piece.isfinite().all())
        assert policy is None or torch.equal(policy.query.bias.view(torch.int32), piece.view(torch.int32))

    floats = st.floats(width=32) | st.sampled_from([math.nan, math.inf, -0.0, 1e-45])
    fuzz(count, st.lists(floats, min_size=8, max_size=8), check)


@pytest.mark.parametrize("count", COUNTS)
def test_any_dictionary_as_a_config(count):
    """What `AutoConfig` hands over once it has read the file and known the type."""

    def check(values):
        try:
            UnmaskingPolicyConfig.from_dict(values).validate()
        except PolicyLoadError as error:
            tidy(error)

    fuzz(count, CHANGES | st.dictionaries(NAMES, ANYTHING), check)


@pytest.mark.parametrize("count", COUNTS)
def test_the_auto_class_refuses_alike(good, count):
    """`auto_map` and the like aside, which transformers reads first."""
    keys = st.sampled_from(sorted({*OWN_KEYS, *FOREIGN_KEYS} - {"model_type"}))

    def check(changes):
        with tempfile.TemporaryDirectory() as name:
            (Path(name) / CONFIG).write_bytes(as_text(json.loads(good[0]) | changes))
            try:
                assert type(AutoConfig.from_pretrained(name)) is UnmaskingPolicyConfig
            except PolicyLoadError as error:
                tidy(error)

    fuzz(count, st.dictionaries(keys, ANYTHING, max_size=3), check)
