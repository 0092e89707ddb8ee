"""The embedded denoiser and its held-out problems: a real masked diffusion language model that runs on a laptop.

Floor 6: may import `doors` and what lies below. Start in `load_tiny`; the problems lie beside it as data.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hf_unmask.metrics.well_formed.written_work import read_expression, well_formed

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_HERE = Path(__file__).parent
TASKS = ("chain_sum", "mini_sudoku")
Split = Literal["validation", "test"]


@dataclass(frozen=True)
class HeldOut:
    """One held-out problem."""

    task: str
    prompt: str
    answer: str
    metadata: dict[str, Any]

    def solved_by(self, text: str) -> bool:
        """Whether a generated answer is right: the last number of a sum, the whole grid of a sudoku."""
        if self.task == "chain_sum":
            return last_number(text) == self.answer
        return text.strip() == self.answer

    def well_formed(self, text: str) -> bool:
        """Whether it is right with all that is written: the work of a sum too, as the metric of that name judges it."""
        if self.task == "chain_sum":
            return well_formed(text, Fraction(self.answer), read_expression(self.metadata["expression"]))
        return self.solved_by(text)


def load_tiny() -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The embedded model, attached, float32 and in eval mode, and its tokenizer."""
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    from hf_unmask.doors.attaching import attach

    folder = _HERE / "model"
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    model = AutoModelForMaskedLM.from_pretrained(folder, trust_remote_code=False).float().eval()
    attach(model, tokenizer=tokenizer)
    return model, tokenizer


def answer_length(task: str) -> int:
    """Tokens to generate for a task: the length its answers were padded to in training."""
    return {"chain_sum": 40, "mini_sudoku": 24}[task]


def held_out(task: str, split: Split, limit: int | None = None) -> list[HeldOut]:
    """Held-out problems, disjoint from training. Tune on "validation"; "test" is for final tables.

    Raises:
        ValueError: unknown task or split, or more problems asked for than there are.
    """
    if task not in TASKS or split not in ("validation", "test"):
        raise ValueError(f"no problems for {task!r}, {split!r}: tasks are {TASKS}, splits are validation and test")
    lines = (_HERE / f"{task}-{split}.jsonl").read_text("utf-8").splitlines()
    if limit is not None and not 0 < limit <= len(lines):
        raise ValueError(f"`limit` must be 1 to {len(lines)}, the number of {split} problems of {task}, got {limit}")
    return [HeldOut(**json.loads(line)) for line in lines[:limit]]


def last_number(text: str) -> str | None:
    """The last integer in a text, canonical ("-0" is "0"), None if there is none."""
    digits = ""
    for place in range(len(text) - 1, -1, -1):
        if text[place].isdigit():
            digits = text[place] + digits
        elif digits:
            negative = text[place] == "-" and not text[:place][-1:].isdigit()  # "7-3" is not negative
            return str(-int(digits) if negative else int(digits))
    return str(int(digits)) if digits else None
