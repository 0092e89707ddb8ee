"""Checkpoints of the transformers 4 era: each breakage shown on its own, and cured by ``load_denoiser`` alone."""

from __future__ import annotations

import importlib
import importlib.util
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import transformers
from models import MASK, PAD
from old_code import BROKEN, FREQUENCIES, old_checkpoint
from transformers import AutoModel
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

import hf_unmask
from hf_unmask.denoisers import compat, old_masks
from hf_unmask.doors.loading import auto_class
from hf_unmask.samplers import ThresholdSampler

IDS = torch.tensor([[5, 6, 7]])
OPTIONS = {"sampler": ThresholdSampler(0.3), "max_new_tokens": 5}


@pytest.fixture
def quiet(library_logging):
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


def use_plainly(folder, other):
    """What the breakage is in the way of: loading, a forward pass, saving, the model's own loop."""
    model = AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
    with torch.no_grad():
        model(IDS, attention_mask=torch.ones_like(IDS))
    model.save_pretrained(other)
    if not torch.equal(model.frequencies.values, FREQUENCIES):
        raise ArithmeticError(f"frequencies are {model.frequencies.values.tolist()}")
    if hasattr(model, "diffusion_generate"):
        model.diffusion_generate(IDS)
    return model


@pytest.mark.parametrize(
    "breakage, error, says",
    [
        ("default rope", KeyError, "default"),
        ("torch fx", ImportError, "is_torch_fx_available"),
        ("use_cache", AttributeError, "use_cache"),
        ("tie_weights", (AttributeError, TypeError), "all_tied_weights_keys|tie_weights"),
        ("tied lists", AttributeError, "list.*(keys|items)"),
        ("computed buffers", ArithmeticError, "frequencies are"),
        ("loss kwargs", ImportError, "LossKwargs"),
        ("attention masks", ModuleNotFoundError, "modeling_attn_mask_utils"),
        ("config defaults", AttributeError, "pad_token_id"),
        ("validate", TypeError, "user_set_attributes"),
        ("generation config", AttributeError, "eps"),
        ("layer types", AttributeError, "attention_type"),
    ],
)
def test_a_breakage_and_its_cure(breakage, error, says, tmp_path, quiet):
    """A shim that cures nothing, or a breakage that a newer transformers no longer has."""
    if breakage not in {shim.name for shim in compat.needed()}:
        pytest.skip(f"transformers {transformers.__version__} has what this code wants")
    name = breakage.replace(" ", "_")  # transformers keeps imported code by the folder's name
    with pytest.raises(error, match=says):
        use_plainly(old_checkpoint(tmp_path / f"{name}_broken", breakage), tmp_path / "other")
    model = hf_unmask.load_denoiser(old_checkpoint(tmp_path / f"{name}_mended", breakage), trust_remote_code=True)
    found = model.generate(IDS, **OPTIONS)
    reference = hf_unmask.load_denoiser(old_checkpoint(tmp_path / "plain", None), trust_remote_code=True)
    assert torch.equal(found, reference.generate(IDS, **OPTIONS))
    model.save_pretrained(tmp_path / "saved")
    if breakage == "generation config":
        settings = model.diffusion_generate(IDS)
        assert (settings.eps, settings.steps, settings.mask_token_id, settings.pad_token_id) == (1e-3, 512, MASK, PAD)


def test_every_shim_has_its_breakage():
    """A shim without a test."""
    assert [shim.name for shim in compat.SHIMS] == list(BROKEN)


def test_code_without_a_breakage_loads_the_same_way(tmp_path, quiet):
    """A cure that harms the healthy."""
    folder = old_checkpoint(tmp_path / "plain", None)
    plain = use_plainly(folder, tmp_path / "other")
    model = hf_unmask.load_denoiser(folder, trust_remote_code=True)
    assert torch.equal(model.generate(IDS, **OPTIONS), hf_unmask.generate(plain, IDS, **OPTIONS))


@pytest.mark.slow
def test_importing_patches_nothing():
    """A patch made by an import."""
    code = (
        "import transformers.modeling_rope_utils as r, transformers.utils.import_utils as u\n"
        "before = set(r.ROPE_INIT_FUNCTIONS), hasattr(u, 'is_torch_fx_available')\n"
        "import hf_unmask.denoisers.compat, hf_unmask.doors.loading\n"
        "assert before == (set(r.ROPE_INIT_FUNCTIONS), hasattr(u, 'is_torch_fx_available'))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_library_is_left_as_it_was(tmp_path, quiet):
    """A patch that stays behind."""
    before = dict(ROPE_INIT_FUNCTIONS)
    hf_unmask.load_denoiser(old_checkpoint(tmp_path / "library_left", "default rope"), trust_remote_code=True)
    assert before == ROPE_INIT_FUNCTIONS and "default" not in before
    with pytest.raises(RuntimeError, match="stop"), compat.library_names(compat.SHIMS):
        assert ROPE_INIT_FUNCTIONS["default"] is compat.default_rope
        raise RuntimeError("stop")
    assert before == ROPE_INIT_FUNCTIONS


def test_threads_that_load_wait_for_each_other():
    """A name that the first load takes away while the second still needs it."""
    names = {}
    shim = compat.Shim("test", "breaks", compat.Window("0", "9"), library=lambda: [(names, "name", 1)])
    inside, second = threading.Event(), threading.Event()

    def load():
        with compat.library_names((shim,)):
            second.set()
            return inside.is_set(), dict(names)

    with ThreadPoolExecutor(1) as pool:
        with compat.library_names((shim,)):
            call = pool.submit(load)
            assert not second.wait(0.2) and names == {"name": 1}
            inside.set()
        assert call.result(60) == (True, {"name": 1}) and names == {}


def test_names_that_are_there_are_kept():
    """A version that has the name already gets ours instead of its own."""
    table = {"default": "theirs"}
    shim = compat.Shim("x", "y", compat.Window("5.0", "6.0"), library=lambda: [(table, "default", "ours")])
    with compat.library_names((shim,)):
        assert table == {"default": "theirs"}
    assert table == {"default": "theirs"}


def test_windows():
    """A shim that outlives its reason."""
    assert compat.needed("4.57.6") == () and compat.needed("6.0.0") == ()
    assert compat.needed("5.24.0") == compat.SHIMS
    later = {"attention masks"}
    assert compat.needed("5.0.0rc1") == tuple(shim for shim in compat.SHIMS if shim.name not in later)


def test_default_rope_is_that_of_the_library():
    """Another base or size of the rotation: text that degrades with its length."""
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    config = LlamaConfig(hidden_size=64, num_attention_heads=4, rope_theta=5e5)
    found, factor = compat.default_rope(config)
    assert torch.equal(found, LlamaRotaryEmbedding(config).inv_freq) and factor == 1.0
    assert torch.equal(compat.default_rope(base=5e5, dim=16)[0], found)
    with pytest.raises(ValueError, match=r"need a config, or `base` and `dim`, got \['dim'\]"):
        compat.default_rope(dim=16)


OLD_MASKS = "transformers.modeling_attn_mask_utils"


@pytest.mark.skipif(importlib.util.find_spec(OLD_MASKS) is None, reason="the library's own are gone")
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_old_masks_are_those_of_the_library():
    """A mask that shows padding, or what lies behind, to code that was written for the library's own functions."""
    theirs, states = importlib.import_module(OLD_MASKS), torch.zeros(2, 3, 4)
    seen = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
    for wanted in (None, 3):
        found = old_masks._prepare_4d_attention_mask(seen, torch.float, wanted)
        assert torch.equal(found, theirs._prepare_4d_attention_mask(seen, torch.float, wanted))
    shape = torch.randint(2, (2, 1, 3, 5), generator=torch.Generator().manual_seed(0)).float()
    for mask in (seen, None, shape):
        for window in (None, 1):
            given = (mask, (2, 3), states, 2, window)
            found = old_masks._prepare_4d_causal_attention_mask(*given)
            assert torch.equal(found, theirs._prepare_4d_causal_attention_mask(*given))
    for mask in (seen, shape):
        given = (mask, (2, 3), states, 2)
        found = old_masks._prepare_4d_causal_attention_mask_for_sdpa(*given)
        assert torch.equal(found, theirs._prepare_4d_causal_attention_mask_for_sdpa(*given))


def test_code_that_is_not_trusted_is_not_run(tmp_path, quiet):
    """Shims that import a checkpoint's code before anybody agreed."""
    folder = old_checkpoint(tmp_path / "untrusted", None)
    for name in ("modeling_old.py", "configuration_old.py"):
        (tmp_path / "untrusted" / name).write_text("raise SystemExit('ran')")
    with pytest.raises(ValueError, match="trust_remote_code"):
        hf_unmask.load_denoiser(folder, trust_remote_code=False)


def test_native_models_are_loaded_as_they_are(tmp_path, quiet):
    """Shims on classes of transformers itself; conventions and ids that do not reach the adapter."""
    from models import tiny_modernbert

    tiny_modernbert().save_pretrained(tmp_path / "native")
    model = hf_unmask.load_denoiser(str(tmp_path / "native"), dtype=torch.float64)
    assert model.dtype == torch.float64 and not model.training
    assert torch.equal(
        model.generate(IDS, **OPTIONS), hf_unmask.generate(tiny_modernbert(torch.float64), IDS, **OPTIONS)
    )
    other = hf_unmask.load_denoiser(str(tmp_path / "native"), mask_token_id=30)
    assert other.generate.denoiser.mask_token_id == 30


def test_a_model_that_cannot_be_a_denoiser_is_named():
    """A causal model that is loaded and then decodes nonsense."""
    with pytest.raises(ValueError, match="'somewhere' holds a 'gpt2' model, which is neither"):
        auto_class(transformers.GPT2Config(), "somewhere")
