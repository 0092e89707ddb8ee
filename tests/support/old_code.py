"""Checkpoints with code of their own that was written for transformers 4, each broken on 5 in one documented way."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from models import EOS, MASK, PAD, VOCAB
from safetensors.torch import save_file

SIZE = 8
FREQUENCIES = 1 / 10000 ** (torch.arange(0, 8, 2).float() / 8)
CONFIG = """
from transformers import PretrainedConfig

class OldConfig(PretrainedConfig):
    model_type = "llada"

    def __init__(self, vocab_size=60, hidden_size=8, num_attention_heads=1, rope_theta=10000.0, **kwargs):
        self.vocab_size, self.hidden_size = vocab_size, hidden_size
        self.num_attention_heads, self.rope_theta = num_attention_heads, rope_theta
        super().__init__(**kwargs)
"""
REGISTRATION = """
from transformers import AutoConfig
AutoConfig.register("llada", OldConfig)
"""
MODEL = """
import torch
from torch import nn
from transformers import GenerationConfig, PreTrainedModel
from transformers.modeling_outputs import MaskedLMOutput
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from .configuration_old import OldConfig
{imports}

class Frequencies(nn.Module):
    def __init__(self, config):
        super().__init__()
        values = {rope}
        self.register_buffer("values", values, persistent={kept})

class OldModel(PreTrainedModel):
    config_class = OldConfig
    {attributes}

    def __init__(self, config):
        super().__init__(config)
        self.embed = nn.Embedding(config.vocab_size, config.hidden_size)
        self.head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.frequencies = Frequencies(config)
        {end}

    def _init_weights(self, module):
        pass

    def get_input_embeddings(self):
        return self.embed

    def forward(self, input_ids, attention_mask=None, output_hidden_states=False, return_dict=True{arguments}):
        {body}
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        seen = self.embed(input_ids) * attention_mask[..., None]
        places = attention_mask.cumsum(-1)[..., None] * self.frequencies.values.sum()
        hidden = seen.mean(1, keepdim=True) + (self.embed(input_ids) + places).sin()
        return MaskedLMOutput(logits=self.head(hidden))
    {methods}
"""
#: A generation config with settings of its own, and what ``validate`` takes.
OWN_SETTINGS = """
class OldGenerationConfig(GenerationConfig):
    def __init__(self, **kwargs):
        self.eps, self.steps = kwargs.pop("eps", 1e-3), kwargs.pop("steps", 512)
        for name in ("mask_token_id", "pad_token_id", "bos_token_id", "eos_token_id"):
            setattr(self, name, kwargs.pop(name, None))
        self._from_model_config = kwargs.pop("_from_model_config", False)
        self.return_dict_in_generate = False
        if not self._from_model_config:
            for name, value in kwargs.items():
                setattr(self, name, value)
        self.validate(is_init=True)

    def validate(self, {arguments}):
        assert isinstance(is_init, bool)
"""
OWN_LOADING = """@classmethod
    def from_pretrained(cls, folder, *args, **kwargs):
        model = super().from_pretrained(folder, *args, **kwargs)
        model.generation_config = OldGenerationConfig.from_pretrained(folder, subfolder="", _from_auto=True)
        return model
"""
PLAIN = {
    "imports": "",
    "kept": "True",
    "rope": "1 / 10000 ** (torch.arange(0, 8, 2).float() / 8)",
    "attributes": "",
    "end": "self.post_init()",
    "arguments": "",
    "body": "pass",
    "methods": "",
    "settings": {"pad_token_id": PAD},
}
#: Breakage -> what differs from the plain code above.
BROKEN = {
    "default rope": {"rope": 'ROPE_INIT_FUNCTIONS["default"](config, None)[0]'},
    "torch fx": {"imports": "from transformers.utils.import_utils import is_torch_fx_available"},
    "loss kwargs": {
        "imports": "from transformers.modeling_flash_attention_utils import FlashAttentionKwargs\n"
        "from transformers.utils import LossKwargs\n"
        "class Arguments(FlashAttentionKwargs, LossKwargs): ...\n",
    },
    "attention masks": {
        "imports": "from transformers.modeling_attn_mask_utils import _prepare_4d_attention_mask",
        "body": "seen = _prepare_4d_attention_mask(torch.ones_like(input_ids), torch.float) == 0\n"
        "        assert seen.all() and seen.shape == (len(input_ids), 1, input_ids.shape[1], input_ids.shape[1])",
    },
    "config defaults": {"end": "self.padding_idx = config.pad_token_id\n        self.post_init()", "settings": {}},
    "use_cache": {"arguments": ", labels=None", "body": "assert not self.config.use_cache"},
    "tie_weights": {"end": "", "methods": "def tie_weights(self):\n        self.tied = True"},
    "tied lists": {"attributes": '_tied_weights_keys = ["head.weight"]'},
    "computed buffers": {"kept": "False"},
    "validate": {
        "imports": OWN_SETTINGS.format(arguments="is_init=False"),
        "methods": OWN_LOADING,
    },
    "generation config": {
        "imports": OWN_SETTINGS.format(arguments="is_init=False, **kwargs"),
        "methods": "def diffusion_generate(self, input_ids):\n"
        "        return OldGenerationConfig.from_model_config(self.config)\n",
    },
    "layer types": {
        "end": "self.layers = nn.ModuleList(nn.Identity() for _ in config.layer_types)\n        self.post_init()",
        "body": "assert [layer.attention_type for layer in self.layers] == self.config.layer_types",
        "settings": {"pad_token_id": PAD, "layer_types": ["full_attention", "sliding_attention"]},
    },
}


def old_checkpoint(folder: Path, breakage: str | None, registers: bool = False, **further: str) -> str:
    """A folder with weights, config and code. None: code without a breakage. ``further`` pieces of code by place.

    With ``registers`` the code makes its classes those of the model type for the whole process, as LLaDA's does.
    """
    folder.mkdir()
    parts = PLAIN | BROKEN.get(breakage, {}) | further
    (folder / "modeling_old.py").write_text(MODEL.format(**parts))
    (folder / "configuration_old.py").write_text(CONFIG + REGISTRATION * registers)
    config = {
        "model_type": "llada",
        "architectures": ["OldModel"],
        "auto_map": {"AutoConfig": "configuration_old.OldConfig", "AutoModel": "modeling_old.OldModel"},
        "vocab_size": VOCAB,
        "mask_token_id": MASK,
        "eos_token_id": EOS,
        "tie_word_embeddings": False,
        **parts["settings"],
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "generation_config.json").write_text(json.dumps({"pad_token_id": PAD}))
    generator = torch.Generator().manual_seed(0)
    names = ("embed.weight", "head.weight")
    weights = {name: torch.randn(VOCAB, SIZE, generator=generator) for name in names}
    if parts["kept"] == "True":
        weights["frequencies.values"] = FREQUENCIES
    save_file(
        weights,
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    return str(folder)
