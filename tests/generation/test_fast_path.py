"""What is skipped for speed changes nothing: logits where they are read, rows in slots, few looks from the host."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest
import torch
from batches import learned, pad, prompts
from helpers import ALL_SAMPLERS, slow
from models import MASK, PAD, VOCAB, tiny_eurobert
from native_models import BUILDERS
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.modeling_outputs import MaskedLMOutput

import hf_unmask
from hf_unmask import Denoiser, generate, generate_stream
from hf_unmask.denoisers import head
from hf_unmask.generation import reading
from hf_unmask.generation.canvas import join_states
from hf_unmask.samplers import CreditSampler, KLASSSampler, LeftToRightSampler, RandomSampler, ThresholdSampler

OPTIONS = {"max_new_tokens": 12, "block_length": 5, "temperature": 0.8, "pad_token_id": PAD}
SOME = {
    "threshold": ThresholdSampler(0.3),
    "klass": KLASSSampler(tau=0.3, eps=1.0, n=1),
    "credit": CreditSampler(threshold=0.6),
    "learned_canvas": learned("canvas"),
    "learned_block": learned("block"),
    "learned_masked": learned("canvas", reads_revealed=False),
    "learned_portable": learned("canvas", further_inputs="portable"),
}
some_samplers = pytest.mark.parametrize("name", SOME)


@pytest.fixture(autouse=True)
def no_logits_are_few(monkeypatch):
    """So that tiny models take the way of large ones."""
    monkeypatch.setattr(head, "FEW", 0)


def run(model, rows, sampler, **options):
    ids, mask = pad(rows)
    options = {"sampler": sampler, "attention_mask": mask, "return_dict_in_generate": True} | OPTIONS | options
    return generate(model, ids, **options)


def same(found, expected):
    return all(torch.equal(found[name], expected[name]) for name in ("sequences", "step_map", "nfe", "complete"))


# Logits where they are read


@some_samplers
def test_few_logits_are_all_computed_with_the_same_result(model64, name, monkeypatch):
    """Prevents decided positions that a sampler sees on a small model and not on a large one."""
    rows = prompts(3)
    expected = run(model64, rows, SOME[name])
    monkeypatch.undo()
    assert same(run(model64, rows, SOME[name]), expected)


@pytest.mark.parametrize("family", BUILDERS)
@pytest.mark.parametrize("name", ["threshold", "learned_canvas"])
def test_logits_where_they_are_read_change_nothing(family, name):
    """Prevents logits of other positions, and a family whose output layer is not what makes its logits."""
    model = BUILDERS[family](torch.float64)
    denoiser = Denoiser.from_model(model)
    whole = replace(denoiser, output_layer=None)
    rows = prompts(3)
    assert same(run(denoiser, rows, SOME[name]), run(whole, rows, SOME[name]))


@pytest.mark.parametrize("family", ["eurobert", "bert", "modernbert", "roberta"])
def test_the_output_layer_runs_where_masks_are(family):
    """Prevents full logits of a native model, and weights read twice a pass: what the sampler reads, no more."""
    model = BUILDERS[family]()
    layer, sizes = model.get_output_embeddings(), []
    hook = layer.register_forward_hook(lambda _module, _inputs, output: sizes.append(output.shape[:-1].numel()))
    sampler = LeftToRightSampler()
    out = run(model, prompts(2), sampler, block_length=4)
    assert sizes == [0, 2 * 4, 0, 2 * 3, 0, 2 * 2, 0, 2 * 1] * 3
    sizes.clear()
    run(model, prompts(2), learned("canvas", dtype=torch.float32), block_length=4, max_new_tokens=8)
    assert sizes[:4] == [0, 2 * 8, 0, 2 * 8]
    sizes.clear()
    masked_alone = learned("canvas", dtype=torch.float32, reads_revealed=False)
    run(model, prompts(2), masked_alone, block_length=4, max_new_tokens=8)
    assert sizes[:2] == [0, 2 * 8] and 2 < sizes[3] < 2 * 8
    hook.remove()
    assert out.complete.all()


class After(nn.Module):
    """A native model that goes on computing with its logits."""

    def __init__(self, inner, change):
        super().__init__()
        self.inner, self.config, self.change, self.passes = inner, inner.config, change, 0
        self.config.model_type = "llada"

    def forward(self, input_ids, attention_mask=None):
        self.passes += 1
        return MaskedLMOutput(logits=self.change(self.inner(input_ids, attention_mask=attention_mask).logits))

    def get_input_embeddings(self):
        return self.inner.get_input_embeddings()

    def get_output_embeddings(self):
        return self.inner.get_output_embeddings()


@pytest.mark.parametrize(
    "change",
    [
        lambda x: 2 * x,
        lambda x: x.mul_(2),
        lambda x: x.roll(1, dims=1),
        lambda x: 30 * torch.tanh(x / 30),
        lambda x: x - 0 * x[:, -1:].amax(1, keepdim=True),
    ],
    ids=["scaled", "scaled in place", "moved", "capped", "cannot be empty"],
)
def test_a_model_that_computes_with_its_logits_is_run_whole(change):
    """Prevents logits as they are before a model's last word on them, and two passes a step for ever."""
    model = After(tiny_eurobert(torch.float64), change).eval()
    denoiser = Denoiser.from_model(model, stop_token_ids=[], mask_token_id=MASK)
    rows = prompts(3)
    plain = replace(denoiser, output_layer=None)
    expected = run(plain, rows, ThresholdSampler(0.3))  # with its first padded batch it was looked at for its mask
    model.passes = 0
    run(plain, rows, ThresholdSampler(0.3))
    passes, model.passes = model.passes, 0
    assert same(run(denoiser, rows, ThresholdSampler(0.3)), expected)
    assert model.passes == passes + 1


def test_pieces_of_any_size_give_the_same(model64, monkeypatch):
    """Prevents positions that get lost or mixed up between pieces of logits."""
    rows = prompts(3)
    for name in ("threshold", "learned_canvas", "klass"):
        expected = run(model64, rows, SOME[name], guidance_scale=1.5)
        monkeypatch.setattr(head, "PIECE", 7 * VOCAB)
        assert same(run(model64, rows, SOME[name], guidance_scale=1.5), expected)
        monkeypatch.undo()


@pytest.mark.parametrize("size", [4096, 5000, 6001])
def test_maxima_and_sums_of_wide_rows(size, monkeypatch):
    """Prevents a leader that is not the first of equals, a lost end of the vocabulary, and NaN that goes unnoticed."""
    monkeypatch.setattr(reading, "_CACHED", 3 * size)
    logits = torch.randn(8, size, generator=torch.Generator().manual_seed(1)).double()
    logits[1, [130, 4000, 131]] = logits.max() + 1
    logits[2, size - 1] = 99.0
    logits[3, 7], logits[4, size - 2], logits[5, 300] = float("nan"), float("inf"), -float("inf")
    best, leader = reading._largest(logits)
    expected = logits.max(-1)
    assert torch.equal(leader, expected.indices) and torch.equal(best.nan_to_num(), expected.values.nan_to_num())
    sums = reading._log_sum(logits, best)
    assert sums.isfinite().tolist() == [True, True, True, False, False, True, True, True]
    good = sums.isfinite()
    assert torch.allclose(sums[good], logits.logsumexp(-1)[good], rtol=0, atol=1e-12)


def test_inference_mode(model64):
    """Prevents in-place checks that inference tensors do not allow."""
    rows = prompts(3)
    expected = run(model64, rows, SOME["klass"])
    with torch.inference_mode():
        assert same(run(model64, rows, SOME["klass"]), expected)
        assert [row.output.nfe.item() for row in generate_stream(model64, rows, sampler=SOME["klass"], **OPTIONS)]


def test_threads_share_a_model(model64):
    """Prevents one call from cutting short the output layer of another."""
    rows, found = prompts(3), {}

    def work(place):
        found[place] = [run(model64, [rows[place]], ThresholdSampler(0.3))]

    threads = [threading.Thread(target=work, args=(place,)) for place in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for place, outputs in found.items():
        assert all(same(out, run(model64, [rows[place]], ThresholdSampler(0.3))) for out in outputs)
    assert len(found) == 3


# Slots


@some_samplers
def test_a_row_does_not_depend_on_slots(model64, name):
    """Prevents memory, noise, padding or places that a row inherits from the one before it in its slot."""
    rows = prompts(7)
    expected = run(model64, rows, SOME[name], output_trajectory=True)
    found = run(model64, rows, SOME[name], slots=3, output_trajectory=True)
    assert same(found, expected)
    for field in ("tokens", "masked"):
        assert torch.equal(getattr(found.trajectory, field), getattr(expected.trajectory, field))
    assert torch.equal(found.trajectory.confidence.isnan(), expected.trajectory.confidence.isnan())


@pytest.mark.parametrize("ordered", [True, False])
def test_stream_equals_one_by_one(model64, ordered):
    """Prevents rows of a stream that differ from rows alone, come twice or not at all, or in the wrong order."""
    rows = prompts(9)
    rows[3] = torch.cat([torch.randint(3, VOCAB - 1, (30,)), rows[3]])  # others lose their padding when it has left
    stream = generate_stream(model64, rows, sampler=ThresholdSampler(0.3), slots=3, ordered=ordered, **OPTIONS)
    assert stream.steps == 0 and stream.wasted == 0.0
    found = list(stream)
    order = [row.index for row in found]
    assert sorted(order) == list(range(9)) and (order == list(range(9))) == ordered
    for row in found:
        assert same(row.output, run(model64, [rows[row.index]], ThresholdSampler(0.3)))
    nfe = sum(row.output.nfe.item() for row in found)
    assert stream.wasted == pytest.approx(1 - nfe / (3 * stream.steps))
    together = run(model64, rows, ThresholdSampler(0.3))
    assert stream.steps >= together.nfe.sum() / 3 and 0 <= stream.wasted < 0.3


def test_stream_fills_the_masks_of_prompts(model64):
    """Prevents canvases of another length than the prompt's own, and a prompt without anything to fill."""
    rows = [torch.tensor([5, MASK, MASK, 9]), torch.tensor([7, 8]), torch.tensor([MASK, 4, MASK])]
    options = {**OPTIONS, "max_new_tokens": 0, "sampler": RandomSampler()}
    found = list(generate_stream(model64, rows, slots=2, **options))
    assert [row.output.sequences.shape[1] for row in found] == [4, 2, 3]
    assert [row.output.nfe.item() for row in found] == [2, 0, 2]
    for row, prompt in zip(found, rows, strict=True):
        assert same(row.output, run(model64, [prompt], RandomSampler(), max_new_tokens=0))


@pytest.mark.parametrize(
    "rows, options, message",
    [
        ([], {}, r"`prompts` must be at least one list of token ids, got \[\]"),
        ([[[5, 6]]], {}, r"`prompts` holds \[5, 6\], which is no token id: ids are ints"),
        ([[5]], {"slots": 0}, "`slots` must be an int of at least 1, got 0"),
        ([[5]], {"output_trajectory": True}, r"`output_trajectory` .* use generate\(\.\.\., slots="),
    ],
)
def test_stream_refuses(model64, rows, options, message):
    """Prevents options that would be ignored."""
    with pytest.raises(ValueError, match=message):
        generate_stream(model64, rows, sampler=ThresholdSampler(), **{**OPTIONS, **options})


def test_memory_of_rows_that_join():
    """Prevents rows that share a slot's memory when some have none yet."""
    some, none = (torch.ones(2, 3), None), (None, None)
    joined = join_states(some, none, 2, 1)
    assert torch.equal(joined[0], torch.tensor([[1.0] * 3, [1.0] * 3, [0.0] * 3])) and joined[1] is None
    assert torch.equal(join_states(None, some, 1, 2)[0], joined[0].flip(0))
    assert join_states(None, None, 1, 2) is None


def test_what_is_filled_at_an_early_end_is_not_counted(model64):
    """Prevents tokens per forward that count padding behind a stop token as decoded."""
    rows = prompts(5)
    stop = run(model64, rows, ThresholdSampler(0.3)).sequences[2, -9].item()
    out = run(model64, rows, ThresholdSampler(0.3), stop_at_eos=True, eos_token_id=stop)
    new = out.step_map[:, -12:]
    assert (new < 0).any() and out.complete.all()
    assert torch.allclose(out.tokens_per_forward, (new >= 0).sum(-1) / out.nfe)
    assert torch.equal(out.steps, new.amax(-1) + 1)


# Looks from the host


@pytest.mark.parametrize("name, every", [("threshold", 2), ("klass", 5), ("learned_canvas", 5), ("learned_block", 3)])
def test_fewer_looks_change_nothing_but_what_ran(model64, name, every):
    """Prevents rows that go on after their end, and passes after it that are charged, or not told."""
    rows = prompts(5)
    expected = run(model64, rows, SOME[name])
    found = run(model64, rows, SOME[name], check_every=every, slots=3)
    assert same(found, expected) and torch.equal(expected.forwards_run, expected.nfe)
    extra = found.forwards_run - found.nfe
    assert (extra >= 0).all() and (extra < every).all() and extra.any()


def test_fewer_looks_at_early_ends(model64):
    """Prevents a row that has stopped from being reopened, or charged."""
    rows = prompts(5)
    stop = run(model64, rows, ThresholdSampler(0.3)).sequences[2, -9].item()
    options = {"stop_at_eos": True, "eos_token_id": stop}
    expected = run(model64, rows, ThresholdSampler(0.3), **options)
    assert expected.nfe.sum() < run(model64, rows, ThresholdSampler(0.3)).nfe.sum()
    assert same(run(model64, rows, ThresholdSampler(0.3), check_every=3, **options), expected)


def test_a_late_look_still_names_the_first_fault(model64):
    """Prevents a fault that is overwritten by what follows from it."""
    broken = tiny_eurobert(torch.float64)
    broken.register_forward_hook(lambda *_: None)
    layer, calls = broken.get_output_embeddings(), []

    def spoil(_module, _inputs, output):
        calls.append(1)
        return output * float("nan") if len(calls) == 4 else None  # the second step's logits

    layer.register_forward_hook(spoil)
    with pytest.raises(ValueError, match=r"NaN or infinite.*\(step 1, row 0\)"):
        run(broken, prompts(1), LeftToRightSampler(), check_every=6)


class HostReads(TorchDispatchMode):
    """Operations whose result or shape the host must wait for, wherever they are called from."""

    NAMES = ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "unique", "equal", "item")

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        by_mask = name.startswith("index") and any(
            index is not None and index.dtype == torch.bool for index in _listed(args)
        )
        if by_mask or any(name.startswith(word) for word in self.NAMES):
            self.found.append(name)
        return func(*args, **(kwargs or {}))


def _listed(args):
    return next((arg for arg in args if isinstance(arg, list | tuple) and arg and not isinstance(arg[0], int)), ())


class HostCalls(TorchFunctionMode):
    """Methods of tensors that hand their numbers to Python."""

    NAMES = ("tolist", "item", "cpu", "numpy", "__bool__", "__int__", "__float__", "__index__")

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if getattr(func, "__name__", "") in self.NAMES:
            self.found.append(func.__name__)
        return func(*args, **(kwargs or {}))


READING = ("credit", "entropy_bound", "klass", "random", "learned_canvas", "learned_portable")  # different things


@pytest.mark.parametrize(
    "name, every",
    [
        *((name, 1) for name in READING),
        ("threshold", 4),
        *(slow(name, 1) for name in ALL_SAMPLERS if name not in READING),
    ],
)
def test_one_host_read_per_look(model, name, every):
    """Prevents hidden waits for the device: what happens per step must not read anything but the status."""
    sampler = SOME[name] if name.startswith("learned") else ALL_SAMPLERS[name]
    ids = torch.stack([prompts(8)[3]] * 2)  # equal lengths: nothing is padded
    counts = []
    for new in (8, 16):  # the difference is what further steps cost
        calls, reads = HostCalls(), HostReads()
        with calls, reads:
            out = generate(
                model, ids, sampler=sampler, max_new_tokens=new, block_length=8, check_every=every, temperature=0.5,
                attention_mask=torch.ones_like(ids), return_dict_in_generate=True,
            )  # fmt: skip
        counts.append((calls.found, reads.found, int(out.forwards_run.max()), len(out.nfe.unique())))
    (calls, reads, passes, _), (more_calls, more_reads, more_passes, _) = counts
    assert len(more_reads) - len(reads) <= 0, more_reads
    looks = -(-more_passes // every) - -(-passes // every)
    assert len(more_calls) - len(calls) <= looks + 2 and set(more_calls) <= {"tolist", "__bool__", "__int__"}


@pytest.mark.slow
def test_a_compiled_body_has_one_graph_per_shape(model64):
    """Prevents graph breaks, and shapes that change from step to step."""
    rows = [prompts(8)[3]] * 2
    expected = run(model64, rows, ThresholdSampler(0.3))
    torch.compiler.reset()  # a process compiles a function anew only so often
    graphs, compiled = [], tiny_eurobert(torch.float64)

    def backend(graph, example_inputs):
        graphs.append(graph)
        return graph.forward

    compiled.model.compile(backend=backend, fullgraph=True, dynamic=False)
    assert same(run(compiled, rows, ThresholdSampler(0.3), check_every=4), expected)
    assert len(graphs) == 1
    whole = torch.compile(tiny_eurobert(torch.float64), backend=backend, dynamic=False)
    denoiser = Denoiser.from_model(whole, shift=0, attention="2d", mask_token_id=MASK)
    assert same(run(denoiser, rows, ThresholdSampler(0.3)), expected)


def test_stream_is_public():
    """Prevents names that only a module knows."""
    assert hf_unmask.generate_stream is generate_stream
