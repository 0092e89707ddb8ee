"""All heuristics, tuned alike and compared under one protocol in the embedded environment.

    torchrun --nproc-per-node 2 examples/benchmarks/reproduce_tables.py  # two of one thread: quickest on two cores
    python examples/benchmarks/reproduce_tables.py                       # the same tables from one process
    python examples/benchmarks/reproduce_tables.py --quick               # fewer problems and dials: minutes

1. Dials are chosen on validation problems, for each task, block length and rule by itself: all candidates of `grid` are
   run once, and of their Pareto set (accuracy against forward passes) five are kept, spread evenly over its range of
   forward passes; all of them if there are fewer. The choice is written to OUT/dials.json and used again.
2. The chosen dials are run on held-out test problems, deterministic rules once and stochastic ones with three seeds.
3. OUT/TASK gets results.json, samples.jsonl and the report of all block lengths together; the tables go to stdout.
   With --readme the overview tables and the plots are put into a README as well.

The time it will take is printed first, and what is left of it before every stage. Stopped and started again, it goes
on where it was.
"""

from __future__ import annotations

import argparse
import json
import math
import shlex
import shutil
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_unmask import evaluate_samplers
from hf_unmask.cli.demo_measuring import Setting, measure
from hf_unmask.evaluation.environment import weights_fingerprint
from hf_unmask.evaluation.processes import Processes
from hf_unmask.evaluation.scoring import TINY_METRICS
from hf_unmask.report.writing import write_report
from hf_unmask.results.folder import Contents, read_contents
from hf_unmask.results.frontier import pareto_front
from hf_unmask.results.records import OperatingPoint, read_results, read_timings, write_results
from hf_unmask.results.summary_tables import overview
from hf_unmask.samplers import ConfidenceSampler
from hf_unmask.samplers.specs import parse_sampler
from hf_unmask.tiny import TASKS, answer_length, held_out, load_tiny

COUNTED = ("confidence", "margin", "entropy", "pc", "random", "left_to_right")
COUNTS = (1, 2, 3, 4, 5, 6, 8, 10)
THRESHOLDS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
FACTORS = (0.1, 0.3, 0.5, 0.7, 1.0, 1.3, 1.6, 1.9)
GAMMAS = (0.001, 0.01, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6)
KLASS = tuple((tau, eps) for tau in (0.3, 0.6, 0.9) for eps in (0.001, 0.01, 0.1))
BASES = (2, 3, 4, 6, 8)
SEEDS = (0, 1, 2)
BATCH_SIZE = 50  # more rows leave the processor's cache, fewer gain nothing
ADAPTIVE = 0.3  # forward passes per position that the first estimate expects of rules whose dial does not fix them
SPLITS = ("validation", "test")
START, END = "<!-- tables:start -->", "<!-- tables:end -->"


@dataclass(frozen=True)
class Plan:
    """How much is run."""

    problems: int  # per task, of "test"
    validation: int  # per task, of "validation"
    dials: int  # kept per rule
    stride: int  # every how many-th candidate of the grid is tried
    parts: tuple[int, ...]  # block lengths, as parts of the answer; 1 is full diffusion


FULL = Plan(problems=500, validation=100, dials=5, stride=1, parts=(4, 2, 1))
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
    def key(self) -> str:
        return f"{self.task}/{self.name}"

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


def evaluate_cell(
    model: Any, tokenizer: Any, cell: Cell, split: str, specs: Sequence[str], **options: Any
) -> list[OperatingPoint]:
    """Samplers on the held-out problems of a cell; ``options`` as those of `evaluate_samplers`."""
    return evaluate_samplers(
        model,
        tokenizer,
        f"tiny:{cell.task}:{split}",
        TINY_METRICS[cell.task],
        list(specs),
        block_lengths=[cell.block_length],
        batch_size=BATCH_SIZE,
        max_new_tokens=answer_length(cell.task),
        model_name="tiny",
        **options,
    )


class Run:
    """The stages, in a folder: each cell on validation problems, then each on test problems."""

    def __init__(self, plan: Plan, out: Path):
        self.plan, self.out = plan, out
        self.model, self.tokenizer = load_tiny()
        self.here = Processes.here()
        self.cells = cells(plan)
        self.stages = [(cell, split) for split in SPLITS for cell in self.cells]
        self.seconds = {task: self._measured(task) for task in TASKS}  # of one forward pass of one row
        self.chosen = self._chosen_before()  # by cell and rule the dials, with their forward passes on validation

    def say(self, text: str) -> None:
        if self.here.first:
            print(text, flush=True)

    def folder(self, cell: Cell, split: str) -> Path:
        return self.out / cell.task / split / cell.name

    def stage(self, cell: Cell, split: str) -> None:
        """Evaluate a cell on a split; after validation choose its dials."""
        rules = grid(cell, self.plan.stride) if split == "validation" else self.chosen[cell.key]
        if split == "validation" and cell.key in self.chosen:
            return
        specs = [spec for found in rules.values() for spec in found]
        place = f"[{self.stages.index((cell, split)) + 1} of {len(self.stages)}] {cell.key}, {split}"
        self.say(f"{place}: {len(specs)} samplers; about {duration(self.ahead())} of generation to go")
        points = self._evaluate(cell, split, specs)
        self.seconds[cell.task] = seconds_per_forward(points)
        if split == "validation":
            by_spec = {point.setting.sampler: point for point in points}
            kept = {rule: chosen([by_spec[s] for s in found], self.plan.dials) for rule, found in rules.items()}
            self.chosen[cell.key] = kept
            self._keep_choice()

    def _evaluate(self, cell: Cell, split: str, specs: Sequence[str]) -> list[OperatingPoint]:
        tuning = split == "validation"
        return evaluate_cell(
            self.model,
            self.tokenizer,
            cell,
            split,
            specs,
            seeds=SEEDS[:1] if tuning else SEEDS,
            limit=self.plan.validation if tuning else self.plan.problems,
            out=self.folder(cell, split),
        )

    # ----------------------------------------------------------------------------------------------------------- dials

    @property
    def dials_file(self) -> Path:
        return self.out / "dials.json"

    def _made_for(self) -> dict[str, Any]:
        plan = {"validation": self.plan.validation, "dials": self.plan.dials, "stride": self.plan.stride}
        return {"weights": weights_fingerprint(self.model), **plan}

    def _chosen_before(self) -> dict[str, dict[str, dict[str, float]]]:
        if not self.dials_file.exists():
            return {}
        there = json.loads(self.dials_file.read_text("utf-8"))
        found = there.pop("chosen")
        if there != self._made_for():
            raise SystemExit(f"{self.dials_file} was made for other weights or another plan: choose another --out")
        return found

    def _keep_choice(self) -> None:
        if self.here.first:
            partial = self.dials_file.with_suffix(".tmp")
            partial.write_text(json.dumps({**self._made_for(), "chosen": self.chosen}, indent=1) + "\n", "utf-8")
            partial.replace(self.dials_file)

    # ------------------------------------------------------------------------------------------------------- estimates

    def _measured(self, task: str) -> float:
        """Seconds that one forward pass of one row takes here, in a full batch."""
        problems = held_out(task, "validation", BATCH_SIZE)
        setting = Setting(task, None, ConfidenceSampler(k=8))
        rows = [measure(self.model, self.tokenizer, setting, problems) for _ in range(2)]  # the first pays for set-up
        return rows[-1].seconds_per_sequence / rows[-1].nfe

    def ahead(self) -> float:
        """Seconds that the stages not yet finished will generate for, as far as one can tell."""
        left = [stage for stage in self.stages if not (self.folder(*stage) / "results.json").exists()]
        return sum(self.seconds[cell.task] * self._forwards(cell, split) for cell, split in left) / self.here.count

    def _forwards(self, cell: Cell, split: str) -> float:
        """Forward passes of a stage, over all rows: from the dials if they are chosen, else from the candidates."""
        candidates = {
            rule: [expected(spec, cell) for spec in specs] for rule, specs in grid(cell, self.plan.stride).items()
        }
        if split == "validation":
            return self.plan.validation * sum(map(sum, candidates.values()))
        known = self.chosen.get(cell.key)
        if known is not None:
            return self.plan.problems * sum(nfe * runs(spec) for dials in known.values() for spec, nfe in dials.items())
        kept = {rule: statistics.mean(each) * min(self.plan.dials, len(each)) for rule, each in candidates.items()}
        return self.plan.problems * sum(forwards * runs(rule) for rule, forwards in kept.items())


def expected(spec: str, cell: Cell) -> float:
    """Forward passes per answer, as far as the dial tells."""
    length, k = answer_length(cell.task), getattr(parse_sampler(spec), "k", None)
    return ADAPTIVE * length if k is None else length / cell.width * math.ceil(cell.width / k)


def runs(spec: str) -> int:
    return len(SEEDS) if parse_sampler(spec).stochastic else 1


def seconds_per_forward(points: Sequence[OperatingPoint]) -> float:
    """Of one row, as the points of a stage were measured."""
    answers = [point.prompts * len(point.seeds) for point in points]
    seconds = sum(n * point.seconds_per_sequence["total"] for n, point in zip(answers, points, strict=True))
    return seconds / sum(n * point.nfe_mean for n, point in zip(answers, points, strict=True))


# ------------------------------------------------------------------------------------------------------------- results


def merge(parts: Sequence[Path], target: Path) -> None:
    """One folder for all block lengths of a task, as a report reads it."""
    with (target / "samples.jsonl").open("wb") as whole:
        for part in parts:
            with (part / "samples.jsonl").open("rb") as file:
                shutil.copyfileobj(file, whole)
    write_results(target / "results.json", [point for part in parts for point in read_results(part / "results.json")])


def publish(run: Run, readme: Path, command: str) -> None:
    """Put the overview tables and the plots between the marks of a README; the plots lie in examples/figures."""
    check_marks(readme, START, END)
    figures = readme.parent / "examples" / "figures"
    figures.mkdir(parents=True, exist_ok=True)
    parts = []
    for task in TASKS:
        contents = read_contents(run.out / task)
        (group,) = contents.groups
        shutil.copyfile(run.out / task / f"frontier-{group.slug}.png", figures / f"{task}.png")
        shutil.copyfile(run.out / task / "tables.md", figures / f"{task}.md")
        picture = f"![{task}: accuracy against forward passes and seconds](examples/figures/{task}.png)"
        parts += [overview(group, [row for row in contents.budgets if row.group == group]), picture]
    links = " and ".join(f"[{task}](examples/figures/{task}.md)" for task in TASKS)
    parts += [f"All rules at every budget: {links}.", f"({provenance(run, contents)}; `{command}`)"]
    put_between(readme, START, END, parts)


def check_marks(readme: Path, start: str, end: str) -> str:
    """The text of a file that holds both marks once each."""
    text = readme.read_text("utf-8")
    if text.count(start) != 1 or text.count(end) != 1:
        raise SystemExit(f"{readme} must hold {start} and {end} once each")
    return text


def put_between(readme: Path, start: str, end: str, parts: Sequence[str]) -> None:
    """Replace what stands between the marks of a file."""
    text = check_marks(readme, start, end)
    before, after = text.partition(start)[0], text.partition(end)[2]
    readme.write_text("\n\n".join([before + start, *parts, end + after]), "utf-8")


def provenance(run: Run, contents: Contents) -> str:
    facts = contents.points[0].environment
    versions = ", ".join(f"{name} {facts['versions'][name]}" for name in ("hf_unmask", "torch", "transformers"))
    return (
        f"{run.plan.problems} test problems per task, dials chosen on {run.plan.validation} validation problems, "
        f"stochastic rules with {len(SEEDS)} seeds, {facts['date'][:10]}, {versions}, {facts['hardware']}"
    )


# --------------------------------------------------------------------------------------------------------------- main


def duration(seconds: float) -> str:
    return f"{seconds / 60:.1f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"


def carry_out(run: Run) -> None:
    units = ", ".join(f"{task} {1000 * seconds:.2f} ms" for task, seconds in run.seconds.items())
    count = f"{run.here.count} process{'es' if run.here.count > 1 else ''}"
    run.say(
        f"One forward pass of one row takes {units} ({count}). Estimate: {duration(run.ahead())} of generation, "
        "finished stages left out; statistics and reports take some minutes more."
    )
    for cell, split in run.stages:
        run.stage(cell, split)
    if not run.here.first:
        return
    for task in TASKS:
        merge([run.folder(cell, "test") for cell in run.cells if cell.task == task], run.out / task)
        write_report(run.out / task, tokenizer=run.tokenizer)
        run.say(f"\n{(run.out / task / 'tables.md').read_text('utf-8')}")
        run.say(f"{run.plan.problems} test problems. Report: {run.out / task / 'report.html'}")
    spent = sum(t.denoiser + t.sampler + t.rest for path in run.out.rglob("timings.jsonl") for t in read_timings(path))
    run.say(f"All answers together took {duration(spent)} of generation, summed over processes and stopped runs.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="folder for all results [default: runs/tables, or runs/tables-quick]")
    parser.add_argument("--quick", action="store_true", help="at most ten minutes on two cores")
    parser.add_argument("--readme", type=Path, help="put overview tables and plots into this file")
    args = parser.parse_args()
    if args.quick and args.readme:
        parser.error("--readme is for the whole run, not for --quick")
    started = time.perf_counter()
    out = args.out or Path("runs") / ("tables-quick" if args.quick else "tables")
    out.mkdir(parents=True, exist_ok=True)
    run = Run(QUICK if args.quick else FULL, out)
    carry_out(run)
    if args.readme and run.here.first:
        starter = ["torchrun", "--nproc-per-node", str(run.here.count)] if run.here.count > 1 else ["python"]
        publish(run, args.readme, shlex.join([*starter, *sys.argv]))
    run.say(f"This run took {duration(time.perf_counter() - started)}.")


if __name__ == "__main__":
    main()
