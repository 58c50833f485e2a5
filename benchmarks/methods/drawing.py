"""Ways as points: a panel a column, the best and the known ones named."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NAMED = ("full", "linear-probe", "lora", "lp-ft")
"""Ways that are always named."""
MOST_NAMED = 9
ACROSS = 3
HEIGHT = 240
"""Of a panel, in points, about."""
LINES = 24
"""So many names fit one below the other."""
LETTER = 0.0125
"""The width of a letter as a share of a panel's."""
BLUE, ORANGE, GREY = "#2a6fb0", "#d9822b", "#8a8f98"


@dataclass(frozen=True)
class Point:
    """A way on a column; half: of the interval of its score."""

    name: str
    x: float
    score: float
    half: float


def scatter(path: Path, panels: Mapping[str, Sequence[Point]], x: str, y: str, logarithmic: bool) -> None:
    """Draw a panel for each column; where x is logarithmic, a way with none of it stands at the left edge.

    Ways that no other one beats in both directions are blue and joined.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    down = -(-len(panels) // ACROSS)
    wide = min(len(panels), ACROSS)
    figure, axes = pyplot.subplots(down, wide, figsize=(5.2 * wide, 4.0 * down), squeeze=False, layout="constrained")
    for place, (name, points) in zip(axes.flat, panels.items(), strict=False):
        _panel(place, name, points, logarithmic)
    for place in axes.flat[len(panels) :]:
        place.axis("off")
    figure.supxlabel(x, fontsize=11)
    figure.supylabel(y, fontsize=11)
    figure.savefig(path, dpi=80)
    pyplot.close(figure)


def _panel(place: Any, name: str, points: Sequence[Point], logarithmic: bool) -> None:
    positive = [point.x for point in points if point.x > 0] or [1.0]
    least = min(positive) / 2

    def at(point: Point) -> float:
        return max(point.x, least) if logarithmic else point.x

    front = pareto(points, greater=not logarithmic)
    label = {point.name for point in points if point.name in NAMED} | {point.name for point in front}
    best = sorted(points, key=lambda point: -point.score)
    label |= {point.name for point in best[: max(0, MOST_NAMED - len(label))]}
    ordered = sorted(front, key=at)
    place.plot([at(p) for p in ordered], [p.score for p in ordered], color=BLUE, alpha=0.4, lw=1)
    texts = []
    for point in points:
        colour = BLUE if point in front else ORANGE if point.name in NAMED else GREY
        place.errorbar(
            at(point), point.score, yerr=point.half or None, fmt="o", ms=4, color=colour, ecolor=colour, elinewidth=0.6
        )
        if point.name in label:
            texts.append((at(point), point.score, point.name, colour))
    if logarithmic:
        place.set_xscale("log")
        if max(positive) < 30 * min(positive):
            place.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
            place.xaxis.set_minor_formatter(lambda value, _: f"{value:g}")
            place.tick_params(axis="x", which="minor", labelsize=6)
    _name(place, texts)
    place.set_title(name, fontsize=10, loc="left")
    place.grid(alpha=0.2)
    place.spines[["top", "right"]].set_visible(False)
    place.tick_params(labelsize=8)


def pareto(points: Sequence[Point], greater: bool) -> list[Point]:
    """The points that no other one beats in the score and in x, of which less is better, or more."""
    sign = -1 if greater else 1
    return [
        one
        for one in points
        if not any(
            other.score >= one.score
            and sign * other.x <= sign * one.x
            and (other.score > one.score or sign * other.x < sign * one.x)
            for other in points
        )
    ]


def _name(place: Any, texts: Sequence[tuple[float, float, str, str]]) -> None:
    """Write names beside points, each as near to its point as those before leave room."""
    from matplotlib.patheffects import withStroke

    to_share = place.transScale + place.transLimits
    taken: list[tuple[float, float, float]] = []
    for x, y, name, colour in sorted(texts, key=lambda text: -text[1]):
        across, up = to_share.transform((x, y))
        width, leftward = LETTER * (len(name) + 2), across > 0.6
        start = across - width if leftward else across
        for line in (0, -1, 1, -2, 2, -3, 3, -4, 4):
            at = up + line / LINES
            if all(abs(at - of) >= 0.9 / LINES or start > end or start + width < begin for begin, end, of in taken):
                break
        taken.append((start, start + width, at))
        place.annotate(
            name,
            (x, y),
            (-6 if leftward else 6, line * HEIGHT / LINES),
            textcoords="offset points",
            fontsize=7,
            color=colour,
            va="center",
            ha="right" if leftward else "left",
            path_effects=[withStroke(linewidth=2, foreground="white")],
        )
