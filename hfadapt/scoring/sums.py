"""Weighted sums over a stream of rows: once as they are, and once for each bootstrap replicate."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.floating]
"""An array of floating-point numbers of any precision."""


class Sums:
    """The column sums of a stream of rows under 1 + replicates weightings.

    Under the first weighting each row counts once. In each replicate each row counts an
    independent Poisson(1) number of times: the Poisson bootstrap, which needs neither the rows
    nor their number afterwards (Chamandy, Muralidharan, Najmi & Naidu 2012, 'Estimating
    Uncertainty for Massive Data Streams').
    """

    def __init__(self, replicates: int, seed: int):
        self._replicates = replicates
        self._random = np.random.default_rng(seed)
        self._sums: NDArray[np.float64] | None = None

    def add(self, rows: Numbers) -> None:
        """Add rows: (rows, columns). Whole numbers in float32 stay exact below 2^24 a call and column."""
        once = np.ones((len(rows), 1), np.float32)
        weights = np.hstack([once, poisson_weights(self._random, len(rows), self._replicates)])
        sums = (weights.T.astype(rows.dtype, copy=False) @ rows).astype(np.float64)
        self._sums = sums if self._sums is None else self._sums + sums

    def samples(self) -> NDArray[np.float64]:
        """The sums: (1 + replicates that drew any row, columns). The first column must count the rows."""
        if self._sums is None:
            return np.zeros((0, 0))
        return self._sums[self._sums[:, 0] > 0]


def poisson_weights(random: np.random.Generator, rows: int, replicates: int) -> NDArray[np.float32]:
    """How often each row counts in each replicate: (rows, replicates), independent Poisson(1) draws.

    Each draw looks 16 random bits up in a table, which is 15 times as quick as numpy's own Poisson;
    the probabilities are right to 1/65536. A row takes whole 64-bit words, so that the draws do not
    depend on how the rows are cut into batches.
    """
    words = -(-replicates // 4)
    last = np.iinfo(np.uint64).max
    bits = random.integers(0, last, (rows, words), dtype=np.uint64, endpoint=True)
    return _POISSON[bits.view(np.uint16)[:, :replicates]]


def _poisson_table() -> NDArray[np.float32]:
    cumulative = np.cumsum([math.exp(-1) / math.factorial(k) for k in range(9)])
    starts = np.rint(cumulative * 65536)
    return np.searchsorted(starts, np.arange(65536), side="right").astype(np.float32)


_POISSON = _poisson_table()
