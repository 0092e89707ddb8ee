"""Early ends of a row: a committed stop token, or a stop string in the text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hf_unmask.denoisers.adapter import Denoiser
from hf_unmask.generation.canvas import Rows, finished_pad
from hf_unmask.generation.configuration import UnmaskingGenerationConfig


@dataclass(frozen=True)
class Stopping:
    """When a row ends before its canvas is full. Off by default: it changes the number of forward passes."""

    pad_token_id: int
    stop_token_ids: tuple[int, ...] = ()
    stop_strings: tuple[str, ...] = ()
    tokenizer: Any = None

    @classmethod
    def from_config(cls, denoiser: Denoiser, config: UnmaskingGenerationConfig, tokenizer: Any) -> Stopping:
        strings = config.stop_strings or ()
        strings = (strings,) if isinstance(strings, str) else tuple(strings)
        if not all(isinstance(string, str) and string for string in strings):
            raise ValueError(f"`stop_strings` must be strings that are not empty, got {list(strings)}")
        if strings and tokenizer is None:
            raise ValueError(f"`stop_strings` {list(strings)} need the text: pass tokenizer=...")
        if config.stop_at_eos and not denoiser.stop_token_ids:
            raise ValueError("`stop_at_eos` is True but the model has no stop token: pass eos_token_id=...")
        if strings and denoiser.pad_token_id is None and not denoiser.stop_token_ids:
            raise ValueError(
                f"what lies behind `stop_strings` {list(strings)} becomes padding, but the model has neither a padding "
                "nor a stop token: pass pad_token_id=..."
            )
        stops = denoiser.stop_token_ids if config.stop_at_eos else ()
        return cls(denoiser.filler_token_id, stops, strings, tokenizer)

    def apply(self, rows: Rows) -> Rows:
        """Finish the rows that have reached their end; what lies behind it becomes padding."""
        if not self.stop_token_ids and not self.stop_strings:
            return rows
        place = torch.arange(rows.masked.shape[1], device=rows.masked.device)
        open_prefix = ((~rows.masked & rows.valid).long().cumprod(-1)).bool()
        end = torch.full_like(rows.length, rows.masked.shape[1])  # first position behind the text
        canvas = rows.canvas()
        for token in self.stop_token_ids:
            hit = open_prefix & (canvas == token)
            end = torch.minimum(end, torch.where(hit, place + 1, end[:, None]).amin(-1))
        if self.stop_strings:
            end = torch.minimum(end, self._string_ends(canvas, open_prefix.sum(-1), end))
        behind = (place >= end[:, None]) & rows.valid
        return finished_pad(rows, behind, self.pad_token_id)

    def _string_ends(self, canvas: Tensor, prefix: Tensor, end: Tensor) -> Tensor:
        """First position behind the earliest stop string of each row's open prefix; ``end`` where there is none."""
        ends = end.tolist()
        for row, (tokens, length) in enumerate(zip(canvas.tolist(), prefix.tolist(), strict=True)):
            if not self._holds(tokens[:length]):
                continue
            low, high = 1, length  # the shortest prefix that holds one
            while low < high:
                middle = (low + high) // 2
                low, high = (low, middle) if self._holds(tokens[:middle]) else (middle + 1, high)
            ends[row] = min(ends[row], low)
        return torch.tensor(ends, device=end.device)

    def _holds(self, tokens: list[int]) -> bool:
        text = self.tokenizer.decode(tokens)
        return any(string in text for string in self.stop_strings)
