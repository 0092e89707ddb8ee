"""Samplers against settings in one table: how a policy carries over to other tasks, lengths and models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

from hf_unmask.results.markdown import plain, table
from hf_unmask.results.records import OperatingPoint, Setting
from hf_unmask.results.several_metrics import metric_names, percentages

_FIELDS = tuple(field.name for field in fields(Setting))


@dataclass(frozen=True)
class Cell:
    """One operating point, in short."""

    accuracy: float
    accuracy_interval: tuple[float, float]
    nfe: float  # mean
    percentages: str  # of all metrics

    def __str__(self) -> str:
        return f"{self.percentages} % @ {self.nfe:.1f}"


@dataclass(frozen=True)
class TransferMatrix:
    """Rows and columns in the order in which they first occur; a pair that was not evaluated has no cell."""

    row_field: str
    column_fields: tuple[str, ...]
    rows: tuple[str, ...]
    columns: tuple[tuple[str, ...], ...]  # values of `column_fields`
    cells: dict[tuple[str, tuple[str, ...]], Cell]
    metrics: str  # in the order of the cells; "" if it is one alone

    @property
    def caption(self) -> str:
        """What the cells hold, and the fields that are the same in all columns."""
        shared = [i for i in range(len(self.column_fields)) if self.columns and i not in self._varying]
        by = f", by {self.metrics}" if self.metrics else ""
        return f"Accuracy{by} @ mean NFE{''.join(f'; {self.column_fields[i]}: {self.columns[0][i]}' for i in shared)}."

    @property
    def heads(self) -> list[str]:
        """Of the columns: the fields that vary."""
        named = [", ".join(f"{self.column_fields[i]} {column[i]}" for i in self._varying) for column in self.columns]
        return [self.row_field, *(text or "accuracy @ NFE" for text in named)]  # one column: the caption says it all

    @property
    def body(self) -> list[list[str]]:
        """Lines of text, the row's name first."""
        return [[row, *(str(self.cells.get((row, column), "")) for column in self.columns)] for row in self.rows]

    def to_markdown(self) -> str:
        """The table below its caption."""
        body = [list(map(plain, line)) for line in self.body]
        return f"{plain(self.caption)}\n\n{table(list(map(plain, self.heads)), body)}"

    @property
    def _varying(self) -> list[int]:
        return [i for i in range(len(self.column_fields)) if len({column[i] for column in self.columns}) > 1]


def transfer_matrix(
    points: Sequence[OperatingPoint],
    rows: str = "sampler",
    columns: Sequence[str] = ("task", "block_length", "max_new_tokens", "model"),
) -> TransferMatrix:
    """The table of ``points``; ``rows`` and ``columns`` are fields of `Setting`.

    Raises:
        ValueError: not a field, or two points fall into one cell; the message names the fields that tell them apart.
    """
    for name in (rows, *columns):
        if name not in _FIELDS:
            raise ValueError(f"{name!r} is not a field of a setting; there are {', '.join(_FIELDS)}")
    found: dict[tuple[str, tuple[str, ...]], OperatingPoint] = {}
    for point in points:
        key = (_text(point.setting, rows), tuple(_text(point.setting, name) for name in columns))
        if key in found:
            raise ValueError(_collision(found[key].setting, point.setting))
        found[key] = point
    return TransferMatrix(
        row_field=rows,
        column_fields=tuple(columns),
        rows=tuple(dict.fromkeys(row for row, _ in found)),
        columns=tuple(dict.fromkeys(column for _, column in found)),
        cells={key: _cell(point) for key, point in found.items()},
        metrics=metric_names(points),
    )


def _cell(point: OperatingPoint) -> Cell:
    return Cell(point.accuracy, point.accuracy_interval, point.nfe_mean, percentages(point))


def _text(setting: Setting, name: str) -> str:
    value = getattr(setting, name)
    return "full" if value is None else str(value)  # only a block length can be None


def _collision(first: Setting, second: Setting) -> str:
    differing = [name for name in _FIELDS if getattr(first, name) != getattr(second, name)]
    hint = f"they differ in {', '.join(differing)}: make it a column or pick one" if differing else "they are equal"
    return f"two operating points of {first.sampler} on {first.task} fall into one cell; {hint}"
