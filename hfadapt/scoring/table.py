"""Scores side by side, as lines of plain text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hfadapt.scoring.tally import Score

MISSING = "–"
GAP = "  "


def lines(title: str, named: Mapping[str, Mapping[str, Score]], metrics: Sequence[str]) -> list[str]:
    """A table of one split's scores: a row for each of `named`, a column for each metric that one of them has.

    Args:
        title: what stands above the names, such as `test, 200 rows`.
        named: metric → score for `adapted model`, `tfidf`, `majority`, … in the order of the rows.
        metrics: the columns in their order.

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
    if score.low is None or score.high is None:
        return number(score.value)
    apart = " to " if score.low < 0 else "–"  # -0.120–0.310 would be misread
    return f"{number(score.value)} ({number(score.low)}{apart}{number(score.high)})"


def number(value: float) -> str:
    """Three decimals; small numbers keep two digits, large ones five."""
    if value and abs(value) < 0.001:
        return f"{value:.2g}"
    return f"{value:.3f}" if abs(value) < 1000 else f"{value:.5g}"
