"""What a forward pass costs per family: `generate` against the family's own loop, as ratios of one run.

    python examples/benchmarks/bench_families.py                       # some ten minutes of one core
    python examples/benchmarks/bench_families.py --families SDAR --repeats 1

Every family is a random model that goes through its row of the adapter table: its vocabulary, its arguments, its mask,
its blocks and its shift, around a bidirectional Llama of one size, in float32 and at batch size 1. The loops are the
published ones written plainly: one token per pass by confidence at temperature 0, with the cache that they keep, if
they keep one. Ours makes the same passes; ``same`` is the share of tokens that agree. Repeats alternate, the ratio is
the median over them. Times are those of computing, as in bench_generate.py.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, EuroBertConfig, EuroBertForMaskedLM

from hf_unmask import Denoiser, generate
from hf_unmask.denoisers.caching import cache_argument
from hf_unmask.denoisers.families import rows
from hf_unmask.evaluation.environment import environment, environment_line
from hf_unmask.samplers import ConfidenceSampler

PROMPT, HIDDEN, LAYERS = 64, 256, 4

# Bodies: what their forward takes


class Timed(EuroBertForMaskedLM):
    """MDLM: no mask, a time per row."""

    def forward(self, input_ids: Tensor, timesteps: Tensor, output_hidden_states: bool = False) -> Any:  # type: ignore[override]
        del timesteps
        return super().forward(input_ids, output_hidden_states=output_hidden_states)


class Stored(EuroBertForMaskedLM):
    """SDAR: what is computed is kept if told so."""

    def forward(self, input_ids: Tensor, *, store_kv: bool = False, **options: Any) -> Any:  # type: ignore[override]
        kept = options.get(self.kept_as)
        seen = 0 if kept is None else kept.get_seq_length()
        output = super().forward(input_ids, **options)
        if not store_kv and isinstance(kept, DynamicCache):
            kept.crop(seen - kept.get_seq_length())
        return output


class OwnBlocks(EuroBertForMaskedLM):
    """Fast-dLLM v2: the block mask is made inside."""

    def forward(  # type: ignore[override]
        self, input_ids: Tensor, position_ids: Tensor | None = None, block_size: int = 32, **kept: Any
    ) -> Any:
        del position_ids  # counted from the first column
        start = 0 if not kept else next(iter(kept.values())).get_seq_length()
        queries = torch.arange(start, start + input_ids.shape[1])
        keys = torch.arange(start + input_ids.shape[1])
        mask = (keys[None] // block_size <= queries[:, None] // block_size)[None, None]
        return super().forward(input_ids, attention_mask=mask, position_ids=queries[None], **kept)


# Loops: how the families decode


@dataclass
class Asked:
    """One row to fill: ids [1, P + length] long, masks behind the prompt."""

    denoiser: Denoiser
    ids: Tensor
    block: int  # positions per block

    @property
    def model(self) -> Any:
        return self.denoiser.model

    def best(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Probabilities and tokens, both [..., S], of logits [..., S, V]."""
        logits[..., self.denoiser.mask_token_id] = -torch.inf
        probabilities = torch.softmax(logits, dim=-1)
        tokens = logits.argmax(-1)
        return probabilities.gather(-1, tokens[..., None])[..., 0], tokens

    def write(self, confidence: Tensor, tokens: Tensor, at: Tensor) -> None:
        """Open the most confident of the columns ``at`` [n] long."""
        chosen = int(confidence.argmax())
        self.ids[0, at[chosen]] = tokens[chosen]

    def undecided(self, start: int, end: int) -> Tensor:
        """Columns [n] long."""
        return (self.ids[0, start:end] == self.denoiser.mask_token_id).nonzero()[:, 0] + start


def llada(asked: Asked) -> None:
    """Logits and softmax of every position; the rest of the canvas is masked out of the choice."""
    timed = isinstance(asked.model, Timed)
    for start in range(PROMPT, asked.ids.shape[1], asked.block):
        end = start + asked.block
        while len(asked.undecided(start, end)):
            extra = {"timesteps": torch.zeros(1)} if timed else {"attention_mask": torch.ones_like(asked.ids)}
            confidence, tokens = asked.best(asked.model(asked.ids, **extra).logits)
            at = asked.undecided(start, end)
            asked.write(confidence[0, at], tokens[0, at], at)


def dream(asked: Asked) -> None:
    """Logits of every position, moved by one; softmax of the masked ones."""
    while len(at := asked.undecided(PROMPT, asked.ids.shape[1])):
        logits = asked.model(asked.ids).logits
        logits = torch.cat([logits[:, :1], logits[:, :-1]], dim=1)
        confidence, tokens = asked.best(logits[0, at])
        asked.write(confidence, tokens, at)


def llada2(asked: Asked) -> None:
    """All up to the active block in every pass, under a mask that is added; softmax of the block."""
    for start in range(PROMPT, asked.ids.shape[1], asked.block):
        end = start + asked.block
        block = torch.arange(end) // asked.block
        mask = torch.zeros(1, 1, end, end).masked_fill(block[None] > block[:, None], torch.finfo().min)
        while len(at := asked.undecided(start, end)):
            logits = asked.model(asked.ids[:, :end], attention_mask=mask, position_ids=torch.arange(end)[None]).logits
            confidence, tokens = asked.best(logits[0, -asked.block :])
            asked.write(confidence[at - start], tokens[at - start], at)


def sdar(asked: Asked) -> None:
    """The prompt once, then the active block alone; a finished block is kept by one pass more."""
    kept, name = DynamicCache(), asked.model.kept_as
    block = torch.arange(PROMPT) // asked.block
    mask = (block[None] <= block[:, None])[None, None]
    places = torch.arange(asked.ids.shape[1])[None]
    asked.model(
        asked.ids[:, :PROMPT], attention_mask=mask, position_ids=places[:, :PROMPT], store_kv=True, use_cache=True,
        **{name: kept},
    )  # fmt: skip
    for start in range(PROMPT, asked.ids.shape[1], asked.block):
        end = start + asked.block
        given = {
            "attention_mask": torch.ones(1, 1, asked.block, end, dtype=torch.bool),
            "position_ids": places[:, start:end], "use_cache": True, name: kept,
        }  # fmt: skip
        while len(at := asked.undecided(start, end)):
            confidence, tokens = asked.best(asked.model(asked.ids[:, start:end], **given).logits[0])
            asked.write(confidence[at - start], tokens[at - start], at)
        asked.model(asked.ids[:, start:end], store_kv=True, **given)


def fast_dllm_v2(asked: Asked) -> None:
    """As SDAR's, with logits moved by one; the mask comes from the model."""
    kept, name = DynamicCache(), asked.model.kept_as
    asked.model(asked.ids[:, :PROMPT], **{name: kept})
    for start in range(PROMPT, asked.ids.shape[1], asked.block):
        end = start + asked.block
        while len(at := asked.undecided(start, end)):
            logits = asked.model(asked.ids[:, start:end], **{name: kept}).logits
            kept.crop(-asked.block)
            logits = torch.cat([logits[:, :1], logits[:, :-1]], dim=1)
            confidence, tokens = asked.best(logits[0])
            asked.write(confidence[at - start], tokens[at - start], at)
        asked.model(asked.ids[:, start:end], **{name: kept})


@dataclass(frozen=True)
class Shape:
    """How a family is built and asked here; the rest is its row of the table."""

    vocabulary: int
    loop: Callable[[Asked], None] = llada
    body: type[EuroBertForMaskedLM] = EuroBertForMaskedLM
    block: int = 32  # positions per block, where the family leaves it open
    cache: bool = False  # whether ours keeps keys and values, as the family's loop does


SHAPES = {
    "native masked LM": Shape(50368),
    "LLaDA": Shape(126464),
    "LLaDA-MoE": Shape(157184),
    "LLaDA2": Shape(157184, llada2),
    "Dream": Shape(152064, dream, block=0),
    "A2D": Shape(151936),
    "Fast-dLLM v2": Shape(151936, fast_dllm_v2, OwnBlocks),
    "SDAR": Shape(151936, sdar, Stored, cache=True),
    "MDLM": Shape(50258, llada, Timed, block=0),
}


def build(name: str) -> Denoiser:
    """The random model of a family, through its row."""
    family, shape = next(row for row in rows() if row.name == name), SHAPES[name]
    torch.manual_seed(0)
    mask = shape.vocabulary - 1 if family.mask_token_id is None else family.mask_token_id
    config = EuroBertConfig(
        vocab_size=shape.vocabulary, hidden_size=HIDDEN, num_hidden_layers=LAYERS, num_attention_heads=HIDDEN // 64,
        num_key_value_heads=2, intermediate_size=3 * HIDDEN, max_position_embeddings=4096, pad_token_id=0,
        bos_token_id=1, eos_token_id=1, mask_token_id=mask, tie_word_embeddings=False,
        initializer_range=2 / HIDDEN**0.5,
    )  # fmt: skip
    body = shape.body
    if family.class_names:
        body = type(family.class_names[0], (body,), {"forward": body.forward, "__doc__": body.__doc__})
    model: Any = body(config).eval()
    if family.model_types and not family.class_names:
        model.config.model_type = family.model_types[0]
    model.lm_head.weight.data.normal_(0, 6 / HIDDEN**0.5)
    model.kept_as = cache_argument(model)
    return Denoiser.from_model(model)


@dataclass
class Run:
    tokens: Tensor  # [length]
    passes: int
    seconds: float


@torch.no_grad()
def timed(denoiser: Denoiser, work: Callable[[], Tensor]) -> Run:
    passes: list[None] = []
    hook = denoiser.model.register_forward_pre_hook(lambda *_: passes.append(None))
    began = time.thread_time()
    tokens = work()
    seconds = time.thread_time() - began
    hook.remove()
    return Run(tokens, len(passes), seconds)


def measure(name: str, length: int, repeats: int) -> str:
    """A row of the table."""
    denoiser, shape = build(name), SHAPES[name]
    block = denoiser.block_length or shape.block or length
    generator = torch.Generator().manual_seed(1)
    prompt = torch.randint(3, shape.vocabulary - 400, (1, PROMPT), generator=generator)
    options: dict[str, Any] = {"max_new_tokens": length, "block_length": block, "stop_at_eos": False}
    if shape.cache:
        options["cache"] = "prefix"

    def own() -> Tensor:
        ids = torch.cat([prompt, prompt.new_full((1, length), denoiser.mask_token_id)], dim=1)
        shape.loop(Asked(denoiser, ids, block))
        return ids[0, PROMPT:]

    def ours() -> Tensor:
        sequences: Any = generate(denoiser, prompt, sampler=ConfidenceSampler(k=1), **options)
        return sequences[0, PROMPT:]

    pairs = []
    for repeat in range(repeats + 1):  # the first pair warms up
        order = (own, ours) if repeat % 2 else (ours, own)
        runs = {work: timed(denoiser, work) for work in order}
        pairs += [(runs[own], runs[ours])] if repeat else []
    ratio = statistics.median(two.seconds / two.passes / (one.seconds / one.passes) for one, two in pairs)
    total = statistics.median(two.seconds / one.seconds for one, two in pairs)
    one, two = pairs[-1]
    per = [statistics.median(run.seconds / run.passes * 1000 for run in side) for side in zip(*pairs, strict=True)]
    same = float((one.tokens == two.tokens).float().mean())
    return (
        f"| {name} | {shape.vocabulary:,} | {block} | {one.passes} / {two.passes} | {per[0]:.1f} | {per[1]:.1f} "
        f"| {ratio:.2f} | {total:.2f} | {same:.0%} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", nargs="+", choices=SHAPES, default=list(SHAPES), metavar="NAME")
    parser.add_argument("--length", type=int, default=32, help="new tokens")
    parser.add_argument("--repeats", type=int, default=5, help="pairs of runs, beside one that warms up")
    args = parser.parse_args()
    torch.set_num_threads(1)
    print("| family | vocabulary | block | passes, its / ours | ms a pass, its | ours | ratio | whole run | same |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name in args.families:
        print(measure(name, args.length, args.repeats), flush=True)
    here = environment(torch.device("cpu"))
    line = f"{environment_line(here, 'python')}, {here['threads']} threads, float32, sdpa"
    print(f"\nprompt {PROMPT}, {args.length} new tokens, width {HIDDEN}, {args.repeats} pairs; {line}")


if __name__ == "__main__":
    main()
