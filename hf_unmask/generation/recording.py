"""What listens to the loop: streamers, ``on_step`` callbacks and the trajectory."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from hf_unmask.generation.advancing import Made
from hf_unmask.generation.canvas import Layout, Rows
from hf_unmask.generation.output import StepEvent, Trajectory


class Recording:
    """Passes steps on to whoever asked; does nothing, and computes nothing, if nobody did."""

    def __init__(
        self,
        rows: Rows,
        width: int,  # canvas positions that were asked for
        streamer: Any,
        on_step: Callable[[StepEvent], None] | None,
        keep_trajectory: bool,
    ):
        if streamer is not None and len(rows.number) != 1:
            raise ValueError(f"a streamer shows one row, the batch has {len(rows.number)}: call generate row by row")
        self.streamer = streamer
        self.on_step = on_step
        self.events: list[StepEvent] | None = [] if keep_trajectory else None
        self.width = width
        self.start_canvas = rows.canvas()[:, :width]
        self.start_masked = rows.masked[:, :width]
        self.sent = 0  # tokens of the text that the streamer has for good

    def start(self, rows: Rows, layout: Layout) -> None:
        """Stream what lies before the first position to fill; from there on the text follows as it is decided."""
        if self.streamer is None:
            return
        whole, filled = layout.restore(rows.tokens), rows.positions[0, : int(rows.length[0])]
        first = int(layout.source[0, filled[0]]) if len(filled) else whole.shape[1]
        self.streamer.put(whole[:, :first].cpu())
        self.sent = int(rows.attended[0, : filled[0]].sum()) if len(filled) else whole.shape[1]

    def step(self, before: Rows, after: Rows, made: Made) -> None:
        """After a step. Rows that had finished before it are left out."""
        if self.streamer is not None:
            self._stream(after)
        if self.on_step is None and self.events is None:
            return
        step = made.step
        read = step.read.get("confidence")
        if read is None and "top_probs" in step.read:
            read = step.top_probs[..., 0]
        confidence = torch.full(made.opened.shape, math.nan, device=made.opened.device)
        if read is not None:
            known = torch.zeros_like(confidence).scatter_add(1, step.index, torch.where(made.computed, read, 0).float())
            seen = torch.zeros_like(confidence).scatter_add(1, step.index, made.computed.float())
            confidence = torch.where(seen > 0, known, confidence)
        canvas = (after.canvas(), after.masked, made.opened, confidence)
        values = (after.number, after.steps, *(value[:, : self.width] for value in canvas))
        at_work = ~before.finished
        event = StepEvent(*(value[at_work] for value in values))
        if self.on_step is not None:
            self.on_step(event)
        if self.events is not None:
            self.events.append(event)

    def trajectory(self) -> Trajectory | None:
        """All recorded steps in one piece."""
        if self.events is None:
            return None
        steps = self.start_masked.new_zeros(len(self.start_masked), dtype=torch.long)
        for event in self.events:
            steps[event.rows] = event.steps
        most = int(steps.max())
        tokens, masked = (start[:, None].repeat(1, most, 1) for start in (self.start_canvas, self.start_masked))
        confidence = torch.full(masked.shape, math.nan, device=masked.device)
        for event in self.events:
            cell = (event.rows, event.steps - 1)
            tokens[cell], masked[cell], confidence[cell] = event.tokens, event.masked, event.confidence
        last = torch.arange(most, device=steps.device).minimum((steps - 1).clamp(min=0)[:, None])[..., None]
        last = last.expand(masked.shape)
        return Trajectory(tokens.gather(1, last), masked.gather(1, last), confidence)

    def _stream(self, rows: Rows) -> None:
        text = rows.tokens[0, rows.attended[0]].cpu()
        undecided = rows.positions[0, rows.masked[0]].cpu() - (rows.tokens.shape[1] - len(text))
        end = len(text) - max(int(rows.length[0]) - self.width, 0)
        decided = min(int(undecided[0]), end) if len(undecided) else end
        if decided > self.sent:
            self.streamer.put(text[self.sent : decided])
            self.sent = decided
        if decided < end and hasattr(self.streamer, "put_draft"):
            self.streamer.put_draft(text[decided:end])
