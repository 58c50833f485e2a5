"""The contract of a table of raw rows, wherever it comes from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

BATCH = 10_000
"""Rows that are held as Python objects at a time."""


@dataclass(frozen=True)
class BadRow:
    """A row that can't be used, and why."""

    file: str
    line: int
    """The line where it starts; the number of the row where a file has no lines. Both from 1.
    0 where the row is the whole file, as pictures are."""
    says: str

    @property
    def where(self) -> str:
        """`reviews.csv:12`, `cats/7.jpg`."""
        return place(self.file, self.line)


@dataclass(frozen=True)
class Finding:
    """A warning about the data: what was found and what follows from it, and how many rows it concerns."""

    says: str
    rows: int


class Batch(NamedTuple):
    """Some rows of a table: the line of each, and one list of values per column asked for."""

    lines: Sequence[int]
    values: list[list[Any]]


class Table(ABC):
    """Rows under named columns. Nothing is opened before `columns` or `batches` is read."""

    folder: Path | None = None
    """Where the paths in it start; None where they start from the working directory."""
    confined = False
    """Whether paths in it may not lead out of `folder`."""

    def __init__(self, shown: str):
        self.shown = shown
        """What messages call it: the path as given."""

    @property
    @abstractmethod
    def columns(self) -> dict[str, bool]:
        """Name → whether it holds strings.

        Raises:
            DataError: the table can't be opened, or its header is unusable.
        """

    @abstractmethod
    def batches(self, columns: Sequence[str], bad: list[BadRow]) -> Iterator[Batch]:
        """The values of some columns, in order; records that can't be read are added to `bad`.

        Raises:
            DataError: from some record on the rest can't be told apart.
        """

    def label_names(self, column: str) -> tuple[str, ...]:
        """The labels that the table itself lists for a column, in the order of their ids."""
        return ()

    @property
    def pictures(self) -> frozenset[str]:
        """The columns that can hold nothing but pictures."""
        return frozenset()

    @property
    def files(self) -> Sequence[str] | None:
        """What messages call each row, by its line, where each is a file of its own."""
        return None

    def remarks(self, split: str) -> Iterator[Finding]:
        """Warnings about what is not among the rows; asked once all batches were read."""
        yield from ()


def place(file: str, line: int) -> str:
    """`reviews.csv:12`; the file alone where the row is the whole of it."""
    return f"{file}:{line}" if line else file


def type_name(value: object) -> str:
    """What a person calls such a value: `a list`."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, (int, float)):
        return "a number"
    names: dict[type, str] = {str: "a text", list: "a list", dict: "an object", bytes: "bytes"}
    return names.get(type(value), f"a {type(value).__name__}")
