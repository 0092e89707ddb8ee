"""The comparison of policies as it is published: the README in short, each card in full."""

from __future__ import annotations

import re
from pathlib import Path

_ROLES = {"`left_to_right`": "left_to_right", "`eos_suppress`": "eos_suppress(threshold)"}
_TWINS, _AFTERWARDS = "other training seeds", "most accurate heuristic on the test problems"


def rows_of(markdown: str) -> list[dict[str, str]]:
    """The lines of a table, by head."""
    heads, _, *lines = ([cell.strip() for cell in line.strip("| ").split(" | ")] for line in markdown.splitlines())
    return [dict(zip(heads, line, strict=True)) for line in lines]


def summary_of(readme: str) -> list[dict[str, str]]:
    """The lines of the README's comparison."""
    published = readme.split("<!-- policies:start -->")[1].split("<!-- policies:end -->")[0]
    (summary,) = (part for part in published.split("\n\n") if part.startswith("| policy |"))
    return rows_of(summary)


def checked_rows(readme: str, cards: Path) -> int:
    """How many lines the README's table has, each of them found to say what its card says and to keep to its budget."""
    rows = summary_of(readme)
    for row in rows:
        name = row["policy"].strip("`")
        by = f" by {row['metric']}" if "metric" in row else ""  # published before sums had several
        title = f"{row['task']}{by}: `learned:builtin:{name}`"
        parts = (cards / f"{name}.md").read_text("utf-8").split("\n\n")
        (contest,) = (part for part in parts if part.startswith(f"| {title} | at most"))
        card = {line[title]: line[f"at most {row['most NFE']} NFE"] for line in rows_of(contest)}
        _check(row, card)
    return len(rows)


def _check(row: dict[str, str], card: dict[str, str]) -> None:
    assert card["**policy**"].replace("*", "").startswith(row["accuracy (NFE)"])
    best = card.get("best heuristic", "-")
    assert best.startswith(row["best heuristic"]) and best.endswith(row["lead"])
    if _TWINS not in row:
        return  # published before samplers were held to budgets on test problems as well
    assert card.get(f"{_TWINS}: 1", "-").startswith(row[_TWINS])
    for head, role in {_AFTERWARDS: _AFTERWARDS, **_ROLES}.items():
        assert card.get(role, "-").startswith(row[head])
    spent = re.findall(r"\d\.\d\*{0,2} \((\d+\.\d\d)\)", " ".join([*row.values(), *card.values()]))
    assert max(map(float, spent), default=0.0) <= float(row["most NFE"])
