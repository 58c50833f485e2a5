"""A table of answers that grows beside its place and goes on after a kill."""

from __future__ import annotations

import csv
import fcntl
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from hfadapt.errors import HfadaptError, Problem

ENDINGS = (".csv", ".jsonl")


def check(out: Path) -> None:
    """Refuse a file of another kind; asked before anything that takes time.

    Raises:
        HfadaptError: its name ends otherwise.
    """
    if out.suffix not in ENDINGS:
        raise HfadaptError(f"--out must end in {' or '.join(ENDINGS)}, not in '{out.suffix}'.")


class Draft:
    """Answers on their way into a .csv or .jsonl file, which appears when they are all there.

    They lie in `.NAME.draft`, and beside it `.NAME.draft.json` says what they answer and how far they are safe on the
    disk. What a killed process wrote beyond that is cut off when another goes on.
    """

    def __init__(self, out: Path, of: Mapping[str, Any]):
        """of: what the answers depend on; a draft of something else is begun anew.

        Raises:
            HfadaptError: the file can't be written, or another process is writing it.
        """
        check(out)
        self.out, self.of = out, dict(of)
        self.path = out.with_name(f".{out.name}.draft")
        self.note = out.with_name(f".{out.name}.draft.json")
        self.rows = 0
        """How many rows are answered and safe."""
        try:
            self.file = self.path.open("a+", encoding="utf-8", newline="")
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.file.truncate(self._safe())
        except BlockingIOError:
            says = f"Another process is writing '{out}'."
            raise HfadaptError(Problem(says, hint="Wait for it, or choose another --out.")) from None
        except OSError as error:
            raise HfadaptError(f"'{out}' can't be written: {error.strerror}.") from error

    def add(self, answers: Iterable[Mapping[str, Any]]) -> None:
        """Write some answers and make them safe.

        Raises:
            HfadaptError: the disk takes no more.
        """
        try:
            self._add(answers)
        except OSError as error:
            says = f"'{self.path}' can't be written: {error.strerror}."
            raise HfadaptError(Problem(says, hint="The answers before are safe: the same command goes on.")) from error

    def _add(self, answers: Iterable[Mapping[str, Any]]) -> None:
        rows = [flat(answer) if self.out.suffix == ".csv" else dict(answer) for answer in answers]
        if self.out.suffix == ".csv":
            writer = csv.DictWriter(self.file, list(rows[0]) if rows else [])
            if not self.rows:
                writer.writeheader()
            writer.writerows(rows)
        else:
            self.file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        self.file.flush()
        os.fsync(self.file.fileno())
        self.rows += len(rows)
        told = json.dumps({"of": self.of, "rows": self.rows, "bytes": self.path.stat().st_size})
        fresh = self.note.with_name(f"{self.note.name}.new")
        fresh.write_text(told, encoding="utf-8")
        fresh.replace(self.note)

    def finish(self) -> None:
        """Put the file in its place."""
        self.file.close()
        self.path.replace(self.out)
        self.note.unlink(missing_ok=True)

    def _safe(self) -> int:
        """The bytes of the draft that a former process made safe, of the same answers; sets `rows`."""
        try:
            told = json.loads(self.note.read_text(encoding="utf-8"))
            of, rows, size = told["of"], int(told["rows"]), int(told["bytes"])
        except (OSError, ValueError, TypeError, KeyError):
            return 0
        if of != self.of or self.path.stat().st_size < size:
            return 0
        self.rows = rows
        return size


def flat(answer: Mapping[str, Any]) -> dict[str, Any]:
    """An answer as one row of a table: labels joined by `|`, a column for each probability."""
    row: dict[str, Any] = {}
    for key, value in answer.items():
        if isinstance(value, dict):
            row |= value
        else:
            row[key] = "|".join(value) if isinstance(value, list) else value
    return row
