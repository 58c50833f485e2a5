"""Text files as lines, and a plain word about files that are in another encoding."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from hfadapt.errors import DataError, Problem

_MARKS = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
"""Byte order marks; a UTF-32 mark begins with a UTF-16 mark, so it is tried first."""


def lines(path: Path, shown: str, encoding: str, newline: str) -> Iterator[str]:
    """The lines of a file with their ends kept; a byte order mark is left out.

    Raises:
        DataError: the file can't be opened, or isn't in that encoding.
    """
    codec = "utf-8-sig" if codecs.lookup(encoding).name == "utf-8" else encoding
    try:
        with path.open(encoding=codec, newline=newline) as file:
            yield from file
    except UnicodeError as error:
        raise DataError(_wrong_encoding(path, shown, encoding)) from error
    except OSError as error:
        raise DataError(Problem(where=shown, says=f"The file can't be read: {error.strerror}.")) from error


def advice(path: Path, given: str) -> str:
    """A sentence that names the encoding a file seems to be in, or asks for it."""
    with path.open("rb") as file:
        head = file.read(1024)
    likely = next((name for mark, name in _MARKS.items() if head.startswith(mark)), "")
    if not likely and b"\0" in head:
        likely = "utf-16-le" if head.index(b"\0") % 2 else "utf-16-be"
    for name in (likely,) if likely else ("utf-8", "cp1252"):
        if codecs.lookup(name).name != codecs.lookup(given).name and _failure(path, name) is None:
            return f"It seems to be {name}: say `data.encoding: {name}`."
    return "Name its encoding under `data.encoding`, or save it as UTF-8."


def _wrong_encoding(path: Path, shown: str, encoding: str) -> Problem:
    offset, line = _failure(path, encoding) or (0, 1)
    place = f"{shown}:{line}" if encoding.lower().startswith(("utf-8", "utf8", "ascii")) else shown
    return Problem(
        where=place,
        says=f"The file isn't {encoding}: the byte at position {offset:,} doesn't fit.",
        hint=advice(path, encoding),
    )


def _failure(path: Path, encoding: str) -> tuple[int, int] | None:
    """Offset (from 0) and line (from 1) of the first byte that the encoding can't read."""
    decoder = codecs.getincrementaldecoder(encoding)()
    end, line = 0, 1
    with path.open("rb") as file:
        for line, raw in enumerate(chain(file, [b""]), 1):
            end += len(raw)
            try:
                decoder.decode(raw, final=not raw)
            except UnicodeDecodeError as error:
                # Its `start` counts from the bytes that the decoder had kept back.
                return end - len(error.object) + error.start, line if raw else line - 1
            except UnicodeError:
                return end - len(raw), line
    return None
