"""Denoisers by folder: whose code is run, and what reaches the model."""

from __future__ import annotations

import pytest
import torch
import transformers
from models import tiny_eurobert
from old_code import BROKEN, old_checkpoint
from transformers import AutoConfig, PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

import hf_unmask
from hf_unmask.doors.loading import auto_class, load_outline, usable_device


@pytest.fixture(autouse=True)
def quiet(library_logging, monkeypatch):
    """And classes that a checkpoint registers are gone afterwards."""
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    monkeypatch.setattr(CONFIG_MAPPING, "_extra_content", dict(CONFIG_MAPPING._extra_content))


def test_each_folder_is_read_by_its_own_code(tmp_path):
    """Two checkpoints of one model type in a process: the second built by the code of the first."""
    folders = [old_checkpoint(tmp_path / f"registers_{name}", None, registers=True) for name in ("first", "second")]
    for folder, name in zip(folders, ("first", "second"), strict=True):
        model = hf_unmask.load_denoiser(folder, trust_remote_code=True)
        for kind in (type(model), type(model.config), type(load_outline(folder, trust_remote_code=True).model)):
            assert f".registers_{name}." in kind.__module__
    plain = AutoConfig.from_pretrained(folders[0], trust_remote_code=True)
    assert ".registers_first." not in type(plain).__module__, "transformers no longer mixes them up"


def test_code_that_registers_more_than_its_folder_names_is_mended_all_the_same():
    """A2D's code registers its class as a masked language model too: no reason to take it for one of transformers."""

    class Ours(PreTrainedConfig):
        model_type = "llada"

    config = Ours(auto_map={"AutoModel": "modeling.Model"})
    mapping = transformers.MODEL_FOR_MASKED_LM_MAPPING
    mapping.register(Ours, transformers.PreTrainedModel)
    try:
        assert auto_class(config, "somewhere") is transformers.AutoModel
        assert auto_class(Ours(), "somewhere") is transformers.AutoModelForMaskedLM
    finally:
        del mapping._extra_content[Ours]


@pytest.mark.parametrize("breakage", BROKEN)
def test_an_outline_knows_what_the_model_knows(breakage, tmp_path):
    """A comparison without weights that old code breaks, or that settles other ids than the loaded model."""
    folder = old_checkpoint(tmp_path / f"outline_{breakage.replace(' ', '_')}", breakage)
    outline = load_outline(folder, trust_remote_code=True)
    assert {parameter.device.type for parameter in outline.model.parameters()} == {"meta"}
    model = hf_unmask.load_denoiser(folder, trust_remote_code=True)
    assert outline.conventions() == model.generate.denoiser.conventions()


def test_the_attention_is_chosen_when_loading(tmp_path):
    """Advice to load with another attention that the loader does not take."""
    tiny_eurobert().save_pretrained(tmp_path / "native")
    ids = torch.tensor([[5, 6, 7, 8]])
    found = {}
    for kernel in ("eager", "sdpa"):
        model = hf_unmask.load_denoiser(str(tmp_path / "native"), attn_implementation=kernel)
        assert model.config._attn_implementation == kernel
        found[kernel] = model(ids).logits
    assert torch.allclose(found["eager"], found["sdpa"], rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", ["cuda", "mps", "xpu"])
def test_auto_takes_whatever_accelerator_there_is(kind, monkeypatch):
    assert usable_device("auto") in ("cpu", str(torch.accelerator.current_accelerator()).partition(":")[0])
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device(kind))
    assert usable_device("auto") == kind
