"""Swaps files at every moment of a reading or a removal, and prints a line for each.

For a process of its own, because an audit hook stays for ever and a reading that waits for a pipe can only be killed.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hostile_repos import CONFIG, WEIGHTS, write_policy

from hf_unmask.policy import load_policy
from hf_unmask.policy.card.rendering import folder_card, read_recipe
from hf_unmask.policy.hub.workspace import workspace

SECRET = "a secret"
SETTINGS = "training_args.json"
#: What takes the place of a file between a look and its opening.
SWAPS: dict[str, Callable[[Path, Path], Any]] = {
    "link": lambda path, secret: path.symlink_to(secret),
    "pipe": lambda path, _: os.mkfifo(path),
    "folder": lambda path, _: path.mkdir(),
}


class Swap:
    """Carries out a swap before the file system is used for the n-th time on a folder, or by a bare name in one."""

    def __init__(self) -> None:
        self.near, self.left, self.swap = "", 0, lambda: None
        sys.addaudithook(self)

    def arm(self, folder: Path, moment: int, swap: Callable[[], Any]) -> None:
        self.near, self.left, self.swap = str(folder), moment, swap

    def __call__(self, event: str, args: tuple[Any, ...]) -> None:
        if not self.left or not event.startswith(("open", "os.", "shutil.")) or not args:
            return
        path = os.fsdecode(args[0]) if isinstance(args[0], str | bytes | Path) else ""
        if path.startswith(self.near) or (path and "/" not in path):
            self.left -= 1
            if not self.left:
                self.near = "/nowhere"
                self.swap()


def read(what: str, folder: Path) -> Any:
    if what in (CONFIG, WEIGHTS):
        policy = load_policy(folder)
        return policy.config.rope_theta, policy.query.weight[0, 0].item()
    return read_recipe(folder) if what == SETTINGS else folder_card(load_policy(folder), folder)


def reading(swap: Swap, root: Path, what: str, kind: str, moment: int) -> tuple[str, bool]:
    """What became of the reading, and whether the swap came before its end."""
    folder = root / f"{what}-{kind}-{moment}" / "policy"
    write_policy(folder)
    (folder / "README.md").write_text("a card")
    (folder / SETTINGS).write_text('{"seed": 1}')
    secret = folder.parent / "secret"
    if what in (CONFIG, WEIGHTS):
        write_policy(folder.parent / "other", seed=1, rope_theta=10.0)
        shutil.copy(folder.parent / "other" / what, secret)
    else:
        secret.write_text(json.dumps({"seed": SECRET}))
    swapped = []

    def carry_out() -> None:
        (folder / what).rename(folder.parent / "away")
        SWAPS[kind](folder / what, secret)
        swapped.append(True)

    swap.arm(folder, moment, carry_out)
    try:
        found = str(read(what, folder))
    except Exception as error:  # noqa: BLE001  (which kind is the question)
        found = type(error).__name__
    swap.left = 0
    return found, bool(swapped)


def removal(swap: Swap, root: Path, moment: int) -> tuple[list[str], bool]:
    """What is left of a folder of the user's, to which a link took the place of one that was left behind."""
    place, mine = root / f"removal-{moment}", root / f"removal-{moment}" / "mine"
    left = place / ".policy.saving-x"
    for folder in (left, mine):
        (folder / "new").mkdir(parents=True)
        (folder / "new" / CONFIG).write_text("{}")
        (folder / "notes").write_text("")
    os.utime(left, (0, 0))

    swapped = []

    def carry_out() -> None:
        left.rename(place / "away")
        left.symlink_to(mine)
        swapped.append(True)

    swap.arm(left, moment, carry_out)
    with workspace(place / "policy"):
        pass
    swap.left = 0
    return sorted(str(path.relative_to(mine)) for path in mine.rglob("*")), bool(swapped)


def swap_all(root: Path) -> None:
    swap = Swap()
    tries: dict[str, Callable[[int], tuple[Any, bool]]] = {"removal": lambda n: removal(swap, root, n)}
    for what in (CONFIG, WEIGHTS, "README.md", SETTINGS):
        for kind in SWAPS:
            tries[f"{what}, {kind}"] = lambda n, what=what, kind=kind: reading(swap, root, what, kind, n)
    for name, attempt in tries.items():
        moment, swapped = 0, True
        while swapped:
            moment += 1
            sys.stdout.write(f"{name}: ")  # so that a hang names its case
            sys.stdout.flush()
            found, swapped = attempt(moment)
            sys.stdout.write(json.dumps({"name": name, "found": found, "swapped": swapped}) + "\n")
