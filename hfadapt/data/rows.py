"""Tables read under the task's roles: texts as Arrow, raw targets coded, a file and line for each row."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from hfadapt.data.columns import Column
from hfadapt.data.table import BadRow, Batch, Table, type_name
from hfadapt.errors import DataError, Problem


@dataclass(frozen=True)
class Rows:
    """The rows of one split."""

    texts: dict[str, pa.ChunkedArray]
    """Role → its texts."""
    codes: np.ndarray
    """Places in `values`, int32; a target that many rows share is held once."""
    values: list[Any]
    """The different raw targets, in the order in which they come first."""
    file: np.ndarray
    """Places in the list of files, int32."""
    line: np.ndarray
    """Lines, or row numbers; int64."""

    def __len__(self) -> int:
        return len(self.line)

    def where(self, mask: np.ndarray) -> Rows:
        """The rows for which a mask is true, in the same order."""
        if mask.all():
            return self
        kept = pa.array(mask)
        texts = {role: column.filter(kept) for role, column in self.texts.items()}
        return replace(self, texts=texts, codes=self.codes[mask], file=self.file[mask], line=self.line[mask])


@dataclass
class Reading:
    """What came of reading the tables of one split."""

    rows: Rows
    bad: list[BadRow]
    fatal: list[Problem]
    """Why the rest of a table could not be read."""


class _Reader:
    """Gathers the batches of several tables."""

    def __init__(self, texts: Sequence[str]):
        self.bad: list[BadRow] = []
        self._texts: dict[str, list[pa.Array]] = {role: [] for role in texts}
        self._codes = array("i")
        self._code_of: dict[Any, int] = {}
        self._values: list[Any] = []
        self._file = array("i")
        self._line = array("q")

    def add(self, batch: Batch, roles: Sequence[str], shown: str, file: int) -> None:
        """Take the rows of a batch whose texts are texts; its columns stand in the order of `roles`."""
        columns = dict(zip(roles, batch.values, strict=True))
        lines = batch.lines
        wrong = self._not_texts({role: columns[role] for role in self._texts})
        if wrong:
            self.bad += [BadRow(shown, lines[i], says) for i, says in sorted(wrong.items())]
            kept = [i for i in range(len(lines)) if i not in wrong]
            lines = [lines[i] for i in kept]
            columns = {role: [values[i] for i in kept] for role, values in columns.items()}
        for role, values in columns.items():
            if role in self._texts:
                self._texts[role].append(pa.array(values, pa.string()))
            else:
                self._codes.extend(map(self._code, values))
        self._line.extend(lines)
        self._file.extend([file] * len(lines))

    def rows(self) -> Rows:
        """All that was taken."""
        return Rows(
            {role: pa.chunked_array(chunks, pa.string()) for role, chunks in self._texts.items()},
            np.frombuffer(self._codes, np.int32) if self._codes else np.zeros(0, np.int32),
            self._values,
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


def read(tables: Sequence[Table], columns: Mapping[str, Column], texts: Sequence[str], files: list[str]) -> Reading:
    """The rows of a split; `files` grows by the tables that it doesn't name yet."""
    reader = _Reader([role for role in columns if role in texts])
    fatal: list[Problem] = []
    for table in tables:
        if table.shown not in files:
            files.append(table.shown)
        try:
            for batch in table.batches([column.name for column in columns.values()], reader.bad):
                reader.add(batch, list(columns), table.shown, files.index(table.shown))
        except DataError as error:
            fatal += error.problems
    return Reading(reader.rows(), reader.bad, fatal)


def _is_encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
