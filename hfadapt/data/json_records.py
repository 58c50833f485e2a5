"""Tables in JSON files: one object a line, or a list of objects."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

from hfadapt.data import encodings
from hfadapt.data.table import BATCH, BadRow, Batch, Table, type_name
from hfadapt.errors import DataError, Problem

_LOOK_AT = 1000
"""Records whose keys make up the columns."""
_SPACE = " \t\r\n"


class JsonRecords(Table):
    """Objects one after the other. A key that a record lacks reads as None."""

    def __init__(self, path: Path, shown: str, encoding: str):
        super().__init__(shown)
        self._path = path
        self.folder = path.parent
        self._encoding = encoding

    @cached_property
    def columns(self) -> dict[str, bool]:
        bad: list[BadRow] = []
        strings: dict[str, int] = {}
        for _, record in islice(self._records(bad), _LOOK_AT):
            for key, value in record.items():
                strings.setdefault(key, 0)
                strings[key] += 0 if value is None else 1 if isinstance(value, str) else -1
        if not strings:
            first = Problem(where=bad[0].where, says=bad[0].says) if bad else None
            raise DataError(first or Problem(where=self.shown, says="The file holds no records."))
        return {key: balance > 0 for key, balance in strings.items()}

    def batches(self, columns: Sequence[str], bad: list[BadRow]) -> Iterator[Batch]:
        records = self._records(bad)
        while batch := list(islice(records, BATCH)):
            yield Batch([line for line, _ in batch], [[r.get(name) for _, r in batch] for name in columns])

    def _records(self, bad: list[BadRow]) -> Iterator[tuple[int, dict[str, Any]]]:
        for line, value in self._values(bad):
            if isinstance(value, dict):
                yield line, value
            else:
                says = f'Expected an object like {{"text": …}}, found {type_name(value)}.'
                bad.append(BadRow(self.shown, line, says))

    @abstractmethod
    def _values(self, bad: list[BadRow]) -> Iterator[tuple[int, Any]]:
        """Each value with the line where it starts."""


class JsonLines(JsonRecords):
    """One object a line; blank lines are left out."""

    def _values(self, bad: list[BadRow]) -> Iterator[tuple[int, Any]]:
        # Only "\n" ends a line: U+2028 and its like may stand inside a string.
        for number, line in enumerate(encodings.lines(self._path, self.shown, self._encoding, "\n"), 1):
            if not line.strip(_SPACE):
                continue
            try:
                value = json.loads(line.rstrip("\r\n"))
            except (ValueError, RecursionError) as error:
                bad.append(BadRow(self.shown, number, f"The line is not JSON: {_reason(error)}."))
            else:
                yield number, value


class JsonList(JsonRecords):
    """A list of objects, alone in the file or under the key `data`."""

    def _values(self, bad: list[BadRow]) -> Iterator[tuple[int, Any]]:
        text = "".join(encodings.lines(self._path, self.shown, self._encoding, "\n"))
        decoder = json.JSONDecoder()
        at, line, seen = self._first(text, decoder), 1, 0
        try:
            while text[at : at + 1] != "]":
                line, seen = line + text.count("\n", seen, at), at
                value, at = decoder.raw_decode(text, at)
                yield line, value
                at = _skip(text, at)
                if text[at : at + 1] == ",":
                    at = _skip(text, at + 1)
                elif text[at : at + 1] != "]":
                    raise json.JSONDecodeError("Expecting ',' delimiter", text, at)
            if text.lstrip().startswith("[") and (rest := _skip(text, at + 1)) < len(text):
                raise json.JSONDecodeError("Extra data", text, rest)
        except (ValueError, RecursionError) as error:
            raise DataError(self._broken(error, line)) from error

    def _first(self, text: str, decoder: json.JSONDecoder) -> int:
        """Where the first element of the list stands."""
        at = _skip(text, 0)
        try:
            if text[at : at + 1] == "{":
                at = _member(text, decoder, at, "data")
        except (ValueError, RecursionError) as error:
            raise DataError(self._broken(error, 1)) from error
        if text[at : at + 1] != "[":
            says = "Expected a list of objects, or an object with such a list under 'data'."
            raise DataError(Problem(where=self.shown, says=says))
        return _skip(text, at + 1)

    def _broken(self, error: Exception, line: int) -> Problem:
        line = error.lineno if isinstance(error, json.JSONDecodeError) else line
        return Problem(where=f"{self.shown}:{line}", says=f"The file is not JSON: {_reason(error)}.")


class JsonFile(JsonList):
    """A .json file: a list, or, where the first line is a whole object, one object a line."""

    def _values(self, bad: list[BadRow]) -> Iterator[tuple[int, Any]]:
        if self._is_lines():
            return JsonLines(self._path, self.shown, self._encoding)._values(bad)
        return super()._values(bad)

    def _is_lines(self) -> bool:
        first = next(encodings.lines(self._path, self.shown, self._encoding, "\n"), "")
        try:
            value = json.loads(first) if first.lstrip().startswith("{") else None
        except (ValueError, RecursionError):
            return False
        return isinstance(value, dict) and not isinstance(value.get("data"), list)


def _member(text: str, decoder: json.JSONDecoder, at: int, key: str) -> int:
    """Where the value of `key` begins in the object that begins at `at`; 0 where it has no such key."""
    at = _skip(text, at + 1)
    while text[at : at + 1] == '"':
        name, at = decoder.raw_decode(text, at)
        at = _skip(text, at)
        if text[at : at + 1] != ":":
            raise json.JSONDecodeError("Expecting ':' delimiter", text, at)
        at = _skip(text, at + 1)
        if name == key:
            return at
        _, at = decoder.raw_decode(text, at)
        at = _skip(text, at)
        if text[at : at + 1] == ",":
            at = _skip(text, at + 1)
    return 0


def _skip(text: str, at: int) -> int:
    while text[at : at + 1] in (" ", "\t", "\r", "\n"):
        at += 1
    return at


def _reason(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg.removesuffix(' at')} at column {error.colno:,}"
    return "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
