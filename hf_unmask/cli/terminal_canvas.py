"""Unmasking made visible: a canvas as coloured text on a terminal, as plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from hf_unmask.cli.terminal import styled
from hf_unmask.results.foreign_text import printable

if TYPE_CHECKING:
    from hf_unmask.generation.output import StepEvent, Trajectory

#: A token's colour tells the step that opened it; neighbouring steps differ, the cycle starts again at its end.
COLOURS = ("bright_cyan", "bright_green", "bright_yellow", "bright_magenta", "cyan", "green", "yellow", "magenta")
MASK, SPECIAL = "░", "·"
PLAIN_MASK, PLAIN_SPECIAL = "_", "."
NEVER = -1


@dataclass(frozen=True)
class Frame:
    """One row's canvas after a step."""

    tokens: list[int]
    masked: list[bool]
    opened_at: list[int]  # step from 0 that opened a position, NEVER before
    step: int  # the step just made, from 0

    def then(self, tokens: list[int], masked: list[bool], opened: list[bool], step: int) -> Frame:
        """The canvas after the next step."""
        places = [step if now else before for now, before in zip(opened, self.opened_at, strict=True)]
        return Frame(tokens, masked, places, step)


def blank(length: int) -> Frame:
    """A canvas of ``length`` positions before the first step."""
    return Frame([0] * length, [True] * length, [NEVER] * length, NEVER)


def frames_of_events(events: Sequence[StepEvent], row: int = 0) -> list[Frame]:
    """The frames of one row of the batch."""
    frames: list[Frame] = []
    for event in events:
        frame = _follow(frames[-1] if frames else None, event, row)
        if frame is not None:
            frames.append(frame)
    return frames


def frames_of_trajectory(trajectory: Trajectory, row: int = 0) -> list[Frame]:
    """The frames of one row of the batch, without the repetitions after its last step."""
    frame = blank(trajectory.tokens.shape[2])
    frames: list[Frame] = []
    for step, masked in enumerate(trajectory.masked[row].tolist()):
        opened = [before and not now for before, now in zip(frame.masked, masked, strict=True)]
        if not any(opened):
            break
        frame = frame.then(trajectory.tokens[row, step].tolist(), masked, opened, step)
        frames.append(frame)
    return frames


def _follow(before: Frame | None, event: StepEvent, row: int) -> Frame | None:
    places = event.rows.tolist()
    if row not in places:
        return None
    place = places.index(row)
    before = before or blank(event.tokens.shape[1])
    tokens, masked, opened = (values[place].tolist() for values in (event.tokens, event.masked, event.opened))
    return before.then(tokens, masked, opened, int(event.steps[place]) - 1)


def render(frame: Frame, tokenizer: Any, *, mask: str = MASK, special: str = SPECIAL) -> Text:
    """A canvas as text: masks dim, special tokens as dots, what the last step opened in bold.

    Positions that are neither masked nor were ever opened (padding) are left out.
    """
    text = Text()
    for place, piece in _pieces(frame, tokenizer):
        if frame.masked[place]:
            text.append(mask, style="dim")
        elif piece is None:
            text.append(special, style="dim")
        else:
            text.append(printable(piece, lines=True), style=_style(frame.opened_at[place], frame.step))
    return text


def render_plain(frame: Frame, tokenizer: Any) -> str:
    """The same on one line of plain text."""
    text = render(frame, tokenizer, mask=PLAIN_MASK, special=PLAIN_SPECIAL).plain
    return text.replace("\n", "\\n")


def _style(opened_at: int, step: int) -> str:
    colour = COLOURS[opened_at % len(COLOURS)]
    return f"bold underline {colour}" if opened_at == step else colour


def _pieces(frame: Frame, tokenizer: Any) -> Iterator[tuple[int, str | None]]:
    """Each shown position with its piece of text; None for masks and special tokens."""
    hidden = set(tokenizer.all_special_ids)
    run: list[int] = []
    done = ""
    for place, token in enumerate(frame.tokens):
        if not frame.masked[place] and frame.opened_at[place] == NEVER:
            continue
        if frame.masked[place] or token in hidden:
            run, done = [], ""
            yield place, None
            continue
        # a piece is what a token adds to the run before it, so that bytes of one character meet again
        run.append(token)
        text = str(tokenizer.decode(run))
        whole = text.removesuffix("\N{REPLACEMENT CHARACTER}")
        yield place, whole[len(done) :]
        done = whole


class Picture:
    """What a terminal shows of several rows: each under its title, below them the step and what the looks mean.

    ``steps``: how many there will be, if that is known.
    """

    def __init__(
        self,
        tokenizer: Any,
        titles: Sequence[str],
        *,
        steps: int | None = None,
        mask: str = MASK,
        special: str = SPECIAL,
    ) -> None:
        self.tokenizer, self.titles, self.steps = tokenizer, titles, steps
        self.mask, self.special = mask, special
        self.frames: dict[int, Frame] = {}

    def update(self, event: StepEvent) -> list[int]:
        """Take a step in; returns its rows."""
        return _update(self.frames, event)

    def canvas(self, row: int) -> Text:
        """The canvas of a row, empty before its first step."""
        if row not in self.frames:
            return Text()
        return render(self.frames[row], self.tokenizer, mask=self.mask, special=self.special)

    def legend(self) -> Text:
        """``step 3 of 12``, and how masks, new and earlier tokens look."""
        step = max((frame.step for frame in self.frames.values()), default=NEVER)
        now, before = (_style(at, step) for at in (step, step - 1))
        return Text.assemble(
            (f"step {step + 1}" + ("" if self.steps is None else f" of {self.steps}"), "bold"),
            *("  ", (self.mask, "dim"), " masked  ", ("new", now), " opened now  "),
            *(("old", before), " earlier, by colour  ", (self.special, "dim"), " end"),
        )

    def __rich__(self) -> Group:
        rows = (Text.assemble(styled(title, "bold"), " ", self.canvas(row)) for row, title in enumerate(self.titles))
        return Group(*rows, self.legend())


@contextmanager
def watching(
    console: Console,
    tokenizer: Any,
    titles: Sequence[str],
    *,
    delay: float = 0.0,
    stays: bool = True,
    steps: int | None = None,
) -> Iterator[Callable[[StepEvent], None]]:
    """A listener for ``on_step`` that shows every row: live on a terminal, one line per row and step elsewhere.

    ``delay`` is the least time in seconds that a step stays on a terminal, ``stays`` whether the last one does,
    ``steps`` how many there will be, if known.
    """
    if not console.is_terminal:
        yield _line_printer(console, tokenizer, numbered=len(titles) > 1)
        return
    glyphs = (MASK, SPECIAL) if console.encoding.startswith("utf") else (PLAIN_MASK, PLAIN_SPECIAL)
    picture = Picture(tokenizer, titles, steps=steps, mask=glyphs[0], special=glyphs[1])
    with Live(picture, console=console, auto_refresh=False, transient=not stays) as live:

        def show(event: StepEvent) -> None:
            picture.update(event)
            live.refresh()
            time.sleep(delay)

        yield show


def _line_printer(console: Console, tokenizer: Any, *, numbered: bool) -> Callable[[StepEvent], None]:
    frames: dict[int, Frame] = {}

    def show(event: StepEvent) -> None:
        for row in _update(frames, event):
            frame = frames[row]
            label = f"[{row + 1}] " if numbered else ""
            line = f"{label}step {frame.step + 1:3d}  {render_plain(frame, tokenizer)}"
            console.print(line, markup=False, highlight=False, soft_wrap=True)

    return show


def _update(frames: dict[int, Frame], event: StepEvent) -> list[int]:
    """Bring the frames of the event's rows up to date; returns these rows."""
    rows: list[int] = event.rows.tolist()
    for row in rows:
        frame = _follow(frames.get(row), event, row)
        if frame is not None:
            frames[row] = frame
    return rows
