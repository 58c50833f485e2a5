"""How a model does on parts of the rows: those of one label, and those of a range of lengths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hfadapt.kind import Kind
from hfadapt.scoring.kinds import PER_LABEL
from hfadapt.scoring.sums import Sums
from hfadapt.scoring.tally import BLOCK_ROWS, Score, score_of

FEWEST = 20
"""Of fewer rows than this a score says next to nothing."""
METRICS: Mapping[Kind, str] = {
    "label": "accuracy",
    "labels": "f1_micro",
    "number": "mae",
    "pairs": "text_to_image_recall@1",
}
"""What a part is judged by."""


@dataclass(frozen=True)
class Slice:
    """Some rows and how the model does on them."""

    low: int
    """Of the lengths, the least."""
    high: int
    score: Score


class Remembered:
    """A tally that also keeps of each row what the scores of any part of the rows can be computed from.

    That is one number a row, or three where a row may have several labels.
    """

    def __init__(self, tally: Any, kind: Kind):
        """tally: what counts the rows, empty; kind: of theirs."""
        self.tally, self.kind = tally, kind
        self._marks: list[NDArray[np.float32]] = []

    def add(self, predicted: Any, targets: NDArray[Any]) -> None:
        """Count rows; see `Tally.add`."""
        self.tally.add(predicted, targets)
        if self.kind != "pairs":
            self._marks.append(_marks(self.kind, predicted, targets))

    def scores(self) -> dict[str, Score]:
        """Those of the tally."""
        return dict(self.tally.scores())

    @property
    def confusion(self) -> Any:
        """That of the tally, where it has one."""
        return getattr(self._of_labels, "confusion", None) if self.kind == "label" else None

    @property
    def marks(self) -> NDArray[np.float32] | None:
        """(rows, 1 or 3), in the order of the rows; None where there are none."""
        if self.kind == "pairs":
            first: Any = getattr(self.tally, "pairs", self.tally).first
            return np.asarray(first, np.float32)[:, None] if len(first) else None
        return np.concatenate(self._marks) if self._marks else None

    @property
    def by_label(self) -> dict[str, Score]:
        """`f1[NAME]`, `precision[NAME]` and `recall[NAME]` of each label; of pairs, as their names tell them."""
        if self._of_labels is None:
            return {}
        found = self._of_labels.scores()
        return {name: found[name] for name in found if "[" in name and name.partition("[")[0] in PER_LABEL}

    @property
    def _of_labels(self) -> Any:
        return self.tally if self.kind != "pairs" else getattr(self.tally, "tally", None)


def _marks(kind: Kind, predicted: NDArray[Any], targets: NDArray[Any]) -> NDArray[np.float32]:
    """Whether a row is right; how many labels of it are both, predicted, true; how far off it is."""
    if kind == "label":
        found = [predicted.argmax(-1) == targets]
    elif kind == "labels":
        told, true = predicted >= 0.5, targets > 0
        found = [(told & true).sum(1), told.sum(1), true.sum(1)]
    else:
        found = [np.abs(predicted - targets)]
    return np.stack(found, axis=1).astype(np.float32)


def by_length(
    marks: NDArray[np.float32], lengths: Sequence[int], kind: Kind, *, seed: int, replicates: int = 1000
) -> list[Slice]:
    """The quarters of the rows by length, the shortest first; nothing where one of them has too few rows.

    Args:
        marks: (rows, 1 or 3), those of `Remembered`.
        lengths: of the same rows. Rows of one length stay together, so the quarters may be unequal.
        kind: of the rows.
        seed: what the intervals depend on.
        replicates: bootstrap replicates behind an interval.
    """
    sizes = np.asarray(lengths)
    edges = np.unique(np.quantile(sizes, [0.25, 0.5, 0.75], method="lower"))
    quarter = np.searchsorted(edges, sizes, side="left")
    parts = [np.flatnonzero(quarter == i) for i in np.unique(quarter)]
    if len(parts) < 2 or min(map(len, parts)) < FEWEST:
        return []
    scores = [_score(marks[part], kind, seed, replicates) for part in parts]
    return [
        Slice(int(sizes[part].min()), int(sizes[part].max()), score)
        for part, score in zip(parts, scores, strict=True)
        if score is not None
    ]


def _score(marks: NDArray[np.float32], kind: Kind, seed: int, replicates: int) -> Score | None:
    sums = Sums(replicates, seed)
    for start in range(0, len(marks), BLOCK_ROWS):
        block = marks[start : start + BLOCK_ROWS]
        sums.add(np.hstack([np.ones((len(block), 1), np.float32), block]))
    samples = sums.samples()
    if kind == "labels":
        # Without any label told or true there is nothing to get wrong; scikit-learn says 0.
        values = 2 * samples[:, 1] / np.maximum(samples[:, 2] + samples[:, 3], 1)
    else:
        values = samples[:, 1] / samples[:, 0]
    return score_of(values, len(marks))
