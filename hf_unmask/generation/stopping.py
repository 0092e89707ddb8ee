"""Early ends: a committed stop token, or a stop string in the text. A text does not go on from one gap to the next."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from hf_unmask.denoisers.adapter import Denoiser
from hf_unmask.generation.canvas import Rows, begins_gap, close
from hf_unmask.generation.configuration import StopEnds, UnmaskingGenerationConfig


@dataclass(frozen=True)
class Stopping:
    """When a gap ends before it is full, or a row. Off by default: it changes the number of forward passes."""

    pad_token_id: int
    block_length: int
    ends: StopEnds
    stop_token_ids: tuple[int, ...] = ()
    stop_strings: tuple[str, ...] = ()
    tokenizer: Any = None

    @classmethod
    def from_config(
        cls, denoiser: Denoiser, config: UnmaskingGenerationConfig, tokenizer: Any, block_length: int
    ) -> Stopping:
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
        return cls(denoiser.filler_token_id, block_length, config.stop_ends, stops, strings, tokenizer)

    def apply(self, rows: Rows) -> Rows:
        """End the gaps, or rows, that have reached their end; what lies behind it there becomes padding."""
        if not self.stop_token_ids and not self.stop_strings:
            return rows
        gaps = begins_gap(rows)
        pieces = gaps if self.ends == "gap" else torch.zeros_like(gaps)  # a row is one piece
        prefix = (_before(rows.masked, pieces) == 0) & ~rows.masked & rows.valid
        canvas = rows.canvas()
        stop = torch.zeros_like(prefix)
        for token in self.stop_token_ids:
            stop |= prefix & (canvas == token)
        if self.stop_strings:
            stop |= self._string_ends(canvas, prefix, gaps)
        return close(rows, (_before(stop, pieces) > 0) & rows.valid, self.pad_token_id, self.block_length)

    def _string_ends(self, canvas: Tensor, prefix: Tensor, gaps: Tensor) -> Tensor:
        """[R, L] bool, where the earliest stop string of each gap ends in its open prefix; gaps [R, L] bool, begins."""
        ends = torch.zeros_like(prefix, device="cpu")
        for row, values in enumerate(zip(canvas.tolist(), prefix.tolist(), gaps.tolist(), strict=True)):
            tokens, is_open, begins = values
            bounds = [*(place for place, begin in enumerate(begins) if begin), len(tokens)]
            for first, behind in pairwise(bounds):
                text = tokens[first : first + sum(is_open[first:behind])]
                if text and self._holds(text):  # the shortest prefix that holds one
                    ends[row, first + bisect_left(range(len(text)), True, key=partial(self._ends_by, text))] = True
        return ends.to(prefix.device)

    def _ends_by(self, text: list[int], place: int) -> bool:
        return self._holds(text[: place + 1])

    def _holds(self, tokens: list[int]) -> bool:
        text = self.tokenizer.decode(tokens)
        return any(string in text for string in self.stop_strings)


def _before(flags: Tensor, pieces: Tensor) -> Tensor:
    """[R, L] long, how many flags lie before each position in its piece; both [R, L] bool, pieces: where one begins."""
    before = flags.cumsum(-1) - flags.long()
    return before - torch.where(pieces, before, 0).cummax(-1).values
