"""The packaged policies against every heuristic at equal budgets of forward passes, in the embedded environment.

    torchrun --nproc-per-node 2 examples/benchmarks/compare_policies.py  # two of one thread: quickest on two cores
    python examples/benchmarks/compare_policies.py                       # the same numbers from one process

1. For each task and each regime that a policy was trained for, all dials of all heuristics are run on validation
   problems, then all dials of the policies; those that prove far too slow for every budget on the first problems are
   left out. Within each budget every method keeps the dial that was most accurate.
2. The kept dials are run on held-out test problems, stochastic samplers with three seeds. Copies of the policies that
   are blind to one input (confidences, mask bits, time, hidden states, revealed positions) run at the middle budget's
   dial, one seed.
3. Tables go to stdout and OUT/policies.md, the numbers to OUT/policies.json. With --publish they are put into the
   README, and each packaged policy gets its card, model_cards/NAME.md.

``--also DIR...`` adds policies of other runs; ``--against DIR...`` are separate policies whose hypervolume is compared
with that of the speed-conditioned policy, made for example by

    python examples/train_policy_tiny.py --policy price --alpha 0.1 --output runs/alpha-0.1    # and 0.5, and 3

Stopped and started again, it goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import runpy
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from hf_unmask.cli.demo_measuring import Setting, measure
from hf_unmask.evaluation.environment import environment, environment_line
from hf_unmask.evaluation.processes import Processes
from hf_unmask.evaluation.tuning import BETAS, SEEDS, SPEEDS, Cell, heuristic_dials, policy_dials
from hf_unmask.policy import PolicyMismatchWarning
from hf_unmask.policy.blinding import INPUTS, make_blind
from hf_unmask.policy.card.rendering import render_card
from hf_unmask.policy.hub.folders import BUILTIN, PACKAGED, find_policy, load_policy, save_policy
from hf_unmask.results.folder import read_contents
from hf_unmask.results.frontier import hypervolume_of, method_of
from hf_unmask.results.markdown import put_between, table
from hf_unmask.results.policy_against_heuristics import (
    Round,
    contest,
    contest_summary,
    contest_table,
    dials_within,
    lead_text,
)
from hf_unmask.results.records import OperatingPoint
from hf_unmask.results.statistics import paired_comparison
from hf_unmask.samplers.specs import parse_sampler
from hf_unmask.tiny import TASKS, held_out, load_tiny

#: Further dials of the quickest rule, which the small budgets ask for.
MORE_GAMMAS = (2.4, 3.2, 4.8, 6.4)
FAR = 1.25  # times the largest budget: a dial that spends more on the first problems is not run on the others
ROOT = Path(__file__).resolve().parents[2]
MARKS = "policies"  # in the README
BETA_DIAL, BLIND = ", beta dial", "blind "


@dataclass(frozen=True)
class Plan:
    """How much is run."""

    problems: int = 500  # per task, of "test"
    validation: int = 300  # per task, of "validation"
    first: int = 20  # of them, to see which dials are far too slow
    stride: int = 1  # every how many-th dial is tried


def method(spec: str) -> str:
    """As in reports, with the beta dial of a speed-conditioned policy by itself."""
    return method_of(spec) + (BETA_DIAL if "speed=" in spec and "beta=" in spec else "")


@dataclass
class Measured:
    """What is known of a task so far."""

    tuning: list[OperatingPoint] = field(default_factory=list)  # on validation problems
    testing: list[OperatingPoint] = field(default_factory=list)  # the dials kept, on test problems
    scores: dict[str, dict[int, float]] = field(default_factory=dict)  # by setting on test problems, by prompt


class Run:
    """The stages, in a folder."""

    def __init__(self, plan: Plan, out: Path, sources: Sequence[str], conditioned: str):
        self.plan, self.out, self.conditioned = plan, out, conditioned
        self.model, self.tokenizer = load_tiny()
        self.here = Processes.here()
        self.configs = {source: load_policy(find_policy(source)).config for source in sources}

    def regimes(self) -> list[int | None]:
        found = [config.trained_for.get("block_length") for config in self.configs.values()]
        return list(dict.fromkeys(found))

    def heuristics(self, cell: Cell) -> list[str]:
        """Specs of a regime, without those that are sure to spend more than its largest budget."""
        most = max(cell.budgets)
        rules = [spec for specs in heuristic_dials(cell.width, self.plan.stride).values() for spec in specs]
        rules += [str(parse_sampler(f"entropy_bound:gamma={gamma}")) for gamma in MORE_GAMMAS]
        return [spec for spec in rules if ":k=" not in spec or cell.expected_forwards(spec) <= most]

    def affordable(self, cell: Cell, name: str, specs: Sequence[str]) -> list[str]:
        """Without dials that a few validation problems show to spend far more than the largest budget; never none."""
        points = self.evaluate(cell, "validation", specs, f"{name}-first", self.plan.first)
        most = max(FAR * max(cell.budgets), min(point.nfe_mean for point in points))
        return [point.setting.sampler for point in points if point.nfe_mean <= most]

    def evaluate(
        self, cell: Cell, split: str, specs: Sequence[str], name: str, limit: int | None = None, **options: Any
    ) -> list[OperatingPoint]:
        """A stage, in a folder of its own."""
        self.here.say(f"{cell.key}, {name}: {len(specs)} samplers")
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

    def both(self, cell: Cell, name: str, specs: Sequence[str], known: Measured) -> None:
        """Tune on validation problems, then run what was best within any of the regime's budgets on test problems."""
        tuning = self.evaluate(cell, "validation", self.affordable(cell, name, specs), f"{name}-validation")
        kept = {p.setting.sampler: None for b in cell.budgets for p in dials_within(tuning, b, method).values()}
        known.tuning += tuning
        if kept:
            known.testing += self.evaluate(cell, "test", list(kept), f"{name}-test")
            known.scores |= read_contents(self.folder(cell, f"{name}-test")).scores

    def task(self, task: str) -> Iterator[tuple[str, Any]]:
        """All stages of a task; names and contents of its results."""
        cells = [Cell(task, block) for block in self.regimes()]
        known = Measured()
        for cell in cells:
            self.both(cell, "heuristics", self.heuristics(cell), known)
        homes = {source: Cell(task, config.trained_for.get("block_length")) for source, config in self.configs.items()}
        for source, cell in homes.items():
            self.both(cell, slug(source), policy_dials(source, self.plan.stride), known)
        for source, cell in homes.items():
            for name in [f"learned:{source}", f"learned:{source}{BETA_DIAL}"]:
                if any(method(p.setting.sampler) == name for p in known.tuning):
                    rounds = contest(name, known.tuning, known.testing, known.scores, method=method)
                    yield name, rounds
            yield BLIND + source, self.blind(cell, source, known)

    def blind(self, cell: Cell, source: str, known: Measured) -> list[dict[str, Any]]:
        """The policy at the middle budget's dial, whole and blind to one input each."""
        budget = cell.budgets[1]
        here = [point for point in known.tuning if point.setting.block_length == cell.block_length]
        dial = dials_within(here, budget, method).get(f"learned:{source}")
        if dial is None:
            return []
        tested = replace(dial.setting, dataset=dial.setting.dataset.replace(":validation", ":test"))
        (whole,) = [point for point in known.testing if point.setting == tested]
        specs = {}
        for name in INPUTS:
            policy = load_policy(find_policy(source))
            if make_blind(policy, name):
                folder = self.out / "blind" / slug(source) / name.replace(" ", "-")
                if self.here.first:
                    save_policy(policy, folder)
                self.here.wait()
                specs[str(parse_sampler(dial.setting.sampler.replace(source, str(folder))))] = name
        points = self.evaluate(cell, "test", list(specs), f"{slug(source)}-blind", seeds=SEEDS[:1])
        theirs = read_contents(self.folder(cell, f"{slug(source)}-blind")).scores
        rows = [{"without": "nothing", "accuracy": whole.accuracy, "nfe": whole.nfe_mean, "lead": None}]
        for point in points:
            lead = paired_comparison(known.scores[whole.setting.key], theirs[point.setting.key])
            row = {"without": specs[point.setting.sampler], "accuracy": point.accuracy, "nfe": point.nfe_mean}
            rows.append(row | {"lead": [lead.difference, *lead.interval]})
        return rows


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
        "hypervolume": {name: hypervolume_of(points).area for name, points in found.items()},
        "points": {
            point.setting.sampler: {"accuracy": point.accuracy, "nfe": point.nfe_mean} for point in by_spec.values()
        },
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


def report(found: dict[str, dict[str, Any]], extra: dict[str, Any]) -> str:
    """Everything as Markdown."""
    parts = []
    for task, contents in found.items():
        for name, content in contents.items():
            if not name.startswith(BLIND):
                parts.append(contest_table(f"{task}: `{name}`", content))
            elif content:
                parts.append(inputs_table(f"{task}: `learned:{name.removeprefix(BLIND)}` without", content))
    if "areas" in extra:
        rows = [[task, *map("{:.3f}".format, each["hypervolume"].values())] for task, each in extra["areas"].items()]
        heads = next(iter(extra["areas"].values()))["hypervolume"]
        parts.append(table(["hypervolume (reference: L forward passes, accuracy 0)", *heads], rows))
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

    lines = [[row["without"], f"{100 * row['accuracy']:.1f}", f"{row['nfe']:.2f}", lead(row)] for row in rows]
    return table([title, "accuracy", "NFE", "lead of the whole policy"], lines)


# --------------------------------------------------------------------------------------------------------------- cards

_RULES = """### Against heuristics at equal budgets

Accuracy in %, in round brackets mean forward passes per answer (NFE) on test problems, in square brackets 95 %
intervals over prompts; leads are the policy's, in points, paired on the same prompts. Dials were chosen on validation
problems, the policy's with 3 % to spare; the best heuristic is chosen on the test problems, in its favour. Rules that
know that text is written from the left have rows of their own."""


def card(source: str, run: Run, found: dict[str, dict[str, Any]], extra: dict[str, Any], measured: str) -> str:
    """The card of a packaged policy; the numbers are those of this run, its recipe and its config."""
    recipe = source.removeprefix(f"{BUILTIN}tiny-")
    recipes = runpy.run_path(str(ROOT / "examples" / "train_policy_tiny.py"))
    mine = {
        task: {n: c for n, c in each.items() if n.removesuffix(BETA_DIAL).endswith(source)}
        for task, each in found.items()
    }
    tables = report(mine, extra if source == run.conditioned else {})
    rounds = [one for each in mine.values() for content in each.values() for one in content if isinstance(one, Round)]
    points = {one.point.setting: one.point for one in rounds if one.point is not None}
    return render_card(
        load_policy(find_policy(source)),
        packaged=source,
        command=f"OMP_NUM_THREADS=1 python examples/train_policy_tiny.py --policy {recipe}",
        recipe=recipes["COMMON"] | recipes["RECIPES"][recipe],
        findings="\n\n".join([_RULES, tables, f"({measured})"]),
        points=list(points.values()),
    )


def publish(run: Run, found: dict[str, dict[str, Any]], extra: dict[str, Any], command: str) -> None:
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
        (name.removeprefix(f"learned:{BUILTIN}"), task, one)
        for task, contents in found.items()
        for name, content in contents.items()
        if name.startswith(f"learned:{BUILTIN}") and not name.endswith(BETA_DIAL)
        for one in content
    ]
    put_between(ROOT / "README.md", MARKS, [contest_summary(rounds), f"({measured})"])


def as_plain(content: Sequence[Any]) -> list[Any]:
    return [asdict(one) if isinstance(one, Round) else one for one in content]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/policies"), help="folder for all results")
    parser.add_argument("--quick", action="store_true", help="few problems and dials, to see that it works")
    parser.add_argument("--also", nargs="*", default=[], help="folders of further policies")
    parser.add_argument("--conditioned", default=f"{BUILTIN}tiny-speed", help="the speed-conditioned policy")
    parser.add_argument("--against", nargs="*", default=[], help="separate policies for the hypervolume")
    parser.add_argument("--publish", action="store_true", help="write README's tables and the cards")
    args = parser.parse_args()
    started = time.perf_counter()
    plan = Plan(problems=20, validation=10, first=5, stride=6) if args.quick else Plan()
    warnings.simplefilter("ignore", PolicyMismatchWarning)
    packaged = [f"{BUILTIN}{folder.name}" for folder in sorted(PACKAGED.glob("tiny-*"))]
    run = Run(plan, args.out, [*packaged, *args.also], args.conditioned)
    found = {task: dict(run.task(task)) for task in TASKS}
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
    plain = {task: {name: as_plain(content) for name, content in each.items()} for task, each in found.items()}
    (args.out / "policies.json").write_text(json.dumps({"tasks": plain, **extra}, indent=1) + "\n", "utf-8")
    if args.publish:
        publish(run, found, extra, run.here.command)
    run.here.say(f"This run took {tqdm.format_interval(time.perf_counter() - started)}.")


if __name__ == "__main__":
    main()
