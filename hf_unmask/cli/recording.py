"""``hf-unmask watch --save``: a replay as a file, a film (.gif) or all steps below each other (.svg)."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.color import Color
from rich.console import Console
from rich.segment import Segment
from rich.style import Style
from rich.terminal_theme import SVG_EXPORT_THEME as THEME

from hf_unmask.cli.terminal import styled
from hf_unmask.cli.terminal_canvas import Picture

if TYPE_CHECKING:
    from hf_unmask.generation.output import StepEvent

FORMATS = (".gif", ".svg")
_WIDTH = 100  # columns of a film
_LETTERS = 16  # pixels
_MARGIN = 12  # pixels
_REST = 2.0  # seconds that the last picture stays
_DIM = 0.5  # of the ink, the rest is the ground
#: rich names a font of the web, which nothing here may fetch.
_WEB_FONT = re.compile(r"@font-face \{.*?\}\s*", re.S)


def check_format(path: Path) -> None:
    """Refuse a file that is neither a film nor a drawing.

    Raises:
        ValueError: its name ends otherwise.
    """
    if path.suffix.lower() not in FORMATS:
        raise ValueError(f"`--save` must end in {' or '.join(FORMATS)}, got {str(path)!r}")


def save(path: Path, picture: Picture, events: Iterable[StepEvent], *, interval: float) -> None:
    """Write what ``picture`` shows while it hears the events.

    Args:
        path: see `check_format`.
        picture: before the first event.
        events: all rows of one step after the other.
        interval: seconds between two steps of a film.
    """
    check_format(path)
    steps = groupby(events, key=lambda event: int(event.steps[0]))
    if path.suffix.lower() == ".svg":
        path.write_text(_drawing(picture, steps), "utf-8")
    else:
        _film(path, picture, steps, interval)


def _drawing(picture: Picture, steps: Iterable[tuple[int, Iterable[StepEvent]]]) -> str:
    """Every step of every row is a line; titles above, the legend below."""
    numbers = [f"[{row}] " if len(picture.titles) > 1 else "" for row in range(1, len(picture.titles) + 1)]
    lines = [styled(number + title, "bold") for number, title in zip(numbers, picture.titles, strict=True)]
    for place, step in steps:
        for event in step:
            for row in picture.update(event):
                canvas = styled("↵").join(picture.canvas(row).split("\n"))
                lines.append(styled(f"{numbers[row]}step {place:3d}  ").append_text(canvas))
    lines.append(picture.legend())
    console = Console(record=True, file=io.StringIO(), width=max(line.cell_len for line in lines))
    for line in lines:
        console.print(line)
    return _WEB_FONT.sub("", console.export_svg(title="hf-unmask watch", unique_id="hf-unmask"))


def _film(path: Path, picture: Picture, steps: Iterable[tuple[int, Iterable[StepEvent]]], interval: float) -> None:
    console = Console(file=io.StringIO(), width=_WIDTH, force_terminal=True, color_system="truecolor")
    shown = [console.render_lines(picture, pad=False)]
    for _, step in steps:
        for event in step:
            picture.update(event)
        shown.append(console.render_lines(picture, pad=False))
    images = _images(shown)
    wait = [max(round(1000 * interval), 20)] * (len(images) - 1) + [round(1000 * _REST)]
    images[0].save(path, save_all=True, append_images=images[1:], duration=wait, loop=0, optimize=True)


def _images(shown: Sequence[Sequence[Sequence[Segment]]]) -> list[Any]:
    """Screens of equal size in the colours of rich's drawings, with few colours each."""
    import matplotlib
    from PIL import Image, ImageDraw, ImageFont

    fonts = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    plain, bold = (ImageFont.truetype(fonts / f"DejaVuSansMono{kind}.ttf", _LETTERS) for kind in ("", "-Bold"))
    wide, high = plain.getlength("0"), round(1.35 * _LETTERS)
    columns = max(sum(part.cell_length for part in line) for screen in shown for line in screen)
    size = (round(columns * wide) + 2 * _MARGIN, max(map(len, shown)) * high + 2 * _MARGIN)
    found = []
    for screen in shown:
        image = Image.new("RGB", size, tuple(THEME.background_color))
        pen = ImageDraw.Draw(image)
        for row, line in enumerate(screen):
            left, top = float(_MARGIN), _MARGIN + row * high
            for text, style, _ in line:
                look, ink = style or Style(), _ink(style or Style())
                pen.text((left, top), text, fill=ink, font=bold if look.bold else plain)
                end = left + Segment(text).cell_length * wide
                if look.underline:
                    pen.line((left, top + high - 3, end - 1, top + high - 3), fill=ink)
                left = end
        found.append(image.quantize(64))
    return found


def _ink(style: Style) -> tuple[int, ...]:
    ground, ink = THEME.background_color, (style.color or Color.default()).get_truecolor(THEME)
    share = _DIM if style.dim else 1.0
    return tuple(round(share * a + (1 - share) * b) for a, b in zip(ink, ground, strict=True))
