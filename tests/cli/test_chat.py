"""``hf-unmask chat``: turns that are remembered, dials that change in flight, answers that are stopped."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from commands import call
from torch.nn.modules.module import register_module_forward_pre_hook
from typer.testing import Result

import hf_unmask

MODEL = Path(hf_unmask.__file__).parent / "tiny" / "model"

pytestmark = pytest.mark.usefixtures("library_logging")


def talk(*lines: str, code: int = 0, options: tuple[str, ...] = ()) -> Result:
    return call("chat", *options, code=code, typed="".join(f"{line}\n" for line in lines))


def test_turns_are_remembered_until_a_new_conversation(tmp_path: Path) -> None:
    """The template says how many turns there are, so that the model adds up another number."""
    shutil.copytree(MODEL, tmp_path, dirs_exist_ok=True)
    (tmp_path / "chat_template.jinja").write_text("{{ messages | length }}+4-2=")
    options = ("--model", str(tmp_path), "--no-watch", "--max-new-tokens", "40", "--sampler", "left_to_right:2")
    said = talk("a", "b", "/new", "c", options=options)
    first, second, again = said.stdout.splitlines()
    assert first == again and first.startswith("1+4=") and second.startswith("3+4=")
    assert "a new conversation" in said.stderr and "no chat template" not in said.stderr
    said = talk("a", options=(*options, "--system", "s"))
    assert said.stdout.startswith("2+4=")


def test_dials_change_in_flight_and_mistakes_end_nothing() -> None:
    """Passes are those of the sampler that is set; the unmasking goes to stderr, answers to stdout."""
    lines = ("5+8=", "/sampler left_to_right:40", "5+8=", "/sampler nobody", "/speed 1", "/what", "/watch", "5+8=")
    said = talk(*lines, options=("--sampler", "left_to_right:20"))
    assert len(said.stdout.splitlines()) == 3
    passes = [line.split()[0] for line in said.stderr.splitlines() if "forward pass" in line]
    assert passes == ["2", "1", "1"]
    assert said.stderr.count("step   1  ") == 2 and "error: no command /what" in said.stderr
    assert "error: sampler spec 'nobody'" in said.stderr and "error: /speed is the dial" in said.stderr
    policy = ("--sampler", "learned:builtin:tiny-speed;speed=0", "--no-watch")
    said = talk("5+8=", "/speed 1", "5+8=", "/speed 2", "/speed fast", options=policy).stderr
    slow, fast = (int(line.split()[0]) for line in said.splitlines() if "forward passes" in line)
    assert slow > fast
    assert "`speed` must be" in said and "/speed takes a number from 0 to 1, got 'fast'" in said


def test_ctrl_c_stops_an_answer_and_not_the_conversation() -> None:
    calls = 0

    def press(module: Any, inputs: Any) -> None:
        nonlocal calls
        calls += type(module).__name__.endswith("ForMaskedLM")
        if calls == 2:
            calls += 1
            signal.raise_signal(signal.SIGINT)

    hook = register_module_forward_pre_hook(press)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background run may ignore it
    try:
        said = talk("5+8-1=", "3+4-2=", options=("--sampler", "left_to_right:2", "--no-watch"))
    finally:
        signal.signal(signal.SIGINT, before)
        hook.remove()
    assert "\nstopped\n" in said.stderr and len(said.stdout.splitlines()) == 1 and said.stdout.startswith("3+4=")
