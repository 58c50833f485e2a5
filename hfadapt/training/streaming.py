"""Training rows as they come from a stream, under the places that a sampler counts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from hfadapt.data.streaming import Row, Stream
from hfadapt.errors import DataError, Problem
from hfadapt.tasks.base import Task
from hfadapt.training.rows import Rows, as_rows


class StreamedRows(Rows):
    """The rows of a whole training, all its stages together, in the order in which they are drawn.

    An index is a place in that order. Places may only be asked for in rising order; those left out are read and not
    encoded, as are the shares of other processes and what a resumed run has seen. A lower place begins anew.
    """

    def __init__(self, stream: Stream, task: Task, processor: Any, *, seed: int, shuffled: bool, size: int):
        """shuffled: whether rows are drawn from the stream's buffer; size: the rows of all steps together."""
        super().__init__(None)
        self.stream, self.task, self.processor = stream, task, processor
        self.seed, self.shuffled, self.size = seed, shuffled, size
        self.places = range(size)
        """What the stage that runs visits."""
        self._begin()

    def _begin(self) -> None:
        self._next = 0
        self._order: Iterator[Row] | None = None

    def __getstate__(self) -> dict[str, Any]:
        # Worker processes that are spawned read for themselves.
        return self.__dict__ | {"_next": 0, "_order": None}

    def __len__(self) -> int:
        return self.size

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """The encoded rows at some places."""
        return self._encoded([self._at(index) for index in indices])

    def _at(self, place: int) -> Row:
        if place < self._next:
            self._begin()
        if self._order is None:
            self._order = self.stream.order(self.seed, shuffled=self.shuffled)
        while True:
            row = next(self._order)
            self._next += 1
            if self._next > place:
                return row

    def _encoded(self, rows: Sequence[Row]) -> list[dict[str, Any]]:
        columns: dict[str, Any] = {role: [row.values[role] for row in rows] for role in rows[0].values}
        try:
            if self.task.varies:
                draws = [np.random.default_rng([self.seed, row.epoch, row.number, 0]) for row in rows]
                columns = dict(self.task.vary(columns, self.processor, draws))
            encoded = self.task.encode(columns, self.processor)
        except DataError as error:
            if len(rows) > 1:
                for row in rows:
                    self._encoded([row])
            raise DataError(Problem(error.problems[0].says, where=rows[0].where)) from error
        return as_rows({**encoded, "labels": [row.target for row in rows]})
