"""Several processes that share the work, as ``torchrun`` or ``accelerate launch`` set them up."""

from __future__ import annotations

import os
import shlex
import sys
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch


@dataclass(frozen=True)
class Processes:
    """This process among those that share the work."""

    rank: int = 0
    count: int = 1
    state: Any = None

    @classmethod
    def here(cls) -> Processes:
        """What the environment says; one process without it."""
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return cls()
        from accelerate import PartialState  # type: ignore[import-untyped]

        # who is done waits for the others, however long that takes
        state = PartialState(cpu=not torch.cuda.is_available(), timeout=timedelta(days=7))
        return cls(state.process_index, state.num_processes, state)

    @property
    def first(self) -> bool:
        """Whether this process writes what is written once."""
        return self.rank == 0

    @property
    def command(self) -> str:
        """The command line that these processes were started with, to be noted beside results; for one machine."""
        starter = ["torchrun", "--nproc-per-node", str(self.count)] if self.count > 1 else ["python"]
        return shlex.join([*starter, *sys.argv])

    def say(self, text: str) -> None:
        """A line on stdout, once."""
        if self.first:
            sys.stdout.write(f"{text}\n")
            sys.stdout.flush()

    def wait(self) -> None:
        """Until all processes are here."""
        if self.state is not None:
            self.state.wait_for_everyone()
