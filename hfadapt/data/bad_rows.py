"""Rows that can't be used: either all is stopped and they are listed, or they are left out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from hfadapt.data.table import BadRow
from hfadapt.errors import DataError, Problem, count

SHOWN = 10
"""Bad rows that an error lists one by one."""
SKIP = "Mend them, or leave them out: `data.on_bad_row: skip`."


def ordered(bad: Iterable[BadRow], files: list[str]) -> list[BadRow]:
    """Bad rows in the order of the files and of the lines in them."""
    place = {file: i for i, file in enumerate(files)}
    return sorted(bad, key=lambda row: (place[row.file], row.line))


def stop(bad: Sequence[BadRow], fatal: Sequence[Problem] = (), hint: str = "") -> DataError:
    """The error that lists the first bad rows, counts the others and says what to do about them.

    fatal: what no leaving out of rows would mend; it comes first. hint: what to do about "them".
    """
    problems = [Problem(where=row.where, says=row.says) for row in bad[:SHOWN]]
    if bad:
        rest = len(bad) - SHOWN
        says = f"{count(rest, 'other row')} can't be used either." if rest > 0 else ""
        says = says or f"{count(len(bad), 'row')} can't be used."
        problems.append(Problem(field="data", says=says, hint=hint if len(bad) > 1 else hint.replace("them", "it")))
    return DataError(*fatal, *problems)


def leave_out(bad: Mapping[str, Sequence[BadRow]], rows: Mapping[str, int]) -> tuple[BadRow, ...]:
    """All bad rows, once it is sure that what is left of each split is worth using.

    bad: split → its bad rows; rows: split → how many rows it has, bad ones included.

    Raises:
        DataError: more than half of a split would be lost.
    """
    problems: list[Problem] = []
    for split, its in bad.items():
        if 2 * len(its) > rows[split]:
            says = f"{len(its):,} of {count(rows[split], 'row')} of {split} can't be used: too many to skip."
            problems.append(Problem(field="data.on_bad_row", says=says, hint="The first of them are:"))
            problems += [Problem(where=row.where, says=row.says) for row in its[:SHOWN]]
    if problems:
        raise DataError(*problems)
    return tuple(row for its in bad.values() for row in its)
