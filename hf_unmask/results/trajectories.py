"""Which trajectories a report embeds, and in what form its script reads them."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from hf_unmask.results.comparable import Group, Identity, identity, label, regime
from hf_unmask.results.foreign_text import printable
from hf_unmask.results.headline import headline
from hf_unmask.results.records import Sample, Setting, iter_samples

Decode = Callable[[list[int]], str]
MAX_PROMPTS = 20
_DIGITS = 3  # of a confidence


@dataclass(frozen=True)
class Answers:
    """What a report keeps of the samples of a group."""

    kept: dict[int, list[Sample]]  # by prompt: of every sampler the first seed and draw, in the order of the points
    prompts: int  # in the file
    trajectories: int  # in the file, all seeds and draws


@dataclass(frozen=True)
class Chosen:
    """The trajectories of one group that fit into a report."""

    group: Group
    samples: list[Sample]
    prompts: int  # shown
    answers: Answers


class Reader:
    """Reads samples twice, one at a time: a full evaluation has more of them than memory has room for.

    The first time it takes the scores, and finds out which prompts every sampler answered. The second time it keeps
    the answers to the first of these.
    """

    def __init__(self, path: Path, found: Sequence[Group], limit: int) -> None:
        self.places = {point.setting: place for group in found for place, point in enumerate(group.points)}
        self.stored: Counter[Identity] = Counter()
        self._scores: dict[Setting, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
        self._scores |= {setting: defaultdict(list) for setting in self.places}
        self._earliest: dict[tuple[Setting, int], tuple[int, int]] = {}  # seed and draw
        for sample in self._samples(path):
            self._note(sample)
        self.prompts = {group.identity: self._ranked(group) for group in found}
        wanted = {key: set(prompts[:limit]) for key, prompts in self.prompts.items()}
        self._kept: dict[tuple[Identity, int], dict[Setting, Sample]] = defaultdict(dict)
        for sample in self._samples(path):
            key, number = identity(sample.setting), sample.prompt_id
            first = self._earliest[sample.setting, number]
            if number in wanted[key] and (sample.seed, sample.draw) == first:
                self._kept[key, number][sample.setting] = sample

    def scores(self) -> dict[str, dict[int, float]]:
        """Mean score over seeds and draws, by setting key and prompt. By a further metric it is the key of the setting
        in which that one decides, as `several_metrics.under` has it."""
        return {
            setting.key: {prompt: fmean(values) for prompt, values in sorted(by_prompt.items())}
            for setting, by_prompt in self._scores.items()
        }

    def answers(self, group: Group) -> Answers:
        """The answers that were kept for a group, prompts that most samplers answered first, then by number."""
        prompts = self.prompts[group.identity]
        kept = {number: self._kept.get((group.identity, number), {}).values() for number in prompts}
        by_place = {
            number: sorted(samples, key=lambda sample: self.places[sample.setting])
            for number, samples in kept.items()
            if samples
        }
        return Answers(by_place, len(prompts), self.stored[group.identity])

    def _samples(self, path: Path) -> Iterator[Sample]:
        """Those of settings that have an operating point."""
        return (sample for sample in iter_samples(path) if sample.setting in self.places)

    def _note(self, sample: Sample) -> None:
        place, now = (sample.setting, sample.prompt_id), (sample.seed, sample.draw)
        self.stored[identity(sample.setting)] += 1
        for metric, score in {sample.setting.metric: sample.score, **sample.further}.items():
            setting = sample.setting if metric == sample.setting.metric else replace(sample.setting, metric=metric)
            self._scores[setting][sample.prompt_id].append(score)
        self._earliest[place] = min(now, self._earliest.get(place, now))

    def _ranked(self, group: Group) -> list[int]:
        """All prompts of a group in the order in which they are shown."""
        samplers = Counter(prompt for point in group.points for prompt in self._scores[point.setting])
        return sorted(samplers, key=lambda prompt: (-samplers[prompt], prompt))


def choose(group: Group, answers: Answers, first: Collection[str], size: int) -> Chosen:
    """Prompts in order, each with every sampler, until ``size`` characters are full.

    If a single prompt does not fit with all samplers, it is shown with as many as fit, those whose setting key is in
    ``first`` before the others.
    """
    shown: list[Sample] = []
    prompts = 0
    for samples in list(answers.kept.values())[:MAX_PROMPTS]:
        fitting = list(_while_fitting(sorted(samples, key=lambda sample: sample.setting.key not in first), size))
        if not fitting or (prompts and len(fitting) < len(samples)):
            break
        shown += fitting
        prompts += 1
        size -= sum(map(_size, fitting))
    return Chosen(group, sorted(shown, key=lambda sample: sample.prompt_id), prompts, answers)


def _while_fitting(samples: Sequence[Sample], size: int) -> Iterator[Sample]:
    for sample in samples:
        size -= _size(sample)
        if size < 0:
            return
        yield sample


def _size(sample: Sample) -> int:
    return len(json.dumps(_trajectory(sample, 0), separators=(",", ":"))) + 4


def payload(chosen: Sequence[Chosen], decode: Decode | None, special: Collection[int] = ()) -> dict[str, Any]:
    """What the script of the page reads. ``decode`` turns ids into text; without it tokens are shown as numbers."""
    ids = sorted({token for part in chosen for sample in part.samples for token in sample.tokens})
    return {
        "vocabulary": {str(token): _piece(token, decode) for token in ids},
        "special": [token for token in ids if token in set(special)],
        "tasks": [_task(part) for part in chosen if part.samples],
    }


def _piece(token: int, decode: Decode | None) -> str:
    if decode is None:
        return str(token)
    text = str(decode([token]))
    # part of a character that spans several tokens, or nothing to see: the number says more
    return text if text.strip("\N{REPLACEMENT CHARACTER}") else f"#{token}"


def _task(part: Chosen) -> dict[str, Any]:
    settings = list(dict.fromkeys(point.setting for point in part.group.points))
    used = {sample.setting for sample in part.samples}
    shown = [setting for setting in settings if setting in used]
    place = {setting: number for number, setting in enumerate(shown)}
    prompts: dict[str, list[dict[str, Any]]] = {}
    for sample in part.samples:
        prompts.setdefault(str(sample.prompt_id), []).append(_trajectory(sample, place[sample.setting]))
    for trajectories in prompts.values():
        trajectories.sort(key=lambda trajectory: trajectory["sampler"])
    return {
        "title": printable(part.group.title),
        "shown": f"{part.prompts} of {part.answers.prompts} prompts, "
        f"{len(part.samples)} of {part.answers.trajectories} trajectories",
        "opens": [place[one.setting] for one in headline(part.group).pair if one.setting in place],
        "samplers": [
            {"name": printable(label(setting)), "regime": regime(setting), "block": setting.block_length}
            for setting in shown
        ],
        "prompts": [{"id": int(number), "trajectories": found} for number, found in prompts.items()],
    }


def _trajectory(sample: Sample, sampler: int) -> dict[str, Any]:
    return {
        "sampler": sampler,
        "seed": sample.seed,
        "score": round(sample.score, _DIGITS),
        "nfe": sample.nfe,
        "steps": sample.steps,
        "tokens": sample.tokens,
        "opened": sample.step_map,
        "confidence": _confidences(sample),
        "text": printable(sample.text, lines=True),
        "further": {printable(name): round(score, _DIGITS) for name, score in sample.further.items()},
    }


def _confidences(sample: Sample) -> list[float | None] | None:
    """Rounded; what is not a number (nothing was read) has no place in JSON."""
    if sample.confidence is None:
        return None
    values = [None if value is None else round(value, _DIGITS) for value in sample.confidence]
    return [value if value is not None and value == value else None for value in values]
