"""The packaged policies against every heuristic at equal budgets of forward passes, in the embedded environment.

    torchrun --nproc-per-node 2 examples/compare_policies.py   # two processes of one thread: quickest on two cores
    python examples/compare_policies.py                        # the same numbers from one process

1. For each task and each regime that a policy was trained for, all dials of all samplers are run on validation
   problems. Within each budget every method keeps the dial that was most accurate there.
2. The kept dials are run on held-out test problems, stochastic samplers with three seeds. Copies of the policies that
   are blind to one input (confidences, mask bits, time, hidden states) run at the middle budget's dial.
3. Tables go to stdout and OUT/policies.md, the numbers to OUT/policies.json.

``--also DIR...`` adds policies of other runs; ``--against DIR...`` are separate policies whose hypervolume is compared
with that of the speed-conditioned policy. Stopped and started again, it goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from reproduce_tables import BATCH_SIZE, SEEDS, Cell, duration, expected, grid

from hf_unmask import evaluate_samplers
from hf_unmask.evaluation.contest import Round, budgets_of, contest, contest_table, dials_within
from hf_unmask.evaluation.frontier import hypervolume_of, method_of
from hf_unmask.evaluation.groups import is_learned
from hf_unmask.evaluation.markdown import table
from hf_unmask.evaluation.processes import Processes
from hf_unmask.evaluation.records import OperatingPoint, Setting, iter_samples
from hf_unmask.evaluation.scoring import TINY_METRICS
from hf_unmask.evaluation.statistics import paired_comparison, scores_by_prompt
from hf_unmask.policy import PolicyMismatchWarning, UnmaskingPolicy
from hf_unmask.policy.loading import BUILTIN, PACKAGED, find_policy, load_policy, save_policy
from hf_unmask.specs import parse_sampler
from hf_unmask.tiny import TASKS, answer_length, held_out, load_tiny

#: Further dials of the quickest rule, which the small budgets ask for.
MORE_GAMMAS = (2.4, 3.2, 4.8, 6.4)
TEMPERATURES = (0.5, 1.0, 2.0)
BETAS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
SPEEDS = tuple(i / 8 for i in range(9))
MIDDLE = 0.5
BETA_DIAL, BLIND = "beta dial of ", "blind "
#: Inputs that are taken away: how the weights make the policy blind to them.
INPUTS = ("confidences", "mask bits", "time", "hidden states")


@dataclass(frozen=True)
class Plan:
    """How much is run."""

    problems: int = 500  # per task, of "test"
    validation: int = 100  # per task, of "validation"
    stride: int = 1  # every how many-th dial is tried


def blind(policy: UnmaskingPolicy, name: str) -> bool:
    """Take an input away in place: its weights become zero, or those of one constant value. False if it has none."""
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
        elif policy.hidden_projection is None:
            return False
        else:
            policy.hidden_projection.weight.zero_()
    return True


def method(spec: str) -> str:
    """As in reports, with the beta dial of a speed-conditioned policy by itself."""
    return (BETA_DIAL if "speed=" in spec and "beta=" in spec else "") + method_of(spec)


def learned_specs(source: str) -> list[str]:
    """The dials of a policy."""
    name, config = f"learned:{source}", load_policy(find_policy(source)).config
    if config.speed_conditioned:
        swept = [f"{name};speed={speed}" for speed in SPEEDS]
        cooled = [f"{spec};policy_temperature=0.5" for spec in swept]
        return [*swept, *cooled, *(f"{name};speed={MIDDLE};beta={beta}" for beta in BETAS if beta != 1)]
    return [f"{name};policy_temperature={heat};beta={beta}" for heat in TEMPERATURES for beta in BETAS]


class Run:
    """The stages, in a folder."""

    def __init__(self, plan: Plan, out: Path, sources: Sequence[str]):
        self.plan, self.out = plan, out
        self.model, self.tokenizer = load_tiny()
        self.here = Processes.here()
        self.configs = {source: load_policy(find_policy(source)).config for source in sources}

    def say(self, text: str) -> None:
        if self.here.first:
            print(text, flush=True)

    def regimes(self) -> list[int | None]:
        found = [config.trained_for.get("block_length") for config in self.configs.values()]
        return list(dict.fromkeys(found))

    def candidates(self, cell: Cell) -> list[str]:
        """Specs of a regime; heuristics that are sure to spend more than the largest budget are left out."""
        most = max(budgets_of(setting_of(cell)))
        rules = [spec for specs in grid(cell, self.plan.stride).values() for spec in specs]
        rules += [str(parse_sampler(f"entropy_bound:gamma={gamma}")) for gamma in MORE_GAMMAS]
        counted = [spec for spec in rules if ":k=" not in spec or expected(spec, cell) <= most]
        mine = [s for s, config in self.configs.items() if config.trained_for.get("block_length") == cell.block_length]
        learned = [spec for source in mine for spec in learned_specs(source)[:: self.plan.stride]]
        return list(dict.fromkeys([*counted, *(str(parse_sampler(spec)) for spec in learned)]))

    def evaluate(self, cell: Cell, split: str, specs: Sequence[str], name: str = "") -> list[OperatingPoint]:
        tuning = split == "validation"
        self.say(f"{cell.key}, {name or split}: {len(specs)} samplers")
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
            out=self.folder(cell, name or split),
            model_name="tiny",
        )

    def folder(self, cell: Cell, name: str) -> Path:
        return self.out / cell.task / cell.name / name

    def scores(self, cell: Cell, name: str) -> dict[str, dict[int, float]]:
        by_key: dict[str, list[Any]] = {}
        for sample in iter_samples(self.folder(cell, name) / "samples.jsonl"):
            by_key.setdefault(sample.setting.key, []).append(sample)
        return {key: scores_by_prompt(samples) for key, samples in by_key.items()}

    def task(self, task: str) -> Iterator[tuple[str, Any]]:
        """All stages of a task; names and contents of its results."""
        cells = [Cell(task, block) for block in self.regimes()]
        tuning = {cell: self.evaluate(cell, "validation", self.candidates(cell)) for cell in cells}
        testing: list[OperatingPoint] = []
        scores: dict[str, dict[int, float]] = {}
        for cell, points in tuning.items():
            found = [dials_within(points, budget, method) for budget in budgets_of(setting_of(cell))]
            kept = {p.setting.sampler: None for chosen in found for p in chosen.values()}
            # what another regime's budgets ask for, so that "any block length" is asked fairly
            for other in cells:
                for budget in budgets_of(setting_of(other)):
                    chosen = dials_within([p for p in points if not is_learned(p.setting.sampler)], budget, method)
                    kept |= {p.setting.sampler: None for p in chosen.values()}
            testing += self.evaluate(cell, "test", list(kept))
            scores |= self.scores(cell, "test")
        every = [point for points in tuning.values() for point in points]
        for source, config in self.configs.items():
            cell = Cell(task, config.trained_for.get("block_length"))
            for name in [f"learned:{source}", f"{BETA_DIAL}learned:{source}"]:
                if any(method(p.setting.sampler) == name for p in every):
                    yield name, contest(name, every, testing, scores, method=method)
            yield BLIND + source, self.ablated(cell, source, tuning[cell], testing, scores)

    def ablated(
        self,
        cell: Cell,
        source: str,
        tuning: Sequence[OperatingPoint],
        testing: Sequence[OperatingPoint],
        scores: dict[str, dict[int, float]],
    ) -> list[dict[str, Any]]:
        """The policy at the middle budget's dial, whole and blind to one input each."""
        budget = budgets_of(setting_of(cell))[1]
        dial = dials_within(tuning, budget, method).get(f"learned:{source}")
        if dial is None:
            return []
        (whole,) = [point for point in testing if point.setting == test_setting(dial.setting)]
        specs = {}
        for name in INPUTS:
            policy = load_policy(find_policy(source))
            if blind(policy, name):
                folder = self.out / "blind" / source.removeprefix(BUILTIN).replace("/", "-") / name.replace(" ", "-")
                if self.here.first:
                    save_policy(policy, folder)
                self.here.wait()
                specs[str(parse_sampler(dial.setting.sampler.replace(source, str(folder))))] = name
        slug = source.removeprefix(BUILTIN).replace("/", "-")
        points = self.evaluate(cell, "test", list(specs), f"blind-{slug}")
        theirs = self.scores(cell, f"blind-{slug}")
        rows = [{"without": "nothing", "accuracy": whole.accuracy, "nfe": whole.nfe_mean, "lead": None}]
        for point in points:
            lead = paired_comparison(scores[whole.setting.key], theirs[point.setting.key])
            rows.append(
                {
                    "without": specs[point.setting.sampler],
                    "accuracy": point.accuracy,
                    "nfe": point.nfe_mean,
                    "lead": [lead.difference, *lead.interval],
                }
            )
        return rows


def setting_of(cell: Cell) -> Setting:
    """Of a cell, as budgets read it."""
    length = answer_length(cell.task)
    return Setting("", "tiny", "", cell.task, "", "", length, cell.block_length)


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
    specs = list(dict.fromkeys(str(parse_sampler(spec)) for side in sides.values() for spec in side))
    by_spec = {p.setting.sampler: p for p in run.evaluate(cell, "test", specs, "areas")}
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
        return "" if row["lead"] is None else "{:+.1f} [{:+.1f}, {:+.1f}]".format(*(100 * x for x in row["lead"]))

    lines = [[row["without"], f"{100 * row['accuracy']:.1f}", f"{row['nfe']:.2f}", lead(row)] for row in rows]
    return table([title, "accuracy", "NFE", "lead of the whole policy"], lines)


def as_plain(content: Sequence[Any]) -> list[Any]:
    return [asdict(one) if isinstance(one, Round) else one for one in content]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/policies"), help="folder for all results")
    parser.add_argument("--quick", action="store_true", help="few problems and dials, to see that it works")
    parser.add_argument("--also", nargs="*", default=[], help="folders of further policies")
    parser.add_argument("--against", nargs="*", default=[], help="separate policies for the hypervolume")
    parser.add_argument("--readme", type=Path, help="put the tables into this file")
    args = parser.parse_args()
    started = time.perf_counter()
    plan = Plan(problems=20, validation=10, stride=6) if args.quick else Plan()
    warnings.simplefilter("ignore", PolicyMismatchWarning)
    packaged = [f"{BUILTIN}{folder.name}" for folder in sorted(PACKAGED.glob("tiny-*"))]
    run = Run(plan, args.out, [*packaged, *args.also])
    found = {task: dict(run.task(task)) for task in TASKS}
    extra: dict[str, Any] = {}
    conditioned = f"{BUILTIN}tiny-speed"
    if args.against:
        extra["areas"] = {task: areas(run, task, conditioned, args.against) for task in TASKS}
    if not run.here.first:
        return
    if conditioned in run.configs:
        extra["calibrations"] = calibrations(run, conditioned)
    text = report(found, extra)
    run.say(text)
    (args.out / "policies.md").write_text(text + "\n", "utf-8")
    plain = {task: {name: as_plain(content) for name, content in each.items()} for task, each in found.items()}
    (args.out / "policies.json").write_text(json.dumps({"tasks": plain, **extra}, indent=1) + "\n", "utf-8")
    run.say(f"This run took {duration(time.perf_counter() - started)}.")


if __name__ == "__main__":
    main()
