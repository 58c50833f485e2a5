"""Encoded rows, and the order in which an epoch visits them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from torch.utils.data import Dataset, Sampler

from hfadapt.kind import IGNORED

_CHUNK = 50
"""How many batches are sorted by length together; upstream's LengthGroupedSampler uses the same."""


class Rows(Dataset[dict[str, Any]]):
    """Encoded rows: a `datasets.Dataset` of model inputs, with `labels`.

    Index `len(self) + i` is the ghost of row i: the same inputs with an ignored target. Ghosts fill
    the last batch so that every process gets as many rows, and add nothing to loss or gradient.
    """

    def __init__(self, encoded: Any, lengths: np.ndarray | None = None):
        self.encoded = encoded
        self.lengths = lengths

    def __len__(self) -> int:
        return len(self.encoded)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        # Python would otherwise count up until an IndexError, which ghosts never raise.
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """The rows of a batch, read together."""
        size = len(self)
        columns = self.encoded[[index % size for index in indices]]
        rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
        for row, index in zip(rows, indices, strict=True):
            if index >= size:
                target = row["labels"]
                row["labels"] = [IGNORED] * len(target) if isinstance(target, list) else type(target)(IGNORED)
        return rows


class Order(Sampler[int]):
    """The order of an epoch: a function of the seed and the epoch's number only.

    So it is the same on every process, after a resume, and however a batch is divided.
    """

    def __init__(
        self,
        rows: Rows,
        *,
        strategy: str,
        batch: int,
        together: int,
        seed: int,
        epoch: Callable[[], int],
        weights: np.ndarray | None = None,
    ):
        """strategy: a `train_sampling_strategy`; batch: rows of an optimizer step over all processes;
        together: rows that all processes read at once, of which an epoch is made a multiple;
        epoch: tells the number of the epoch that begins; weights: chances of the rows, (rows,)."""
        self.rows, self.strategy, self.batch, self.together = rows, strategy, batch, together
        self.seed, self.epoch, self.weights = seed, epoch, weights

    def __len__(self) -> int:
        return math.ceil(len(self.rows) / self.together) * self.together

    def __iter__(self) -> Iterator[int]:
        indices = self.visit(self.epoch())
        ghosts = len(self) - len(indices)
        return iter([*indices.tolist(), *(len(self.rows) + i % len(self.rows) for i in range(ghosts))])

    def visit(self, epoch: int) -> np.ndarray:
        """The rows in the order in which the epoch visits them, (rows,)."""
        generator = np.random.default_rng([self.seed, epoch])
        size = len(self.rows)
        if self.strategy == "sequential":
            return np.arange(size)
        if self.weights is not None:
            order = generator.choice(size, size, p=self.weights / self.weights.sum())
        else:
            order = generator.permutation(size)
        if self.strategy != "group_by_length" or self.rows.lengths is None:
            return order
        return self._by_length(order, self.rows.lengths, generator)

    def _by_length(self, order: np.ndarray, lengths: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """Batches of similar lengths, in random order; the last one, which may be short, stays last."""
        chunk = self.batch * _CHUNK
        order = np.concatenate(
            [
                part[np.argsort(-lengths[part], kind="stable")]
                for part in np.split(order, range(chunk, len(order), chunk))
            ]
        )
        batches = np.split(order, range(self.batch, len(order), self.batch))
        whole = [i for i, part in enumerate(batches) if len(part) == self.batch]
        rest = [part for part in batches if len(part) < self.batch]
        return np.concatenate([batches[i] for i in generator.permutation(whole)] + rest) if whole else order


def balanced(targets: np.ndarray) -> np.ndarray:
    """Chances that draw each label equally often; targets: (rows,) ids → (rows,)."""
    counts = np.bincount(targets)
    return np.asarray(1 / counts[targets])
