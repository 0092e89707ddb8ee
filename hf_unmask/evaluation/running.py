"""Carry out an evaluation: units in a fixed order, each on disk as soon as it is finished."""

from __future__ import annotations

import logging
import math
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn

from hf_unmask import __version__
from hf_unmask.denoisers.adapter import Denoiser
from hf_unmask.denoisers.values import is_number, require_bool, require_int, shown
from hf_unmask.evaluation.environment import environment, sampler_fingerprint, weights_fingerprint
from hf_unmask.evaluation.pace import WORTH_SAYING, Pace, counted, expected_forwards, to_go
from hf_unmask.evaluation.planning import (
    Axes,
    Task,
    Unit,
    as_block_lengths,
    as_samplers,
    as_seeds,
    as_templates,
    tasks,
    units,
)
from hf_unmask.evaluation.problems import fingerprint, load_problems, name_of
from hf_unmask.evaluation.processes import Processes
from hf_unmask.evaluation.scoring import scorers
from hf_unmask.evaluation.storage import RESULTS, SAMPLES, TIMINGS, Store, check_manifest
from hf_unmask.evaluation.worker import Worker
from hf_unmask.policy.hub.locking import only_writer
from hf_unmask.results.aggregation import aggregate
from hf_unmask.results.foreign_text import printable
from hf_unmask.results.places import EVALUATION, require_own
from hf_unmask.results.records import SCHEMA_VERSION, OperatingPoint, iter_samples, read_timings, write_results

_logger = logging.getLogger(__name__)
_LONGEST = 80  # characters beside the bar
_TELL_EVERY = 60.0  # seconds, where no bar shows the time
_TINY = Path(__file__).parents[1] / "tiny" / "model"


def evaluate_samplers(  # noqa: PLR0913 - a protocol has many parts, and all of them are visible here
    model: nn.Module | Denoiser,
    tokenizer: Any,
    dataset: Any,
    metric: Any,
    samplers: Any,
    *,
    block_lengths: Any,
    seeds: Any = (0,),
    batch_size: int = 50,
    max_new_tokens: int | Mapping[str, int],
    templates: Sequence[str | Path] = ("plain",),
    temperature: float = 0.0,
    stop_at_eos: bool = False,
    draws: int = 1,
    limit: int | None = None,
    out: str | Path | None = None,
    progress: bool = True,
    model_name: str | None = None,
    task: str | None = None,
    columns: Mapping[str, str] | None = None,
    metric_options: Mapping[str, Any] | None = None,
) -> list[OperatingPoint]:
    """Evaluate samplers under one protocol: every sampler on the same prompts in the same settings.

    Run again with the same ``out`` after a stop, even ``kill -9``, it goes on where it was and ends in the same files.
    Under ``torchrun`` or ``accelerate launch`` whole batches are shared out, with the results of one process that has
    as many threads (other numbers of threads add in another order, which can move a decision that is all but tied).

    Args:
        model: what ``hf_unmask.generate`` takes, in eval mode.
        tokenizer: turns prompts into ids and ids into text.
        dataset: a ``datasets.Dataset``, a list of dicts, or a name or path (see `load_problems`); columns ``prompt``
            and ``answer`` hold text, ``task`` a name, and there may be others that the metric needs.
        metric: name of a packaged metric, path or module of the ``evaluate`` library; or a mapping from task to such.
            It scores each answer, 1.0 is right. Several, a list or names with ``+`` between them, are recorded side by
            side: the first one decides what is accurate, see `OperatingPoint.further` for the others.
        samplers: samplers or specs (text), one or several; sweeps are expanded.
        block_lengths: positions per block, one or several; "full" or None for full diffusion.
        seeds: whole numbers, one or several. A deterministic rule (see `is_stochastic`) is run with the first one
            only, and once per prompt.
        batch_size: rows generated together.
        max_new_tokens: positions to fill, for all tasks or by task.
        templates: names of packaged prompt templates, or files, one or several; results are per template.
        temperature: of the token draw; 0 takes the most probable token.
        stop_at_eos: end rows at their first stop token, for all samplers alike; it changes their forward passes.
        draws: answers per prompt and seed.
        limit: at most so many problems per task, the first ones. None: all.
        out: folder for manifest.json, samples.jsonl, timings.jsonl and results.json; of one evaluation only. None:
            nothing is kept.
        progress: show a bar with the remaining time on a terminal.
        model_name: name in the results; None: the one it was loaded by.
        task: name for rows of the data set that have no column ``task``. None: the name of the data set.
        columns: other names of the data set's columns, e.g. {"prompt": "question"}.
        metric_options: further keywords of the metric's ``compute``, e.g. {"allow_code_execution": True}.

    Returns:
        One operating point per template, task, block length and sampler, in this order. Accuracies are shares in
        0..1, times are seconds of wall clock per answer, NFE is forward passes per answer; see `OperatingPoint`.

    Raises:
        ValueError: an argument that cannot be used, a folder that holds another evaluation or cannot be written to,
            a sampler or metric that is not known, prompts that leave no room for the answer.
        ImportError: the extra ``evaluate`` is not installed.
    """
    for name, count in (("batch_size", batch_size), ("draws", draws)):
        require_int(name, count, at_least=1)
    _check_generation(temperature, stop_at_eos)
    adapter = Denoiser.resolve(model, tokenizer=tokenizer)
    problems = load_problems(dataset, task=task, limit=limit, columns=columns)
    metrics = scorers(metric, metric_options or {}, list(dict.fromkeys(problem.task for problem in problems)))
    axes = Axes(
        samplers=tuple(as_samplers(samplers)),
        templates=tuple(as_templates(templates)),
        block_lengths=tuple(as_block_lengths(block_lengths)),
        seeds=tuple(as_seeds(seeds)),
        draws=draws,
        max_new_tokens=max_new_tokens,
        common={
            "model": model_name or _model_name(adapter.core),
            "dataset": name_of(dataset, problems),
            "temperature": temperature,
            "stop_at_eos": stop_at_eos,
        },
    )
    plan = tasks(axes, problems, metrics)
    manifest = {
        "schema_version": SCHEMA_VERSION,
        "version": __version__,
        "settings": [asdict(one.setting) for one in plan],
        "seeds": list(axes.seeds),
        "draws": draws,
        "batch_size": batch_size,
        "dataset": fingerprint(problems),
        "prompts": len(problems),
        "metrics": {name: found.fingerprint for name, found in metrics.items()},
        "templates": {template.name: template.fingerprint for template in axes.templates},
        "weights": weights_fingerprint(adapter.model),
        "policies": {str(sampler): held for sampler in axes.samplers if (held := sampler_fingerprint(sampler))},
    }
    here = Processes.here()
    if out == "" or (out is None and here.count > 1):
        raise ValueError(f"`out` must be a folder, which {here.count} process(es) share, got {out!r}")
    if out is not None:
        require_own(out, EVALUATION, option="out")
    with tempfile.TemporaryDirectory() if out is None else nullcontext(str(out)) as folder:
        return _carry_out(Worker(adapter, tokenizer), plan, batch_size, manifest, Path(folder), here, progress)


def _carry_out(
    worker: Worker,
    plan: list[Task],
    batch_size: int,
    manifest: Mapping[str, Any],
    folder: Path,
    here: Processes,
    progress: bool,
) -> list[OperatingPoint]:
    work = units(plan, batch_size)
    store = Store(folder, plan, work, None if here.count == 1 else here.rank)
    with only_writer(folder, "evaluation") if here.first else nullcontext():
        if here.first:
            check_manifest(folder, manifest)
            store.merge()
        here.wait()
        # whole batches are shared out: rows in other batches could round differently
        missing = store.pending(work)
        pending = missing[here.rank :: here.count]
        here.wait()  # nobody writes before everybody has read
        if here.first:
            _logger.info(_plan_line(plan, work, missing, folder))
        _run(worker, pending, store, progress and here.first)
        here.wait()
        if here.first:
            store.merge()
        here.wait()
        record = environment(worker.denoiser.device, here.count)
        kinds = {scorer.isolation for task in plan for scorer in task.metrics.all} - {None}
        if kinds:
            record["isolation"] = ", ".join(sorted(map(str, kinds)))
        points = aggregate(iter_samples(store.path(SAMPLES)), read_timings(store.path(TIMINGS)), record)
        if here.first:
            write_results(folder / RESULTS, points)
        here.wait()
    return points


def _plan_line(plan: Sequence[Task], work: Sequence[Unit], missing: Sequence[Unit], folder: Path) -> str:
    """What is going to be done, and what of it is there."""
    prompts = len({(task.setting.task, problem.prompt_id) for task in plan for problem in task.problems})
    there = len(work) - len(missing)
    reused = f", {there} of them already in {folder}" if there else ""
    batches = counted(len(work), "batch", "batches")
    return f"{counted(len(plan), 'setting')} on {counted(prompts, 'prompt')}: {batches}{reused}"


def _run(worker: Worker, pending: Sequence[Unit], store: Store, progress: bool) -> None:
    from tqdm import tqdm

    if not pending:
        return
    worker.warm_up(pending[0])
    pace = Pace(sum(map(_work, pending)))
    last = -math.inf
    # disable=None: only on a terminal
    with tqdm(total=len(pending), unit="batch", leave=False, disable=None if progress else True) as bar:
        for done, unit in enumerate(pending, 1):
            setting = unit.task.setting
            regime = "full" if setting.block_length is None else f"blocks of {setting.block_length}"
            bar.set_description(printable(f"{setting.task}, {regime}, {setting.sampler}", longest=_LONGEST))
            store.append(*worker(unit))
            bar.update()
            pace.add(_work(unit))
            if pace.left >= WORTH_SAYING and (last < 0 or (bar.disable and time.monotonic() - last > _TELL_EVERY)):
                _logger.info("%d of %d batches done%s", done, len(pending), to_go(pace))
                last = time.monotonic()


def _work(unit: Unit) -> float:
    """Rows times the forward passes that are expected of each."""
    setting = unit.task.setting
    forwards = expected_forwards(unit.task.sampler, setting.max_new_tokens, setting.block_length)
    return forwards * len(unit.problems) * unit.task.draws


def _check_generation(temperature: Any, stop_at_eos: Any) -> None:
    if not is_number(temperature) or not 0 <= temperature < math.inf:
        raise ValueError(f"`temperature` must be a finite number of at least 0, got {shown(temperature)}")
    require_bool("stop_at_eos", stop_at_eos)


def _model_name(model: nn.Module) -> str:
    name = str(getattr(getattr(model, "config", None), "_name_or_path", "") or type(model).__name__)
    return "tiny" if Path(name) == _TINY else name
