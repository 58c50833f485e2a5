"""Files here: which of them hold rows, and of which split."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hfadapt.data.delimited import Delimited
from hfadapt.data.json_records import JsonFile, JsonLines
from hfadapt.data.labels import shown_names
from hfadapt.data.table import Table
from hfadapt.errors import DataError, Problem, did_you_mean

if TYPE_CHECKING:
    from hfadapt.recipe import Data

Splits = dict[str, tuple[Table, ...]]

SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test",),
}
"""Split → the names that a source may give it."""

_SUFFIXES = (".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".parquet")
_STARTS = {re.compile(rf"({'|'.join(names)})([-_.]|$)"): split for split, names in SPLITS.items()}


def splits(given: str | Sequence[str], data: Data) -> Splits | None:
    """The tables at a path, a glob or several; None where one text must be the id of a dataset.

    Raises:
        DataError: there is nothing there, or it can't be told which files are which split.
    """
    if not isinstance(given, str):
        return _by_split(named_files(given, "data.path"), data)
    path = path_of(given)
    if os.path.isdir(path):
        return folder(path, given, data)
    if os.path.isfile(path):
        return {"train": (open_file(path, given, data),)}
    if matches := _matches(given):
        return _by_split(matches, data)
    if looks_like_path(given):
        raise DataError(_missing(given, "data.path"))
    return None


def files(given: str | Sequence[str], data: Data, field: str = "data.path") -> tuple[Table, ...]:
    """The tables of the files that one or more paths or globs name.

    Raises:
        DataError: one of them names no file that can be read.
    """
    paths = named_files([given] if isinstance(given, str) else given, field)
    return tuple(open_file(path_of(shown), shown, data) for shown in paths)


def looks_like_path(given: str) -> bool:
    """Whether a text is meant as a path here, and not as a split or a dataset id."""
    known = given.lower().endswith((*_SUFFIXES, ".txt", ".gz", ".zip", ".xlsx", ".xls", ".arrow"))
    return known or given.startswith((".", "/", "~")) or given.count("/") > 1 or glob.has_magic(given)


def is_table(path: str) -> bool:
    """Whether a file is named like one that holds rows."""
    return path.lower().endswith(_SUFFIXES)


def open_file(path: Path, shown: str, data: Data) -> Table:
    """The table of a file, by its suffix.

    Raises:
        DataError: its suffix is not one that is read.
    """
    suffix = path.suffix.lower()
    if suffix in {".csv", ".tsv"}:
        return Delimited(path, shown, data.encoding, data.separator)
    if suffix in {".jsonl", ".ndjson"}:
        return JsonLines(path, shown, data.encoding)
    if suffix == ".json":
        return JsonFile(path, shown, data.encoding)
    if suffix == ".parquet":
        from hfadapt.data.arrow import Parquet

        return Parquet(path, shown)
    says = f"Files that end in '{suffix}' are not read." if suffix else "The file's name has no suffix."
    raise DataError(Problem(where=shown, says=says, hint=f"Those that are: {', '.join(_SUFFIXES)}."))


def folder(path: Path, shown: str, data: Data) -> Splits:
    """The splits of a folder: files named after a split, and sub-folders named so."""
    loose = data_files(path)
    found = {split: [file for file in loose if split_of(file.name) == split] for split in SPLITS}
    for entry in sorted(path.iterdir()):
        for split, names in SPLITS.items():
            if entry.is_dir() and entry.name.lower() in names:
                found[split] += data_files(entry)
    if not any(found.values()):
        if len(loose) != 1:
            raise DataError(_no_split(shown, [file.name for file in loose]))
        found["train"] = loose
    return {split: opened(split, found[split], path, shown, data) for split in SPLITS if found[split]}


def opened(split: str, paths: Sequence[Path], root: Path, shown: str, data: Data) -> tuple[Table, ...]:
    """The tables of a split's files, which lie below a folder.

    Raises:
        DataError: their suffixes differ, or are not read.
    """
    suffixes = sorted({path.suffix.lower() for path in paths})
    if len(suffixes) > 1:
        says = f"The files of split '{split}' end in {shown_names(suffixes)}; they may be the same rows twice."
        raise DataError(Problem(where=shown, says=says, hint="Name the files to read with `data.path`."))
    below = ((path, path.relative_to(root).as_posix()) for path in paths)
    return tuple(open_file(path, f"{shown.rstrip('/')}/{name}", data) for path, name in below)


def _by_split(paths: Sequence[str], data: Data) -> Splits:
    """Listed files by the split that their names tell; all of them train where none tells one."""
    named = {path: split_of(Path(path).name) for path in paths}
    other = [path for path, split in named.items() if split is None]
    if other and len(other) < len(named):
        says = f"Some of these files are named after a split, others are not: {shown_names(other)}."
        hint = "Name the others under `data.validation` and `data.test`, or rename them."
        raise DataError(Problem(field="data.path", says=says, hint=hint))
    if other or len(named) == 1:
        named = dict.fromkeys(named, "train")
    splits = {split: [path for path, its in named.items() if its == split] for split in SPLITS}
    return {split: tuple(open_file(path_of(path), path, data) for path in its) for split, its in splits.items() if its}


def named_files(given: Iterable[str], field: str) -> list[str]:
    """Paths and globs as the paths of files, each once.

    Raises:
        DataError: one of them names no file.
    """
    found: dict[str, None] = {}
    problems = []
    for one in given:
        matches = [one] if os.path.isfile(path_of(one)) else _matches(one)
        found.update(dict.fromkeys(matches))
        if not matches:
            problems.append(_missing(one, field))
    if problems:
        raise DataError(*problems)
    return list(found)


def _matches(pattern: str) -> list[str]:
    if not glob.has_magic(pattern):
        return []
    found = glob.glob(str(path_of(pattern)), recursive=True)
    return sorted(path for path in found if Path(path).is_file())


def data_files(folder: Path) -> list[Path]:
    """The files of a folder whose suffix says that they hold rows, sorted by name."""
    files = (path for path in sorted(folder.iterdir()) if path.is_file() and not path.name.startswith("."))
    return [path for path in files if is_table(path.name)]


def path_of(given: str) -> Path:
    """A path as given, `~` replaced. Ask os.path about it: methods of Path raise where a name is too long."""
    # Path.expanduser raises where there is no such user.
    return Path(os.path.expanduser(given))


def split_of(name: str) -> str | None:
    """The split that a file is named after, if any."""
    return next((split for start, split in _STARTS.items() if start.match(name.lower())), None)


def _no_split(shown: str, names: list[str]) -> Problem:
    if not names:
        says = f"The folder holds no data files ({', '.join(_SUFFIXES)})."
        return Problem(where=shown, says=says)
    says = f"None of the files is named after a split: {shown_names(names)}."
    hint = "Rename them to train…, validation…, test…, or name one with `data.path`."
    return Problem(where=shown, says=says, hint=hint)


def _missing(given: str, field: str) -> Problem:
    if glob.has_magic(given):
        return Problem(field=field, says=f"No file matches '{given}'.")
    path = path_of(given)
    if os.path.isdir(path):
        return Problem(field=field, says=f"'{given}' is a folder; files are expected here.")
    folder = path.parent
    if not os.path.isdir(folder):
        return Problem(field=field, says=f"There is no file '{given}', nor a folder '{folder}'.")
    hint = did_you_mean(path.name, (entry.name for entry in folder.iterdir()))
    return Problem(field=field, says=f"There is no file or folder '{given}'.", hint=hint)
