"""How well classes that were trained on are told apart, and how well new ones are."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from hfadapt.scoring.kinds import BASE_TO_NEW
from hfadapt.scoring.sums import Sums
from hfadapt.scoring.tally import Floats, Score, score_of


class BaseToNew:
    """Counts rows of base classes answered among base classes, and rows of new ones among new ones.

    The protocol is that of CoCoOp (Zhou et al. 2022, https://arxiv.org/abs/2203.05557): `base_accuracy`,
    `new_accuracy` and their `harmonic_mean`. Where there are rows of one side only, so are the scores.
    Intervals are percentiles over bootstrap replicates of all rows together.
    """

    def __init__(self, new: Collection[int], labels: int, *, replicates: int = 0, seed: int = 0):
        """new: ids of the new classes, of 0 to labels - 1."""
        self._new = np.isin(np.arange(labels), list(new))
        self._sums = Sums(replicates, seed)
        self._rows = np.zeros(2, np.int64)

    def add(self, predicted: Floats, targets: NDArray[np.int64]) -> None:
        """Count rows; predicted: (rows, labels), the greatest is the answer; targets: (rows,) label ids."""
        side = self._new[targets]
        answered = np.where(side[:, None] == self._new, predicted, -np.inf).argmax(1)
        sides = np.stack([~side, side], 1).astype(np.float64)
        self._rows += sides.sum(0).astype(np.int64)
        self._sums.add(np.hstack([np.ones((len(targets), 1)), sides, sides * (answered == targets)[:, None]]))

    def scores(self) -> dict[str, Score]:
        """Those of `kinds.BASE_TO_NEW` that the rows allow."""
        samples = self._sums.samples()
        if not len(samples):
            return {}
        with np.errstate(invalid="ignore", divide="ignore"):  # replicates that drew no row of a side do not count
            base, new = (samples[:, 3:] / samples[:, 1:3]).T
            both = np.where((base == 0) | (new == 0), base * new, 2 * base * new / (base + new))
        numbers = (*self._rows.tolist(), int(self._rows.sum()))
        found = {
            name: score_of(values, rows)
            for name, values, rows in zip(BASE_TO_NEW, (base, new, both), numbers, strict=True)
        }
        return {name: score for name, score in found.items() if score is not None}
