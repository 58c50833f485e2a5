"""Tables read under the task's roles: inputs as Arrow, raw targets coded, a file and line for each row."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from hfadapt.data.answers import Refused
from hfadapt.data.cells import CELL, cell
from hfadapt.data.table import BadRow, Batch, Table, place, type_name
from hfadapt.errors import DataError, Problem

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hfadapt.data.columns import Column


@dataclass(frozen=True)
class Rows:
    """The rows of one split."""

    inputs: dict[str, pa.ChunkedArray]
    """Role → its texts, or its pictures as cells (see `cells`)."""
    codes: np.ndarray
    """Places in `values`, int32; a target that many rows share is held once."""
    values: list[Any]
    """The different raw targets, in the order in which they come first; one None where none was read."""
    file: np.ndarray
    """Places in the list of files, int32."""
    line: np.ndarray
    """Lines, or row numbers; 0 where the row is a file. int64."""

    def __len__(self) -> int:
        return len(self.line)

    def where(self, mask: np.ndarray) -> Rows:
        """The rows for which a mask is true, in the same order."""
        if mask.all():
            return self
        kept = pa.array(mask)
        inputs = {role: column.filter(kept) for role, column in self.inputs.items()}
        return replace(self, inputs=inputs, codes=self.codes[mask], file=self.file[mask], line=self.line[mask])

    def place(self, row: int, files: Sequence[str]) -> str:
        """`reviews.csv:12`, given what `file` counts."""
        return place(files[self.file[row]], int(self.line[row]))


@dataclass
class Reading:
    """What came of reading the tables of one split."""

    rows: Rows
    bad: list[BadRow]
    fatal: list[Problem]
    """Why the rest of a table could not be read."""


class _Reader:
    """Gathers the batches of several tables."""

    def __init__(self, roles: Sequence[str], texts: Sequence[str], pictures: Sequence[str], several: bool):
        self.bad: list[BadRow] = []
        self._roles = roles
        self._texts = [role for role in roles if role in texts]
        self._pictures = [role for role in roles if role in pictures]
        self._several = several
        self._inputs: dict[str, list[pa.Array]] = {r: [] for r in roles if r in texts or r in pictures}
        self._codes = array("i")
        self._code_of: dict[Any, int] = {}
        self._values: list[Any] = []
        self._file = array("i")
        self._line = array("q")

    def __len__(self) -> int:
        return len(self._line)

    def add(self, batch: Batch, table: Table, file: int) -> None:
        """Take the rows of a batch whose inputs are what they should be; its columns stand in the order of the roles.

        file: the place of the table in the list of files, or of its first file where its rows are files.
        """
        columns = dict(zip(self._roles, batch.values, strict=True))
        wrong: dict[int, str] = {}
        lines: Sequence[int] = batch.lines
        for role in self._pictures:
            columns[role] = [cell(role, value, table) for value in columns[role]]
            wrong |= {i: str(its) for i, its in enumerate(columns[role]) if isinstance(its, Refused)}
        for role in self._texts if self._several else ():
            lines, columns, wrong = _one_each(role, lines, columns, wrong)
        wrong = self._not_texts({role: columns[role] for role in self._texts}) | wrong
        own = table.files
        if wrong:
            self.bad += [_bad_row(table, lines[i], says) for i, says in sorted(wrong.items())]
            kept = [i for i in range(len(lines)) if i not in wrong]
            lines = [lines[i] for i in kept]
            columns = {role: [values[i] for i in kept] for role, values in columns.items()}
        for role, values in columns.items():
            if role in self._inputs:
                self._inputs[role].append(pa.array(values, CELL if role in self._pictures else pa.string()))
            else:
                self._codes.extend(map(self._code, values))
        self._line.extend([0] * len(lines) if own else lines)
        self._file.extend([file + line - 1 for line in lines] if own else [file] * len(lines))

    def rows(self) -> Rows:
        """All that was taken."""
        kinds = {role: CELL if role in self._pictures else pa.string() for role in self._inputs}
        targets = len(self._roles) > len(self._inputs)
        return Rows(
            {role: pa.chunked_array(chunks, kinds[role]) for role, chunks in self._inputs.items()},
            np.frombuffer(self._codes, np.int32) if self._codes else np.zeros(len(self._line), np.int32),
            self._values if targets else [None],
            np.frombuffer(self._file, np.int32) if self._file else np.zeros(0, np.int32),
            np.frombuffer(self._line, np.int64) if self._line else np.zeros(0, np.int64),
        )

    def _code(self, value: Any) -> int:
        # 1, 1.0 and True are equal and hash alike, but are not the same target.
        key = value if type(value) is str else (type(value), repr(value))
        code = self._code_of.setdefault(key, len(self._values))
        if code == len(self._values):
            self._values.append(value)
        return code

    def _not_texts(self, columns: Mapping[str, list[Any]]) -> dict[int, str]:
        """Row of the batch → what is wrong with its text."""
        wrong: dict[int, str] = {}
        for role, values in columns.items():
            if all(type(value) is str and (value.isascii() or _is_encodable(value)) for value in values):
                continue
            for i, value in enumerate(values):
                if not isinstance(value, str):
                    says = f"The {role} is missing." if value is None else f"The {role} is {type_name(value)}."
                    wrong.setdefault(i, says)
                elif not _is_encodable(value):
                    wrong.setdefault(i, f"The {role} holds half of a character (a lone surrogate).")
        return wrong


def read(
    tables: Sequence[Table],
    columns: Mapping[str, Column],
    texts: Sequence[str],
    files: list[str],
    *,
    pictures: Sequence[str] = (),
    several: bool = False,
    most: int | None = None,
) -> Reading:
    """The rows of a split; `files` grows by the files that it doesn't name yet.

    texts, pictures: the roles that hold them; several: a list of texts makes a row of each; most: no more usable
    rows than these are taken.
    """
    reader = _Reader(list(columns), texts, pictures, several)
    fatal: list[Problem] = []
    for table in tables:
        try:
            file = _registered(table, files)
            for batch in table.batches([column.name for column in columns.values()], reader.bad):
                reader.add(batch, table, file)
                if most and len(reader) >= most:
                    return Reading(reader.rows().where(np.arange(len(reader)) < most), reader.bad, fatal)
        except DataError as error:
            fatal += error.problems
    return Reading(reader.rows(), reader.bad, fatal)


def stream(
    tables: Sequence[Table],
    columns: Mapping[str, Column],
    texts: Sequence[str],
    files: list[str],
    *,
    pictures: Sequence[str] = (),
) -> Iterator[Reading]:
    """What `read` reads, a batch at a time, so that memory does not grow with the rows."""
    for table in tables:
        bad: list[BadRow] = []
        fatal: list[Problem] = []
        reader = _Reader(list(columns), texts, pictures, False)
        try:
            file = _registered(table, files)
            for batch in table.batches([column.name for column in columns.values()], bad):
                reader.add(batch, table, file)
                yield Reading(reader.rows(), [*bad, *reader.bad], [])
                bad.clear()
                reader = _Reader(list(columns), texts, pictures, False)
        except DataError as error:
            fatal += error.problems
        if bad or fatal:
            yield Reading(reader.rows(), bad, fatal)


def _registered(table: Table, files: list[str]) -> int:
    """The place of a table, or of the first of its files, in the list of files."""
    if table.files is not None:
        files += table.files
        return len(files) - len(table.files)
    if table.shown not in files:
        files.append(table.shown)
    return files.index(table.shown)


def _one_each(
    role: str, lines: Sequence[int], columns: dict[str, list[Any]], wrong: Mapping[int, str]
) -> tuple[Sequence[int], dict[str, list[Any]], dict[int, str]]:
    """The rows of a batch, those that have a list under a role repeated for each element of it."""
    if not any(isinstance(value, list) for value in columns[role]):
        return lines, columns, dict(wrong)
    says = {i: f"The list under {role} is empty." for i, value in enumerate(columns[role]) if value == []} | dict(wrong)
    # What is wrong with a row is told once, not for each of its texts.
    lists = [value if isinstance(value, list) and i not in says else [value] for i, value in enumerate(columns[role])]
    row_of = [i for i, its in enumerate(lists) for _ in its]
    spread = {other: [its[i] for i in row_of] for other, its in columns.items()}
    spread[role] = [one for its in lists for one in its]
    return [lines[i] for i in row_of], spread, {i: says[row] for i, row in enumerate(row_of) if row in says}


def _bad_row(table: Table, line: int, says: str) -> BadRow:
    return BadRow(table.files[line - 1], 0, says) if table.files else BadRow(table.shown, line, says)


def _is_encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
