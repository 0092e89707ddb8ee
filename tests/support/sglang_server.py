"""A real SGLang server on its CPU engine, and tiny checkpoints that it and our own loop both read."""

from __future__ import annotations

import functools
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import Glm4MoeConfig, Glm4MoeForCausalLM, Qwen3Config, Qwen3ForCausalLM

STUBS = Path(__file__).with_name("sglang_stubs")
ROPE = {"rope_type": "default", "rope_theta": 10000.0}
SIZES: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
    "intermediate_size": 48, "max_position_embeddings": 256, "tie_word_embeddings": False, "initializer_range": 0.3,
}  # fmt: skip


class BlockQwen3(Qwen3ForCausalLM):
    """SDAR: Qwen3 that sees whole blocks."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor, position_ids: Tensor, **options: Any) -> Any:
        mask = {"full_attention": attention_mask}
        return super().forward(input_ids, attention_mask=mask, position_ids=position_ids, **options)

    @classmethod
    def tiny(cls, vocab_size: int) -> BlockQwen3:
        return cls(Qwen3Config(**SIZES, vocab_size=vocab_size, rope_parameters=ROPE))


class BlockGlm(Glm4MoeForCausalLM):
    """LLaDA2: the layers of GLM 4.5 (sigmoid routing in groups, shared experts, half of each head rotated).

    Its routed experts are not scaled: the engine does that in kernels which its CPU path goes without.
    """

    def forward(self, input_ids: Tensor, attention_mask: Tensor, position_ids: Tensor, **options: Any) -> Any:
        return super().forward(input_ids, attention_mask=attention_mask, position_ids=position_ids, **options)

    @classmethod
    def tiny(cls, vocab_size: int) -> BlockGlm:
        config = Glm4MoeConfig(
            **SIZES, vocab_size=vocab_size, rope_parameters={**ROPE, "partial_rotary_factor": 0.5}, n_routed_experts=8,
            num_experts_per_tok=2, n_group=4, topk_group=2, moe_intermediate_size=16, routed_scaling_factor=1.0,
            first_k_dense_replace=1, use_qk_norm=True, num_mtp_layers=0,
        )  # fmt: skip
        model = cls(config)
        for name, buffer in model.named_buffers():
            if name.endswith("e_score_correction_bias"):
                buffer.normal_(0, 0.2)
        return model


def llada2_names(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Published checkpoints have attention's three projections in one and each expert by itself."""
    renamed = {
        "embed_tokens": "word_embeddings",
        "self_attn.o_proj": "attention.dense",
        "self_attn.q_norm": "attention.query_layernorm",
        "self_attn.k_norm": "attention.key_layernorm",
        "e_score_correction_bias": "expert_bias",
    }
    found: dict[str, Tensor] = {}
    for name, value in weights.items():
        place, _, part = name.rpartition(".self_attn.")
        if part == "q_proj.weight":
            projections = [weights[f"{place}.self_attn.{one}_proj.weight"] for one in "qkv"]
            found[f"{place}.attention.query_key_value.weight"] = torch.cat(projections)
        elif name.endswith("experts.gate_up_proj"):
            for expert, both in enumerate(value):
                for one, half in zip(("gate", "up"), both.chunk(2), strict=True):
                    found[name.replace("gate_up_proj", f"{expert}.{one}_proj.weight")] = half
        elif name.endswith("experts.down_proj"):
            for expert, down in enumerate(value):
                found[name.replace("down_proj", f"{expert}.down_proj.weight")] = down
        elif part not in ("k_proj.weight", "v_proj.weight"):
            found[functools.reduce(lambda text, old: text.replace(old, renamed[old]), renamed, name)] = value
    return found


@dataclass(frozen=True)
class Kind:
    """A family that the engine knows by its architecture, with the mask token it takes for it."""

    model_type: str  # in our own table
    mask: int
    block: int
    build: Callable[[int], Any]
    config: dict[str, Any]
    names: Callable[[dict[str, Tensor]], dict[str, Tensor]]


KINDS = {
    "SDAR": Kind("sdar", 151669, 4, BlockQwen3.tiny, {"architectures": ["SDARForCausalLM"]}, dict),
    "LLaDA2": Kind(
        "llada2_moe", 156895, 8, BlockGlm.tiny,
        {
            "architectures": ["LLaDA2MoeModelLM"], "num_experts": 8, "num_shared_experts": 1, "use_qkv_bias": False,
            "score_function": "sigmoid", "moe_router_enable_expert_bias": True, "router_dtype": "fp32",
            "use_bias": False, "embedding_dropout": 0.0, "rope_theta": 10000.0, "rotary_dim": 4,
        },
        llada2_names,
    ),
}  # fmt: skip


def checkpoint(kind: Kind, folder: Path) -> Any:
    """Writes what the engine serves, and returns the same network as a class of transformers, for our own loop."""
    torch.manual_seed(0)
    model = kind.build(kind.mask + 1).eval()
    with torch.no_grad():
        model.lm_head.weight.mul_(4)  # some distributions are sharp then, and some are not
    folder.mkdir(parents=True)
    weights = kind.names(model.state_dict())
    save_file({name: value.contiguous() for name, value in weights.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({**model.config.to_dict(), **kind.config}))
    model.config.model_type = kind.model_type
    return model


def command(*arguments: str) -> list[str]:
    """What a user types, for a machine without a GPU and a model without a tokenizer."""
    engine = str(Path(sys.executable).with_name("sglang"))
    return [
        engine, "serve", "--device", "cpu", "--attention-backend", "torch_native", "--dtype", "float32",
        "--skip-tokenizer-init", "--host", "127.0.0.1", "--max-total-tokens", "4096", *arguments,
    ]  # fmt: skip


def environment(ranks: int = 1) -> dict[str, str]:
    cores = "|".join(map(str, range(ranks)))
    told = {"SGLANG_USE_CPU_ENGINE": "1", "SGLANG_CPU_OMP_THREADS_BIND": cores, "OMP_NUM_THREADS": "1"}
    return {**os.environ, **told, "PYTHONPATH": str(STUBS), "HF_HUB_OFFLINE": "1"}


@dataclass(frozen=True)
class Server:
    process: subprocess.Popen[bytes]
    address: str
    log: Path

    def wait(self, seconds: float) -> None:
        """Until it has answered its own first request."""
        end = time.monotonic() + seconds
        while "ready to roll" not in self.said():
            if self.process.poll() is not None:
                raise RuntimeError(f"the server ended with {self.process.returncode}:\n{self.said()[-3000:]}")
            if time.monotonic() > end:
                raise TimeoutError(f"no server after {seconds} s:\n{self.said()[-3000:]}")
            time.sleep(1)

    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def ask(self, path: str, body: Any) -> bytes:
        told = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{self.address}/{path}", data=json.dumps(body).encode(), headers=told)
        with urllib.request.urlopen(request, timeout=300) as answer:
            found: bytes = answer.read()
        return found

    def generate(self, prompts: list[list[int]], new: int) -> list[list[int]]:
        """New tokens of prompts that are sent together."""
        options = {"max_new_tokens": new, "temperature": 0, "ignore_eos": True}
        answers = json.loads(self.ask("generate", {"input_ids": prompts, "sampling_params": options}))
        return [answer["output_ids"] for answer in answers]

    def forget(self) -> None:
        """Drops the keys and values of earlier requests."""
        self.ask("flush_cache", {})


@contextmanager
def serving(model: Path, log: Path, *arguments: str, ranks: int = 1, seconds: float = 600) -> Iterator[Server]:
    """A server for as long as this lasts; all its processes end with it."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    told = command("--model-path", str(model), "--port", str(port), "--tp-size", str(ranks), *arguments)
    with log.open("wb") as out:
        process = subprocess.Popen(told, stdout=out, stderr=out, env=environment(ranks), start_new_session=True)
    server = Server(process, f"http://127.0.0.1:{port}", log)
    try:
        server.wait(seconds)
        yield server
    finally:
        _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """The process and its children, which are a group of their own."""
    for told in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, told)
        with suppress(subprocess.TimeoutExpired):
            process.wait(20)
