"""Texts or pictures to predict from."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from hfadapt.data import bad_rows, building, columns, folders, keys, local, looking, rows
from hfadapt.data.columns import Column
from hfadapt.data.table import BadRow, Table
from hfadapt.errors import DataError, Problem

if TYPE_CHECKING:
    import datasets

    from hfadapt.recipe import Data
    from hfadapt.tasks.base import Role


def read_inputs(
    path: str | Sequence[str], roles: Mapping[str, Role], data: Data
) -> tuple[datasets.Dataset, tuple[str, ...]]:
    """The texts or pictures to predict from, or both, with `_file` and `_line`, and what `_file` counts.

    Pictures are files, all in a folder, or what a table names or holds; texts are those of a table. Columns
    are told as in training; a target may be there and is left alone.

    Raises:
        DataError: a file or a column isn't there, or a row can't be read; none is left out.
    """
    pictures = [role for role, its in roles.items() if its.holds == "image"]
    inputs = {role: its for role, its in roles.items() if its.holds != "target"}
    found = _pictures(path) if pictures else None
    if found:
        _refuse_without_texts(found, inputs, data)
        tables: tuple[Table, ...] = (found,)
        # What the recipe calls the column of its own files says nothing of these.
        chosen = dict.fromkeys(pictures, Column("image", "inferred"))
    else:
        tables = local.files(path, data, "")
        never = columns.likely_targets(data.columns, roles, tables[0])
        chosen = columns.choose(data.columns, inputs, tables, never=never)
    files: list[str] = []
    texts = [role for role in chosen if role not in pictures]
    read = rows.read(tables, chosen, texts, files, pictures=pictures)
    looks = {role: looking.look({"": read.rows.inputs[role]})[""] for role in pictures}
    bad = [*read.bad]
    for role, its in looks.items():
        bad += (
            BadRow(files[read.rows.file[row]], int(read.rows.line[row]), says)
            for row, says in looking.refused(read.rows, role, its)
        )
    if bad or read.fatal:
        hint = f"Mend them, or take them out of the {'folder' if found else 'file'}."
        raise bad_rows.stop(bad_rows.ordered(bad, files), read.fatal, hint)
    if not len(read.rows):
        raise DataError(Problem(where=", ".join(files), says="There are no rows to predict from."))
    return building.inputs(read.rows, keys.keys(read.rows.inputs, looks)), tuple(files)


def _refuse_without_texts(found: Table, inputs: Mapping[str, Role], data: Data) -> None:
    """Stop where the task reads a text too, which a file that is a picture does not have."""
    texts = [role for role, its in inputs.items() if its.holds == "text" and not its.optional]
    if texts:
        says = f"The task needs a {' and a '.join(texts)} beside each picture, and these are pictures alone."
        named = " and ".join(f"'{data.columns.get(role, role)}'" for role in inputs if not inputs[role].optional)
        raise DataError(Problem(where=found.shown, says=says, hint=f"Give a table with the columns {named}."))


def _pictures(path: str | Sequence[str]) -> Table | None:
    """The pictures that paths name; None where they name tables.

    Raises:
        DataError: one of them names nothing, or they name both, or a folder without pictures.
    """
    if isinstance(path, str) and os.path.isdir(folder := local.path_of(path)):
        inside = [str(its) for its in folders.walk(folder) if folders.is_picture(its.name)]
        if not inside:
            raise DataError(Problem(where=path, says=f"The folder holds no pictures ({', '.join(folders.SUFFIXES)})."))
        return folders.PictureFiles(inside, path)
    paths = local.named_files([path] if isinstance(path, str) else path, "")
    ours = [one for one in paths if not local.is_table(one)]
    if ours and len(ours) < len(paths):
        says = f"'{ours[0]}' is one picture, but '{next(one for one in paths if one not in ours)}' is a table."
        raise DataError(Problem(says=says, hint="Predict from one kind at a time."))
    return folders.PictureFiles([str(local.path_of(one)) for one in ours], ", ".join(ours)) if ours else None
