"""Tables in csv and tsv files, read so that every mistake has a line."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path

from hfadapt.data import encodings
from hfadapt.data.labels import shown_names
from hfadapt.data.table import BATCH, BadRow, Batch, Table
from hfadapt.errors import DataError, Problem

_LONGEST_FIELD = 2**31 - 1


class Delimited(Table):
    """A csv or tsv file with a header. Every value is a string, exactly as it stands there."""

    def __init__(self, path: Path, shown: str, encoding: str, separator: str | None):
        super().__init__(shown)
        self._path = path
        self.folder = path.parent
        self._encoding = encoding
        self._given = separator
        self._separator = separator or ("\t" if path.suffix.lower() == ".tsv" else ",")

    @property
    def columns(self) -> dict[str, bool]:
        return dict.fromkeys(self._header, True)

    def batches(self, columns: Sequence[str], bad: list[BadRow]) -> Iterator[Batch]:
        places = [self._header.index(column) for column in columns]
        even = self._even(places, bad)
        while batch := list(islice(even, BATCH)):
            yield Batch([line for line, _ in batch], [[fields[i] for _, fields in batch] for i in places])

    @cached_property
    def _header(self) -> list[str]:
        line, names = next(self._records(), (1, []))
        problems = list(self._faults(names))
        if problems:
            raise DataError(*(Problem(where=f"{self.shown}:{line}", says=s, hint=h) for s, h in problems))
        return names

    def _faults(self, names: list[str]) -> Iterator[tuple[str, str]]:
        """(sentence, hint) for each thing that is wrong with a header."""
        if not names:
            yield "The file is empty.", "Its first line must name the columns."
        if "\0" in "".join(names):
            yield "The header holds NUL characters.", encodings.advice(self._path, self._encoding)
            return
        if len(names) == 1 and self._given is None:
            for other in (",", ";", "\t", "|"):
                if other != self._separator and other in names[0]:
                    shown = '"\\t"' if other == "\t" else f"'{other}'"
                    yield (
                        f"The header is one column, '{names[0]}'.",
                        f"If {shown} stands between columns, say `data.separator: {shown}`.",
                    )
        for i, name in enumerate(names):
            if not name.strip():
                yield (
                    f"Column {i + 1} of {len(names)} has no name.",
                    "Name it; a table that pandas wrote with its index needs `to_csv(…, index=False)`.",
                )
        twice = sorted({name for name in names if name.strip() and names.count(name) > 1})
        if twice:
            yield f"The header names {shown_names(twice)} more than once.", "Rename or remove one of them."

    def _even(self, places: list[int], bad: list[BadRow]) -> Iterator[tuple[int, list[str]]]:
        """The records below the header that have as many fields as it has, and no NUL."""
        width = len(self._header)
        for line, fields in islice(self._records(), 1, None):
            if len(fields) != width:
                says = f"The row has {len(fields):,} fields; the header has {width}."
                bad.append(BadRow(self.shown, line, says))
            elif any("\0" in fields[i] for i in places):
                bad.append(BadRow(self.shown, line, "The row holds a NUL character; the file may be damaged."))
            else:
                yield line, fields

    def _records(self) -> Iterator[tuple[int, list[str]]]:
        """Each record with the line where it starts; blank lines are no records."""
        csv.field_size_limit(_LONGEST_FIELD)
        text = encodings.lines(self._path, self.shown, self._encoding, newline="")
        # Without strict, an unclosed quote swallows the rows after it in silence.
        reader = csv.reader(text, delimiter=self._separator, strict=True)
        start = 1
        try:
            for fields in reader:
                if fields:
                    yield start, fields
                start = reader.line_num + 1
        except csv.Error as error:
            raise DataError(self._unclosed(str(error), start, reader.line_num)) from error

    def _unclosed(self, reason: str, start: int, line: int) -> Problem:
        if "unexpected end" in reason:
            says = "A quote opens in this row and is not closed before the end of the file."
        elif "expected after" in reason:
            says = f"A quote in this row is not closed, or closes too early: on line {line} text follows it."
        else:
            says = f"The row can't be read: {reason}."
        hint = 'Close the quote; a quote inside a quoted field is written twice ("").'
        return Problem(where=f"{self.shown}:{start}", says=says, hint=hint)
