"""What listens to the loop: streamers, ``on_step`` callbacks and the trajectory."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from hf_unmask.canvas import Rows
from hf_unmask.output import StepEvent, Trajectory
from hf_unmask.step import Step


class Recording:
    """Passes steps on to whoever asked; does nothing, and computes nothing, if nobody did."""

    def __init__(self, rows: Rows, streamer: Any, on_step: Callable[[StepEvent], None] | None, keep_trajectory: bool):
        if streamer is not None and len(rows.number) != 1:
            raise ValueError(f"a streamer shows one row, the batch has {len(rows.number)}: call generate row by row")
        self.streamer = streamer
        self.on_step = on_step
        self.events: list[StepEvent] | None = [] if keep_trajectory else None
        self.shape = rows.masked.shape
        self.start_canvas = rows.canvas()
        self.start_masked = rows.masked
        self.sent = 0  # canvas positions that the streamer has for good

    def start(self, prompt: Tensor) -> None:
        """prompt [B, P] long."""
        if self.streamer is not None:
            self.streamer.put(prompt.cpu())

    def step(self, rows: Rows, slots: Tensor, opened: Tensor, step: Step) -> None:
        """After a step; opened [R, L] bool."""
        if self.streamer is not None:
            self._stream(rows)
        if self.on_step is None and self.events is None:
            return
        read = step.read.get("confidence")
        if read is None and "top_probs" in step.read:
            read = step.top_probs[..., 0]
        confidence = torch.full(opened.shape, math.nan, device=opened.device)
        if read is not None:
            known = torch.zeros_like(confidence).scatter_add(1, slots, torch.where(step.valid, read, 0).float())
            seen = torch.zeros_like(confidence).scatter_add(1, slots, step.valid.float())
            confidence = torch.where(seen > 0, known, confidence)
        event = StepEvent(rows.number, rows.steps, rows.canvas(), rows.masked, opened, confidence)
        if self.on_step is not None:
            self.on_step(event)
        if self.events is not None:
            self.events.append(event)

    def trajectory(self) -> Trajectory | None:
        """All recorded steps in one piece."""
        if self.events is None:
            return None
        tokens, masked = [], []
        canvas, undecided = self.start_canvas, self.start_masked
        confidences = []
        for event in self.events:
            canvas = canvas.index_copy(0, event.rows, event.tokens)
            undecided = undecided.index_copy(0, event.rows, event.masked)
            confidence = torch.full(self.shape, math.nan, device=canvas.device)
            tokens.append(canvas)
            masked.append(undecided)
            confidences.append(confidence.index_copy(0, event.rows, event.confidence))
        if not tokens:
            empty = self.start_canvas[:, None][:, :0]
            return Trajectory(empty, empty.bool(), empty.float())
        return Trajectory(torch.stack(tokens, 1), torch.stack(masked, 1), torch.stack(confidences, 1))

    def _stream(self, rows: Rows) -> None:
        canvas, length = rows.canvas()[0].cpu(), int(rows.length[0])
        undecided = rows.masked[0].cpu().nonzero()[:, 0]
        decided = int(undecided[0]) if len(undecided) else length
        if decided > self.sent:
            self.streamer.put(canvas[self.sent : decided])
            self.sent = decided
        if decided < length and hasattr(self.streamer, "put_draft"):
            self.streamer.put_draft(canvas[decided:length])
