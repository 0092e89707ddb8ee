"""What an evaluation found about one policy, as a model card and the Hub show it.

Everything is derived from ``results.json`` and ``samples.jsonl`` of the evaluation's folder.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]
from huggingface_hub import EvalResult, EvalResultEntry, eval_result_entries_to_yaml

from hf_unmask.metrics import METRICS
from hf_unmask.results.comparable import is_learned, label, regime
from hf_unmask.results.folder import Contents, read_contents
from hf_unmask.results.markdown import code, plain, table
from hf_unmask.results.records import Accuracy, OperatingPoint, Setting
from hf_unmask.results.several_metrics import accuracies, metrics_of
from hf_unmask.results.spec_text import POLICY, policy_of, quoted
from hf_unmask.results.summary_tables import tables
from hf_unmask.results.transfer_matrix import transfer_matrix

_BENCHMARK = re.compile(r"(?P<dataset>[\w.-]+/[\w.-]+):(?P<task>[\w.-]+)")
_HUB_DATASET = re.compile(r"([\w.-]+/[\w.-]+)(:[^:]+){1,2}")
_HEADS = ("sampler", "task", "model", "filled in", "tokens")
_MORE_HEADS = ("NFE (p50, p95)", "tokens / NFE", "answers")
#: How a name may stand in Markdown.
_FORMS: tuple[Callable[[str], str], ...] = (str, plain, lambda name: code(name)[1:-1])


@dataclass(frozen=True)
class Measured:
    """The part of an evaluation that concerns one policy.

    ``contents`` are those of the groups in which the policy was measured, ``name`` is what the evaluation called the
    policy and ``public`` what readers are to call it.
    """

    contents: Contents
    name: str
    public: str

    @cached_property
    def own(self) -> list[OperatingPoint]:
        """The policy's operating points."""
        return _named(self.contents.points, self.name)

    @property
    def heuristics(self) -> bool:
        """Whether there is anything to compare with."""
        return any(not is_learned(point.setting.sampler) for point in self._points)

    @property
    def points(self) -> str:
        """A table of the policy's operating points."""
        further = list(dict.fromkeys(name for point in self.own for name in point.further))
        heads = [*_HEADS, "accuracy", *map(plain, further), *_MORE_HEADS]
        return self._published(table(heads, (_cells(point, further) for point in self.own)))

    @property
    def counted(self) -> str:
        """What the figures count, as `counted` says."""
        return self._published(counted(self.own))

    @property
    def comparison(self) -> str:
        """Tables of the policy beside all other samplers, with verdicts where answers are stored."""
        return self._published(tables(self.contents).replace("\n## ", "\n#### ").strip())

    @property
    def transfer(self) -> str:
        """The policy across the settings in which its points differ; "" if there is only one."""
        names = [field.name for field in fields(Setting) if field.name != "sampler"]
        varying = [name for name in names if len({getattr(point.setting, name) for point in self.own}) > 1]
        return self._published(transfer_matrix(self.own, columns=varying).to_markdown()) if varying else ""

    @property
    def environment(self) -> str:
        """Versions, hardware, commits and dates, each once."""
        kept: dict[str, None] = {}
        for point in self.own:
            for key, value in point.environment.items():
                named = value if isinstance(value, dict) else {key: value}
                kept |= {f"{name} {_date(text)}": None for name, text in named.items() if text is not None}
        return ", ".join(kept) or "versions and hardware that were not recorded"

    @property
    def datasets(self) -> list[str]:
        """Those on the Hub, by their ids."""
        found = (hub_dataset(point.setting.dataset) for point in self.own)
        return list(dict.fromkeys(name for name in found if name is not None))

    @property
    def metrics(self) -> list[str]:
        """Names of the metrics."""
        return metric_names(self.own)

    @property
    def eval_results(self) -> list[EvalResult]:
        """Accuracy and forward passes of each operating point, for the card's ``model-index``."""
        return [result for point in self.own for result in eval_results(point, self._published)]

    def benchmark_file(self, benchmark: str) -> tuple[str, str]:
        """The file that puts the policy on a benchmark's leaderboard: its path in the repository, and its YAML.

        Args:
            benchmark: ``DATASET_ID:TASK_ID``, with the task id of the data set's ``eval.yaml`` on the Hub.

        Raises:
            ValueError: not of that form, or nothing was measured on that data set.
        """
        named = _BENCHMARK.fullmatch(benchmark)
        if named is None:
            raise ValueError(f"a benchmark is given as ORG/DATASET:TASK_ID, e.g. openai/gsm8k:gsm8k, got {benchmark!r}")
        points = [point for point in self.own if hub_dataset(point.setting.dataset) == named["dataset"]]
        if not points:
            have = ", ".join(dict.fromkeys(point.setting.dataset for point in self.own))
            raise ValueError(f"nothing was measured on {named['dataset']!r}, only on {have}: evaluate on it first")
        best = min(points, key=lambda point: (-point.accuracy, point.nfe_mean))
        spread = f", the best of {len(points)} operating points measured on it" if len(points) > 1 else ""
        dial = label(best.setting).replace(POLICY + quoted(self.name), "policy")
        notes = (
            f"{self._published(dial)} on {_short(best.setting.model)}, {regime(best.setting)}, "
            f"{best.setting.max_new_tokens} tokens, {best.nfe_mean:.1f} forward passes per answer, "
            f"{best.prompts} prompts{spread}; metric {Path(best.setting.metric).stem}"
        )
        date = best.environment.get("date")
        entry = EvalResultEntry(
            dataset_id=named["dataset"],
            task_id=named["task"],
            value=100 * best.accuracy,
            date=date if isinstance(date, str) else None,
            notes=notes,
        )
        text: str = yaml.safe_dump(eval_result_entries_to_yaml([entry]), sort_keys=False, allow_unicode=True)
        return f".eval_results/{named['task']}.yaml", text

    @property
    def _points(self) -> list[OperatingPoint]:
        return [point for group in self.contents.groups for point in group.points]

    def _published(self, text: str) -> str:
        """Without folders of somebody's machine."""
        for form in _FORMS:  # the public name may be a placeholder, which must be found as it is
            text = text.replace(form(POLICY + quoted(self.name)), POLICY + self.public)
        for setting in dict.fromkeys(point.setting for point in self._points):
            for name in (setting.model, setting.dataset, setting.template, setting.metric, *_policies([setting])):
                for form in _FORMS if Path(name).is_absolute() else ():
                    text = text.replace(form(quoted(name)), form(quoted(_short(name))))
                    text = text.replace(form(name), form(_short(name)))
        return text


def read_measured(folder: str | Path, name: str | None, public: str) -> Measured:
    """What an evaluation found about a policy.

    Args:
        folder: what ``hf-unmask evaluate --output`` wrote.
        name: what the evaluation called the policy (folder, repository or ``builtin:`` name); only needed if it
            measured several.
        public: what readers are to call it.

    Raises:
        ValueError: there are no results, or none of a policy, or of several and none is called ``name``.
        ImportError: the packages that read evaluations are not installed.
    """
    try:
        contents = read_contents(Path(folder))
    except ModuleNotFoundError as error:
        raise ImportError(f"results need {error.name}: pip install 'hf_unmask[evaluate]'") from error
    known = _policies(point.setting for point in contents.points)
    if not known:
        raise ValueError(f"{folder} holds no results of a policy: evaluate it with --sampler learned:POLICY")
    chosen = known[0] if len(known) == 1 else next((one for one in known if name and _same(one, name)), None)
    if chosen is None:
        raise ValueError(
            f"{folder} holds results of several policies ({', '.join(known)}), none called {name!r}: name the "
            "policy as it was evaluated, or evaluate it into a folder of its own"
        )
    groups = [group for group in contents.groups if _named(group.points, chosen)]
    return Measured(replace(contents, groups=groups), chosen, public)


def eval_results(point: OperatingPoint, published: Callable[[str], str] = str) -> Iterable[EvalResult]:
    """Accuracy and forward passes of an operating point, for a card's ``model-index``.

    Args:
        point: what was measured.
        published: makes a text public that may name files of somebody's machine.
    """
    setting = point.setting
    id_, *rest = setting.dataset.split(":") if hub_dataset(setting.dataset) else [_short(setting.dataset)]
    where = published(f"{label(setting)}, {regime(setting)}, {setting.max_new_tokens} tokens")
    shares = [("accuracy", _stem(name), one.accuracy) for name, one in accuracies(point).items()]
    for kind, name, value in (*shares, ("nfe", "forward passes", point.nfe_mean)):
        yield EvalResult(
            task_type="text-generation",
            task_name=setting.task,
            dataset_type=id_,
            dataset_name=_short(setting.dataset),
            dataset_config=rest[0] if len(rest) == 2 else setting.task,  # tells the tasks of a data set apart
            dataset_split=rest[-1] if rest else None,
            metric_type=kind,
            metric_name=f"{name} ({where})",
            metric_value=value,
        )


def metric_names(points: Iterable[OperatingPoint]) -> list[str]:
    """Names of the metrics that have scored the points, without the folders they may lie in."""
    return list(dict.fromkeys(map(_stem, metrics_of(points))))


def counted(points: Iterable[OperatingPoint]) -> str:
    """A list in Markdown: for each metric what it counts as right, and of which tasks it is the accuracy."""
    points, lines = list(points), []
    for metric in metrics_of(points):
        tasks = dict.fromkeys(point.setting.task for point in points if point.setting.metric == metric)
        decides = f", the accuracy of {', '.join(map(plain, tasks))}" if tasks else ""
        what = f": {METRICS[metric]}" if metric in METRICS else ""
        lines.append(f"- {code(_stem(metric))}{decides}{what}.")
    return "\n".join(lines)


def _stem(metric: str) -> str:
    return Path(metric).stem


def hub_dataset(name: str | None) -> str | None:
    """The id of a data set on the Hub (``ORG/NAME:SPLIT`` or ``ORG/NAME:CONFIG:SPLIT``); None for any other."""
    found = _HUB_DATASET.fullmatch(name or "")
    return found[1] if found else None


def _policies(settings: Iterable[Setting]) -> list[str]:
    return list(dict.fromkeys(name for one in settings if (name := policy_of(one.sampler)) is not None))


def _named(points: Sequence[OperatingPoint], name: str) -> list[OperatingPoint]:
    return [point for point in points if name in _policies([point.setting])]


def _same(one: str, other: str) -> bool:
    return one == other or Path(one).expanduser().resolve() == Path(other).expanduser().resolve()


def _short(name: str) -> str:
    return Path(name).name if Path(name).is_absolute() else name


def _share(one: Accuracy | None) -> str:
    if one is None:
        return "-"
    low, high = one.accuracy_interval
    return f"{100 * one.accuracy:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def _date(value: Any) -> str:
    """A date without its time of day; anything else as it is."""
    return re.sub(r"^(\d{4}-\d\d-\d\d)T\S+$", r"\1", str(value))


def _cells(point: OperatingPoint, further: Sequence[str]) -> list[str]:
    setting = point.setting
    return [
        code(label(setting)),
        plain(setting.task),
        plain(_short(setting.model)),
        regime(setting),
        str(setting.max_new_tokens),
        *(_share(accuracies(point).get(metric)) for metric in (setting.metric, *further)),
        f"{point.nfe_mean:.1f} ({point.nfe_p50:g}, {point.nfe_p95:g})",
        f"{point.tokens_per_forward:.2f}",
        f"{point.prompts} prompts, seed {', '.join(map(str, point.seeds))}"
        + (f", {point.draws} draws each" if point.draws > 1 else ""),
    ]
