"""Where an evaluation ran and how it was started, in words."""

from __future__ import annotations

import sys

import pytest
import torch
import transformers

import hf_unmask
from hf_unmask.evaluation.environment import environment, environment_line
from hf_unmask.evaluation.processes import Processes


def test_a_line_about_the_environment():
    facts = environment(torch.device("cpu"))
    versions = f"hf_unmask {hf_unmask.__version__}, torch {torch.__version__}, transformers {transformers.__version__}"
    assert environment_line(facts) == f"{facts['date'][:10]}, {versions}, {facts['hardware']}"
    kept = facts | {"versions": {"hf_unmask": "1", "torch": "2", "transformers": "3", "python": "4"}}
    kept |= {"date": "2026-11-22T10:00:00+00:00", "hardware": "a processor, 2 cores"}
    assert environment_line(kept, "python") == (
        "2026-11-22, hf_unmask 1, torch 2, transformers 3, python 4, a processor, 2 cores"
    )


@pytest.mark.parametrize(("count", "starter"), [(1, "python"), (2, "torchrun --nproc-per-node 2")])
def test_the_command_can_be_typed_again(count, starter, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["examples/script.py", "--samplers", "klass:tau=0.3;eps=0.1"])
    assert Processes(count=count).command == f"{starter} examples/script.py --samplers 'klass:tau=0.3;eps=0.1'"


def test_one_of_several_processes_speaks(capsys):
    for rank in range(2):
        Processes(rank, 2).say(f"said by {rank}")
    assert capsys.readouterr().out == "said by 0\n"
