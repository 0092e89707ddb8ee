"""What ``generate`` returns and what it tells listeners on the way."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from transformers.utils.generic import ModelOutput


@dataclass(frozen=True)
class Trajectory:
    """The canvas after every step. ``T`` is the largest number of steps of a row; shorter rows repeat their last."""

    tokens: Tensor  # [B, T, L] long
    masked: Tensor  # [B, T, L] bool, still undecided after the step
    confidence: Tensor  # [B, T, L] float, what the sampler read at the step; NaN where nothing was read


@dataclass
class UnmaskOutput(ModelOutput):
    """Result of ``generate``, in the layout of ``input_ids`` followed by the new positions."""

    # ``ModelOutput`` wants defaults; all but the trajectory are always set
    sequences: Tensor = None  # type: ignore[assignment]  # [B, S] long
    nfe: Tensor = None  # type: ignore[assignment]  # [B] long, forward passes this row needed (guidance: two a step)
    forwards_run: Tensor = None  # type: ignore[assignment]  # [B] long, the same and those run after the row's end
    steps: Tensor = None  # type: ignore[assignment]  # [B] long, denoising steps
    tokens_per_forward: Tensor = None  # type: ignore[assignment]  # [B] float, positions opened / nfe
    step_map: Tensor = None  # type: ignore[assignment]  # [B, S] long, step (from 0) of opening; -1 prompt or never
    complete: Tensor = None  # type: ignore[assignment]  # [B] bool, nothing is left masked
    trajectory: Trajectory | None = None  # on request


@dataclass(frozen=True)
class StepEvent:
    """One step as ``on_step`` sees it, for the rows still active in it."""

    rows: Tensor  # [R] long, their places in the (expanded) batch
    steps: Tensor  # [R] long, steps made including this one
    tokens: Tensor  # [R, L] long, the canvas after the step
    masked: Tensor  # [R, L] bool, still undecided after the step
    opened: Tensor  # [R, L] bool, opened in this step
    confidence: Tensor  # [R, L] float, what the sampler read (probability of the proposal); NaN elsewhere


@dataclass(frozen=True)
class StreamedRow:
    """A finished row of ``generate_stream``."""

    index: int  # place among the rows of the call
    output: UnmaskOutput  # of this row alone, without padding: what ``generate`` returns for its prompt
