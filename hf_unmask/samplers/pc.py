"""PC-Sampler: position and corpus frequency correct the confidence."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import ClassVar

import torch

from hf_unmask.denoisers.values import require
from hf_unmask.generation.step import Needs, Noise, Step
from hf_unmask.results.foreign_text import read_text
from hf_unmask.samplers.ranked import RankedSampler


@dataclass(frozen=True)
class PCSampler(RankedSampler):
    """Open the ``k`` largest exp(-decay * i) * min(alpha, -p * ln f): i place in the canvas, p confidence, f frequency.

    ``frequencies``: JSON file {"token id": share of a corpus}, see ``frequency_table``. Ids it lacks count as its
    rarest one. Without it, -ln f is 1 for all tokens (uniform frequencies; their size would only matter to alpha).
    Source: https://arxiv.org/abs/2508.13021, the sign as in its code (rare tokens score high), lambda named ``decay``.
    """

    name: ClassVar[str] = "pc"
    decay: float = 0.25
    alpha: float = 10.0
    frequencies: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        require("decay", self.decay, at_least=0.0)
        require("alpha", self.alpha, above=0.0)
        if self.frequencies is not None:
            surprisals(self.frequencies)  # a bad file is reported now, not in the middle of a run

    @property
    def needs(self) -> Needs:
        return Needs.of("confidence")

    def score(self, step: Step, noise: Noise) -> torch.Tensor:
        del noise
        gain = step.confidence
        if self.frequencies is not None:
            ids, surprisal = surprisals(self.frequencies)
            ids, surprisal = ids.to(gain.device), surprisal.to(gain)  # not every device has float64
            place = torch.searchsorted(ids, step.proposal).clamp(max=len(ids) - 1)
            gain = gain * surprisal[place].where(ids[place] == step.proposal, surprisal.max())
        least = torch.finfo(gain.dtype).tiny  # compares logarithms (exp underflows far out), kept finite
        return gain.clamp(min=least, max=self.alpha).log() - self.decay * step.index.to(gain.dtype)


@lru_cache(maxsize=8)
def surprisals(path: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids [N] long, ascending, and their -ln frequency [N] float64 from a table; read once per process and path."""
    try:
        table = {int(token): float(share) for token, share in json.loads(read_text(path)).items()}
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path}: not a JSON object of token ids and frequencies ({error})") from error
    wrong = [f"{token}: {share}" for token, share in table.items() if token < 0 or not 0 < share <= 1]
    if wrong or not table:
        raise ValueError(f"{path}: needs ids >= 0 with frequencies in (0, 1], got {(wrong or ['none'])[0]}")
    ids = sorted(table)
    return torch.tensor(ids), -torch.tensor([table[i] for i in ids], dtype=torch.float64).log()


def frequency_table(token_ids: Iterable[int], path: str | Path) -> None:
    """Count the token ids of a corpus and write the table that ``PCSampler(frequencies=path)`` reads."""
    counts = Counter(int(i) for i in token_ids)
    if not counts:
        raise ValueError("a frequency table needs at least one token id")
    Path(path).write_text(json.dumps({token: n / counts.total() for token, n in sorted(counts.items())}), "utf-8")
    surprisals.cache_clear()
