"""The packaged policies against every heuristic at equal budgets of forward passes, in the embedded environment.

    torchrun --nproc-per-node 2 examples/benchmarks/compare_policies.py  # two of one thread: quickest on two cores
    python examples/benchmarks/compare_policies.py                       # the same numbers from one process

1. For each task all rules are tried in blocks of several lengths and in full diffusion, each policy in the blocks it
   was trained for. Grids are equally fine: of a ladder of some forty dials a few validation problems show the forward
   passes, and each family, rule or policy, keeps equally many for each range between two budgets (`spread`).
2. These are run on validation problems. Dials are chosen there for every budget that any regime has, of each method the
   most accurate one in blocks of any length, then all that were chosen are run on held-out test problems, stochastic
   samplers with three seeds. What spends more than the budget there is not compared at it. All this once for each
   metric of the task, which then chooses dials and is compared, with the others beside it. Copies of the policies that
   are blind to one input (confidences, mask bits, time, hidden states, revealed positions) run at the middle budget's
   dial, one seed.
3. Tables go to stdout and OUT/policies.md, the numbers to OUT/policies.json. With --publish they are put into the
   README with a plot per task, and each packaged policy gets its card, model_cards/NAME.md.

``--seeds DIR...`` are folders of the same recipes trained with another seed, DIR/speed for ``builtin:tiny-speed`` and
so on, made by ``examples/train_policy_tiny.py --policy speed --seed 1 --output DIR/speed``. They show how far trainings
lie apart; those that are not there yet are left out.

``--also DIR...`` adds policies of other runs; ``--against DIR...`` are separate policies whose hypervolume is compared
with that of the speed-conditioned policy, made for example by

    python examples/train_policy_tiny.py --policy price --alpha 0.1 --output runs/alpha-0.1    # and 0.5, and 3

Stopped and started again, it goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import runpy
import shutil
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from hf_unmask.cli.demo_measuring import Setting, measure
from hf_unmask.evaluation.environment import environment, environment_line
from hf_unmask.evaluation.processes import Processes
from hf_unmask.evaluation.tuning import BETAS, SEEDS, SPEEDS, Cell, ladders, policy_dials, spread
from hf_unmask.policy import PolicyMismatchWarning
from hf_unmask.policy.blinding import INPUTS, make_blind
from hf_unmask.policy.card.measured import counted
from hf_unmask.policy.card.rendering import render_card
from hf_unmask.policy.hub.folders import BUILTIN, PACKAGED, find_policy, load_policy, save_policy
from hf_unmask.report.frontier_plots import write_frontier
from hf_unmask.results.folder import read_contents
from hf_unmask.results.frontier import hypervolume_of, method_of
from hf_unmask.results.markdown import put_between, table
from hf_unmask.results.policy_against_heuristics import (
    SEED,
    Round,
    contest,
    contest_summary,
    contest_table,
    lead_text,
    to_be_tested,
)
from hf_unmask.results.records import OperatingPoint, write_results
from hf_unmask.results.several_metrics import accuracies, metrics_of, under
from hf_unmask.results.statistics import paired_comparison
from hf_unmask.samplers.specs import parse_sampler
from hf_unmask.tiny import TASKS, answer_length, held_out, load_tiny

PARTS = (4, 2, 1)  # block lengths of heuristics, as parts of the answer; 1 is full diffusion
ROOT = Path(__file__).resolve().parents[2]
MARKS = "policies"  # in the README
BETA_DIAL, BLIND = ", beta dial", "blind "


@dataclass(frozen=True)
class Plan:
    """How much is run."""

    problems: int = 500  # per task, of "test"
    validation: int = 120  # per task, of "validation"
    first: int = 8  # of them, to see what dials spend
    dials: int = 3  # candidates of each family in each range between two budgets
    stride: int = 1  # every how many-th dial of a ladder is looked at


@dataclass(frozen=True)
class Part:
    """One result of a task."""

    name: str  # a method, or `BLIND` and a policy
    metric: str  # that decides
    content: list[Any]

    @property
    def title(self) -> str:
        return f"{self.name} by {self.metric}"


@dataclass
class Measured:
    """What is known of a task so far."""

    tuning: list[OperatingPoint] = field(default_factory=list)  # on validation problems
    testing: list[OperatingPoint] = field(default_factory=list)  # the dials kept, on test problems
    scores: dict[str, dict[int, float]] = field(default_factory=dict)  # by setting on test problems, by prompt

    @property
    def metrics(self) -> list[str]:
        return metrics_of(self.tuning)

    def under(self, metric: str) -> Measured:
        """The same as that metric sees it."""
        tuning, testing = ([under(point, metric) for point in points] for points in (self.tuning, self.testing))
        return Measured(tuning, testing, self.scores)


class Run:
    """The stages, in a folder."""

    def __init__(self, plan: Plan, out: Path, sources: Sequence[str], conditioned: str, twins: Mapping[str, str]):
        self.plan, self.out, self.conditioned = plan, out, conditioned
        self.twins = twins  # the same recipes with another seed, and what they are called
        self.model, self.tokenizer = load_tiny()
        self.here = Processes.here()
        self.known: dict[str, Measured] = {}  # by task
        self.configs = {source: load_policy(find_policy(source)).config for source in sources}

    def home(self, task: str, source: str) -> Cell:
        """Where a policy is at home, by its record."""
        return Cell(task, load_policy(find_policy(source)).config.trained_for.get("block_length"))

    def cells(self, task: str) -> list[Cell]:
        """The regimes of heuristics: those of every task, and those that the policies were trained for."""
        length = answer_length(task)
        blocks = [None if parts == 1 else length // parts for parts in PARTS]
        blocks += [self.home(task, source).block_length for source in self.configs]
        return [Cell(task, block) for block in dict.fromkeys(blocks)]

    def budgets(self, task: str) -> list[float]:
        """Of all policies, from small to large."""
        return sorted({budget for source in self.configs for budget in self.home(task, source).budgets})

    def method(self, spec: str) -> str:
        """As in reports, with the beta dial of a speed-conditioned policy and other training seeds by themselves."""
        name = method_of(spec)
        source = name.removeprefix("learned:")
        beta = BETA_DIAL if "speed=" in spec and "beta=" in spec else ""
        return f"learned:{self.twins[source].replace(SEED, beta + SEED)}" if source in self.twins else name + beta

    def evaluate(
        self, cell: Cell, split: str, specs: Sequence[str], name: str, limit: int | None = None, **options: Any
    ) -> list[OperatingPoint]:
        """A stage, in a folder of its own."""
        self.here.say(f"{time.strftime('%H:%M:%S')} {cell.key}, {name}: {len(specs)} samplers")
        return cell.evaluate(
            self.model,
            self.tokenizer,
            split,
            specs,
            limit=limit or (self.plan.validation if split == "validation" else self.plan.problems),
            out=self.folder(cell, name),
            **options,
        )

    def folder(self, cell: Cell, name: str) -> Path:
        return self.out / cell.task / cell.name / name

    def tuned(self, cell: Cell, name: str, families: Mapping[str, Sequence[str]]) -> list[OperatingPoint]:
        """The candidates of each family on validation problems; first a few problems, to see what the dials spend."""
        budgets = self.budgets(cell.task)
        tried = [
            spec
            for specs in families.values()
            for spec in specs[:: self.plan.stride]
            if ":k=" not in spec or cell.expected_forwards(spec) <= max(budgets)
        ]
        seen = {
            p.setting.sampler: p for p in self.evaluate(cell, "validation", tried, f"{name}-first", self.plan.first)
        }
        known = [[seen[spec] for spec in specs if spec in seen] for specs in families.values()]
        candidates = [spec for points in known if points for spec in spread(points, budgets, self.plan.dials)]
        return self.evaluate(cell, "validation", candidates, f"{name}-validation")

    def task(self, task: str) -> Iterator[Part]:
        """All stages of a task, and what they found."""
        known = self.known[task] = self.measured(task)
        for source in self.configs:
            for name in [f"learned:{source}", f"learned:{source}{BETA_DIAL}"]:
                if any(self.method(p.setting.sampler) == name for p in known.tuning):
                    for metric in known.metrics:
                        yield Part(name, metric, self.contest(name, known.under(metric)))
            yield Part(BLIND + source, known.metrics[0], self.blind(task, source, known))

    def contest(self, name: str, known: Measured) -> list[Round]:
        return contest(name, known.tuning, known.testing, known.scores, method=self.method)

    def measured(self, task: str) -> Measured:
        """Everything on validation problems, then what was chosen there on test problems."""
        stages = {
            (cell, name): self.tuned(cell, name, families)
            for cell, name, families in [
                *((cell, "heuristics", ladders(cell.width)) for cell in self.cells(task)),
                *((self.home(task, s), slug(s), self.families(s)) for s in [*self.configs, *self.twins]),
            ]
        }
        tuning = [point for points in stages.values() for point in points]
        known = Measured(tuning)
        seen = [known.under(metric).tuning for metric in known.metrics]
        best = [point.setting for points in seen for point in to_be_tested(points, self.budgets(task), self.method)]
        chosen = {(setting.sampler, setting.block_length) for setting in best}
        for (cell, name), points in stages.items():
            specs = [point.setting.sampler for point in points]
            kept = [spec for spec in specs if (spec, cell.block_length) in chosen]
            if kept:
                known.testing += self.evaluate(cell, "test", kept, f"{name}-test")
                known.scores |= read_contents(self.folder(cell, f"{name}-test")).scores
        return known

    def families(self, source: str) -> dict[str, list[str]]:
        """The dials of a policy, those that count as another method by themselves."""
        found: dict[str, list[str]] = {}
        for spec in policy_dials(source):
            found.setdefault(self.method(spec), []).append(spec)
        return found

    def blind(self, task: str, source: str, known: Measured) -> list[dict[str, Any]]:
        """The policy at the middle budget's dial, whole and blind to one input each."""
        cell = self.home(task, source)
        whole = self.contest(f"learned:{source}", known)[1].point
        if whole is None:
            return []
        specs = {}
        for name in INPUTS:
            policy = load_policy(find_policy(source))
            if make_blind(policy, name):
                folder = self.out / "blind" / slug(source) / name.replace(" ", "-")
                if self.here.first:
                    save_policy(policy, folder)
                self.here.wait()
                specs[str(parse_sampler(whole.setting.sampler.replace(source, str(folder))))] = name
        points = self.evaluate(cell, "test", list(specs), f"{slug(source)}-blind", seeds=SEEDS[:1])
        theirs = read_contents(self.folder(cell, f"{slug(source)}-blind")).scores
        rows: list[dict[str, Any]] = [{"without": "nothing", **figures(whole), "lead": None}]
        for point in points:
            lead = paired_comparison(known.scores[whole.setting.key], theirs[point.setting.key])
            row = {"without": specs[point.setting.sampler], **figures(point)}
            rows.append(row | {"lead": [lead.difference, *lead.interval]})
        return rows


def figures(point: OperatingPoint) -> dict[str, Any]:
    """Accuracies by metric, and forward passes."""
    return {"accuracies": {name: one.accuracy for name, one in accuracies(point).items()}, "nfe": point.nfe_mean}


def twins(sources: Sequence[str], folders: Sequence[Path]) -> dict[str, str]:
    """Policies of the same recipes in these folders, and what they are called there; none that is not finished."""
    found = {}
    for place, folder in enumerate(folders, 1):
        for source in sources:
            there = folder / source.removeprefix(f"{BUILTIN}tiny-")
            if (there / "config.json").is_file():
                found[str(there)] = f"{source}{SEED}{place}"
    return found


def slug(source: str) -> str:
    """A policy's name as part of a file name."""
    return source.removeprefix(BUILTIN).strip("/").replace("/", "-")


# ------------------------------------------------------------------------------------------------------ other questions


def areas(run: Run, task: str, conditioned: str, separate: Sequence[str]) -> dict[str, Any]:
    """Hypervolumes on test problems: one conditioned policy against several that were each trained for one price."""
    cell = Cell(task, None)
    sides = {
        "conditioned": [f"learned:{conditioned};speed={speed}" for speed in SPEEDS],
        "separate": [f"learned:{source}" for source in separate],
        "separate, with their beta dials": [f"learned:{source};beta={beta}" for source in separate for beta in BETAS],
    }
    by_spec = {}
    for name in ("conditioned", "separate"):  # by themselves, so that one can change without the other
        asked = (spec for side, specs in sides.items() if side.startswith(name) for spec in specs)
        specs = list(dict.fromkeys(str(parse_sampler(spec)) for spec in asked))
        by_spec |= {p.setting.sampler: p for p in run.evaluate(cell, "test", specs, f"areas-{name}")}
    found = {name: [by_spec[str(parse_sampler(spec))] for spec in side] for name, side in sides.items()}
    return {
        "hypervolume": {
            metric: {name: hypervolume_of([under(p, metric) for p in points]).area for name, points in found.items()}
            for metric in metrics_of(by_spec.values())
        },
        "points": {point.setting.sampler: figures(point) for point in by_spec.values()},
    }


def calibrations(run: Run, source: str) -> list[dict[str, float]]:
    """Dials found on validation problems for wanted forward passes, and what they spend on test problems."""
    rows = []
    sampler = parse_sampler(f"learned:{source}")
    config = run.configs[source]
    for task in TASKS:
        cell = Cell(task, config.trained_for.get("block_length"))
        tuning, testing = held_out(task, "validation", 200), held_out(task, "test", 200)
        for target in targets(cell):
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", UserWarning)  # what it would say is in the table
                    found = sampler.calibrate(
                        run.model,
                        [problem.prompt for problem in tuning],
                        target_nfe=target,
                        tokenizer=run.tokenizer,
                        max_new_tokens=cell.length,
                        block_length=cell.block_length,
                    )
            except ValueError as error:
                rows.append({"task": task, "target": target, "error": str(error)})
                continue
            setting = Setting(task, cell.block_length, found)
            row = measure(run.model, run.tokenizer, setting, testing, seed=1, batch_size=len(testing))
            rows.append({"task": task, "target": target, "dial": found.speed, "test_nfe": row.nfe})
    return rows


def targets(cell: Cell) -> tuple[float, ...]:
    """Forward passes to ask for."""
    return (4.0, 5.0, 6.0, 8.0) if cell.task == "chain_sum" else (1.5, 2.0)


# ------------------------------------------------------------------------------------------------------------- results


def report(found: Mapping[str, Sequence[Part]], extra: dict[str, Any]) -> str:
    """Everything as Markdown."""
    parts = []
    for task, results in found.items():
        for one in results:
            if not one.name.startswith(BLIND):
                parts.append(contest_table(f"{task} by {one.metric}: `{one.name}`", one.content))
            elif one.content:
                parts.append(inputs_table(f"{task}: `learned:{one.name.removeprefix(BLIND)}` without", one.content))
    if "areas" in extra:
        volumes = [
            (f"{task} by {metric}", each)
            for task, areas in extra["areas"].items()
            for metric, each in areas["hypervolume"].items()
        ]
        rows = [[title, *map("{:.3f}".format, each.values())] for title, each in volumes]
        parts.append(table(["hypervolume (reference: L forward passes, accuracy 0)", *volumes[0][1]], rows))
    if "calibrations" in extra:
        heads = ["`calibrate` on validation problems", "target NFE", "speed found", "NFE on test problems"]
        parts.append(table(heads, [calibration_cells(row) for row in extra["calibrations"]]))
    return "\n\n".join(parts)


def calibration_cells(row: dict[str, Any]) -> list[str]:
    if "error" in row:
        return [row["task"], f"{row['target']:g}", "-", row["error"]]
    off = 100 * (row["test_nfe"] / row["target"] - 1)
    return [row["task"], f"{row['target']:g}", f"{row['dial']:.3f}", f"{row['test_nfe']:.2f} ({off:+.0f} %)"]


def inputs_table(title: str, rows: Sequence[dict[str, Any]]) -> str:
    def lead(row: dict[str, Any]) -> str:
        return "" if row["lead"] is None else lead_text(*row["lead"])

    def cells(row: dict[str, Any]) -> list[str]:
        shares = (f"{100 * share:.1f}" for share in row["accuracies"].values())
        return [row["without"], *shares, f"{row['nfe']:.2f}", lead(row)]

    metrics = list(rows[0]["accuracies"])
    return table([title, *metrics, "NFE", f"lead of the whole policy by {metrics[0]}"], list(map(cells, rows)))


# --------------------------------------------------------------------------------------------------------------- cards

_RULES = """### Against heuristics at equal budgets

Accuracy in %, in round brackets mean forward passes per answer (NFE) on test problems, in square brackets 95 %
intervals; leads are the policy's, in points, paired on the same prompts. Intervals cover the choice of prompts only,
not the luck of a training: for that there are the rows of other training seeds. Heuristics were tried in blocks of
several lengths and in full diffusion, with as many dials per range of forward passes as the policy; theirs and the
policy's were chosen on validation problems, and what spends more than the budget there or on test problems does not
count. Where a task has several metrics there is a table for each, in which it chooses dials, is compared and stands
before the slash, the other behind it. One row shows the heuristic that is most accurate on the test problems
themselves. Rules that know that text is written from the left compete for the best heuristic and have rows of their
own."""

_SUMMARY = """The lead is over the best heuristic in blocks of any length, chosen on validation problems like all dials,
with the 95 % interval of the paired difference; it covers the choice of prompts only, not the luck of a training, which
the column of other training seeds shows. Sums have lines for two metrics: the one that is named chooses dials, is
compared and stands before the slash. The heuristic most accurate on the test problems is chosen there, in its
favour. `-`: nothing measured keeps to the budget on validation and on test problems."""


def card(source: str, run: Run, found: Mapping[str, list[Part]], extra: dict[str, Any], measured: str) -> str:
    """The card of a packaged policy; the numbers are those of this run, its recipe and its config."""
    recipe = source.removeprefix(f"{BUILTIN}tiny-")
    recipes = runpy.run_path(str(ROOT / "examples" / "train_policy_tiny.py"))
    mine = {
        task: [one for one in results if one.name.removesuffix(BETA_DIAL).endswith(source)]
        for task, results in found.items()
    }
    tables = report(mine, extra if source == run.conditioned else {})
    rounds = [one for results in mine.values() for part in results for one in part.content if isinstance(one, Round)]
    measures = {task: results[0].metric for task, results in mine.items()}  # that decides in evaluations
    points = [under(one.point, measures[one.point.setting.task]) for one in rounds if one.point is not None]
    return render_card(
        load_policy(find_policy(source)),
        packaged=source,
        command=f"OMP_NUM_THREADS=1 python examples/train_policy_tiny.py --policy {recipe}",
        recipe=recipes["COMMON"] | recipes["RECIPES"][recipe],
        findings="\n\n".join([_RULES, f"What counts as right:\n\n{counted(points)}", tables, f"({measured})"]),
        points=list({point.setting: point for point in points}.values()),
    )


def publish(run: Run, found: Mapping[str, list[Part]], extra: dict[str, Any], command: str) -> None:
    """Cards of the packaged policies, and their contests in short in the README."""
    here = environment_line(environment(run.model.device, run.here.count))
    measured = (
        f"{run.plan.problems} test problems per task, dials chosen on {run.plan.validation} validation problems, "
        f"stochastic samplers with {len(SEEDS)} seeds, {here}; `{command}`"
    )
    for source in run.configs:
        if source.startswith(BUILTIN):
            path = ROOT / "model_cards" / f"{source.removeprefix(BUILTIN)}.md"
            path.write_text(card(source, run, found, extra, measured), "utf-8")
    rounds = [
        (part.name.removeprefix(f"learned:{BUILTIN}"), task, part.metric, one)
        for task, results in found.items()
        for part in results
        if part.name.startswith(f"learned:{BUILTIN}") and not part.name.endswith(BETA_DIAL)
        for one in part.content
    ]
    pictures = [draw(run, task) for task in found]
    put_between(ROOT / "README.md", MARKS, [_SUMMARY, contest_summary(rounds), *pictures, f"({measured})"])


def draw(run: Run, task: str) -> str:
    """Put the plot of a task beside the other figures; heuristics and packaged policies at the dials that were chosen
    on validation problems. Returns it as Markdown."""
    folder, target = run.out / task / "figure", ROOT / "examples" / "figures" / f"{task}.png"
    folder.mkdir(exist_ok=True)
    points = [point for point in run.known[task].testing if SEED not in run.method(point.setting.sampler)]
    write_results(folder / "results.json", points)
    contents = read_contents(folder)
    (group,) = contents.groups
    picture, _ = write_frontier(group, folder, contents.fronts(group))
    shutil.copyfile(picture, target)
    return f"![{task}: accuracy against forward passes and seconds]({target.relative_to(ROOT)})"


def as_plain(content: Sequence[Any]) -> list[Any]:
    return [asdict(one) if isinstance(one, Round) else one for one in content]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/policies"), help="folder for all results")
    parser.add_argument("--quick", action="store_true", help="few problems and dials, to see that it works")
    parser.add_argument("--also", nargs="*", default=[], help="folders of further policies")
    parser.add_argument("--seeds", nargs="*", type=Path, default=[], help="folders of the recipes with other seeds")
    parser.add_argument("--conditioned", default=f"{BUILTIN}tiny-speed", help="the speed-conditioned policy")
    parser.add_argument("--against", nargs="*", default=[], help="separate policies for the hypervolume")
    parser.add_argument("--publish", action="store_true", help="write README's tables and the cards")
    args = parser.parse_args()
    started = time.perf_counter()
    plan = Plan(problems=20, validation=10, first=5, dials=1, stride=6) if args.quick else Plan()
    warnings.simplefilter("ignore", PolicyMismatchWarning)
    packaged = [f"{BUILTIN}{folder.name}" for folder in sorted(PACKAGED.glob("tiny-*"))]
    run = Run(plan, args.out, [*packaged, *args.also], args.conditioned, twins(packaged, args.seeds))
    found = {task: list(run.task(task)) for task in TASKS}
    extra: dict[str, Any] = {}
    if args.against:
        extra["areas"] = {task: areas(run, task, args.conditioned, args.against) for task in TASKS}
    if not run.here.first:
        return
    if args.conditioned in run.configs:
        extra["calibrations"] = calibrations(run, args.conditioned)
    text = report(found, extra)
    run.here.say(text)
    (args.out / "policies.md").write_text(text + "\n", "utf-8")
    plain = {task: {part.title: as_plain(part.content) for part in results} for task, results in found.items()}
    (args.out / "policies.json").write_text(json.dumps({"tasks": plain, **extra}, indent=1) + "\n", "utf-8")
    if args.publish:
        publish(run, found, extra, run.here.command)
    run.here.say(f"This run took {tqdm.format_interval(time.perf_counter() - started)}.")


if __name__ == "__main__":
    main()
