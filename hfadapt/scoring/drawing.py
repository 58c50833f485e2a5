"""Pictures of results, as PNG files: how training went, which labels are taken for which, the worst mistakes."""

from __future__ import annotations

import logging
import textwrap
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL.Image import Image

WITH_NUMBERS = 20
"""Up to so many labels the cells show their counts."""
MOST_LABELS = 60
"""With more labels than this only those with the most mistakes are shown."""
MOST_CONFUSED = 40
MOST_PICTURES = 24
COLUMNS = 6
TILE = 200
"""The side of a picture in the grid, in pixels."""
LONGEST_NAME = 34
LONGEST_LINE = 27
"""Of a caption, in characters."""
INK, FAINT = "#1f2937", "#9ca3af"
TRAINED, JUDGED = "#2563eb", "#d97706"
MOST_STAGES = 8
"""More stages than this are told apart by their borders alone."""
FONTS = (
    "DejaVu Sans", "Noto Sans", "Noto Sans CJK SC", "Noto Sans CJK JP", "PingFang SC", "Hiragino Sans",
    "Microsoft YaHei", "Arial Unicode MS", "Noto Sans Arabic", "Noto Sans Hebrew", "Noto Sans Devanagari",
)  # fmt: skip
"""For names in many scripts, of which those that are installed are taken; a glyph that none has is a box."""


def confusion(path: str | Path, counts: NDArray[np.integer], names: Sequence[str]) -> None:
    """Draw which labels are taken for which, as shares of each true label's rows.

    Args:
        path: the PNG file to write.
        counts: (labels, labels) rows, true by predicted.
        names: the labels in the order of their ids.
    """
    from matplotlib.colors import PowerNorm

    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    shown = _most_confused(counts)
    labels = len(shown)
    numbered = labels <= WITH_NUMBERS
    cell = max(0.46, 2.4 / labels) if numbered else 0.2  # inches
    told = [shortened(names[i]) for i in shown]
    with _drawing():
        figure = _figure(labels * cell, labels * cell)
        axes = figure.add_axes((0, 0, 1, 1))
        part = shares[np.ix_(shown, shown)]
        # without numbers small shares must show in the colours
        image = axes.imshow(part, cmap="Blues", norm=PowerNorm(1 if numbered else 0.5, vmin=0, vmax=1))
        _name_axes(axes, told, 9 if numbered else 7, cell)
        if numbered:
            _number_cells(axes, counts[np.ix_(shown, shown)], part, cell)
        axes.set_title(_headline(counts, labels), color=INK, fontsize=10, pad=10, loc="left")
        height = labels * cell
        width = 0.14 / height  # in the figure's own units; the figure is square
        bar = figure.colorbar(image, cax=figure.add_axes((1 + 1.5 * width, 0, width, 1)))
        bar.set_label("share of the true label's rows", color=INK, fontsize=9)
        bar.outline.set_visible(False)  # type: ignore[operator]
        bar.ax.tick_params(labelsize=8, color=FAINT, labelcolor=INK)
        bar.ax.yaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
        _save(figure, path)


def worst(path: str | Path, pictures: Sequence[Image], captions: Sequence[str]) -> None:
    """Draw a grid of pictures with a caption under each: the first `MOST_PICTURES`; no file where there are none.

    Args:
        path: the PNG file to write.
        pictures: in any mode and size, the worst first.
        captions: such as 'cat → dog (0.93)', one a picture.
    """
    from PIL import ImageOps
    from PIL.Image import Resampling

    tiles = list(zip(pictures, captions, strict=True))[:MOST_PICTURES]
    if not tiles:
        return
    columns = min(COLUMNS, len(tiles))
    texts = [_wrapped(caption) for _, caption in tiles]
    side, gap, line = 1.65, 0.18, 0.15  # inches
    lines = [max(map(len, texts[i : i + columns])) for i in range(0, len(tiles), columns)]
    tops = np.cumsum([0, *(side + gap + line * (1 + count) for count in lines)])
    width, height = columns * (side + gap) - gap, float(tops[-1])
    with _drawing():
        figure = _figure(width, height)
        for i, (picture, _) in enumerate(tiles):
            left = (i % columns) * (side + gap)
            bottom = height - tops[i // columns] - side
            axes = figure.add_axes((left / width, bottom / height, side / width, side / height))
            fitted = ImageOps.pad(picture.convert("RGB"), (TILE, TILE), Resampling.LANCZOS, color="#f3f4f6")
            axes.imshow(np.asarray(fitted))
            axes.set_axis_off()
            figure.text(
                (left + side / 2) / width, (bottom - 0.06) / height, "\n".join(texts[i]),
                ha="center", va="top", fontsize=8, color=INK, linespacing=1.15, parse_math=False,
            )  # fmt: skip
        _save(figure, path)


Points = Sequence[tuple[int, float]]
"""A value at each of some steps, in the order of the steps."""


@dataclass(frozen=True)
class Course:
    """How a training went."""

    losses: Points
    """On the training rows."""
    judged_losses: Points
    """On the validation rows."""
    scores: Points
    """The metric on the validation rows."""
    metric: str
    stages: Sequence[tuple[str, int]]
    """The name of each stage and the step that it ends with."""
    kept: Sequence[tuple[int, float]] = ()
    """The scores of the checkpoints that were kept."""


def course(path: str | Path, its: Course) -> bool:
    """Draw the loss and the score by the step, with the borders of the stages; no file where nothing was logged.

    Returns:
        whether there is a picture.
    """
    panels = [i for i, has in enumerate((its.losses or its.judged_losses, its.scores)) if has]
    if not panels:
        return False
    width, height, gap = 7.0, 2.2, 0.3  # inches; of a panel, and between two
    whole = len(panels) * height + (len(panels) - 1) * gap
    with _drawing():
        figure = _figure(width, whole)
        shared = None
        for place, panel in enumerate(panels):
            bottom = (len(panels) - 1 - place) * (height + gap)
            axes = figure.add_axes((0, bottom / whole, 1, height / whole), sharex=shared)
            shared = shared or axes
            (_draw_losses if panel == 0 else _draw_scores)(axes, its)
            _dress(axes, its, named=place == 0, last=place == len(panels) - 1)
        _save(figure, path)
    return True


def _draw_losses(axes: Any, its: Course) -> None:
    if its.losses:
        axes.plot(*zip(*its.losses, strict=True), **_line(its.losses), color=TRAINED, label="train")
    if its.judged_losses:
        axes.plot(*zip(*its.judged_losses, strict=True), **_line(its.judged_losses), color=JUDGED, label="validation")
    axes.set_ylabel("loss", color=INK, fontsize=10)
    if its.losses and its.judged_losses:
        axes.legend(frameon=False, fontsize=9, labelcolor=INK, loc="best")


def _draw_scores(axes: Any, its: Course) -> None:
    axes.plot(*zip(*its.scores, strict=True), **_line(its.scores), color=JUDGED)
    for step, value in its.kept:
        axes.plot([step], [value], "o", markersize=9, markerfacecolor="none", markeredgecolor=INK, markeredgewidth=1.2)
    if its.kept:
        step, value = its.kept[-1]
        # On the side from which the curve comes there is room.
        below = value >= float(np.median([score for _, score in its.scores]))
        axes.annotate(
            f"{value:.3f}", (step, value), (0, -20 if below else 12), textcoords="offset points", ha="center",
            fontsize=9, color=INK, bbox={"boxstyle": "square,pad=0.15", "facecolor": "white", "edgecolor": "none"},
        )  # fmt: skip
    axes.set_ylabel(f"validation {its.metric}", color=INK, fontsize=10, parse_math=False)


def _line(points: Points) -> dict[str, Any]:
    """Points are marked where they are few."""
    return {"linewidth": 1.6, "marker": "o" if len(points) <= 40 else None, "markersize": 3.5}


def _dress(axes: Any, its: Course, *, named: bool, last: bool) -> None:
    """Grid, borders of the stages, names; named: whether those of the stages stand above; last: of the panels."""
    from matplotlib.ticker import MaxNLocator

    end = its.stages[-1][1] if its.stages else max(step for step, _ in [*its.losses, *its.scores])
    axes.set_xlim(0, end * 1.01)
    axes.margins(y=0.12)
    axes.grid(axis="y", color="#e5e7eb", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    axes.tick_params(labelsize=9, color=FAINT, labelcolor=INK, labelbottom=last)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(FAINT)
    starts = [0, *(step for _, step in its.stages)]
    for border in starts[1:-1]:
        axes.axvline(border, color=FAINT, linewidth=0.9, linestyle=(0, (4, 3)))
    if named and 1 < len(its.stages) <= MOST_STAGES:
        for (name, stop), start in zip(its.stages, starts, strict=False):
            axes.text(
                (start + stop) / 2, 1.02, shortened(name, max(3, round(90 * (stop - start) / end))),
                transform=axes.get_xaxis_transform(), ha="center", va="bottom", fontsize=9, color=INK, parse_math=False,
            )  # fmt: skip
    if last:
        axes.set_xlabel("step", color=INK, fontsize=10)


def shortened(name: str, most: int = LONGEST_NAME) -> str:
    """A name on one line of at most so many characters."""
    return _cut(" ".join(name.split()), most)


def _most_confused(counts: NDArray[np.integer]) -> NDArray[np.intp]:
    """The labels to show, in the order of their ids."""
    if len(counts) <= MOST_LABELS:
        return np.arange(len(counts))
    mistakes = counts - np.diag(np.diag(counts))
    either = mistakes.sum(axis=0) + mistakes.sum(axis=1)
    return np.sort(np.argsort(-either, kind="stable")[:MOST_CONFUSED])


def _headline(counts: NDArray[np.integer], shown: int) -> str:
    rows, right = int(counts.sum()), int(np.trace(counts))
    says = f"{rows:,} rows, {right / max(rows, 1):.1%} right"
    return says if shown == len(counts) else f"{says}; the {shown} of {len(counts)} labels with the most mistakes"


def _name_axes(axes: Any, told: Sequence[str], size: float, cell: float) -> None:
    places = range(len(told))
    flat = max(map(len, told)) * _WIDTH * size <= cell
    axes.set_xticks(places, told, fontsize=size, **({} if flat else _SLANTED), parse_math=False)
    axes.set_yticks(places, told, fontsize=size, parse_math=False)
    axes.set_xlabel("predicted", color=INK, fontsize=10)
    axes.set_ylabel("true", color=INK, fontsize=10)
    axes.tick_params(length=0, labelcolor=INK)
    axes.set_xticks(np.arange(len(told) + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(len(told) + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="#e5e7eb", linewidth=0.6)
    axes.tick_params(which="minor", length=0)
    for spine in axes.spines.values():
        spine.set_color(FAINT)


_WIDTH = 0.65 / 72
"""Of a letter: inches for each point of the font's size."""
_SLANTED = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"}


def _number_cells(axes: Any, counts: NDArray[np.integer], shares: NDArray[np.floating], cell: float) -> None:
    """The counts, without the zeros."""
    size = min(9.0, 0.9 * cell / _WIDTH / len(f"{counts.max(initial=0):,}"))
    for true, predicted in zip(*np.nonzero(counts), strict=True):
        colour = "white" if shares[true, predicted] > 0.55 else INK
        says = f"{counts[true, predicted]:,}"
        axes.text(predicted, true, says, ha="center", va="center", fontsize=size, color=colour)


def _wrapped(caption: str) -> list[str]:
    """At most four lines, broken at the arrow first."""
    caption = " ".join(caption.split())
    if len(caption) <= LONGEST_LINE:
        return [caption]
    true, arrow, predicted = caption.partition(" → ")
    lines = [line for part in (true + arrow.rstrip(), predicted) for line in textwrap.wrap(part, LONGEST_LINE)]
    return lines if len(lines) <= 4 else [*lines[:3], _cut(" ".join(lines[3:]), LONGEST_LINE)]


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _figure(width: float, height: float) -> Figure:
    """width, height: inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), facecolor="white")
    FigureCanvasAgg(figure)  # pyplot would choose a backend, and keep every figure
    return figure


def _save(figure: Figure, path: str | Path) -> None:
    figure.savefig(path, format="png", dpi=120, bbox_inches="tight", pad_inches=0.2)


@contextmanager
def _drawing() -> Iterator[None]:
    """Fonts for many scripts; no word of fonts and glyphs that are missing."""
    import matplotlib
    from matplotlib import font_manager

    log = logging.getLogger("matplotlib.font_manager")
    level = log.level
    log.setLevel(logging.ERROR)
    installed = {font.name for font in font_manager.fontManager.ttflist}
    try:
        with (
            matplotlib.rc_context({"font.family": [name for name in FONTS if name in installed]}),
            warnings.catch_warnings(),
        ):
            warnings.filterwarnings("ignore", message=".*Glyph.*", category=UserWarning)
            yield
    finally:
        log.setLevel(level)
