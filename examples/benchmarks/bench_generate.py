"""What a step of ``generate`` costs, against plainly written loops in this file, as ratios of one run.

    python examples/benchmarks/bench_generate.py         # small shapes
    python examples/benchmarks/bench_generate.py --full  # vocabularies of 126,464 and 152,064, prompt 512, length 256
    python examples/benchmarks/bench_generate.py --tables loops cache  # of: loops, cache, pool, rollouts, precision

Both sides get the same weights, dtype, threads and attention kernel, write the same number of tokens and make the same
number of forward passes; ``same`` is the share of tokens that agree (the loops compute the softmax in float64, so that
near ties may fall differently). Times are those of computing: with one thread on a CPU what else runs does not count.
The models of the tables are (a) the embedded one, (b) a random one of the shape of LLaDA
and (c) one of Dream's, whose logits at i - 1 predict i.
"""

from __future__ import annotations

import argparse
import copy
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import EuroBertConfig, EuroBertForMaskedLM

from hf_unmask import Denoiser, UnmaskingPolicy, UnmaskingPolicyConfig, generate, generate_stream
from hf_unmask.evaluation.environment import environment, environment_line
from hf_unmask.generation import advancing
from hf_unmask.samplers import ConfidenceSampler, EntropySampler, LearnedUnmaskingSampler, ThresholdSampler
from hf_unmask.tiny import answer_length, held_out, load_tiny
from hf_unmask.trainers.rollouts import RecordingSampler, roll_out

# Plain loops


@torch.no_grad()
def probabilities(denoiser: Denoiser, x: Tensor) -> Tensor:
    """[B, S, V] float64 over all positions, as the public loops compute them."""
    logits = denoiser.model(input_ids=x, attention_mask=torch.ones_like(x)).logits
    if denoiser.shift:
        logits = torch.cat([logits[:, :1], logits[:, :-1]], dim=1)
    logits[..., denoiser.mask_token_id] = -torch.inf
    return torch.softmax(logits.to(torch.float64), dim=-1)


def scored(denoiser: Denoiser, x: Tensor, end: int, by_entropy: bool) -> tuple[Tensor, Tensor]:
    """Tokens [B, S] and scores [B, S], -inf where nothing may open."""
    probs = probabilities(denoiser, x)
    tokens = probs.argmax(-1)
    if by_entropy:
        score = (probs * torch.log(probs + 1e-10)).sum(-1)
    else:
        score = probs.gather(-1, tokens[..., None])[..., 0]
    score = torch.where(x == denoiser.mask_token_id, score, -torch.inf)
    score[:, end:] = -torch.inf
    return tokens, score


def masked(denoiser: Denoiser, ids: Tensor, length: int) -> Tensor:
    return torch.cat([ids, ids.new_full((len(ids), length), denoiser.mask_token_id)], dim=1)


def quota_loop(
    denoiser: Denoiser, ids: Tensor, length: int, block: int, steps: int, by_entropy: bool = False
) -> tuple[Tensor, int]:
    """LLaDA's loop; with ``by_entropy`` Dream's, block by block. ``steps`` per block; returns tokens and passes."""
    x = masked(denoiser, ids, length)
    for end in range(ids.shape[1] + block, x.shape[1] + 1, block):
        for step in range(steps):
            tokens, score = scored(denoiser, x, end, by_entropy)
            opened = torch.zeros_like(x, dtype=torch.bool)
            for row in range(len(x)):
                count = block // steps + (step < block % steps)
                opened[row, score[row].topk(count).indices] = True
            x[opened] = tokens[opened]
    return x, steps * (length // block)


def threshold_loop(denoiser: Denoiser, ids: Tensor, length: int, block: int, threshold: float) -> tuple[Tensor, int]:
    """Fast-dLLM's loop; a batch goes on until its slowest row has filled the block."""
    x, passes = masked(denoiser, ids, length), 0
    for end in range(ids.shape[1] + block, x.shape[1] + 1, block):
        while (x[:, :end] == denoiser.mask_token_id).any():
            tokens, score = scored(denoiser, x, end, False)
            passes += 1
            opened = torch.zeros_like(x, dtype=torch.bool)
            for row in range(len(x)):
                if score[row].max() > -torch.inf:
                    opened[row] = score[row] >= threshold
                    opened[row, score[row].argmax()] = True
            x[opened] = tokens[opened]
    return x, passes


def rollout_loop(denoiser: Denoiser, policy: UnmaskingPolicy, ids: Tensor, length: int, block: int) -> tuple[int, int]:
    """Rollouts of a policy that keep what it saw, all rows to the end of the slowest; returns steps and passes."""
    x, passes, kept = masked(denoiser, ids, length), 0, []
    start = ids.shape[1]
    steps = torch.zeros(len(x))
    for end in range(start + block, x.shape[1] + 1, block):
        for _ in range(block):
            undecided = x == denoiser.mask_token_id
            if not undecided[:, :end].any():
                break
            probs = probabilities(denoiser, x)
            best = probs.max(-1)
            passes += 1
            with torch.no_grad():
                logits = policy(best.values[:, start:, None].float(), undecided[:, start:], steps / length)
            opened = torch.zeros_like(undecided)
            opened[:, start:] = logits.sigmoid() > torch.rand(logits.shape)
            opened &= undecided
            opened[:, end:] = False
            kept.append((best.values[:, start:], undecided[:, start:], opened[:, start:], logits))
            x[opened] = best.indices[opened]
            steps += undecided[:, :end].any(-1)
        x[:, :end] = torch.where(x[:, :end] == denoiser.mask_token_id, 0, x[:, :end])  # what is left counts as done
    return int(steps.sum()), passes


# Models and clocks


def now() -> float:
    """Seconds of computing: of this thread where it computes alone, so that a busy machine does not show."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    alone = torch.get_num_threads() == 1 and not torch.cuda.is_available()
    return time.thread_time() if alone else time.perf_counter()


@dataclass
class Clock:
    """Seconds of the parts of a step, by wrapping what makes them."""

    body: float = 0.0
    head: float = 0.0
    selection: float = 0.0
    read: int = 0  # positions whose logits were made

    def timed(self, part: str, function: Callable[..., Any], minus: str | None = None) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            inner, began = getattr(self, minus) if minus else 0.0, now()
            result = function(*args, **kwargs)
            spent = now() - began - (getattr(self, minus) - inner if minus else 0.0)
            setattr(self, part, getattr(self, part) + spent)
            return result

        return call


@dataclass(frozen=True, eq=False)
class Clocked(Denoiser):
    """A denoiser whose body and output layer are timed apart."""

    clock: Clock

    @classmethod
    def of(cls, denoiser: Denoiser, clock: Clock) -> Clocked:
        return cls(**{f.name: getattr(denoiser, f.name) for f in fields(Denoiser)}, clock=clock)

    def _forward(self, inputs: dict[str, Any]) -> Any:
        return self.clock.timed("body", super()._forward)(inputs)

    def project(self, states: Tensor) -> Tensor:
        self.clock.read += len(states)
        return self.clock.timed("head", super().project)(states)


class Timed:
    """A sampler whose decisions are timed."""

    def __init__(self, inner: Any, clock: Clock):
        self.inner, self.needs, self.may_stall, self.init = inner, inner.needs, inner.may_stall, inner.init
        self.select = clock.timed("selection", inner.select)


class Peak:
    """Largest memory in use during a block beyond what was in use before it, in MiB."""

    def __enter__(self) -> Peak:
        self.cuda = torch.cuda.is_available()
        if self.cuda:
            torch.cuda.reset_peak_memory_stats()
        self.start = self.most = self._now()
        self.open = True
        self.thread = threading.Thread(target=self._watch)
        self.thread.start()
        return self

    def _now(self) -> float:
        if self.cuda:
            return torch.cuda.max_memory_allocated() / 2**20
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    def _watch(self) -> None:
        while self.open:
            self.most = max(self.most, self._now())
            time.sleep(0.002)

    def __exit__(self, *_: object) -> None:
        self.open = False
        self.thread.join()
        self.mib = max(self.most, self._now()) - self.start


def random_model(vocabulary: int, hidden: int, kv_heads: int, layers: int, spread: float) -> EuroBertForMaskedLM:
    """LLaDA's architecture: a bidirectional Llama. ``spread`` is the standard deviation of its logits."""
    torch.manual_seed(0)
    config = EuroBertConfig(
        vocab_size=vocabulary, hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=hidden // 64,
        num_key_value_heads=kv_heads, intermediate_size=3 * hidden, max_position_embeddings=4096, pad_token_id=0,
        bos_token_id=1, eos_token_id=1, mask_token_id=vocabulary - 1, tie_word_embeddings=False,
        initializer_range=2 / hidden**0.5,
    )  # fmt: skip
    model = EuroBertForMaskedLM(config).eval()
    model.lm_head.weight.data.normal_(0, spread / hidden**0.5)
    return model


def new_policy(**options: Any) -> UnmaskingPolicy:
    """An untrained policy that opens about half of what it may at a step."""
    torch.manual_seed(0)
    return UnmaskingPolicy(UnmaskingPolicyConfig(initial_bias=0.0, **options)).eval()


def seconds(function: Callable[[], Any]) -> tuple[float, Any]:
    began = now()
    result = function()
    return now() - began, result


# Tables


def loops(name: str, denoiser: Denoiser, ids: Tensor, args: argparse.Namespace) -> None:
    """Whole steps against the plain loops, split into parts."""
    length, block, steps = args.length, args.block, args.steps
    with torch.no_grad():
        sure = probabilities(denoiser, masked(denoiser, ids[:1], length))[0, -length:].amax(-1)
    print(f"\n({name}) prompt {ids.shape[1]}, length {length}, blocks of {block}, batch {len(ids)};", end=" ")
    print(f"top-1 probability {sure.min():.2f} to {sure.max():.2f}, median {sure.median():.2f}")
    print(f"{'rule':12}{'NFE':>5}{'plain s':>9}{'ours s':>8}{'ratio':>7}{'same':>6}{'MiB':>12}{'ratio':>7}", end="")
    print(f"{'body':>8}{'head':>7}{'select':>8}{'rest':>7}{'select+rest':>13}{'floor':>7}  (ms a step)")
    rules: dict[str, tuple[Any, Callable[[], tuple[Tensor, int]] | None]] = {
        "quota": (ConfidenceSampler(steps_per_block=steps), lambda: quota_loop(denoiser, ids, length, block, steps)),
        "threshold": (
            ThresholdSampler(args.threshold), lambda: threshold_loop(denoiser, ids, length, block, args.threshold)
        ),
        "entropy": (
            EntropySampler(steps_per_block=steps), lambda: quota_loop(denoiser, ids, length, block, steps, True)
        ),
        "learned": (LearnedUnmaskingSampler(new_policy()), None),
        "masked": (LearnedUnmaskingSampler(new_policy(reads_revealed=False)), None),
    }  # fmt: skip
    for rule in args.rules:
        sampler, plain = rules[rule]
        clock = Clock()
        read, advancing.read = advancing.read, clock.timed("selection", advancing.read, minus="head")
        try:
            timed = Timed(sampler, clock)
            with Peak() as ours_peak:
                total, out = seconds(
                    lambda timed=timed, clock=clock: generate(
                        Clocked.of(denoiser, clock), ids, sampler=timed, attention_mask=torch.ones_like(ids),
                        max_new_tokens=length, block_length=block, return_dict_in_generate=True,
                    )
                )  # fmt: skip
        finally:
            advancing.read = read
        made = int(out.forwards_run.max())
        parts = [clock.body, clock.head, clock.selection, total - clock.body - clock.head - clock.selection]
        asked = torch.zeros(clock.read // made, denoiser.vocab_size)
        floor = min(seconds(lambda logits=asked: logits.amax(-1))[0] for _ in "ab")
        row, per_step = f"{rule:12}{made:5d}", total / made
        if plain is None:
            row += f"{'-':>9}{per_step:8.3f}{'-':>7}{'-':>6}{ours_peak.mib:12.0f}{'-':>7}"
        else:
            with Peak() as peak:
                spent, (tokens, passes) = seconds(plain)
            same = (tokens == out.sequences)[:, -length:].float().mean()
            memory = f"{ours_peak.mib:.0f}/{peak.mib:.0f}"
            ratio = per_step / (spent / passes)
            row += f"{spent / passes:9.3f}{per_step:8.3f}{ratio:7.2f}{same:6.0%}{memory:>12}"
            row += f"{ours_peak.mib / max(peak.mib, 1):7.2f}"
        row += "".join(f"{1e3 * part / made:{w}.1f}" for part, w in zip(parts, (8, 7, 8, 7), strict=True))
        print(row + f"{(parts[2] + parts[3]) / total:13.1%}{1e3 * floor:7.1f}", flush=True)


def caches(denoiser: Denoiser, args: argparse.Namespace) -> None:
    """Seconds with a growing prompt."""
    length, steps = 2 * args.block, args.cache_steps
    print(f"\ncaches on (b): seconds per row, their ratio to no cache; {length} positions in 2 blocks of {steps} steps")
    for size in args.prompts:
        ids = torch.randint(3, denoiser.vocab_size - 1, (1, size), generator=torch.Generator().manual_seed(size))
        spent = {}
        for mode in MODES:
            began = now()
            generate(
                denoiser, ids, sampler=ConfidenceSampler(steps_per_block=steps), max_new_tokens=length,
                block_length=args.block, cache=mode, attention_mask=torch.ones_like(ids),
                cache_refresh=args.cache_refresh if mode else None,
            )  # fmt: skip
            spent[mode] = now() - began
        found = "  ".join(f"{mode}: {s:.2f} ({s / spent[None]:.2f})" for mode, s in spent.items())
        print(f"prompt {size:5d}  {found}", flush=True)


MODES = (None, "prefix", "dual")


def accuracy(args: argparse.Namespace) -> None:
    """Caches on the embedded model."""
    model, tokenizer = load_tiny()
    print(f"\ncaches on (a): solved of {args.problems} test problems, threshold 0.9, one block or four")
    for task in ("chain_sum", "mini_sudoku"):
        problems, length = held_out(task, "test", args.problems), answer_length(task)
        prompts = [tokenizer(problem.prompt)["input_ids"] for problem in problems]
        settings = [(1, mode, None) for mode in MODES]  # long enough for the default
        settings += [(4, None, None), *((4, mode, length // part) for part in (8, 4) for mode in MODES[1:])]
        for blocks, mode, refresh in settings:
            rows = generate_stream(
                model, prompts, sampler=ThresholdSampler(0.9), slots=32, max_new_tokens=length,
                block_length=length // blocks, cache=mode, cache_refresh=refresh,
            )  # fmt: skip
            solved = nfe = 0
            for row, prompt, problem in zip(rows, prompts, problems, strict=True):
                text = tokenizer.decode(row.output.sequences[0, len(prompt) :], skip_special_tokens=True)
                solved += problem.solved_by(text)
                nfe += int(row.output.nfe)
            label = f"{length // blocks:2d}  {mode}" + (f", refresh {refresh}" if refresh else "")
            print(f"{task:12} {label:22} {solved / len(problems):6.1%}  NFE {nfe / len(problems):.2f}", flush=True)


def pool(args: argparse.Namespace) -> None:
    """Slots that are refilled, against batches."""
    model, tokenizer = load_tiny()
    denoiser, length = Denoiser.resolve(model), answer_length("chain_sum")
    prompts = [tokenizer(problem.prompt)["input_ids"] for problem in held_out("chain_sum", "test", args.problems)]
    options: dict[str, Any] = {
        "sampler": ThresholdSampler(0.9),
        "max_new_tokens": length,
        "block_length": length // 4,
    }
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt in prompts])
    real = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    batches = [slice(at, at + args.slots) for at in range(0, len(prompts), args.slots)]

    def plain() -> None:
        for batch in batches:
            threshold_loop(denoiser, ids[batch], length, length // 4, 0.9)

    def compacted() -> None:
        for batch in batches:
            generate(model, ids[batch], attention_mask=real[batch], **options)

    stream = generate_stream(model, prompts, slots=args.slots, **options)
    print(f"\nslots on (a): {len(prompts)} sums, {args.slots} slots, threshold 0.9")
    for name, function in (
        ("plain batches", plain),
        ("batches that rows leave", compacted),
        ("slots that are refilled", lambda: list(stream)),
    ):
        spent, _ = seconds(function)
        print(f"{name:26}{len(prompts) / spent:8.1f} rows/s")
    print(f"wasted row-slots: {stream.wasted:.1%}")


def rollouts(denoiser: Denoiser, args: argparse.Namespace) -> None:
    """The trainer's rollouts against the plain loop, seconds per row and step."""
    rows, policy, length = max(args.batches), new_policy(), 2 * args.block
    ids = torch.randint(3, denoiser.vocab_size - 1, (rows, args.prompt), generator=torch.Generator().manual_seed(1))
    spent, (steps, passes) = seconds(lambda: rollout_loop(denoiser, policy, ids, length, args.block))
    sampler = RecordingSampler(policy)
    ours, found = seconds(
        lambda: roll_out(denoiser, sampler, ids.tolist(), [length] * rows, torch.arange(rows), block_length=args.block)
    )
    mine = ours / int(found.steps.sum())
    print(f"\nrollouts on (b), {rows} rows of {length}:", end=" ")
    print(f"plain {spent / steps:.3f} s per row and step ({passes} passes),", end=" ")
    print(f"trainer {mine:.3f} s ({int(found.steps.max())} passes), {spent / steps / mine:.2f} times as fast")


def precision(denoiser: Denoiser, args: argparse.Namespace) -> None:
    """Threads and dtypes, by the clock on the wall: for an idle machine."""
    model, tokenizer = load_tiny()
    prompt = tokenizer(held_out("chain_sum", "test", 1)[0].prompt, return_tensors="pt")["input_ids"]
    ids = torch.randint(3, denoiser.vocab_size - 1, (1, args.prompt), generator=torch.Generator().manual_seed(0))
    before = torch.get_num_threads()
    for name, net, tokens, length in (("a", model, prompt, 40), ("b", denoiser.model, ids, args.block)):
        print(f"\nthreads and dtypes on ({name}): ms per pass, batch 1")
        sampler = ConfidenceSampler(steps_per_block=args.cache_steps)
        options = {"sampler": sampler, "max_new_tokens": length, "block_length": length}
        expected = None
        for dtype in (torch.float32, torch.bfloat16):
            made = Denoiser.from_model(copy.deepcopy(net).to(dtype))
            for threads in sorted({1, os.cpu_count() or 1}):
                torch.set_num_threads(threads)
                spent = []
                for _ in range(3):
                    began = time.perf_counter()
                    out = generate(made, tokens, attention_mask=torch.ones_like(tokens), **options)
                    spent.append(time.perf_counter() - began)
                expected = out if expected is None else expected
                same = (out == expected)[:, -length:].float().mean()
                cells = f"{str(dtype).removeprefix('torch.'):9} {threads} threads"
                milliseconds = 1e3 * min(spent) / args.cache_steps
                print(f"{cells} {milliseconds:8.1f}   tokens as with the first: {same:.0%}", flush=True)
    torch.set_num_threads(before)


def all_loops(denoiser: Denoiser, args: argparse.Namespace) -> None:
    """The table of each model and batch."""
    g = torch.Generator().manual_seed(0)
    for rows in args.batches:
        if "a" in args.models:
            model, tokenizer = load_tiny()
            sums = [tokenizer(problem.prompt)["input_ids"] for problem in held_out("chain_sum", "test", 300)]
            equal = [ids for ids in sums if len(ids) == len(sums[0])][:rows]
            small = argparse.Namespace(**{**vars(args), "length": 40, "block": 10, "threshold": 0.9})
            loops("a", Denoiser.resolve(model), torch.tensor(equal), small)
        ids = torch.randint(3, args.vocabulary - 1, (rows, args.prompt), generator=g)
        if "b" in args.models:
            loops("b", denoiser, ids, args)
        if "c" in args.models:
            vocabulary = args.vocabulary * 152_064 // 126_464
            shaped = random_model(vocabulary, args.hidden, max(args.hidden // 256, 1), args.layers, args.spread)
            loops("c", replace(Denoiser.from_model(shaped), shift=1), ids, args)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--full", action="store_true", help="the vocabularies and lengths of the real models")
    parser.add_argument("--tables", nargs="+", default=["loops", "cache", "pool", "rollouts", "precision"])
    parser.add_argument("--models", nargs="+", default=["a", "b", "c"])
    parser.add_argument("--rules", nargs="+", default=["quota", "threshold", "entropy", "learned", "masked"])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 4])
    parser.add_argument("--steps", type=int, default=2, help="of the quota rules, per block")
    parser.add_argument("--cache-steps", type=int, default=8, help="of the tables of caches and precision, per block")
    parser.add_argument("--cache-refresh", type=int, help="positions written between whole passes, in the first table")
    parser.add_argument("--threshold", type=float, default=0.3)
    parser.add_argument("--spread", type=float, default=6.0, help="standard deviation of random logits")
    parser.add_argument("--slots", type=int, default=8)
    sizes = {"vocabulary": (8192, 126_464), "hidden": (256, 1024), "layers": (4, 4), "prompt": (64, 512)}
    sizes |= {"length": (64, 256), "block": (16, 32), "problems": (64, 300)}
    for name in sizes:
        parser.add_argument(f"--{name}", type=int)
    parser.add_argument("--prompts", nargs="+", type=int)
    args = parser.parse_args()
    for name, (small, full) in sizes.items():
        if getattr(args, name) is None:
            setattr(args, name, full if args.full else small)
    args.prompts = args.prompts or ([128, 512, 2048] if args.full else [32, 128, 512])

    return args


def main() -> None:
    args = arguments()
    made = Denoiser.from_model(random_model(args.vocabulary, args.hidden, args.hidden // 64, args.layers, args.spread))
    warm = torch.full((1, 4), 3)
    generate(load_tiny()[0], warm, sampler=ConfidenceSampler(), max_new_tokens=8)  # what is imported and made only once
    if "loops" in args.tables:
        all_loops(made, args)
    if "cache" in args.tables:
        caches(made, args)
        accuracy(args)
    if "pool" in args.tables:
        pool(args)
    if "rollouts" in args.tables:
        rollouts(made, args)
    if "precision" in args.tables:
        precision(made, args)
    here = environment(made.device)
    print(f"\n{environment_line(here, 'python')}, {here['threads']} threads, float32, sdpa")


if __name__ == "__main__":
    main()
