"""How much of ``generate``'s time is spent outside the denoiser, on the embedded model.

    python examples/benchmarks/measure_overhead.py
    python examples/benchmarks/measure_overhead.py --samplers threshold:threshold=0.5 klass --repeats 9

The denoiser's time is the time inside ``model.forward``, taken by hooks in the same run; everything else (adapter,
token draw, sampler, bookkeeping) is the share printed. Repeats of all settings are interleaved, so that a machine
that gets slower in between touches all of them; the median share of the repeats is reported.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import torch

import hf_unmask
from hf_unmask.evaluation.environment import environment, environment_line
from hf_unmask.samplers.specs import parse_samplers
from hf_unmask.tiny import answer_length, held_out

SAMPLERS = ("left_to_right", "random", "confidence", "margin", "threshold:threshold=0.9", "entropy_bound", "klass")
TASK = "chain_sum"


class Stopwatch:
    """Adds up the time between the start and the end of a module's forward."""

    def __init__(self, model: torch.nn.Module):
        self.seconds = 0.0
        self.calls = 0
        self._began = 0.0
        model.register_forward_pre_hook(self._start)
        model.register_forward_hook(self._stop)

    def _start(self, module: torch.nn.Module, inputs: Any) -> None:
        del module, inputs
        self._began = time.perf_counter()

    def _stop(self, module: torch.nn.Module, inputs: Any, output: Any) -> None:
        del module, inputs, output
        self.seconds += time.perf_counter() - self._began
        self.calls += 1


def measure(model: Any, watch: Stopwatch, encoded: Any, sampler: Any, block_length: int) -> tuple[float, float, int]:
    """Total seconds, seconds inside the denoiser and denoiser calls of one ``generate``."""
    watch.seconds, watch.calls = 0.0, 0
    began = time.perf_counter()
    hf_unmask.generate(model, **encoded, sampler=sampler, max_new_tokens=answer_length(TASK), block_length=block_length)
    return time.perf_counter() - began, watch.seconds, watch.calls


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samplers", nargs="+", default=SAMPLERS)
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[1, 16])
    parser.add_argument("--repeats", type=int, default=7)
    args = parser.parse_args()

    model, tokenizer = hf_unmask.load_tiny()
    watch = Stopwatch(model)
    problems = held_out(TASK, "validation", max(args.batch_sizes))
    prompts = {size: [problem.prompt for problem in problems[:size]] for size in args.batch_sizes}
    batches = {
        size: dict(tokenizer(texts, return_tensors="pt", padding=True, padding_side="left"))
        for size, texts in prompts.items()
    }
    for batch in batches.values():
        batch.pop("token_type_ids", None)
    settings = [(size, sampler) for size in args.batch_sizes for sampler in parse_samplers(args.samplers)]
    block_length = answer_length(TASK) // 4

    measure(model, watch, batches[args.batch_sizes[0]], settings[0][1], block_length)  # warm-up
    runs: dict[int, list[tuple[float, float, int]]] = {place: [] for place in range(len(settings))}
    for _ in range(args.repeats):
        for place, (size, sampler) in enumerate(settings):
            runs[place].append(measure(model, watch, batches[size], sampler, block_length))

    print(f"{TASK}, blocks of {block_length}; median of {args.repeats} runs")
    print(f"{'batch':>5}  {'sampler':28} {'calls':>5} {'ms/call':>8} {'outside ms/call':>16} {'outside':>8}")
    for place, (size, sampler) in enumerate(settings):
        calls = runs[place][0][2]
        inside = statistics.median(denoiser / calls for _, denoiser, _ in runs[place])
        outside = statistics.median((total - denoiser) / calls for total, denoiser, _ in runs[place])
        share = statistics.median((total - denoiser) / total for total, denoiser, _ in runs[place])
        print(f"{size:5d}  {sampler!s:28} {calls:5d} {1e3 * inside:8.2f} {1e3 * outside:16.2f} {share:8.1%}")
    here = environment(model.device)
    print(f"{environment_line(here, 'python')}, {here['threads']} threads")


if __name__ == "__main__":
    main()
