"""Scores side by side, as lines of plain text."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from hfadapt.scoring.tally import Score

MISSING = "–"
GAP = "  "


def lines(title: str, named: Mapping[str, Mapping[str, Score]], metrics: Sequence[str]) -> list[str]:
    """A table of one split's scores: a row for each of `named`, a column for each metric.

    Args:
        title: what stands above the names, such as `test, 200 rows`.
        named: metric → score for `adapted model`, `tfidf`, `majority`, … in the order of the rows.
        metrics: the columns in their order; one that no row has a score for is left out.

    Returns:
        Lines of equal columns without trailing blanks, the first of them the heading.
    """
    shown = [metric for metric in metrics if any(metric in scores for scores in named.values())]
    rows = [[title, *shown]]
    rows += [[name, *(cell(scores.get(metric)) for metric in shown)] for name, scores in named.items()]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    padded = (GAP.join(text.ljust(width) for text, width in zip(row, widths, strict=True)) for row in rows)
    return [line.rstrip() for line in padded]


def cell(score: Score | None) -> str:
    """`0.873 (0.824–0.917)`, `0.873` without an interval, a dash without a score."""
    if score is None:
        return MISSING
    decimals = _decimals(score.value)

    def shown(value: float) -> str:
        return f"{round(value, decimals) + 0.0:.{decimals}f}"  # + 0.0: no '-0.000'

    if score.low is None or score.high is None:
        return shown(score.value)
    apart = " to " if score.low < 0 else "–"  # '-0.120–0.310' would be misread
    return f"{shown(score.value)} ({shown(score.low)}{apart}{shown(score.high)})"


def _decimals(value: float) -> int:
    """Three, or as many as show two digits of a small value; one for a large value."""
    size = abs(value)
    if 1e-6 < size < 1e-3:
        return 1 - math.floor(math.log10(size))
    return 3 if size < 1000 else 1
