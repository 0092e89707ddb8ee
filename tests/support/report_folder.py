"""A small folder of real evaluation records, made by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from hf_unmask.results.records import (
    Accuracy,
    OperatingPoint,
    Sample,
    Setting,
    read_results,
    read_samples,
    sample_line,
    write_results,
)

LENGTH = 16
EOS, HOSTILE, NEWLINE = 0, 1, 2
HOSTILE_TEXT = "</script><img src=x onerror=\"document.title='owned'\">"


class Letters:
    """Token 0 is special, 1 hostile, 2 a line break, the others letters."""

    all_special_ids = (EOS,)

    def decode(self, tokens: Sequence[int]) -> str:
        texts = {EOS: "<eos>", HOSTILE: HOSTILE_TEXT, NEWLINE: "\n"}
        return "".join(texts.get(token, chr(97 + token % 26)) for token in tokens)


def setting(sampler: str, block_length: int | None = None, **other: object) -> Setting:
    values = {"model": "tiny", "dataset": "problems", "task": "sums", "template": "plain", "metric": "exact"}
    own = {"sampler": sampler, "block_length": block_length, "max_new_tokens": LENGTH}
    return Setting(**{**values, **own, **other})  # type: ignore[arg-type]


def samples(of: Setting, scores: Sequence[float], steps: int, seed: int = 0) -> list[Sample]:
    """One answer per score; ``LENGTH / steps`` neighbours open together."""
    tokens = [(3 + place) for place in range(LENGTH - 3)] + [HOSTILE, NEWLINE, EOS]
    return [
        Sample(
            setting=of,
            prompt_id=prompt,
            seed=seed,
            draw=0,
            score=score,
            nfe=steps,
            steps=steps,
            answer_length=LENGTH,
            tokens=tokens,
            step_map=[place * steps // LENGTH for place in range(LENGTH)],
            text=f"answer {prompt} {HOSTILE_TEXT}",
            confidence=[1 - place / 100 for place in range(LENGTH)],
        )
        for prompt, score in enumerate(scores)
    ]


def point(of: Setting, scores: Sequence[float], nfe: float) -> OperatingPoint:
    accuracy = sum(scores) / len(scores)
    seconds = nfe / 100
    return OperatingPoint(
        setting=of,
        prompts=len(scores),
        seeds=[0],
        draws=1,
        accuracy=accuracy,
        accuracy_interval=(max(accuracy - 0.1, 0.0), min(accuracy + 0.1, 1.0)),
        accuracy_per_seed={"0": accuracy},
        nfe_mean=nfe,
        nfe_p50=nfe,
        nfe_p95=nfe,
        tokens_per_forward=LENGTH / nfe,
        tokens_per_forward_to_eos=LENGTH / nfe,
        seconds_per_sequence={"denoiser": 0.8 * seconds, "sampler": 0.1 * seconds, "rest": 0.1 * seconds}
        | {"total": seconds},
        tokens_per_second=LENGTH / seconds,
        environment={"torch": "2.13", "commit": "abc", "date": "2026-12-01T10:00:00+00:00"},
    )


def shares(correct: int, of: int) -> list[float]:
    return [1.0] * correct + [0.0] * (of - correct)


#: sampler, block length, of 40 prompts correct, forward passes
PLAN = (
    ("confidence:k=8", None, 4, 2),
    ("confidence:k=4", None, 10, 4),
    ("threshold", None, 30, 4),
    ("threshold:threshold=0.99", None, 32, 8),
    ("learned:policy;speed=0.5", None, 31, 4),
    ("confidence:k=4", 8, 36, 4),
    ("learned:policy;speed=0.5", 8, 12, 4),
)


_DIALS = {
    "k": ("confidence", "margin", "entropy", "pc", "random", "left_to_right"),
    "threshold": ("threshold", "credit"),
    "gamma": ("entropy_bound",),
    "factor": ("factor",),
}
#: Thirteen methods with three dials each, in two regimes; accuracies rise with the forward passes, none are equal.
MANY = tuple(
    (f"{method}:{dial}={value}", block_length, start + number + bool(block_length), steps)
    for block_length in (None, 8)
    for number, (method, dial) in enumerate((name, dial) for dial, names in _DIALS.items() for name in names)
    for value, start, steps in ((8, 4, 2), (4, 14, 4), (1, 28, 16))
) + tuple(
    (f"learned:builtin:tiny-{name};speed={speed}", block_length, correct + 2 * place, steps)
    for block_length in (None, 8)
    for place, name in enumerate(("speed", "full", "block"))
    for speed, correct, steps in ((1, 16, 2), (0.5, 27, 4), (0, 34, 8))
)


def write(
    folder: Path,
    tasks: Sequence[str] = ("sums",),
    prompts: int = 40,
    plan: Sequence[tuple[str, int | None, int, int]] = PLAN,
) -> Path:
    """The folder with the records of a plan for each task."""
    points, lines = [], []
    for task in tasks:
        for sampler, block_length, correct, steps in plan:
            of, scores = setting(sampler, block_length, task=task), shares(correct * prompts // 40, prompts)
            points.append(point(of, scores, steps))
            lines += [sample_line(sample) for sample in samples(of, scores, steps)]
    write_results(folder / "results.json", points)
    (folder / "samples.jsonl").write_text("".join(lines), "utf-8")
    return folder


def with_well_formed(folder: Path) -> Path:
    """The same with a second metric, by which every other right answer counts."""
    points = read_results(folder / "results.json")
    strict = [Accuracy(point.accuracy / 2, (0.0, point.accuracy)) for point in points]
    write_results(
        folder / "results.json",
        [replace(point, further={"well_formed": one}) for point, one in zip(points, strict, strict=True)],
    )
    samples = read_samples(folder / "samples.jsonl")
    judged = [replace(one, further={"well_formed": one.score * (one.prompt_id % 2 == 0)}) for one in samples]
    (folder / "samples.jsonl").write_text("".join(map(sample_line, judged)), "utf-8")
    return folder
