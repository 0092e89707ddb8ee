"""Which trajectories a report embeds, and in what form its script reads them."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from hf_unmask.evaluation.groups import Group, identity, label, regime
from hf_unmask.evaluation.records import Sample

Decode = Callable[[list[int]], str]
MAX_PROMPTS = 20
_DIGITS = 3  # of a confidence


@dataclass(frozen=True)
class Chosen:
    """The trajectories of one group that fit into a report."""

    group: Group
    samples: list[Sample]  # by prompt, then by sampler
    prompts: int  # shown
    all_prompts: int
    trajectories: int  # that the evaluation stored for this group, all seeds and draws


def choose(group: Group, samples: Sequence[Sample], first: Collection[str], size: int) -> Chosen:
    """Prompts in order of their number, each with every sampler, until ``size`` characters are full.

    Prompts that every sampler answered come first. Of several seeds and draws the first is shown. If a single prompt
    does not fit with all samplers, it is shown with as many as fit, those whose setting key is in ``first`` before
    the others.
    """
    own = [sample for sample in samples if identity(sample.setting) == group.identity]
    by_prompt = _by_prompt(group, own, first)
    order = sorted(by_prompt, key=lambda number: (-len(by_prompt[number]), number))
    shown: list[Sample] = []
    prompts = 0
    for number in order[:MAX_PROMPTS]:
        fitting = list(_while_fitting(by_prompt[number], size))
        if not fitting or (prompts and len(fitting) < len(by_prompt[number])):
            break
        shown += fitting
        prompts += 1
        size -= sum(map(_size, fitting))
    return Chosen(group, sorted(shown, key=lambda sample: sample.prompt_id), prompts, len(by_prompt), len(own))


def _by_prompt(group: Group, samples: Sequence[Sample], first: Collection[str]) -> dict[int, list[Sample]]:
    """The first trajectory of each prompt and setting, settings in the order of the tables after those in ``first``."""
    earliest: dict[tuple[int, str], Sample] = {}
    for sample in sorted(samples, key=lambda sample: (sample.seed, sample.draw)):
        earliest.setdefault((sample.prompt_id, sample.setting.key), sample)
    keys = [point.setting.key for point in group.points]
    rank = {key: (key not in first, place) for place, key in enumerate(keys)}
    by_prompt: dict[int, list[Sample]] = {}
    for (number, key), sample in earliest.items():
        if key in rank:
            by_prompt.setdefault(number, []).append(sample)
    for found in by_prompt.values():
        found.sort(key=lambda sample: rank[sample.setting.key])
    return by_prompt


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
        "title": part.group.title,
        "shown": f"{part.prompts} of {part.all_prompts} prompts, "
        f"{len(part.samples)} of {part.trajectories} trajectories",
        "samplers": [
            {"name": label(setting), "regime": regime(setting), "block": setting.block_length} for setting in shown
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
        "text": sample.text,
    }


def _confidences(sample: Sample) -> list[float | None] | None:
    """Rounded; what is not a number (nothing was read) has no place in JSON."""
    if sample.confidence is None:
        return None
    values = [None if value is None else round(value, _DIGITS) for value in sample.confidence]
    return [value if value is not None and value == value else None for value in values]
