"""Doubles of serving engines and foreign loops, made from their documented interfaces, around a tiny model."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from doubles import DreamDouble, DreamDoubleConfig, block_causal
from torch import Tensor

import hf_unmask
from hf_unmask.doors.block import counted_noise


def module(name: str, **members: Any) -> ModuleType:
    made = ModuleType(name)
    vars(made).update(members)
    return made


def logits_at(adapter: Any, tokens: Tensor, places: Tensor) -> Tensor:
    """[B, W, V], unpadded; places [B, W]."""
    return adapter(tokens, torch.ones_like(tokens, dtype=torch.bool), places).logits()


# SGLang


class DllmAlgorithm:
    """What an algorithm finds in its base class."""

    def __init__(self, config: Any):
        self.block_size, self.mask_id = config.block_size, config.mask_id
        self.fdfo = config.first_done_first_out_mode

    @classmethod
    def from_server_args(cls, server_args: Any) -> Any:
        return cls(server_args.config)

    def init_step_state(self, forward_batch: Any) -> list[Any]:
        return [None for _ in range(forward_batch.batch_size)]

    def max_steps(self, block_size: int) -> int:
        return block_size + 1


def sglang_modules() -> dict[str, ModuleType]:
    algorithm = "sglang.srt.dllm.algorithm"
    names = ["sglang", "sglang.srt", "sglang.srt.dllm"]
    found = {name: module(name) for name in names}
    found[algorithm] = module(algorithm, algo_name_to_cls={"LowConfidence": DllmAlgorithm})
    found[f"{algorithm}.base"] = module(f"{algorithm}.base", DllmAlgorithm=DllmAlgorithm)
    return found


def engine_config(block_size: int, mask_id: int, fdfo: bool = True, **yaml: Any) -> SimpleNamespace:
    return SimpleNamespace(
        block_size=block_size, mask_id=mask_id, first_done_first_out_mode=fdfo, algorithm_config=yaml
    )


@dataclass
class Request:
    prompt: list[int]
    new: int
    arrives: int = 0
    stored: list[int] = field(default_factory=list)  # blocks whose keys and values are in the cache
    block: list[int] = field(default_factory=list)
    state: Any = None
    forwards: int = 0

    def fill(self, size: int, mask_id: int) -> None:
        """The next block: what the prompt still has, then masks. The last one goes on beyond the new tokens."""
        rest = self.prompt[len(self.stored) : len(self.stored) + size]
        self.block, self.state = rest + [mask_id] * (size - len(rest)), None

    @property
    def finished(self) -> bool:
        return len(self.stored) >= len(self.prompt) + self.new


class Engine:
    """Blocks of running requests, one forward pass a round; a request whose block is done goes on to its next one."""

    def __init__(self, algorithm: Any, network: torch.nn.Module):
        self.algorithm, self.network = algorithm, network

    def forward(self, requests: list[Request]) -> Tensor:
        """[B * W, V], each block after its own stored ones."""
        size, found = self.algorithm.block_size, []
        for request in requests:
            tokens = torch.tensor([request.stored + request.block])
            mask = block_causal(torch.arange(tokens.shape[1])[None], size)
            found.append(self.network(tokens, attention_mask=mask).logits[0, -size:])
            request.forwards += 1
        return torch.cat(found)

    @torch.no_grad()
    def round(self, requests: list[Request], wrapped: bool) -> None:
        size = self.algorithm.block_size
        starts = torch.tensor([len(request.stored) for request in requests])
        places = starts[:, None] + torch.arange(size)
        literal = any(self.algorithm.mask_id in request.prompt for request in requests)
        prompts = torch.tensor([len(request.prompt) for request in requests])
        batch = SimpleNamespace(
            batch_size=len(requests),
            input_ids=torch.tensor([request.block for request in requests]).flatten(),
            positions=places.flatten(),
            dllm_prompt_mask=places < prompts[:, None] if literal else None,
        )
        held = batch.input_ids
        fresh = self.algorithm.init_step_state(batch)
        states = [new if request.state is None else request.state for request, new in zip(requests, fresh, strict=True)]
        logits = self.forward(requests)
        done = self.algorithm.step(batch, SimpleNamespace(full_logits=logits) if wrapped else logits, states)
        assert batch.input_ids is held, "graphs read the tensor they were captured with"
        assert [type(each) for each in done] == [bool] * len(requests)
        for request, block, state, stored in zip(requests, held.view(-1, size).tolist(), states, done, strict=True):
            request.block, request.state = block, state
            if stored:
                request.stored += block
                request.fill(size, self.algorithm.mask_id)

    def serve(self, requests: list[Request], wrapped: bool = False) -> list[list[int]]:
        """New tokens of each request."""
        for request in requests:
            request.fill(self.algorithm.block_size, self.algorithm.mask_id)
        clock = 0
        while any(not request.finished for request in requests):
            running = [request for request in requests if request.arrives <= clock and not request.finished]
            if running:
                self.round(running, wrapped)
            clock += 1
        return [request.stored[len(request.prompt) :][: request.new] for request in requests]


@dataclass(frozen=True)
class EngineNoise:
    """A sampler that draws in our loop what it draws in the engine: by seed, step of the block, place in the text."""

    sampler: Any
    seed: int
    start: int  # place of the canvas's first position
    needs = property(lambda self: self.sampler.needs)
    may_stall = property(lambda self: self.sampler.may_stall)

    def init(self, rows: int, length: int, device: Any) -> Any:
        return self.sampler.init(rows, length, device)

    def select(self, step: Any, state: Any, noise: Any) -> Any:
        del noise
        key = torch.full_like(step.steps, self.seed)
        return self.sampler.select(step, state, counted_noise(key, step.block_steps, self.start + step.index))


def block_by_block(
    adapter: Any, prompt: list[int], sampler: Any, new: int, size: int, seed: int = 0
) -> tuple[list[int], int]:
    """Our loop, started anew for each block as the engine does; the last block is whole."""
    text, forwards = list(prompt), 0
    while len(text) < len(prompt) + new:
        ids, room = torch.tensor([text]), size - len(text) % size
        output = hf_unmask.generate(
            adapter, ids, attention_mask=torch.ones_like(ids),  # a padding token that was written is text
            sampler=EngineNoise(sampler, seed, len(text)), max_new_tokens=room, return_dict_in_generate=True,
        )  # fmt: skip
        text, forwards = output.sequences[0].tolist(), forwards + int(output.nfe)
    return text[len(prompt) :][:new], forwards


# dllm-plugin of vLLM


@dataclass(frozen=True, slots=True)
class RemaskStepResult:
    committed_token_ids: tuple[int, ...]
    next_input_block: tuple[int, ...]


def plugin_modules(package: str, draft_size: int) -> dict[str, ModuleType]:
    return {
        package: module(package),
        f"{package}.remasking": module(f"{package}.remasking", RemaskStepResult=RemaskStepResult),
        f"{package}.config": module(f"{package}.config", DRAFT_SIZE=draft_size),
    }


# dInfer


class ParallelDecoder:
    """What a decoder finds in its base class."""

    def __init__(self, temperature: float, remasking: str = "low_confidence", mask_id: int = 126336):
        self.temperature, self.remasking, self.mask_id = temperature, remasking, mask_id


class TokenArray:
    """Prompts and masks, read and written by slices."""

    def __init__(self, prompt: Tensor, gen_length: int, mask_id: int):
        self.data = torch.cat([prompt, prompt.new_full((len(prompt), gen_length), mask_id)], dim=1)

    def __getitem__(self, place: Any) -> Tensor:
        return self.data[place]

    def __setitem__(self, place: Any, values: Tensor) -> None:
        self.data[place] = values


def dinfer_modules() -> dict[str, ModuleType]:
    names = ["dinfer", "dinfer.decoding", "dinfer.decoding.parallel_strategy"]
    return {name: module(name, ParallelDecoder=ParallelDecoder) for name in names}


@torch.no_grad()
def dinfer_generate(network: Any, decoder: Any, prompt: Tensor, gen_length: int, block_length: int) -> tuple[Any, int]:
    """Block by block until no row has a mask in it; the tokens and the forward passes."""
    x, forwards = TokenArray(prompt, gen_length, decoder.mask_id), 0
    for number, start in enumerate(range(prompt.shape[1], x.data.shape[1], block_length)):
        end = start + block_length
        decoder.block_init(x[:, start:end], number)
        while (x[:, start:end] == decoder.mask_id).any():
            decoder.decode(network(x.data).logits[:, start:end], start, end, x)
            forwards += 1
    return x.data, forwards


def forget(monkeypatch: Any, *names: str) -> None:
    """So that the next import runs the module anew, and nothing of it stays."""
    for name in names:
        monkeypatch.delitem(sys.modules, name, raising=False)


# Dream


class NativeDream(DreamDouble):
    """Its own loop: a share of the masks of the average row a step, the most probable first, and two hooks."""

    @torch.no_grad()
    def diffusion_generate(
        self,
        inputs: Tensor,
        *,
        max_new_tokens: int,
        steps: int,
        attention_mask: Tensor | None = None,
        eps: float = 1e-3,
        generation_tokens_hook_func: Any = lambda _step, x, _logits: x,
        generation_logits_hook_func: Any = lambda _step, _x, logits: logits,
    ) -> Tensor:
        rows, mask_id = len(inputs), self.config.mask_token_id
        x = torch.cat([inputs, inputs.new_full((rows, max_new_tokens), mask_id)], dim=1)
        seen: dict[str, Any] = {}
        if attention_mask is not None:
            real = torch.cat([attention_mask, attention_mask.new_ones(rows, max_new_tokens)], dim=1).bool()
            pairs = real[:, None, :, None] & real[:, None, None, :]
            seen = {"attention_mask": pairs, "position_ids": (real.long().cumsum(-1) - 1).clamp(min=0)}
        times = torch.linspace(1, eps, steps + 1).tolist()
        x = generation_tokens_hook_func(None, x, None)
        for step in range(steps):
            raw = self(x, **seen).logits
            logits = generation_logits_hook_func(step, x, torch.cat([raw[:, :1], raw[:, :-1]], dim=1))
            masked = x == mask_id
            average = int(masked.sum()) / rows
            count = int(average * (1 - times[step + 1] / times[step])) if step < steps - 1 else int(average)
            best = logits.softmax(-1).max(-1)
            chosen = best.values.masked_fill(~masked, -1.0).topk(count, dim=-1).indices
            x.scatter_(1, chosen, best.indices.gather(1, chosen))
            x = generation_tokens_hook_func(step, x, logits)
        return x


def native_dream(dtype: torch.dtype = torch.float32) -> NativeDream:
    return NativeDream(DreamDoubleConfig()).to(dtype).eval()
