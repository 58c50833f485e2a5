"""A uniform sample of the rows of a stream, for metrics that cannot be computed from sums."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

MOST_ROWS = 100_000
"""So many rows are kept; of a longer stream a uniform sample of so many."""
MOST_VALUES = 5_000_000
"""Fewer rows are kept where rows times columns would exceed this."""


class Reservoir:
    """A uniform sample of the rows of a stream, of bounded size (Vitter 1985, algorithm R)."""

    def __init__(self, columns: int, seed: int):
        """Keep rows of `columns` scores each: all of them up to `capacity`, then a sample."""
        self.capacity = max(1, min(MOST_ROWS, MOST_VALUES // columns))
        self._scores = np.empty((self.capacity, columns))
        self._truths: NDArray[Any] | None = None
        self._seen = 0
        self._random = np.random.default_rng([seed, 1])

    def add(self, scores: Floats, truths: NDArray[Any]) -> None:
        """Offer rows; scores: (rows, columns), truths: (rows,) or (rows, columns)."""
        if self._truths is None:
            self._truths = np.empty((self.capacity, *truths.shape[1:]), truths.dtype)
        place = np.arange(self._seen, self._seen + len(scores))
        late = place >= self.capacity
        # each late row draws a place among all rows so far, and is kept where that is a kept one
        place[late] = self._random.random(int(late.sum())) * (place[late] + 1)
        kept = place < self.capacity
        self._scores[place[kept]] = scores[kept]
        self._truths[place[kept]] = truths[kept]
        self._seen += len(scores)

    def rows(self) -> tuple[Floats, NDArray[Any]]:
        """The kept scores (kept, columns) and truths (kept,) or (kept, columns)."""
        kept = min(self._seen, self.capacity)
        truths = np.empty(0) if self._truths is None else self._truths
        return self._scores[:kept], truths[:kept]
