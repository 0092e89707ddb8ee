"""A canvas as text."""

from __future__ import annotations

import io

import pytest
import torch
from rich.console import Console

from hf_unmask import StepEvent, Trajectory
from hf_unmask.cli.terminal_canvas import (
    COLOURS,
    MASK,
    frames_of_events,
    frames_of_trajectory,
    render,
    render_plain,
    watching,
)

EOS = 0


class Letters:
    """Token 0 is special, token n the n-th letter, 27 and 28 are the two bytes of one character."""

    all_special_ids = (EOS,)

    def decode(self, tokens: list[int]) -> str:
        text = b"".join(b"\xc3" if t == 27 else b"\xa9" if t == 28 else bytes([96 + t]) for t in tokens)
        return text.decode(errors="replace")


TOKENS = torch.tensor([[[9, 2, 9, 9], [1, 2, 9, EOS], [1, 2, 3, EOS]]])
MASKED = torch.tensor([[[True, False, True, True], [False, False, True, False], [False] * 4]])


def events() -> list[StepEvent]:
    before = torch.ones(1, 4, dtype=torch.bool)
    made = []
    for step in range(3):
        opened = before & ~MASKED[:, step]
        confidence = torch.zeros(1, 4)
        made.append(
            StepEvent(torch.tensor([1]), torch.tensor([step + 1]), TOKENS[:, step], MASKED[:, step], opened, confidence)
        )
        before = MASKED[:, step]
    return made


def test_plain_text_of_every_step() -> None:
    lines = [render_plain(frame, Letters()) for frame in frames_of_events(events(), row=1)]
    assert lines == ["_b__", "ab_.", "abc."]


def test_events_and_trajectory_agree_and_repetitions_are_dropped() -> None:
    longer = Trajectory(
        torch.cat([TOKENS, TOKENS[:, -1:]], 1), torch.cat([MASKED, MASKED[:, -1:]], 1), torch.zeros(1, 4, 4)
    )
    assert frames_of_trajectory(longer) == frames_of_events(events(), row=1)


def test_other_rows_have_no_frames() -> None:
    assert frames_of_events(events(), row=0) == []


def test_colours_tell_the_step() -> None:
    text = render(frames_of_events(events(), row=1)[1], Letters())
    assert text.plain == f"ab{MASK}·"
    styles = {text.plain[span.start]: str(span.style) for span in text.spans}
    assert styles == {"a": f"bold underline {COLOURS[1]}", "b": COLOURS[0], MASK: "dim", "·": "dim"}


def test_bytes_of_one_character_meet_again() -> None:
    """Decoding token by token would print two replacement characters."""
    event = StepEvent(
        torch.tensor([0]),
        torch.tensor([1]),
        torch.tensor([[1, 27, 28]]),
        torch.zeros(1, 3, dtype=torch.bool),
        torch.ones(1, 3, dtype=torch.bool),
        torch.zeros(1, 3),
    )
    assert render_plain(frames_of_events([event])[0], Letters()) == "aé"


@pytest.mark.parametrize("titles, expected", [(["x", "y"], "[2] step   1  _b__\n"), (["x"], "step   1  _b__\n")])
def test_pipes_get_lines(titles: list[str], expected: str) -> None:
    file = io.StringIO()
    with watching(Console(file=file), Letters(), titles) as show:
        show(events()[0])
    assert file.getvalue() == expected


@pytest.mark.parametrize("colour", [True, False])
def test_terminals_get_a_live_picture(colour: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, color_system="standard", no_color=not colour, width=40)
    with watching(console, Letters(), ["first", "second"]) as show:
        for event in events():
            show(event)
    assert "second" in file.getvalue()
    assert ("\x1b[1;4;9" in file.getvalue()) is colour
