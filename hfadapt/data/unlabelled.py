"""Texts or pictures without answers, to pretrain on."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from hfadapt.data import bad_rows, building, columns, folders, keys, local, looking, rows, sources
from hfadapt.data.columns import Column
from hfadapt.data.looking import Looks
from hfadapt.data.table import BadRow, Table
from hfadapt.errors import DataError, Problem

if TYPE_CHECKING:
    import datasets

    from hfadapt.recipe import Data
    from hfadapt.tasks.base import Role


@dataclass(frozen=True)
class Unlabelled:
    """Rows ready to be encoded, and what is to be said about them."""

    rows: datasets.Dataset
    """A column for each role that was read, `_file` and `_line`."""
    columns: dict[str, Column]
    blank: int
    """Rows left out because their text shows nothing."""
    skipped: tuple[BadRow, ...]
    """Rows left out because they can't be used."""
    seen: dict[str, int]
    """Split → how many of these rows have an input that stands there too."""


def read_unlabelled(data: Data, roles: Mapping[str, Role], judged: Mapping[str, datasets.Dataset]) -> Unlabelled:
    """The inputs that `data.path` names: any source of rows, of which its training split counts, or plain pictures.

    roles: of the task; those that are optional are left alone; judged: the splits that scores are reported of.

    Raises:
        DataError: a file or a column isn't there, or a row can't be read and the recipe does not say to skip it.
    """
    inputs = {role: its for role, its in roles.items() if its.holds != "target" and not its.optional}
    pictures = [role for role, its in inputs.items() if its.holds == "image"]
    tables = _tables(data, pictures)
    never = columns.likely_targets({}, roles, tables[0])
    chosen = columns.choose(data.columns, inputs, tables, never=never)
    files: list[str] = []
    texts = [role for role in chosen if role not in pictures]
    read = rows.read(tables, chosen, texts, files, pictures=pictures)
    cells = {role: {"": read.rows.inputs[role], **_columns(judged, role)} for role in pictures}
    looks = {role: looking.look(its) for role, its in cells.items()}
    refused = {i: says for role, its in looks.items() for i, says in looking.refused(read.rows, role, its[""])}
    own = [BadRow(files[read.rows.file[i]], int(read.rows.line[i]), says) for i, says in refused.items()]
    bad = bad_rows.ordered([*read.bad, *own], files)
    if read.fatal or (bad and data.on_bad_row == "stop"):
        raise bad_rows.stop(bad, read.fatal, bad_rows.SKIP)
    skipped = bad_rows.leave_out({"pretraining": bad}, {"pretraining": len(read.rows) + len(read.bad)})
    mask = np.ones(len(read.rows), bool)
    mask[list(refused)] = False
    for role in texts:
        mask &= ~keys.keys({role: read.rows.inputs[role]}).blank[role]
    kept = read.rows.where(mask)
    known = keys.keys(kept.inputs, {role: its[""].where(mask) for role, its in looks.items()})
    return Unlabelled(
        rows=building.inputs(kept, known),
        columns=chosen,
        blank=int((~mask).sum()) - len(refused),
        skipped=skipped,
        seen={split: _shared(known, judged[split], split, looks) for split in judged},
    )


def _tables(data: Data, pictures: Sequence[str]) -> tuple[Table, ...]:
    """The tables of a source's training split; pictures need be in no folders of classes."""
    if pictures and (plain := _pictures(data.path)):
        return (plain,)
    found = sources.find(data, pictures)
    if "train" not in found.splits:
        raise DataError(Problem(f"'{found.shown}' has no training split.", "data.path"))
    return found.splits["train"]


def _pictures(path: str | list[str]) -> Table | None:
    """The pictures that paths name; those of a folder's training split where it has splits. None for tables."""
    if isinstance(path, str) and os.path.isdir(folder := local.path_of(path)):
        named = [entry for entry in sorted(folder.iterdir()) if entry.is_dir()]
        train = next((entry for entry in named if entry.name.lower() in local.SPLITS["train"]), folder)
        inside = [str(file) for file in folders.walk(train) if folders.is_picture(file.name)]
        return folders.PictureFiles(inside, path) if inside and not local.data_files(train) else None
    given = [path] if isinstance(path, str) else path
    if not all(folders.is_picture(one) for one in given):
        return None
    return folders.PictureFiles([str(local.path_of(one)) for one in local.named_files(given, "data.path")], str(path))


def _columns(judged: Mapping[str, datasets.Dataset], role: str) -> dict[str, pa.ChunkedArray]:
    """Split → its inputs of a role."""
    return {split: its.with_format("arrow")[:].column(role) for split, its in judged.items()}


def _shared(known: keys.Keys, split: datasets.Dataset, name: str, looks: Mapping[str, Mapping[str, Looks]]) -> int:
    """How many rows have, under one of their roles, what stands under any role of that kind in a split."""
    found = np.zeros(len(known.normal), bool)
    for role, its in known.parts.items():
        if role in looks:
            theirs = looks[role][name].normal
        else:
            texts = [r for r in (role, f"{role}_pair") if r in split.column_names]
            theirs = np.concatenate([keys.keys(_columns({"": split}, r)).parts[""].normal for r in texts])
        found |= np.isin(its.normal, theirs)
    return int(found.sum())
