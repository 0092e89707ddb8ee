"""All heuristics, tuned alike and compared under one protocol in the embedded environment.

    torchrun --nproc-per-node 2 examples/benchmarks/reproduce_tables.py  # two of one thread: quickest on two cores
    python examples/benchmarks/reproduce_tables.py                       # the same tables from one process
    python examples/benchmarks/reproduce_tables.py --quick               # fewer problems and dials: minutes

1. Dials are chosen on validation problems, for each task, block length and rule by itself: all candidates of
   `heuristic_dials` are run once, and of each rule the most accurate one within each budget of the tables is kept, the
   same budgets for all block lengths. The choice is written to OUT/dials.json and used again.
2. The chosen dials are run on held-out test problems, deterministic rules once and stochastic ones with three seeds.
3. OUT/TASK gets results.json, samples.jsonl and the report of all block lengths together; the tables go to stdout.
   With --readme the overview tables are put into a README as well.

The time it will take is printed first, and what is left of it before every stage. Stopped and started again, it goes
on where it was.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from hf_unmask.cli.demo_measuring import Setting, measure
from hf_unmask.evaluation.environment import environment_line, weights_fingerprint
from hf_unmask.evaluation.processes import Processes
from hf_unmask.evaluation.tuning import SEEDS, Cell, heuristic_dials, kept_dials
from hf_unmask.report.writing import write_report
from hf_unmask.results.best_per_budget import SHARES
from hf_unmask.results.folder import Contents, read_contents
from hf_unmask.results.markdown import check_marks, put_between
from hf_unmask.results.records import OperatingPoint, read_results, read_timings, write_results
from hf_unmask.results.summary_tables import overview
from hf_unmask.samplers import ConfidenceSampler
from hf_unmask.samplers.specs import parse_sampler
from hf_unmask.tiny import TASKS, answer_length, held_out, load_tiny

BATCH_SIZE = 50  # more rows leave the processor's cache, fewer gain nothing
SPLITS = ("validation", "test")
MARKS = "tables"  # in the README


@dataclass(frozen=True)
class Plan:
    """How much is run."""

    problems: int  # per task, of "test"
    validation: int  # per task, of "validation"
    stride: int  # every how many-th candidate of the grid is tried
    parts: tuple[int, ...]  # block lengths, as parts of the answer; 1 is full diffusion


FULL = Plan(problems=500, validation=100, stride=1, parts=(4, 2, 1))
QUICK = Plan(problems=50, validation=20, stride=2, parts=(4, 1))


def cells(plan: Plan) -> list[Cell]:
    return [Cell(task, None if n == 1 else answer_length(task) // n) for task in TASKS for n in plan.parts]


# --------------------------------------------------------------------------------------------------------------- runs


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

    def folder(self, cell: Cell, split: str) -> Path:
        return self.out / cell.task / split / cell.name

    def stage(self, cell: Cell, split: str) -> None:
        """Evaluate a cell on a split; after validation choose its dials."""
        rules = heuristic_dials(cell.width, self.plan.stride) if split == "validation" else self.chosen[cell.key]
        if split == "validation" and cell.key in self.chosen:
            return
        specs = [spec for found in rules.values() for spec in found]
        place = f"[{self.stages.index((cell, split)) + 1} of {len(self.stages)}] {cell.key}, {split}"
        self.here.say(f"{place}: {len(specs)} samplers; about {self.ahead()} of generation to go")
        points = self._evaluate(cell, split, specs)
        self.seconds[cell.task] = seconds_per_forward(points)
        if split == "validation":
            by_spec = {point.setting.sampler: point for point in points}
            kept = {rule: kept_dials([by_spec[s] for s in found]) for rule, found in rules.items()}
            self.chosen[cell.key] = kept
            self._keep_choice()

    def _evaluate(self, cell: Cell, split: str, specs: Sequence[str]) -> list[OperatingPoint]:
        return cell.evaluate(
            self.model,
            self.tokenizer,
            split,
            specs,
            batch_size=BATCH_SIZE,
            limit=self.plan.validation if split == "validation" else self.plan.problems,
            out=self.folder(cell, split),
        )

    # ----------------------------------------------------------------------------------------------------------- dials

    @property
    def dials_file(self) -> Path:
        return self.out / "dials.json"

    def _made_for(self) -> dict[str, Any]:
        plan = {"validation": self.plan.validation, "stride": self.plan.stride}
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

    def ahead(self) -> str:
        """For how long the stages not yet finished will generate, as far as one can tell."""
        left = [stage for stage in self.stages if not (self.folder(*stage) / "results.json").exists()]
        forwards = (self.seconds[cell.task] * self._forwards(cell, split) for cell, split in left)
        return tqdm.format_interval(sum(forwards) / self.here.count)

    def _forwards(self, cell: Cell, split: str) -> float:
        """Forward passes of a stage, over all rows: from the dials if they are chosen, else from the candidates."""
        dials = heuristic_dials(cell.width, self.plan.stride)
        candidates = {rule: list(map(cell.expected_forwards, specs)) for rule, specs in dials.items()}
        if split == "validation":
            return self.plan.validation * sum(map(sum, candidates.values()))
        known = self.chosen.get(cell.key)
        if known is not None:
            return self.plan.problems * sum(nfe * runs(spec) for dials in known.values() for spec, nfe in dials.items())
        kept = {rule: statistics.mean(each) * min(len(SHARES), len(each)) for rule, each in candidates.items()}
        return self.plan.problems * sum(forwards * runs(rule) for rule, forwards in kept.items())


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
    """Put the overview tables between the marks of a README; those with all rules lie in examples/figures."""
    check_marks(readme, MARKS)
    figures = readme.parent / "examples" / "figures"
    figures.mkdir(parents=True, exist_ok=True)
    parts = []
    for task in TASKS:
        contents = read_contents(run.out / task)
        (group,) = contents.groups
        shutil.copyfile(run.out / task / "tables.md", figures / f"{task}.md")
        parts.append(overview(group, [row for row in contents.budgets if row.group == group]))
    links = " and ".join(f"[{task}](examples/figures/{task}.md)" for task in TASKS)
    parts += [f"All rules at every budget: {links}.", f"({provenance(run, contents)}; `{command}`)"]
    put_between(readme, MARKS, parts)


def provenance(run: Run, contents: Contents) -> str:
    return (
        f"{run.plan.problems} test problems per task; of each rule and block length the dials that were best within "
        f"each budget on {run.plan.validation} validation problems; intervals cover prompts only; "
        f"stochastic rules with {len(SEEDS)} seeds, {environment_line(contents.points[0].environment)}"
    )


# --------------------------------------------------------------------------------------------------------------- main


def carry_out(run: Run) -> None:
    units = ", ".join(f"{task} {1000 * seconds:.2f} ms" for task, seconds in run.seconds.items())
    count = f"{run.here.count} process{'es' if run.here.count > 1 else ''}"
    run.here.say(
        f"One forward pass of one row takes {units} ({count}). Estimate: {run.ahead()} of generation, "
        "finished stages left out; statistics and reports take some minutes more."
    )
    for cell, split in run.stages:
        run.stage(cell, split)
    if not run.here.first:
        return
    for task in TASKS:
        merge([run.folder(cell, "test") for cell in run.cells if cell.task == task], run.out / task)
        write_report(run.out / task, tokenizer=run.tokenizer)
        run.here.say(f"\n{(run.out / task / 'tables.md').read_text('utf-8')}")
        run.here.say(f"{run.plan.problems} test problems. Report: {run.out / task / 'report.html'}")
    spent = sum(t.denoiser + t.sampler + t.rest for path in run.out.rglob("timings.jsonl") for t in read_timings(path))
    summed = tqdm.format_interval(spent)
    run.here.say(f"All answers together took {summed} of generation, summed over processes and stopped runs.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="folder for all results [default: runs/tables, or runs/tables-quick]")
    parser.add_argument("--quick", action="store_true", help="at most ten minutes on two cores")
    parser.add_argument("--readme", type=Path, help="put overview tables into this file")
    args = parser.parse_args()
    if args.quick and args.readme:
        parser.error("--readme is for the whole run, not for --quick")
    if args.readme:
        try:
            check_marks(args.readme, MARKS)
        except (OSError, ValueError) as error:
            parser.error(str(error))
    started = time.perf_counter()
    out = args.out or Path("runs") / ("tables-quick" if args.quick else "tables")
    out.mkdir(parents=True, exist_ok=True)
    run = Run(QUICK if args.quick else FULL, out)
    carry_out(run)
    if args.readme and run.here.first:
        publish(run, args.readme, run.here.command)
    run.here.say(f"This run took {tqdm.format_interval(time.perf_counter() - started)}.")


if __name__ == "__main__":
    main()
