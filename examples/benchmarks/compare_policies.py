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
import shlex
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from operator import itemgetter
from pathlib import Path
from typing import Any

import torch
from reproduce_tables import SEEDS, Cell, duration, evaluate_cell, expected, grid, put_between

from hf_unmask.evaluation.environment import environment
from hf_unmask.evaluation.processes import Processes
from hf_unmask.policy import PolicyMismatchWarning, UnmaskingPolicy
from hf_unmask.policy.card.rendering import render_card
from hf_unmask.policy.hub.folders import BUILTIN, PACKAGED, find_policy, load_policy, save_policy
from hf_unmask.results.frontier import hypervolume_of, method_of
from hf_unmask.results.markdown import table
from hf_unmask.results.policy_against_heuristics import (
    HEURISTIC,
    Round,
    budgets_of,
    contest,
    contest_table,
    dials_within,
    lead_text,
)
from hf_unmask.results.records import OperatingPoint, Setting, iter_samples
from hf_unmask.results.statistics import paired_comparison, scores_by_prompt
from hf_unmask.samplers.specs import parse_sampler
from hf_unmask.tiny import TASKS, answer_length, held_out, load_tiny

#: Further dials of the quickest rule, which the small budgets ask for.
MORE_GAMMAS = (2.4, 3.2, 4.8, 6.4)
TEMPERATURES = (0.5, 1.0, 2.0)
BETAS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
SPEEDS = tuple(i / 20 for i in range(21))
MIDDLE = 0.5
FAR = 1.25  # times the largest budget: a dial that spends more on the first problems is not run on the others
ROOT = Path(__file__).resolve().parents[2]
START, END = "<!-- policies:start -->", "<!-- policies:end -->"
BETA_DIAL, BLIND = ", beta dial", "blind "
#: Inputs that are taken away. "revealed positions": their confidences and hidden states.
INPUTS = ("confidences", "mask bits", "time", "hidden states", "revealed positions")


@dataclass(frozen=True)
class Plan:
    """How much is run."""

    problems: int = 500  # per task, of "test"
    validation: int = 300  # per task, of "validation"
    first: int = 20  # of them, to see which dials are far too slow
    stride: int = 1  # every how many-th dial is tried


def make_blind(policy: UnmaskingPolicy, name: str) -> bool:
    """Take an input away in place, by weights of zero or of one constant value. False if the policy has none."""
    with torch.no_grad():
        if name == "confidences":
            policy.confidence_projection.weight.zero_()
        elif name == "mask bits":
            policy.mask_embedding.weight[1] = policy.mask_embedding.weight[0]
        elif name == "time":
            first = policy.time_mlp[0]
            half = policy.config.time_size // 2
            first.bias += first.weight[:, :half].sum(-1)  # cosines at time 0; the sines are 0
            first.weight.zero_()
        elif name == "revealed positions":
            policy.config.reads_revealed = False
        elif policy.hidden_projection is None:
            return False
        else:
            policy.hidden_projection.weight.zero_()
    return True


def method(spec: str) -> str:
    """As in reports, with the beta dial of a speed-conditioned policy by itself."""
    return method_of(spec) + (BETA_DIAL if "speed=" in spec and "beta=" in spec else "")


def learned_specs(source: str) -> list[str]:
    """The dials of a policy."""
    name, config = f"learned:{source}", load_policy(find_policy(source)).config
    if config.speed_conditioned:
        swept = [f"{name};speed={speed}" for speed in SPEEDS]
        cooled = [f"{spec};policy_temperature=0.5" for spec in swept]
        scaled = [f"{name};speed={MIDDLE};beta={beta}" for beta in BETAS if beta != 1]
        return [*swept, *cooled, *(scaled if config.trained_for.get("block_length") is None else [])]
    return [f"{name};policy_temperature={heat};beta={beta}" for heat in TEMPERATURES for beta in BETAS]


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

    def say(self, text: str) -> None:
        if self.here.first:
            print(text, flush=True)

    def regimes(self) -> list[int | None]:
        found = [config.trained_for.get("block_length") for config in self.configs.values()]
        return list(dict.fromkeys(found))

    def heuristics(self, cell: Cell) -> list[str]:
        """Specs of a regime, without those that are sure to spend more than its largest budget."""
        most = max(budgets(cell))
        rules = [spec for specs in grid(cell, self.plan.stride).values() for spec in specs]
        rules += [str(parse_sampler(f"entropy_bound:gamma={gamma}")) for gamma in MORE_GAMMAS]
        return [spec for spec in rules if ":k=" not in spec or expected(spec, cell) <= most]

    def affordable(self, cell: Cell, name: str, specs: Sequence[str]) -> list[str]:
        """Without dials that a few validation problems show to spend far more than the largest budget; never none."""
        points = self.evaluate(cell, "validation", specs, f"{name}-first", self.plan.first)
        most = max(FAR * max(budgets(cell)), min(point.nfe_mean for point in points))
        return [point.setting.sampler for point in points if point.nfe_mean <= most]

    def evaluate(
        self, cell: Cell, split: str, specs: Sequence[str], name: str, limit: int | None = None
    ) -> list[OperatingPoint]:
        """A stage, in a folder of its own."""
        tuning = split == "validation"
        self.say(f"{cell.key}, {name}: {len(specs)} samplers")
        return evaluate_cell(
            self.model,
            self.tokenizer,
            cell,
            split,
            specs,
            seeds=SEEDS[:1] if tuning or name.endswith(BLIND.strip()) else SEEDS,
            limit=limit or (self.plan.validation if tuning else self.plan.problems),
            out=self.folder(cell, name),
        )

    def folder(self, cell: Cell, name: str) -> Path:
        return self.out / cell.task / cell.name / name

    def scores(self, cell: Cell, name: str) -> dict[str, dict[int, float]]:
        by_key: dict[str, list[Any]] = {}
        for sample in iter_samples(self.folder(cell, name) / "samples.jsonl"):
            by_key.setdefault(sample.setting.key, []).append(sample)
        return {key: scores_by_prompt(samples) for key, samples in by_key.items()}

    def both(self, cell: Cell, name: str, specs: Sequence[str], known: Measured) -> None:
        """Tune on validation problems, then run what was best within any of the regime's budgets on test problems."""
        tuning = self.evaluate(cell, "validation", self.affordable(cell, name, specs), f"{name}-validation")
        kept = {p.setting.sampler: None for b in budgets(cell) for p in dials_within(tuning, b, method).values()}
        known.tuning += tuning
        if kept:
            known.testing += self.evaluate(cell, "test", list(kept), f"{name}-test")
            known.scores |= self.scores(cell, f"{name}-test")

    def task(self, task: str) -> Iterator[tuple[str, Any]]:
        """All stages of a task; names and contents of its results."""
        cells = [Cell(task, block) for block in self.regimes()]
        known = Measured()
        for cell in cells:
            self.both(cell, "heuristics", self.heuristics(cell), known)
        homes = {source: Cell(task, config.trained_for.get("block_length")) for source, config in self.configs.items()}
        for source, cell in homes.items():
            specs = [str(parse_sampler(spec)) for spec in learned_specs(source)[:: self.plan.stride]]
            self.both(cell, slug(source), specs, known)
        for source, cell in homes.items():
            for name in [f"learned:{source}", f"learned:{source}{BETA_DIAL}"]:
                if any(method(p.setting.sampler) == name for p in known.tuning):
                    rounds = contest(name, known.tuning, known.testing, known.scores, method=method)
                    yield name, rounds
            yield BLIND + source, self.blind(cell, source, known)

    def blind(self, cell: Cell, source: str, known: Measured) -> list[dict[str, Any]]:
        """The policy at the middle budget's dial, whole and blind to one input each."""
        budget = budgets(cell)[1]
        here = [point for point in known.tuning if point.setting.block_length == cell.block_length]
        dial = dials_within(here, budget, method).get(f"learned:{source}")
        if dial is None:
            return []
        (whole,) = [point for point in known.testing if point.setting == test_setting(dial.setting)]
        specs = {}
        for name in INPUTS:
            policy = load_policy(find_policy(source))
            if make_blind(policy, name):
                folder = self.out / "blind" / slug(source) / name.replace(" ", "-")
                if self.here.first:
                    save_policy(policy, folder)
                self.here.wait()
                specs[str(parse_sampler(dial.setting.sampler.replace(source, str(folder))))] = name
        points = self.evaluate(cell, "test", list(specs), f"{slug(source)}-blind")
        theirs = self.scores(cell, f"{slug(source)}-blind")
        rows = [{"without": "nothing", "accuracy": whole.accuracy, "nfe": whole.nfe_mean, "lead": None}]
        for point in points:
            lead = paired_comparison(known.scores[whole.setting.key], theirs[point.setting.key])
            row = {"without": specs[point.setting.sampler], "accuracy": point.accuracy, "nfe": point.nfe_mean}
            rows.append(row | {"lead": [lead.difference, *lead.interval]})
        return rows


def slug(source: str) -> str:
    """A policy's name as part of a file name."""
    return source.removeprefix(BUILTIN).strip("/").replace("/", "-")


def budgets(cell: Cell) -> tuple[float, ...]:
    """Of a cell, in forward passes."""
    return budgets_of(answer_length(cell.task), cell.block_length)


def test_setting(setting: Setting) -> Setting:
    """The same on test problems."""
    return Setting(**{**asdict(setting), "dataset": setting.dataset.replace(":validation", ":test")})


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
        options = {"max_new_tokens": answer_length(task), "block_length": cell.block_length}
        prompts = {split: [p.prompt for p in held_out(task, split, 200)] for split in ("validation", "test")}
        for target in targets(cell):
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", UserWarning)  # what it would say is in the table
                    found = sampler.calibrate(
                        run.model, prompts["validation"], target_nfe=target, tokenizer=run.tokenizer, **options
                    )
            except ValueError as error:
                rows.append({"task": task, "target": target, "error": str(error)})
                continue
            ids = run.tokenizer(prompts["test"], return_tensors="pt", padding=True, padding_side="left")
            output = run.model.generate(
                ids["input_ids"],
                attention_mask=ids["attention_mask"],
                sampler=found,
                seed=1,
                return_dict_in_generate=True,
                **options,
            )
            rows.append(
                {"task": task, "target": target, "dial": found.speed, "test_nfe": output.nfe.double().mean().item()}
            )
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
    facts = environment(torch.device("cpu"), run.here.count)
    versions = ", ".join(f"{name} {facts['versions'][name]}" for name in ("hf_unmask", "torch", "transformers"))
    measured = (
        f"{run.plan.problems} test problems per task, dials chosen on {run.plan.validation} validation problems, "
        f"stochastic samplers with {len(SEEDS)} seeds, {facts['date'][:10]}, {versions}, {facts['hardware']}; "
        f"`{command}`"
    )
    for source in run.configs:
        if source.startswith(BUILTIN):
            path = ROOT / "model_cards" / f"{source.removeprefix(BUILTIN)}.md"
            path.write_text(card(source, run, found, extra, measured), "utf-8")
    put_between(ROOT / "README.md", START, END, [summary(found), f"({measured})"])


def summary(found: dict[str, dict[str, Any]]) -> str:
    """A line per packaged policy, task and budget: the policy and the best heuristic of the same regime."""
    lines = []
    for task, contents in found.items():
        for name, content in contents.items():
            policy = name.removeprefix(f"learned:{BUILTIN}")
            if policy == name or name.endswith(BETA_DIAL):
                continue
            for one in content:
                lines.append([f"`{policy}`", task, f"{one.budget:g}", *summary_cells(one)])
    return table(
        ["policy", "task", "most NFE", "accuracy (NFE)", "best heuristic", "lead"], sorted(lines, key=itemgetter(0))
    )


def summary_cells(one: Round) -> list[str]:
    rival = one.against(HEURISTIC)
    if one.point is None or rival is None:
        return ["-", "-", "-"]
    return [
        f"{100 * one.point.accuracy:.1f} ({one.point.nfe_mean:.2f})",
        f"{100 * rival.point.accuracy:.1f} ({rival.point.nfe_mean:.2f}) `{rival.point.setting.sampler}`",
        lead_text(rival.comparison.difference, *rival.comparison.interval),
    ]


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
    run.say(text)
    (args.out / "policies.md").write_text(text + "\n", "utf-8")
    plain = {task: {name: as_plain(content) for name, content in each.items()} for task, each in found.items()}
    (args.out / "policies.json").write_text(json.dumps({"tasks": plain, **extra}, indent=1) + "\n", "utf-8")
    if args.publish:
        starter = ["torchrun", "--nproc-per-node", str(run.here.count)] if run.here.count > 1 else ["python"]
        publish(run, found, extra, shlex.join([*starter, *sys.argv]))
    run.say(f"This run took {duration(time.perf_counter() - started)}.")


if __name__ == "__main__":
    main()
