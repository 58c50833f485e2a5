"""Texts to predict from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from hfadapt.data import bad_rows, building, columns, local, rows
from hfadapt.errors import DataError, Problem

if TYPE_CHECKING:
    import datasets

    from hfadapt.recipe import Data
    from hfadapt.tasks.base import Role


def read_inputs(
    path: str | Sequence[str], roles: Mapping[str, Role], data: Data
) -> tuple[datasets.Dataset, tuple[str, ...]]:
    """The texts of files to predict from, with `_file` and `_line`, and what `_file` counts.

    Columns are told as in training; a target may be there and is left alone.

    Raises:
        DataError: a file or a column isn't there, or a row can't be read; none is left out.
    """
    tables = local.files(path, data, "")
    inputs = {role: its for role, its in roles.items() if its.holds == "text"}
    never = columns.likely_targets(data.columns, roles, tables[0])
    chosen = columns.choose(data.columns, inputs, tables, never=never)
    files: list[str] = []
    read = rows.read(tables, chosen, list(chosen), files)
    if read.bad or read.fatal:
        hint = "Mend them, or take them out of the file."
        raise bad_rows.stop(bad_rows.ordered(read.bad, files), read.fatal, hint)
    if not len(read.rows):
        raise DataError(Problem(where=", ".join(files), says="There are no rows to predict from."))
    return building.inputs(read.rows), tuple(files)
