"""DiffusionGemma, tiny and random: our samplers inside its own loop."""

from __future__ import annotations

import copy
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from helpers import one_in, slow
from transformers import DiffusionGemmaConfig, DiffusionGemmaForBlockDiffusion
from transformers.models.diffusion_gemma.configuration_diffusion_gemma import DiffusionGemmaTextConfig
from transformers.models.diffusion_gemma.generation_diffusion_gemma import EntropyBoundSamplerConfig

import hf_unmask
from hf_unmask import LearnedUnmaskingSampler, UnmaskingPolicy, UnmaskingPolicyConfig, attach, detach
from hf_unmask.doors.random_canvas import AcceptingSampler, ExperimentalWarning
from hf_unmask.samplers import ConfidenceSampler, EntropyBoundSampler, RandomSampler, ThresholdSampler

IDS = torch.tensor([[5, 6, 7], [0, 8, 9]])
REAL = torch.tensor([[1, 1, 1], [0, 1, 1]])
OPTIONS = {"attention_mask": REAL, "max_new_tokens": 16, "max_denoising_steps": 6}
COMPILED = ("_compiled_accept_canvas", "_compiled_renoise_canvas", "_compiled_diffusion_stopping_criteria")

#: The model's own loop imports torch's compiler, which warns about itself.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")


@pytest.fixture(scope="module")
def built():
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    text = DiffusionGemmaTextConfig(
        **sizes, vocab_size=60, num_key_value_heads=2, head_dim=8, global_head_dim=8, num_global_key_value_heads=2,
        max_position_embeddings=128, sliding_window=16, layer_types=["sliding_attention", "full_attention"],
        num_experts=2, top_k_experts=1, moe_intermediate_size=16, initializer_range=0.5,
    )  # fmt: skip
    vision = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    vision |= {"num_key_value_heads": 1, "head_dim": 8, "position_embedding_size": 8, "model_type": "gemma4_vision"}
    tokens = {"image_token_id": 58, "boi_token_id": 57, "eoi_token_id": 56}
    config = DiffusionGemmaConfig(text_config=text, vision_config=vision, canvas_length=8, **tokens)
    torch.manual_seed(0)
    return DiffusionGemmaForBlockDiffusion(config).eval()


@pytest.fixture
def model(built):
    yield attach(built)
    detach(built)
    for name in COMPILED:
        built.__dict__.pop(name, None)


def run(model, **options):
    torch.manual_seed(3)
    return model.generate(IDS, **{**OPTIONS, **options})


@pytest.mark.parametrize("bound", one_in(3, (1.0, 0.1, 5.0)))
def test_equal_bounds_give_what_its_own_sampler_gives(model, bound):
    """Another rule, another order of random draws, positions that are kept where its own sampler renoises them."""
    own = run(model, sampler_config=EntropyBoundSamplerConfig(entropy_bound=bound))
    found = run(model, sampler=EntropyBoundSampler(bound))
    assert torch.equal(found.sequences, own.sequences)
    assert torch.equal(found.tokens_per_forward, own.tokens_per_forward)


def test_the_bound_matters(model):
    """The test above would pass with a sampler that nobody asks."""
    assert not torch.equal(
        run(model, sampler=EntropyBoundSampler(0.1)).sequences, run(model, sampler=EntropyBoundSampler(50.0)).sequences
    )


class Streamer:
    def __init__(self):
        self.drafts, self.ended = 0, False

    def put(self, value):
        pass

    def put_draft(self, value):
        self.drafts += 1

    def end(self):
        self.ended = True


def test_other_arguments_of_its_generate_keep_working(model):
    """An argument that is dropped on the way, or taken for one of ours."""
    streamer = Streamer()
    torch.manual_seed(3)
    found = model.generate(
        input_ids=IDS[:1], sampler=ThresholdSampler(0.3), max_new_tokens=8, max_denoising_steps=3, streamer=streamer,
        stability_threshold=2, return_dict_in_generate=False,
    )  # fmt: skip
    assert found.shape == (1, 11) and streamer.drafts == 3 and streamer.ended
    start = torch.full((1, 8), 4)
    other = model.generate(IDS[:1], sampler=ThresholdSampler(0.3), max_new_tokens=8, decoder_input_ids=start)
    assert other.sequences.shape == (1, 11)


def test_samplers_that_count_keep_what_they_have_accepted():
    """A quota of positions that are renoised at once: such a sampler would never get anywhere."""
    found = AcceptingSampler(ConfidenceSampler(k=2), 8, 50, ())
    canvas = found.initialize_canvas(2, torch.device("cpu"))
    logits = torch.randn(2, 8, 60, generator=torch.Generator().manual_seed(0)) * 3
    kept = torch.zeros(2, 8, dtype=torch.bool)
    for step in range(4):
        tokens = torch.full((2, 8), 50 + step)  # never a random token
        accepted = found.accept_canvas(canvas, tokens, logits, 4 - step)
        opened = accepted == 50 + step
        assert opened.sum(-1).tolist() == [2, 2] and not (opened & kept).any()
        kept |= opened
        canvas = found.renoise_canvas(accepted, 4 - step)
        assert torch.equal(canvas[kept], accepted[kept])
    assert kept.all()
    found.accept_canvas(canvas, canvas, logits, 0)  # nothing left to accept is not an error


@pytest.mark.parametrize("sampler", [RandomSampler(k=2), ThresholdSampler(0.5), ConfidenceSampler(steps_per_block=4)])
def test_heuristics_run(model, sampler):
    """A sampler that reads what this loop does not set."""
    assert run(model, sampler=sampler).sequences.shape == (2, 19)


def test_a_policy_runs_and_is_called_experimental(model):
    """A policy that is used here as if it had been trained for it."""
    policy = UnmaskingPolicy(UnmaskingPolicyConfig(observation="block"))
    with pytest.warns(ExperimentalWarning, match="trained on masked canvases"):
        assert run(model, sampler=LearnedUnmaskingSampler(policy)).sequences.shape == (2, 19)


def test_what_has_no_meaning_is_refused(model):
    """Conventions and samplers that would be ignored; its adapter used as if it had a mask token."""

    class Hidden(ThresholdSampler):
        @property
        def needs(self):
            return hf_unmask.Needs.of("confidence", "hidden")

    with pytest.raises(ValueError, match="reads hidden states"):
        run(model, sampler=Hidden(0.5))
    with pytest.raises(ValueError, match="must be a sampler such as"):
        run(model, sampler=ThresholdSampler)
    with pytest.raises(ValueError, match="has no mask token: mask_token_id, shift has no meaning"):
        attach(detach(model), mask_token_id=4, shift=0)
    with pytest.raises(ValueError, match=r"has no mask token: its canvas .* use hf_unmask.attach"):
        hf_unmask.generate(model, IDS, sampler=ThresholdSampler(0.5), max_new_tokens=8)


@pytest.fixture
def uncompiled():
    """The same paths, without waiting for a compiler."""
    torch.compiler.set_stance("force_eager")
    yield
    torch.compiler.set_stance("default")


def test_the_first_sampler_does_not_stay(model, uncompiled):
    """The model compiles its first sampler's methods and keeps them: a later bound would be ignored."""
    options = {"cache_implementation": "static"}
    own = {
        bound: run(model, sampler_config=EntropyBoundSamplerConfig(entropy_bound=bound), **options).sequences
        for bound in (0.1, 50.0)
    }
    assert torch.equal(own[0.1], own[50.0])  # its own calls: the first bound stays
    assert "_compiled_accept_canvas" in vars(model)
    ours = {bound: run(model, sampler=EntropyBoundSampler(bound), **options).sequences for bound in (50.0, 0.1)}
    assert torch.equal(ours[0.1], own[0.1]) and not torch.equal(ours[50.0], ours[0.1])
    assert not set(COMPILED) & set(vars(model))  # its next own call starts afresh
    fresh = run(model, sampler_config=EntropyBoundSamplerConfig(entropy_bound=50.0), **options).sequences
    assert torch.equal(fresh, ours[50.0])


def test_the_compiled_network_stays(model, uncompiled):
    """A call with a sampler that compiles the model anew each time, or leaves it bound to something that is gone."""
    options = {"cache_implementation": "static", "sampler": ThresholdSampler(0.3)}
    first = run(model, **options).sequences
    network = model._compiled_decoder_forward, model._compiled_encoder
    assert torch.equal(run(model, **options).sequences, first)
    assert (model._compiled_decoder_forward, model._compiled_encoder) == network
    assert network[0].__wrapped__.__self__ is model


class Pausing(ThresholdSampler):
    """Stops at its first question until it is told to go on; random numbers then start anew."""

    def select(self, step, state, noise):
        assert threading.current_thread() is not threading.main_thread(), "another call's sampler was asked"
        if not self.begun.is_set():
            self.begun.set()
            assert self.go_on.wait(60)
            torch.manual_seed(5)
        return super().select(step, state, noise)


def during_its_pause(model, action, **options):
    """The tokens of a call with a sampler in another thread, and what ``action`` returned while that call stood."""
    sampler = Pausing(0.3)
    vars(sampler).update(begun=threading.Event(), go_on=threading.Event())
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(run, model, sampler=sampler, **options)
        try:
            assert sampler.begun.wait(60)
            found = action()
        finally:
            sampler.go_on.set()
        return call.result().sequences, found


@pytest.mark.parametrize("options", [{}, slow({"cache_implementation": "static"})], ids=["dynamic", "compiled"])
def test_a_sampler_is_seen_by_its_own_call_only(model, uncompiled, options):
    """A plain call in another thread that the sampler decides; a compiled rule or a static cache that both use."""
    undisturbed, _ = during_its_pause(model, lambda: None, **options)
    own = run(model, **options).sequences
    bounded = run(model, sampler=EntropyBoundSampler(50.0), **options).sequences
    assert not torch.equal(own, undisturbed) and not torch.equal(own, bounded)
    for action, expected in [
        (lambda: run(model, **options), own),
        (lambda: run(model, sampler=EntropyBoundSampler(50.0), **options), bounded),
        (lambda: type(model).generate(model, IDS[:1], max_new_tokens=8), None),
    ]:
        disturbed, found = during_its_pause(model, action, **options)
        assert expected is None or torch.equal(found.sequences, expected)
        assert torch.equal(disturbed, undisturbed)


def test_a_plain_call_keeps_what_it_compiled(model, uncompiled):
    """A call with a sampler that ends meanwhile and takes the compiled functions away under it."""
    waits = Waiting(threading.Event(), threading.Event())
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(
            model.generate,
            IDS[:1],
            max_new_tokens=8,
            max_denoising_steps=2,
            cache_implementation="static",
            streamer=waits,
        )
        try:
            assert waits.begun.wait(60)
            run(model, sampler=ThresholdSampler(0.3))
            assert set(COMPILED) <= set(vars(model))
        finally:
            waits.go_on.set()
        call.result()
    run(model, sampler=ThresholdSampler(0.3))
    assert not set(COMPILED) & set(vars(model))


def test_attached_and_detached(model):
    """A stand-in that stays, also after an error; copies and pickles that lose it silently."""
    assert attach(model) is model and "_prepare_sampler" not in vars(model)
    with pytest.raises(RuntimeError, match="stop"):
        run(model, sampler=ThresholdSampler(0.5), streamer=Failing())
    assert "_prepare_sampler" not in vars(model)
    twin = copy.deepcopy(model)
    assert twin.generate.model is twin
    lost = pickle.loads(pickle.dumps(model.generate))
    with pytest.raises(RuntimeError, match="attached when it was pickled"):
        lost(IDS)
    assert "generate" not in vars(detach(model))


class Waiting(Streamer):
    """Stops a call at its first draft."""

    def __init__(self, begun, go_on):
        super().__init__()
        self.begun, self.go_on = begun, go_on

    def put_draft(self, value):
        self.begun.set()
        assert self.go_on.wait(60)


class Failing(Streamer):
    def put(self, value):
        raise RuntimeError("stop")
