"""Sudoku: a prediction is right if it is a valid grid that keeps the clues of its puzzle, whichever solution it is."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import datasets  # type: ignore[import-untyped]
import evaluate  # type: ignore[import-untyped]

_DESCRIPTION = "Share of predictions that solve their sudoku (4x4 or 9x9): any valid completion of the puzzle counts."
_INPUTS = """predictions: list of str, the filled grid, rows separated by "/" or line breaks, or all cells in one run.
references: list of str, not read (a puzzle may have several solutions).
puzzle: keyword argument, one puzzle per prediction: rows of numbers with 0 for an empty cell, or a str as above with
"_", "." or "0" for an empty cell.
Returns {"score": float in 0..1, "per_sample": one 0.0 or 1.0 per prediction}; the score of no predictions is 0."""

Grid = list[list[int]]
_SIZES = (4, 9)
_LAYOUT = re.compile(r"[\s/|]+")


class Sudoku(evaluate.Metric):  # type: ignore[misc]
    """Validity against the puzzle."""

    def _info(self) -> evaluate.MetricInfo:
        text = datasets.Value("string")
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="",
            inputs_description=_INPUTS,
            features=datasets.Features({"predictions": text, "references": text}),
        )

    def _compute(
        self, predictions: list[str], references: list[str], puzzle: Sequence[str | Grid] | None = None
    ) -> dict[str, Any]:
        del references
        if puzzle is None or len(puzzle) != len(predictions):
            given = "none" if puzzle is None else str(len(puzzle))
            raise ValueError(f"`puzzle` must hold one puzzle per prediction, got {given} for {len(predictions)}")
        clues = [read_puzzle(one) for one in puzzle]
        scores = [float(solves(prediction, one)) for prediction, one in zip(predictions, clues, strict=True)]
        return {"score": sum(scores) / max(len(scores), 1), "per_sample": scores}


def solves(prediction: str, puzzle: Grid) -> bool:
    """Whether the text is a valid grid that agrees with the clues."""
    size = len(puzzle)
    cells = _LAYOUT.sub("", prediction)
    if len(cells) != size * size or not re.fullmatch(f"[1-{size}]+", cells):
        return False
    grid = _rows([int(cell) for cell in cells], size)
    kept = all(
        clue in (0, cell)
        for clues, row in zip(puzzle, grid, strict=True)
        for clue, cell in zip(clues, row, strict=True)
    )
    return kept and all(len(set(unit)) == size for unit in _units(grid))


def read_puzzle(puzzle: str | Grid) -> Grid:
    """Rows of numbers, 0 for an empty cell.

    Raises:
        ValueError: neither 4x4 nor 9x9, or a cell out of range.
    """
    if isinstance(puzzle, str):
        cells = _LAYOUT.sub("", puzzle).replace("_", "0").replace(".", "0")
        size = math.isqrt(len(cells))
        if not re.fullmatch("[0-9]*", cells) or size * size != len(cells):
            raise ValueError(f"the puzzle {puzzle!r} is not a square of digits")
        puzzle = _rows([int(cell) for cell in cells], size)
    size = len(puzzle)
    if size not in _SIZES or any(len(row) != size for row in puzzle):
        raise ValueError(f"a puzzle must be 4x4 or 9x9, got {puzzle!r}")
    if any(not 0 <= cell <= size for row in puzzle for cell in row):
        raise ValueError(f"the puzzle {puzzle!r} holds a cell outside 0 to {size}")
    return puzzle


def _rows(cells: list[int], size: int) -> Grid:
    return [cells[start : start + size] for start in range(0, size * size, size)]


def _units(grid: Grid) -> Grid:
    """Rows, columns and boxes."""
    size = len(grid)
    box = math.isqrt(size)
    boxes = [
        [grid[row + i][column + j] for i in range(box) for j in range(box)]
        for row in range(0, size, box)
        for column in range(0, size, box)
    ]
    return [*grid, *([row[i] for row in grid] for i in range(size)), *boxes]
