"""All heuristics, tuned alike and compared under one protocol in the embedded environment.

    python examples/reproduce_tables.py --quick           # fewer problems, dials and block lengths: minutes
    python examples/reproduce_tables.py --out runs/tables      # everything; an estimate of the time is printed first
    torchrun --nproc-per-node 2 examples/reproduce_tables.py --out runs/tables   # the same results

1. Dials are chosen on validation problems, for each task, block length and rule by itself: all candidates of `grid` are
   run once, and of their Pareto set (accuracy against forward passes) five are kept, spread evenly over its range of
   forward passes; all of them if there are fewer. The choice is written to OUT/dials.json and used again.
2. The chosen dials are run on held-out test problems, deterministic rules once and stochastic ones with three seeds.
3. OUT/TASK gets results.json, samples.jsonl and the report of all block lengths together; the tables go to stdout.

Stopped and started again, it goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import statistics
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from hf_unmask import evaluate_samplers
from hf_unmask.demo import Setting, measure
from hf_unmask.evaluation.budgets import BudgetRow, Scores, budget_rows
from hf_unmask.evaluation.environment import weights_fingerprint
from hf_unmask.evaluation.frontier import best_under_budget, method_of, pareto_front, plane
from hf_unmask.evaluation.groups import groups, regime
from hf_unmask.evaluation.processes import Processes
from hf_unmask.evaluation.records import OperatingPoint, iter_samples, read_results, read_timings, write_results
from hf_unmask.evaluation.report import write_report
from hf_unmask.evaluation.scoring import TINY_METRICS
from hf_unmask.samplers import ConfidenceSampler
from hf_unmask.specs import parse_sampler
from hf_unmask.tiny import TASKS, answer_length, held_out, load_tiny

COUNTED = ("confidence", "margin", "entropy", "pc", "random", "left_to_right")
COUNTS = (1, 2, 3, 4, 5, 6, 8, 10)
THRESHOLDS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
FACTORS = (0.1, 0.3, 0.5, 0.7, 1.0, 1.3, 1.6, 1.9)
GAMMAS = (0.001, 0.01, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6)
KLASS = tuple((tau, eps) for tau in (0.3, 0.6, 0.9) for eps in (0.001, 0.01, 0.1))
BASES = (2, 3, 4, 6, 8)
SEEDS = (0, 1, 2)
BATCH_SIZE = 50
ADAPTIVE = 0.4  # forward passes per position that the first estimate expects of rules whose dial does not fix them


@dataclass(frozen=True)
class Plan:
    """How much is run."""

    problems: int  # per task, of "test"
    validation: int  # per task, of "validation"
    dials: int  # kept per rule
    stride: int  # every how many-th candidate of the grid is tried
    parts: tuple[int, ...]  # block lengths, as parts of the answer; 1 is full diffusion


FULL = Plan(problems=500, validation=100, dials=5, stride=1, parts=(8, 4, 2, 1))
QUICK = Plan(problems=50, validation=20, dials=3, stride=2, parts=(4, 1))


@dataclass(frozen=True)
class Cell:
    """One task at one block length: what is tuned by itself."""

    task: str
    block_length: int | None

    @property
    def name(self) -> str:
        return "full" if self.block_length is None else f"blocks-{self.block_length}"

    @property
    def width(self) -> int:
        return self.block_length or answer_length(self.task)


def cells(plan: Plan) -> list[Cell]:
    return [Cell(task, None if n == 1 else answer_length(task) // n) for task in TASKS for n in plan.parts]


def grid(cell: Cell, stride: int) -> dict[str, list[str]]:
    """Candidates by rule. More tokens per step than a block has are no other dial."""
    found = {rule: [f"{rule}:k={k}" for k in COUNTS if k <= cell.width] for rule in COUNTED}
    found["dilated"] = [f"dilated:base={base}" for base in BASES if base <= cell.width]
    found["threshold"] = [f"threshold:threshold={value}" for value in THRESHOLDS]
    found["eos_suppress(threshold)"] = [f"eos_suppress(threshold:threshold={value})" for value in THRESHOLDS]
    found["factor"] = [f"factor:factor={value}" for value in FACTORS]
    found["entropy_bound"] = [f"entropy_bound:gamma={value}" for value in GAMMAS]
    found["klass"] = [f"klass:tau={tau};eps={eps}" for tau, eps in KLASS]
    found["credit"] = [f"credit:threshold={value}" for value in THRESHOLDS]
    return {rule: [str(parse_sampler(spec)) for spec in specs[::stride]] for rule, specs in found.items()}


def chosen(points: Sequence[OperatingPoint], count: int) -> dict[str, float]:
    """The dials of a rule to keep, with their forward passes."""
    distinct: dict[tuple[float, float], str] = {}
    for point in points:
        distinct.setdefault((point.nfe_mean, point.accuracy), point.setting.sampler)
    measured = list(distinct)
    front = [measured[place] for place in pareto_front(measured)]
    if len(front) > count:
        low, high = front[0][0], front[-1][0]
        front = nearest(front, [low + (high - low) * number / (count - 1) for number in range(count)])
    return {distinct[point]: point[0] for point in front}


def nearest(front: Sequence[tuple[float, float]], targets: Sequence[float]) -> list[tuple[float, float]]:
    """For each target the point of nearest cost that no earlier target took, by rising cost."""
    left = list(front)
    for target in targets:
        left.remove(min(left, key=lambda point: abs(point[0] - target)))
    return [point for point in front if point not in left]


# --------------------------------------------------------------------------------------------------------------- runs


class Run:
    """The stages, in a folder."""

    def __init__(self, plan: Plan, out: Path):
        self.plan, self.out = plan, out
        self.model, self.tokenizer = load_tiny()
        self.here = Processes.here()
        self.cells = cells(plan)
        self.unit = {task: self._unit(task) for task in TASKS}

    def say(self, text: str) -> None:
        if self.here.first:
            print(text, flush=True)

    def evaluate(self, cell: Cell, split: str, specs: Sequence[str]) -> list[OperatingPoint]:
        tuning = split == "validation"
        return evaluate_samplers(
            self.model,
            self.tokenizer,
            f"tiny:{cell.task}:{split}",
            TINY_METRICS[cell.task],
            list(specs),
            block_lengths=[cell.block_length],
            seeds=SEEDS[:1] if tuning else SEEDS,
            batch_size=BATCH_SIZE,
            max_new_tokens=answer_length(cell.task),
            limit=self.plan.validation if tuning else self.plan.problems,
            out=self.folder(cell, split),
            model_name="tiny",
        )

    def folder(self, cell: Cell, split: str) -> Path:
        return self.out / cell.task / split / cell.name

    def dials(self) -> dict[str, dict[str, dict[str, float]]]:
        """Per cell and rule the dials to run, with their forward passes; chosen now, or read if they were before."""
        path = self.out / "dials.json"
        plan = {"validation": self.plan.validation, "dials": self.plan.dials, "stride": self.plan.stride}
        content: dict[str, Any] = {"weights": weights_fingerprint(self.model), **plan, "chosen": {}}
        if path.exists():
            there = json.loads(path.read_text("utf-8"))
            if {**there, "chosen": {}} != content:
                raise SystemExit(f"{path} was made for other weights or another plan: choose another --out")
            content = there
        for cell in self.cells:
            name = f"{cell.task}/{cell.name}"
            if name not in content["chosen"]:
                content["chosen"][name] = self._tune(cell)
                if self.here.first:
                    path.write_text(json.dumps(content, indent=1) + "\n", "utf-8")
        return content["chosen"]

    def _tune(self, cell: Cell) -> dict[str, dict[str, float]]:
        rules = grid(cell, self.plan.stride)
        points = self.evaluate(cell, "validation", [spec for specs in rules.values() for spec in specs])
        by_spec = {point.setting.sampler: point for point in points}
        return {rule: chosen([by_spec[spec] for spec in specs], self.plan.dials) for rule, specs in rules.items()}

    # ------------------------------------------------------------------------------------------------------- estimates

    def _unit(self, task: str) -> float:
        """Seconds that one forward pass of one row takes here, in a full batch."""
        problems = held_out(task, "validation", BATCH_SIZE)
        setting = Setting(task, None, ConfidenceSampler(k=8))
        rows = [measure(self.model, self.tokenizer, setting, problems) for _ in range(2)]  # the first pays for set-up
        return rows[-1].seconds_per_sequence / rows[-1].nfe

    def first_estimate(self) -> tuple[float, float]:
        """Seconds for tuning and test, before anything is known of the dials."""
        tuning = test = 0.0
        for cell in self.cells:
            for specs in grid(cell, self.plan.stride).values():
                forwards = [expected(spec, cell) for spec in specs]
                tuning += self.unit[cell.task] * sum(forwards) * self.plan.validation
                kept = min(self.plan.dials, len(specs))
                test += self.unit[cell.task] * statistics.mean(forwards) * kept * self.plan.problems * runs(specs[0])
        return tuning / self.here.count, test / self.here.count

    def second_estimate(self, dials: dict[str, dict[str, dict[str, float]]]) -> float:
        """Seconds for the test, from the forward passes that the dials took on validation."""
        return sum(
            self.unit[name.partition("/")[0]] * forwards * self.plan.problems * runs(spec) / self.here.count
            for name, rules in dials.items()
            for rule in rules.values()
            for spec, forwards in rule.items()
        )


def expected(spec: str, cell: Cell) -> float:
    """Forward passes per answer, as far as the dial tells."""
    length, k = answer_length(cell.task), getattr(parse_sampler(spec), "k", None)
    return ADAPTIVE * length if k is None else length / cell.width * math.ceil(cell.width / k)


def runs(spec: str) -> int:
    return len(SEEDS) if parse_sampler(spec).stochastic else 1


def merge(parts: Sequence[Path], target: Path) -> None:
    """One folder for all block lengths of a task, as a report reads it."""
    with (target / "samples.jsonl").open("wb") as whole:
        for part in parts:
            with (part / "samples.jsonl").open("rb") as file:
                shutil.copyfileobj(file, whole)
    write_results(target / "results.json", [point for part in parts for point in read_results(part / "results.json")])


# ------------------------------------------------------------------------------------------------------------- tables


def scores_in(path: Path) -> Scores:
    """Mean score per setting and prompt."""
    found: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for sample in iter_samples(path):
        found[sample.setting.key][sample.prompt_id].append(sample.score)
    return {key: {prompt: statistics.mean(values) for prompt, values in rows.items()} for key, rows in found.items()}


def tables(folder: Path) -> Iterator[str]:
    """Markdown, one table per block length: every rule's best dial within each budget, and who is best overall."""
    found = groups(read_results(folder / "results.json"))
    for (group, name), rows in groupby(
        budget_rows(found, scores_in(folder / "samples.jsonl")), key=lambda row: (row.group, row.regime)
    ):
        in_order = list(rows)
        yield table(f"{group.title}, {name}", group.in_regime(name), in_order)


def table(title: str, points: Sequence[OperatingPoint], rows: Sequence[BudgetRow]) -> str:
    budgets = [f"at most {row.budget:g} NFE" for row in rows]
    lines = [
        f"**{title}**: accuracy in % (NFE) [95 % interval]",
        "",
        line([title, *budgets]),
        line(["---"] * (len(rows) + 1)),
    ]
    methods: dict[str, list[OperatingPoint]] = defaultdict(list)
    for point in points:
        methods[method_of(point.setting.sampler)].append(point)
    for method, dials in methods.items():
        places = [best_under_budget(plane(dials), row.budget) for row in rows]
        lines.append(line([f"`{method}`", *(shown(None if at is None else dials[at]) for at in places)]))
    lines.append(line(["**best in this regime**", *(named(row.best) for row in rows)]))
    lines.append(line(["**best heuristic at any block length**", *(named(row.heuristic) for row in rows)]))
    lines.append(line(["the former is, against the latter", *(verdict(row) for row in rows)]))
    return "\n".join(lines) + "\n"


def line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def shown(point: OperatingPoint | None) -> str:
    return "-" if point is None else f"{100 * point.accuracy:.1f} ({point.nfe_mean:.1f})"


def named(point: OperatingPoint | None) -> str:
    if point is None:
        return "-"
    low, high = point.accuracy_interval
    where = f"`{point.setting.sampler}`, {regime(point.setting)}"
    return f"{shown(point)} [{100 * low:.1f}, {100 * high:.1f}] {where}"


def verdict(row: BudgetRow) -> str:
    if row.best is None:
        return "-"
    return "the same" if row.against_heuristic is None else row.against_heuristic.verdict


# --------------------------------------------------------------------------------------------------------------- main


def minutes(seconds: float) -> str:
    return f"{seconds / 60:.1f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"


def carry_out(run: Run) -> None:
    units = ", ".join(f"{task} {1000 * seconds:.2f} ms" for task, seconds in run.unit.items())
    tuning, test = run.first_estimate()
    run.say(
        f"One forward pass of one row takes {units} ({run.here.count} processes). Estimate without what is there "
        f"already: {minutes(tuning)} to choose dials, {minutes(test)} for the test, {minutes(tuning + test)} in all."
    )
    dials = run.dials()
    run.say(f"Dials: {run.out / 'dials.json'}. The test with these takes about {minutes(run.second_estimate(dials))}.")
    for cell in run.cells:
        rules = dials[f"{cell.task}/{cell.name}"]
        run.evaluate(cell, "test", [spec for rule in rules.values() for spec in rule])
    if not run.here.first:
        return
    for task in TASKS:
        merge([run.folder(cell, "test") for cell in run.cells if cell.task == task], run.out / task)
        write_report(run.out / task, tokenizer=run.tokenizer)
        run.say(f"\n## {task}, {run.plan.problems} test problems\n")
        for text in tables(run.out / task):
            run.say(text)
        run.say(f"Report: {run.out / task / 'report.html'}\n")
    spent = sum(t.denoiser + t.sampler + t.rest for path in run.out.rglob("timings.jsonl") for t in read_timings(path))
    run.say(f"All answers together took {minutes(spent)} of generation, stopped runs included.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="folder for all results [default: runs/tables, or runs/tables-quick]")
    parser.add_argument("--quick", action="store_true", help="at most ten minutes on two cores")
    args = parser.parse_args()
    started = time.perf_counter()
    out = args.out or Path("runs") / ("tables-quick" if args.quick else "tables")
    out.mkdir(parents=True, exist_ok=True)
    run = Run(QUICK if args.quick else FULL, out)
    carry_out(run)
    run.say(f"This run took {minutes(time.perf_counter() - started)}.")


if __name__ == "__main__":
    main()
