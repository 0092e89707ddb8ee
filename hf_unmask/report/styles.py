"""How methods look in plots: a colour and a marker each, learned ones in front of grey heuristics."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.colors import to_hex

from hf_unmask.results.comparable import is_learned
from hf_unmask.results.frontier import method_of
from hf_unmask.results.records import OperatingPoint

#: Okabe and Ito's, which stay distinct under the common colour blindnesses, without yellow and black; then others.
COLOURS = (
    *("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#9467BD", "#8C564B"),
    *("#E31A1C", "#BCBD22", "#17BECF", "#F781BF", "#3F51B5", "#66A61E", "#A6761D", "#C51B7D"),
)
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*", "p", "h", "d", "+", "x", "1")
#: Heuristics that are near relatives share a tint of grey.
_FAMILIES = (
    ("confidence", "margin", "entropy", "pc"),  # the k best
    ("threshold", "factor", "entropy_bound", "klass", "credit"),  # as many as are sure
    ("left_to_right", "random", "dilated"),  # by place
)
_HUES = (215, 30, 125, 300)  # degrees; the last for what is in no family
_SATURATION = 0.2
_LIGHTNESS = (0.42, 0.70)  # of a family's first and last; both show on white and on black


@dataclass(frozen=True)
class Style:
    """Of one method."""

    colour: str
    marker: str
    front: bool  # drawn over the others


def styles(points: Sequence[OperatingPoint]) -> dict[str, Style]:
    """Of each method: policies first, then heuristics by family. Up to 16 share neither colour nor marker.

    Heuristics are grey where policies stand in front of them; among themselves they are coloured.
    """
    methods = list(dict.fromkeys(method_of(point.setting.sampler) for point in points))
    policies = [name for name in methods if is_learned(name)]
    rules = sorted((name for name in methods if not is_learned(name)), key=_family)
    greys = _greys(rules) if policies else COLOURS
    colours = [COLOURS[place % len(COLOURS)] for place in range(len(policies))]
    colours += [greys[place % len(greys)] for place in range(len(rules))]
    return {
        # from the 17th on a marker comes with another colour than before
        name: Style(colour, MARKERS[(place + place // len(MARKERS)) % len(MARKERS)], front=name in policies)
        for place, (name, colour) in enumerate(zip([*policies, *rules], colours, strict=True))
    }


def _family(method: str) -> int:
    return next((place for place, family in enumerate(_FAMILIES) if method in family), len(_FAMILIES))


def _greys(rules: Sequence[str]) -> list[str]:
    """One grey per rule, those of a family from dark to light."""
    dark, light = _LIGHTNESS
    found = []
    for rule in rules:
        own = [other for other in rules if _family(other) == _family(rule)]
        share = own.index(rule) / max(len(own) - 1, 1)
        hue = _HUES[_family(rule)] / 360
        found.append(to_hex(colorsys.hls_to_rgb(hue, dark + share * (light - dark), _SATURATION)))
    return found
