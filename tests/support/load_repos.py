"""Loads ROOT/0/policy, ROOT/1/policy ... and prints one JSON line for each.

In a process of its own, so that memory is measured and neither a hang nor executed code reaches the tests.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from hf_unmask.policy import PolicyLoadError
from hf_unmask.samplers.learned import LearnedUnmaskingSampler


def memory(key: str) -> int:
    """Bytes; VmRSS is now, VmHWM the peak."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1]) * 1024
    raise KeyError(key)


def attempt(folder: Path, opened: list[str]) -> dict[str, Any]:
    opened.clear()
    began, error = time.process_time(), None
    try:
        LearnedUnmaskingSampler.from_pretrained(folder)
    except Exception as caught:  # noqa: BLE001  (which kind is the question)
        error = caught
    return {
        "seconds": time.process_time() - began,
        # a bare name was opened by the descriptor of its folder
        "opened": sorted({Path(path).name for path in opened if path.startswith(str(folder)) or path[0] != "/"}),
        "error": type(error).__name__ if error else None,
        "key": error.key if isinstance(error, PolicyLoadError) else None,
        "text": str(error),
    }


def say(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def main(root: Path) -> None:
    opened: list[str] = []

    def watch(event: str, args: tuple[Any, ...]) -> None:
        if event == "open" and not isinstance(args[0], int) and not args[2] & os.O_DIRECTORY:
            opened.append(os.fsdecode(args[0]))

    sys.addaudithook(watch)
    attempt(root / "good", opened)  # what loading needs once
    folders = sorted((p for p in root.iterdir() if p.name.isdigit()), key=lambda p: int(p.name))
    before = memory("VmRSS")
    for folder in folders:
        say(f"{folder.name}: ")  # so that a hang names its case
        say(json.dumps(attempt(folder / "policy", opened)) + "\n")
    say(json.dumps({"bytes": memory("VmHWM") - before}) + "\n")
