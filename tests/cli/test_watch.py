"""A canvas as text."""

from __future__ import annotations

import io
import xml.etree.ElementTree
from pathlib import Path

import PIL.Image
import pytest
import torch
from rich.console import Console

from hf_unmask import StepEvent, Trajectory
from hf_unmask.cli.recording import save
from hf_unmask.cli.terminal_canvas import (
    COLOURS,
    MASK,
    Picture,
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


def test_a_legend_says_where_one_is_and_what_looks_mean() -> None:
    picture = Picture(Letters(), ["first", "second"], steps=3)
    assert picture.legend().plain.startswith("step 0 of 3 ")
    picture.update(events()[0])
    picture.update(events()[1])
    legend = picture.legend()
    assert legend.plain == f"step 2 of 3  {MASK} masked  new opened now  old earlier, by colour  · end"
    styles = {legend.plain[span.start : span.end]: str(span.style) for span in legend.spans}
    # as the canvas has them, see test_colours_tell_the_step
    assert styles["new"] == f"bold underline {COLOURS[1]}" and styles["old"] == COLOURS[0]
    console = Console(width=80, file=io.StringIO())
    assert len(console.render_lines(legend)) == 1  # a terminal of 80 columns has room for it
    assert Picture(Letters(), ["first"]).legend().plain.startswith("step 0  ")


def test_a_replay_becomes_a_film_or_a_drawing(tmp_path: Path) -> None:
    save(tmp_path / "a.gif", Picture(Letters(), ["first", "second"], steps=3), events(), interval=0.25)
    with PIL.Image.open(tmp_path / "a.gif") as film:
        assert film.n_frames == 4  # before the first step, and three
        times = []
        for frame in range(film.n_frames):
            film.seek(frame)
            times.append(film.info["duration"])
        assert times == [250, 250, 250, 2000]
    save(tmp_path / "a.svg", Picture(Letters(), ["first", "<b>"], steps=3), events(), interval=0.25)
    drawing = (tmp_path / "a.svg").read_text("utf-8")
    root = xml.etree.ElementTree.fromstring(drawing)
    text = " ".join("".join(root.itertext()).replace("\xa0", " ").split())
    assert "[1] first [2] <b>" in text and "[2] step 1 ░b░░ [2] step 2 ab░· [2] step 3 abc·" in text
    assert "step 3 of 3" in text and "@font-face" not in drawing and "url(http" not in drawing
    with pytest.raises(ValueError, match=r"must end in \.gif or \.svg, got 'a\.png'"):
        save(Path("a.png"), Picture(Letters(), ["first"]), events(), interval=0.25)


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
