"""In which order samplers open a canvas, from step maps.

A step map [L] holds the step at which each canvas position opened, -1 never. Positions that never opened (behind an
early end) are left out everywhere. Definitions follow the qualitative analysis of the paper whose policies are trained
here: NFE per block, tokens opened together with their right neighbour, rank correlation of orders.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hf_unmask.results.records import Sample
from hf_unmask.results.statistics import aligned, mean_interval

StepMaps: TypeAlias = NDArray[np.int64]

_FEWEST = 3  # positions: the correlation of two is always 1 or -1


@dataclass(frozen=True)
class MeanCorrelation:
    """Spearman's rho, mean over prompts."""

    mean: float
    interval: tuple[float, float]  # bootstrap over prompts, 95 %
    prompts: int  # in which it is defined


@dataclass(frozen=True)
class RankCorrelation:
    """Of two samplers' opening orders; None where it is defined in no prompt."""

    whole: MeanCorrelation | None  # over the whole canvas
    blocks: tuple[MeanCorrelation | None, ...]  # within each block, left to right


def step_maps_by_prompt(samples: Iterable[Sample]) -> dict[int, list[int]]:
    """One step map per prompt: that of its first seed and draw, so that prompts stay independent observations."""
    ordered = sorted(samples, key=lambda sample: (sample.prompt_id, sample.seed, sample.draw))
    maps: dict[int, list[int]] = {}
    for sample in ordered:
        maps.setdefault(sample.prompt_id, sample.step_map)
    return maps


def nfe_per_block(step_map: ArrayLike, block_length: int) -> list[float]:
    """Steps in which at least one token of a block opened, [blocks], mean over samples.

    ``step_map`` [L], or [samples, L]. Steps that opened nothing belong to no block. In full diffusion a step can open
    tokens of several blocks and counts in each of them. With guidance a step is two forward passes.
    """
    maps = _maps(step_map)
    blocks = _blocks(maps.shape[1], block_length)
    counts = [[np.unique(row[block][row[block] >= 0]).size for block in blocks] for row in maps]
    return [float(mean) for mean in np.mean(counts, axis=0)]


def opened_with_right_neighbour(step_map: ArrayLike) -> float | None:
    """Share of tokens that opened in the same step as the token to their right, over all samples.

    ``step_map`` [L], or [samples, L]. Of the tokens whose right neighbour opened too; None if there is no such token.
    """
    maps = _maps(step_map)
    left, right = maps[:, :-1], maps[:, 1:]
    both = (left >= 0) & (right >= 0)
    return float((left == right)[both].mean()) if both.any() else None


def rank_correlation(
    step_map_a: Mapping[int, Sequence[int]] | ArrayLike,
    step_map_b: Mapping[int, Sequence[int]] | ArrayLike,
    *,
    block_length: int | None = None,
    seed: int = 0,
) -> RankCorrelation:
    """Spearman correlation (ties by mean rank, `scipy.stats.spearmanr`) of two opening orders, mean over prompts.

    Step maps by prompt id, or [prompts, L] ([L] for one prompt) in the same order. Within a prompt only positions
    that opened in both count. A prompt is left out where the correlation is undefined: fewer than three such
    positions, or all of them opened in one step. ``block_length`` None: the whole canvas is the only block.

    Raises:
        ValueError: the prompts or the canvas lengths differ.
    """
    first, second = (_maps(maps) for maps in aligned(_rows(step_map_a), _rows(step_map_b)))
    if first.shape != second.shape:
        raise ValueError(f"the canvases have {first.shape[1]} and {second.shape[1]} positions")
    blocks = _blocks(first.shape[1], block_length or first.shape[1])
    return RankCorrelation(
        _mean_correlation(first, second, seed),
        tuple(_mean_correlation(first[:, block], second[:, block], seed) for block in blocks),
    )


def _mean_correlation(first: StepMaps, second: StepMaps, seed: int) -> MeanCorrelation | None:
    each = [_correlation(a, b) for a, b in zip(first, second, strict=True)]
    defined = [value for value in each if value is not None]
    if not defined:
        return None
    interval = mean_interval(defined, (-1.0, 1.0), seed=seed)
    return MeanCorrelation(float(np.mean(defined)), interval, len(defined))


def _correlation(a: StepMaps, b: StepMaps) -> float | None:
    both = (a >= 0) & (b >= 0)
    a, b = a[both], b[both]
    if a.size < _FEWEST or np.ptp(a) == 0 or np.ptp(b) == 0:
        return None
    from scipy import stats  # type: ignore[import-untyped]

    return float(stats.spearmanr(a, b).statistic)


def _rows(step_map: Mapping[int, Sequence[int]] | ArrayLike) -> Mapping[int, Sequence[int]]:
    return step_map if isinstance(step_map, Mapping) else dict(enumerate(_maps(step_map).tolist()))


def _maps(step_map: ArrayLike) -> StepMaps:
    try:
        maps = np.atleast_2d(np.asarray(step_map, dtype=np.int64))
    except ValueError as error:
        raise ValueError("step maps must all have the length of the canvas") from error
    if maps.ndim != 2 or not maps.size:
        raise ValueError(f"step maps must be [L] or [samples, L] and not empty, their shape is {maps.shape}")
    return maps


def _blocks(length: int, block_length: int) -> list[slice]:
    if block_length < 1:
        raise ValueError(f"`block_length` must be at least 1, got {block_length}")
    return [slice(start, start + block_length) for start in range(0, length, block_length)]
