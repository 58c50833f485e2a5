"""Training rows that are read file by file while training, and never all in memory."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING, Any, NamedTuple

from hfadapt.data import bad_rows, rows, targets
from hfadapt.data.splits import Chosen
from hfadapt.data.table import BadRow, Finding, Table
from hfadapt.errors import DataError, Problem

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hfadapt.data.columns import Column
    from hfadapt.data.labels import Labels

LOOKED_AT = 5_000
"""The first rows of a stream: what is said of the training rows, and the simple methods, are of these."""
_BUFFER, _BUFFER_OF_PICTURES = 10_000, 1_000
"""Rows among which the next one is drawn, where the recipe does not say: a picture may hold its bytes."""
MADE = "the first rows of a stream"
"""How the training rows that stand for a stream came to be."""
_KEPT = 100
"""Bad rows that are remembered one by one."""


class Row(NamedTuple):
    """A row of a stream, and what is drawn for it depends on."""

    values: dict[str, Any]
    """Role → text or picture cell."""
    target: Any
    """A label's id, a list with 0.0 or 1.0 for each label, or a number."""
    epoch: int
    """How often the stream was read before."""
    number: int
    """Its place among the usable rows of that reading."""
    where: str
    """`reviews.csv:12`."""


@dataclass
class Skipped:
    """The rows that were left out the first time that the stream was read."""

    rows: int = 0
    first: list[BadRow] = field(default_factory=list)

    def clear(self) -> None:
        """Begin anew."""
        self.rows, self.first = 0, []

    def add(self, bad: Sequence[BadRow]) -> None:
        """Count rows."""
        self.rows += len(bad)
        self.first += bad[: _KEPT - len(self.first)]


@dataclass(frozen=True)
class Stream:
    """Where training rows are read from, and how they are understood."""

    tables: tuple[Table, ...]
    columns: Mapping[str, Column]
    texts: Sequence[str]
    pictures: Sequence[str]
    labels: Labels
    origin: str
    """What the labels are told from: `data.labels` or a split."""
    separator: str | None
    """What stands between the labels of one row."""
    skips: bool
    """Whether rows that can't be used are left out; else the first one stops the run."""
    buffer: int | None = None
    """Rows among which the next one is drawn."""
    skipped: Skipped = field(default_factory=Skipped, compare=False)

    def order(self, seed: int, *, shuffled: bool) -> Iterator[Row]:
        """The rows without end: all files, in an order that the seed and the number of the reading decide, again and
        again.

        Each row is drawn from a buffer that the files refill.

        shuffled: whether they are; else the rows come as they stand.

        Raises:
            DataError: a row can't be used and is not to be skipped, a file can't be read, or no row can be used.
        """
        self.skipped.clear()
        most = self.buffer or (_BUFFER_OF_PICTURES if self.pictures else _BUFFER)
        for epoch in count():
            # Text as a seed gives the same numbers in every version of Python.
            draw = random.Random(f"{seed} {epoch}")
            tables = list(self.tables)
            if shuffled:
                draw.shuffle(tables)
            read, some = self._read(tables, epoch), False
            for row in _drawn(read, most, draw) if shuffled else read:
                some = True
                yield row
            if not some:
                raise DataError(Problem("No row of the stream can be used.", "data.path"))

    def _read(self, tables: Sequence[Table], epoch: int) -> Iterator[Row]:
        """The usable rows of tables in their order."""
        files: list[str] = []
        number = 0
        for reading in rows.stream(tables, self.columns, self.texts, files, pictures=self.pictures):
            its = reading.rows
            understood = targets.within(its, self.labels, self.separator, self.origin)
            bad = [BadRow(files[its.file[i]], int(its.line[i]), says) for i, says in understood.refused.items()]
            self._settle([*reading.bad, *bad], reading.fatal, files, epoch)
            inputs = {role: column.to_pylist() for role, column in its.inputs.items()}
            found = understood.ids.astype(float) if self.labels.kind == "labels" else understood.ids
            for i, target in enumerate(found.tolist()):
                if i not in understood.refused:
                    values = {role: column[i] for role, column in inputs.items()}
                    yield Row(values, target, epoch, number, its.place(i, files))
                    number += 1

    def _settle(self, bad: list[BadRow], fatal: Sequence[Problem], files: list[str], epoch: int) -> None:
        """Note the rows to leave out; stops where the recipe says so, or where the rest of a file can't be read."""
        listed = bad_rows.ordered(bad, files)
        if fatal or (bad and not self.skips):
            raise bad_rows.stop([] if self.skips else listed, fatal, bad_rows.SKIP)
        if epoch == 0:
            self.skipped.add(listed)


def _drawn(read: Iterator[Row], most: int, draw: random.Random) -> Iterator[Row]:
    """Each row drawn from the next so many that were read."""
    buffer: list[Row] = []
    for row in read:
        if len(buffer) < most:
            buffer.append(row)
            continue
        place = int(draw.random() * most)
        yield buffer[place]
        buffer[place] = row
    draw.shuffle(buffer)
    yield from buffer


def refuse(chosen: Chosen) -> None:
    """Stop where a stream would have to be divided, or can't be one.

    Raises:
        DataError: validation or test has no rows of its own, or a table is not read piece by piece in mixed order.
    """
    says = "Training rows that are streamed can't be divided: {} needs rows of its own."
    problems = [
        Problem(says.format(split), f"data.{split}", hint="Name a split of the source, or files.")
        for split in chosen.shares
    ]
    for table in chosen.given["train"]:
        if table.shown.lower().endswith(".json"):
            told = f"'{table.shown}' is one JSON value, which is read whole; it can't be streamed."
            problems.append(Problem(told, "data.streaming", hint="Write an object a line, as .jsonl."))
        if table.files is not None:
            told = f"The folders of '{table.shown}' come one class after the other; they can't be streamed."
            hint = "Leave `streaming` out: only the names of the pictures are held in memory."
            problems.append(Problem(told, "data.streaming", hint=hint))
    if problems:
        raise DataError(*problems)


def constant(same: Sequence[Problem]) -> list[Problem]:
    """What `targets.constant` found in the first rows, said of a stream."""
    says = f"The first {LOOKED_AT:,} rows of the stream are all alike, and a stream must come in mixed order."
    return [Problem(f"{its.says} {says}", its.field, hint="Shuffle the rows once.") for its in same]


def announced(rows: int) -> Finding:
    """What a person should know of a stream."""
    says = f"The training rows are streamed: what is said of train, and the simple methods, are of its first {rows:,}."
    return Finding(says, rows)
