"""Short texts beside the points of a plot, each where it covers least."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.patheffects import withStroke
from matplotlib.transforms import Bbox
from numpy.typing import NDArray

_SIZE = 6.5  # of letters
#: Where a text may stand, best first (curves rise to the right): offset in points of print, and alignment.
_PLACES = (
    *((-6, 4, "right", "bottom"), (6, 4, "left", "bottom"), (6, -4, "left", "top"), (-6, -4, "right", "top")),
    *((0, 8, "center", "bottom"), (0, -8, "center", "top"), (10, 12, "left", "bottom"), (-10, 12, "right", "bottom")),
    *((10, -12, "left", "top"), (-10, -12, "right", "top"), (0, 18, "center", "bottom"), (0, -18, "center", "top")),
)
_LABEL, _OUTSIDE = 10, 100  # what covering a label, or leaving the panel, costs; a point costs 1


def place_labels(panel: Any, points: Sequence[tuple[float, float]], texts: Sequence[str], ink: str) -> None:
    """Write the texts beside their points, one after the other; "" for a point without. The panel is laid out."""
    if not points:
        return
    pixels = panel.transData.transform(np.asarray(points, dtype=float))
    taken: list[Bbox] = []
    halo = [withStroke(linewidth=2, foreground=panel.get_facecolor())]
    for point, text in zip(points, texts, strict=True):
        if not text:
            continue
        tried = []
        for place, (right, up, horizontal, vertical) in enumerate(_PLACES):
            written = panel.annotate(
                text,
                point,
                xytext=(right, up),
                textcoords="offset points",
                ha=horizontal,
                va=vertical,
                fontsize=_SIZE,
                color=ink,
                path_effects=halo,
                zorder=5,
                annotation_clip=False,
            )
            box = written.get_window_extent()
            tried.append((_cost(box, pixels, taken, panel.bbox), place, written, box))
            if tried[-1][0] == 0:
                break
        tried.sort(key=lambda one: one[:2])
        for _, _, other, _ in tried[1:]:
            other.remove()
        taken.append(tried[0][3])


def _cost(box: Bbox, points: NDArray[np.float64], taken: Sequence[Bbox], panel: Bbox) -> int:
    left, low, right, high = box.extents
    within = (points[:, 0] > left) & (points[:, 0] < right) & (points[:, 1] > low) & (points[:, 1] < high)
    outside = left < panel.x0 or right > panel.x1 or low < panel.y0 or high > panel.y1
    return int(within.sum()) + _LABEL * int(box.count_overlaps(taken)) + _OUTSIDE * int(outside)
