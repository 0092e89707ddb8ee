"""Steps with known distributions, and one sampler of every class."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from hf_unmask.generation.step import Needs, Noise, Quantity, State, Step
from hf_unmask.samplers import (
    ConfidenceSampler,
    CreditSampler,
    DilatedSampler,
    EntropyBoundSampler,
    EntropySampler,
    EosSuppressSampler,
    FactorSampler,
    KLASSSampler,
    LeftToRightSampler,
    MarginSampler,
    PCSampler,
    RandomSampler,
    Sampler,
    ThresholdSampler,
)


def slow(*values: Any) -> Any:
    """A case of a test that stands for others which are quick."""
    return pytest.param(*values, marks=pytest.mark.slow)


def one_in(number: int, cases: Iterable[Any]) -> list[Any]:
    """Cases of one kind: one in ``number`` is quick, the others are slow."""
    return [
        case if place % number == 0 else slow(*case) if isinstance(case, tuple) else slow(case)
        for place, case in enumerate(cases)
    ]


#: One sampler per class, with settings at which random distributions open sometimes one and sometimes more positions.
ALL_SAMPLERS: dict[str, Sampler] = {
    "confidence": ConfidenceSampler(k=2),
    "credit": CreditSampler(threshold=0.6),
    "dilated": DilatedSampler(),
    "entropy": EntropySampler(steps_per_block=3),
    "entropy_bound": EntropyBoundSampler(gamma=0.8),
    "eos_suppress": EosSuppressSampler(KLASSSampler(tau=0.3, eps=1.0, n=1)),
    "factor": FactorSampler(factor=1.6),
    "klass": KLASSSampler(tau=0.3, eps=1.0, n=1),
    "left_to_right": LeftToRightSampler(k=2),
    "margin": MarginSampler(steps_per_block=2),
    "pc": PCSampler(decay=0.1, k=2),
    "random": RandomSampler(k=2),
    "threshold": ThresholdSampler(threshold=0.5),
}


def quantities(probs: Tensor, proposal: Tensor, needs: Needs) -> dict[Quantity, Tensor]:
    """What ``needs`` declares, computed plainly. probs [B, W, V], proposal [B, W]."""
    ranked = probs.sort(dim=-1, descending=True).values
    everything: dict[Quantity, Tensor] = {
        "confidence": probs.gather(-1, proposal[..., None])[..., 0],
        "entropy": -torch.xlogy(probs, probs).sum(-1),
        "margin": ranked[..., 0] - ranked[..., 1],
        "top_probs": ranked[..., : needs.top_k],
        "probs": probs,
    }
    return {name: everything[name] for name in needs.quantities}


def make_step(
    probs: Tensor,
    *,
    needs: Needs | None = None,
    proposal: Tensor | None = None,
    masked: Tensor | None = None,
    eligible: Tensor | None = None,
    valid: Tensor | None = None,
    start: int | Tensor = 0,
    length: int | Tensor | None = None,
    block_length: int | None = None,
    steps: int | Tensor | None = None,
    block_steps: int | Tensor = 0,
    stop_tokens: Sequence[int] = (),
    action: Tensor | None = None,
) -> tuple[Step, Noise]:
    """A step whose window is one block. probs [B, W, V]; [B, W] tensors; ints or [B] tensors for the rest.

    Defaults: greedy proposals, everything masked and eligible, a canvas of one block, the first step, noise that
    falls from left to right.
    """
    rows, width, _ = probs.shape
    needs = needs or Needs.of("confidence", "entropy", "margin", "top_probs", "probs")
    proposal = probs.argmax(-1) if proposal is None else proposal
    valid = torch.ones(rows, width, dtype=torch.bool) if valid is None else valid
    masked = valid if masked is None else masked
    offset = torch.arange(width).expand(rows, width)
    index = offset + per_row(start, rows)[:, None]
    step = Step(
        proposal=proposal,
        masked=masked,
        eligible=masked if eligible is None else eligible,
        valid=valid,
        index=index,
        stop_token_ids=tuple(stop_tokens),
        length=per_row(width if length is None else length, rows),
        steps=per_row(block_steps if steps is None else steps, rows),
        block_steps=per_row(block_steps, rows),
        block_length=width if block_length is None else block_length,
        read=quantities(probs, proposal, needs),
    )
    falling = torch.linspace(0.9, 0.1, width).expand(rows, width)
    return step, Noise(action=falling if action is None else action, row=torch.full((rows,), 0.5))


def per_row(value: int | Tensor, rows: int) -> Tensor:
    return torch.full((rows,), value) if isinstance(value, int) else value


def confident(values: Sequence[Sequence[float]], vocabulary: int = 3) -> Tensor:
    """[B, W, V] float64: token 0 has the given probability, the other tokens share the rest evenly."""
    first = torch.tensor(values, dtype=torch.float64)[..., None]
    return torch.cat([first, ((1 - first) / (vocabulary - 1)).expand(*first.shape[:-1], vocabulary - 1)], dim=-1)


def opened(sampler: Sampler, probs: Tensor, state: State = None, **options: object) -> list[list[int]]:
    """The offsets that the sampler opens, per row."""
    step, noise = make_step(probs, needs=sampler.needs, **options)  # type: ignore[arg-type]
    return as_lists(sampler.select(step, state, noise).open)


def as_lists(mask: Tensor) -> list[list[int]]:
    return [row.nonzero()[:, 0].tolist() for row in mask]


def take(state: State, rows: Tensor) -> State:
    """The state of some rows."""
    if state is None:
        return None
    return state[rows] if isinstance(state, Tensor) else tuple(take(part, rows) for part in state)
