"""What may go wrong in a step: noted per row on the device, raised when the host looks."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from hf_unmask.generation.canvas import Rows
from hf_unmask.generation.reading import Reading
from hf_unmask.generation.run import Run
from hf_unmask.generation.step import SamplerProtocol, Selection, Step

_NOT_FINITE_MESSAGE = (
    "the denoiser's logits are NaN or infinite: check its weights and dtype (float16 overflows easily, try bfloat16)"
)


def check_form(selection: Selection, step: Step, sampler: SamplerProtocol) -> None:
    """Raise if a sampler's answer is not what it may be; this alone needs no look at the device."""
    if selection.reopen is not None:
        raise RuntimeError(f"sampler {sampler} wants to reopen positions: remasking is not supported by this loop")
    if selection.open.dtype != torch.bool or selection.open.shape != step.eligible.shape:
        raise RuntimeError(
            f"sampler {sampler} must return bool of shape {tuple(step.eligible.shape)}, got {selection.open.dtype} "
            f"of shape {tuple(selection.open.shape)}"
        )
    tokens = selection.tokens
    if tokens is not None and (tokens.dtype != torch.long or tokens.shape != step.proposal.shape):
        raise RuntimeError(
            f"sampler {sampler} must return tokens as long of shape {tuple(step.proposal.shape)}, got {tokens.dtype} "
            f"of shape {tuple(tokens.shape)}"
        )


def find_faults(rows: Rows, run: Run, selection: Selection, opening: Tensor, step: Step, reading: Reading) -> Tensor:
    """[R, KINDS] bool: ``Rows.fault`` and what this step adds; opening [R, W] bool, what is chosen and eligible."""
    spoilt = reading.spoilt if run.needs.only_masked else reading.spoilt & step.valid
    opens = torch.ones_like(opening) if run.sampler.may_stall else opening
    found = torch.stack([spoilt, selection.open ^ opening, opens], dim=1).any(-1)
    fault = found ^ _wanted(found.device)
    return fault if run.looks_always else rows.fault | (fault & ~rows.finished[:, None])


@lru_cache(maxsize=16)
def _wanted(device: torch.device) -> Tensor:
    """[KINDS] bool, what is right of what `find_faults` looks for: something opens."""
    return torch.tensor([False, False, True], device=device)


def raise_fault(faults: list[list[int]], rows: Rows, sampler: SamplerProtocol) -> None:
    """Raise what went wrong first in the first row that has a fault, if any has; faults [KINDS][R]."""
    if not any(map(any, faults)):
        return
    place, found = next((place, found) for place, found in enumerate(zip(*faults, strict=True)) if any(found))
    error, message = (
        (ValueError, _NOT_FINITE_MESSAGE),
        (RuntimeError, f"sampler {sampler} opened a position that is not eligible"),
        (RuntimeError, f"sampler {sampler} opened nothing although it must open a position"),
    )[found.index(True)]
    raise error(f"{message} (step {int(rows.steps[place]) - 1}, row {int(rows.number[place])})")
