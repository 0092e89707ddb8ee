"""Why rules that follow confidence one by one fail on sums in full diffusion: what opens first, what the answers lack.

    python examples/benchmarks/full_diffusion_failures.py --split test --limit 300

For each rule the right and the wrong answers: of the tokens that open first the share that is padding (EOS), and how
much of the work is written out: an equation for every operation of the sum, some of them, or none.
"""

from __future__ import annotations

import argparse
from collections import Counter
from dataclasses import dataclass
from typing import Any

from hf_unmask.cli.demo_measuring import BATCH_SIZE, Setting, answer
from hf_unmask.evaluation.environment import environment, environment_line
from hf_unmask.results.markdown import code, table
from hf_unmask.samplers.specs import parse_sampler
from hf_unmask.tiny import HeldOut, answer_length, held_out, load_tiny

RULES = ("confidence", "margin", "entropy")
TASK = "chain_sum"
FIRST = 10  # of the tokens of an answer
WORK = ("all", "some", "none")


@dataclass(frozen=True)
class Answer:
    """One answer of a rule."""

    right: bool
    padding: float  # share of the first tokens to open
    work: str  # one of `WORK`


def work_in(text: str, prompt: str) -> str:
    """How many operations of the sum have an equation in its answer."""
    written, operations = text.count("="), sum(prompt.count(sign) for sign in "+-")
    return "all" if written >= operations else "some" if written else "none"


def answers(model: Any, tokenizer: Any, spec: str, problems: list[HeldOut]) -> list[Answer]:
    """The answers of a rule in full diffusion."""
    setting, length = Setting(TASK, None, parse_sampler(spec)), answer_length(TASK)
    found = []
    for start in range(0, len(problems), BATCH_SIZE):
        batch = problems[start : start + BATCH_SIZE]
        texts, output = answer(model, tokenizer, setting, [problem.prompt for problem in batch])
        first = output.step_map[:, -length:].argsort(stable=True)[:, :FIRST]
        padding = output.sequences[:, -length:].gather(1, first) == tokenizer.eos_token_id
        for problem, text, share in zip(batch, texts, padding.float().mean(-1).tolist(), strict=True):
            found.append(Answer(problem.solved_by(text), share, work_in(text, problem.prompt)))
    return found


def line(spec: str, found: list[Answer], right: bool) -> list[str]:
    """The right or the wrong answers of a rule, as cells."""
    own = [one for one in found if one.right == right]
    if not own:
        return [code(spec), "right" if right else "wrong", "0", *("-" for _ in ("padding", *WORK))]
    work = Counter(one.work for one in own)
    padding = f"{100 * sum(one.padding for one in own) / len(own):.0f} %"
    return [code(spec), "right" if right else "wrong", str(len(own)), padding, *(str(work[name]) for name in WORK)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--split", choices=("validation", "test"), default="validation")
    parser.add_argument("--limit", type=int, default=100, help="problems")
    args = parser.parse_args()
    model, tokenizer = load_tiny()
    problems = held_out(TASK, args.split, args.limit)
    lines = []
    for spec in RULES:
        found = answers(model, tokenizer, spec, problems)
        lines += [line(spec, found, right) for right in (True, False)]
    heads = ["rule", "answers", "number", f"padding among the first {FIRST} tokens", *(f"work: {n}" for n in WORK)]
    print(table(heads, lines))
    here = environment(model.device)
    print(f"\n{args.split}, {len(problems)} problems, {environment_line(here)}, {here['threads']} threads")


if __name__ == "__main__":
    main()
