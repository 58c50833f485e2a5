"""Texts or pictures to predict from, read piece by piece."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import xxhash

from hfadapt.data import bad_rows, columns, folders, local, looking, rows
from hfadapt.data.columns import Column
from hfadapt.data.table import BadRow, Table
from hfadapt.errors import DataError, Problem

if TYPE_CHECKING:
    from hfadapt.recipe import Data
    from hfadapt.tasks.base import Role


@dataclass(frozen=True)
class Inputs:
    """Rows that were found sound. They stay where they are, and are read again as they are asked for."""

    rows: int
    files: tuple[str, ...]
    """What `_file` counts."""
    _tables: tuple[Table, ...] = field(repr=False)
    _columns: Mapping[str, Column] = field(repr=False)
    _paths: tuple[str, ...] = field(repr=False)
    _pictures: tuple[str, ...] = ()
    """The roles that are pictures."""

    def pieces(self, most: int, start: int = 0) -> Iterator[dict[str, list[Any]]]:
        """The rows from the place `start` on, at most so many together: a list for each role, `_file` and `_line`.

        A picture is a cell (see `data.images`).

        Raises:
            DataError: a file has changed, and can't be read any more.
        """
        seen = 0
        for reading in _stream(self._tables, self._columns, [], self._pictures):
            if reading.bad or reading.fatal:
                raise bad_rows.stop(reading.bad, reading.fatal, "The file was sound when it was first read.")
            read, end = reading.rows, seen + len(reading.rows)
            for begin in range(max(start - seen, 0), len(read), most):
                part = slice(begin, begin + most)
                named = {role: column[part].to_pylist() for role, column in read.inputs.items()}
                yield {**named, "_file": read.file[part].tolist(), "_line": read.line[part].tolist()}
            seen = end

    def stamp(self) -> dict[str, Any]:
        """What changes when the rows do: of tables their bytes, of a folder the names, sizes and ages of pictures."""
        digest, size = xxhash.xxh3_128(), 0
        for path in self._paths:
            about = os.stat(path)
            size += about.st_size
            if local.is_table(path):
                with open(path, "rb") as file:
                    while block := file.read(1 << 20):
                        digest.update(block)
            else:
                digest.update(f"{path}\0{about.st_size}\0{about.st_mtime_ns}\0".encode(errors="surrogateescape"))
        return {"rows": self.rows, "bytes": size, "digest": digest.hexdigest()}


def read_inputs(path: str | Sequence[str], roles: Mapping[str, Role], data: Data) -> Inputs:
    """The texts or pictures to predict from, or both, all of them looked at once.

    Pictures are files, all in a folder, or what a table names or holds; texts are those of a table. Columns
    are told as in training; a target may be there and is left alone.

    Raises:
        DataError: a file or a column isn't there, or a row can't be read; none is left out.
    """
    pictures = tuple(role for role, its in roles.items() if its.holds == "image")
    inputs = {role: its for role, its in roles.items() if its.holds != "target"}
    found = _pictures(path) if pictures else None
    if found:
        _refuse_without_texts(found, inputs, data)
        tables: tuple[Table, ...] = (found,)
        paths = found.paths
        # What the recipe calls the column of its own files says nothing of these.
        chosen = dict.fromkeys(pictures, Column("image", "inferred"))
    else:
        tables = local.files(path, data, "")
        named = local.named_files([path] if isinstance(path, str) else path, "")
        paths = tuple(str(local.path_of(one)) for one in named)
        never = columns.likely_targets(data.columns, roles, tables[0])
        chosen = columns.choose(data.columns, inputs, tables, never=never)
    files: list[str] = []
    number, bad, fatal = 0, list[BadRow](), list[Problem]()
    for reading in _stream(tables, chosen, files, pictures):
        bad += [*reading.bad, *_unusable(reading.rows, pictures, files, number)]
        fatal += reading.fatal
        number += len(reading.rows)
    if bad or fatal:
        hint = f"Mend them, or take them out of the {'folder' if found else 'file'}."
        raise bad_rows.stop(bad_rows.ordered(bad, files), fatal, hint)
    if not number:
        raise DataError(Problem(where=", ".join(files), says="There are no rows to predict from."))
    return Inputs(number, tuple(files), tables, chosen, paths, pictures)


def _stream(
    tables: Sequence[Table], chosen: Mapping[str, Column], files: list[str], pictures: Sequence[str]
) -> Iterator[rows.Reading]:
    texts = [role for role in chosen if role not in pictures]
    return rows.stream(tables, chosen, texts, files, pictures=[role for role in pictures if role in chosen])


def _unusable(read: rows.Rows, pictures: Sequence[str], files: Sequence[str], before: int) -> Iterator[BadRow]:
    """The rows whose picture can't be used; before: how many rows came before these."""
    for role in pictures:
        cells = (cell for chunk in read.inputs[role].chunks for cell in chunk.to_pylist())
        for row, says in enumerate(looking.faults(cells, before)):
            if says is not None:
                where = files[read.file[row]], int(read.line[row])
                path = read.inputs[role][row]["path"].as_py()
                yield BadRow(*where, f"{path}: {says}" if path and where[1] else says)


def _refuse_without_texts(found: Table, inputs: Mapping[str, Role], data: Data) -> None:
    """Stop where the task reads a text too, which a file that is a picture does not have."""
    texts = [role for role, its in inputs.items() if its.holds == "text" and not its.optional]
    if texts:
        says = f"The task needs a {' and a '.join(texts)} beside each picture, and these are pictures alone."
        named = " and ".join(f"'{data.columns.get(role, role)}'" for role in inputs if not inputs[role].optional)
        raise DataError(Problem(where=found.shown, says=says, hint=f"Give a table with the columns {named}."))


def _pictures(path: str | Sequence[str]) -> folders.PictureFiles | None:
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
