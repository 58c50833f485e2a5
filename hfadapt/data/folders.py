"""Folders of pictures: a folder for each class, or a table beside the pictures that tells about them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from hfadapt.data import local
from hfadapt.data.labels import shown_names
from hfadapt.data.local import SPLITS, Splits
from hfadapt.data.table import BATCH, BadRow, Batch, Finding, Table
from hfadapt.errors import DataError, Problem, count

if TYPE_CHECKING:
    from hfadapt.recipe import Data

SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff", ".avif"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".tga"),
)
"""Files of a folder that count as pictures; what is in them is found out later."""
_UNREAD = (".heic", ".heif", ".svg", ".jxl", ".psd", ".dng", ".cr2", ".nef", ".arw")
"""Pictures in formats that are not read: to leave them out in silence would surprise."""
_PATHS = ("file_name", "filename", "image", "file", "path", "picture", "image_path")
"""Usual names of the column of paths in metadata, most telling first."""


class PictureFiles(Table):
    """Pictures that are files, each a row: to predict from, in the order given."""

    def __init__(self, paths: Sequence[str], shown: str):
        super().__init__(shown)
        self.paths = tuple(paths)

    @property
    def columns(self) -> dict[str, bool]:
        return {"image": False}

    @property
    def pictures(self) -> frozenset[str]:
        return frozenset({"image"})

    @cached_property
    def files(self) -> Sequence[str]:  # type: ignore[override]
        return [_shown(path) for path in self.paths]

    def batches(self, columns: Sequence[str], bad: list[BadRow]) -> Iterator[Batch]:
        for start in range(0, len(self.paths), BATCH):
            part = list(self.paths[start : start + BATCH])
            yield Batch(range(start + 1, start + 1 + len(part)), [part for _ in columns])


@dataclass
class _Found:
    """What lies in a folder of class folders; paths below it."""

    pictures: list[tuple[str, str]] = field(default_factory=list)
    """(path, class) of each picture, sorted by class and path."""
    loose: list[str] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)


class ClassFolders(Table):
    """Pictures whose class is the name of the folder directly below the table's own."""

    def __init__(self, path: Path, shown: str):
        super().__init__(shown)
        self._path = path

    @property
    def columns(self) -> dict[str, bool]:
        if self._found.pictures:
            return {"image": False, "label": True}
        if not self._found.loose:
            raise DataError(Problem(where=self.shown, says=f"The folder holds no pictures ({', '.join(SUFFIXES)})."))
        says = f"The folder holds {count(len(self._found.loose), 'picture')}, but no folder for each class."
        hint = "Sort the pictures into such folders, or list them in a metadata.csv with a column `file_name`."
        raise DataError(Problem(where=self.shown, says=says, hint=hint))

    @property
    def pictures(self) -> frozenset[str]:
        return frozenset({"image"})

    @cached_property
    def files(self) -> Sequence[str]:  # type: ignore[override]
        return [_shown(f"{self.shown.rstrip('/')}/{path}") for path, _ in self._found.pictures]

    def batches(self, columns: Sequence[str], bad: list[BadRow]) -> Iterator[Batch]:
        for start in range(0, len(self._found.pictures), BATCH):
            part = self._found.pictures[start : start + BATCH]
            values = {"image": [str(self._path / path) for path, _ in part], "label": [its for _, its in part]}
            yield Batch(range(start + 1, start + 1 + len(part)), [values[column] for column in columns])

    def remarks(self, split: str) -> Iterator[Finding]:
        found = self._found
        if found.loose:
            lie = "lies" if len(found.loose) == 1 else "lie"
            says = f"{count(len(found.loose), 'picture')} of {split} {lie} outside the class folders"
            yield Finding(f"{says} and {_are(found.loose)} left out: {_some(found.loose)}.", len(found.loose))
        if found.empty:
            holds = "The class folder {} of {} holds" if len(found.empty) == 1 else "The class folders {} of {} hold"
            yield Finding(f"{holds.format(shown_names(found.empty), split)} no pictures.", 0)
        if found.unread:
            says = f"{count(len(found.unread), 'file')} of {split} {_are(found.unread)} in a format that is not read"
            says += f" and {_are(found.unread)} left out: {_some(found.unread)}."
            yield Finding(f"{says} Save them as PNG or JPEG.", len(found.unread))

    @cached_property
    def _found(self) -> _Found:
        found = _Found()
        for entry in _visible(self._path):
            below = sorted(walk(entry)) if entry.is_dir() else [entry]
            names = [path.relative_to(self._path).as_posix() for path in below]
            pictures = [name for name in names if is_picture(name)]
            found.unread += [name for name in names if _ends(name, _UNREAD)]
            if not entry.is_dir():
                found.loose += pictures
            elif pictures:
                found.pictures += [(name, entry.name) for name in pictures]
            else:
                found.empty.append(entry.name)
        return found


class Metadata(Table):
    """A table beside pictures that names each by a path below its own folder."""

    confined = True

    def __init__(self, table: Table, named: str | None, part: str = "", parts: Sequence[str] = ()):
        """named: the column of paths, where the recipe says so; part: the folder whose pictures are wanted, where
        one table tells of all splits; parts: the folders of all splits."""
        super().__init__(table.shown)
        self.folder = table.folder
        self._table, self._named, self._part, self._parts = table, named, part, parts
        self._listed: set[str] = set()
        self._elsewhere = 0

    @property
    def columns(self) -> dict[str, bool]:
        return self._table.columns

    @property
    def pictures(self) -> frozenset[str]:
        return self._table.pictures

    def label_names(self, column: str) -> tuple[str, ...]:
        return self._table.label_names(column)

    def batches(self, columns: Sequence[str], bad: list[BadRow]) -> Iterator[Batch]:
        column = self._named or next((name for name in _PATHS if name in self.columns), None)
        if column is None:
            if self._part:
                says = f"It tells of pictures in {shown_names(list(self._parts))}, but no column holds their paths."
                raise DataError(Problem(where=self.shown, says=says, hint="Name it `file_name`."))
            yield from self._table.batches(columns, bad)
            return
        for batch in self._table.batches([*columns, column], bad):
            yield self._of_part(batch)

    def remarks(self, split: str) -> Iterator[Finding]:
        assert self.folder is not None
        if self._elsewhere and split == "train":
            says = (
                f"{count(self._elsewhere, 'row')} of {self.shown} {'is' if self._elsewhere == 1 else 'are'} left out:"
            )
            says += f" the picture lies in none of {shown_names(list(self._parts))}."
            yield Finding(says, self._elsewhere)
        below = (path.relative_to(self.folder).as_posix() for path in walk(self.folder / self._part))
        pictures = sorted(path for path in below if is_picture(path))
        left = [path for path in pictures if path not in self._listed]
        # Where nothing matches, the paths are meant otherwise.
        if left and self._listed:
            says = f"{count(len(left), 'picture')} of {split} {_are(left)} not in {self.shown}"
            yield Finding(f"{says} and {_are(left)} left out: {_some(left)}.", len(left))

    def _of_part(self, batch: Batch) -> Batch:
        """The rows about the wanted part, less the column of paths, which stands last."""
        *values, given = batch.values
        folder = str(self.folder)
        texts = [os.path.relpath(os.path.join(folder, its), folder) if isinstance(its, str) else "" for its in given]
        self._listed.update(texts)
        if not self._part:
            return Batch(batch.lines, values)
        first = [path.split(os.sep)[0] for path in texts]
        self._elsewhere += sum(part not in self._parts for part in first)
        kept = [i for i, part in enumerate(first) if part == self._part]
        return Batch([batch.lines[i] for i in kept], [[its[i] for i in kept] for its in values])


def splits(path: Path, shown: str, data: Data, named: str | None) -> Splits:
    """The splits of a folder of pictures: sub-folders named after them, or else all of it to train on.

    Files of rows (train.csv, train.parquet) come first, as for texts. named: the column of pictures, if the recipe
    says so.

    Raises:
        DataError: it can't be told which pictures or files are which split.
    """
    loose = local.data_files(path)
    entries = {split: [e for e in _visible(path) if e.is_dir() and e.name.lower() in SPLITS[split]] for split in SPLITS}
    if any(local.split_of(file.name) == "train" for file in loose):
        return local.folder(path, shown, data)
    if not entries["train"] and (loose or not any(entries.values()) or _others(path, entries)):
        rows = loose and not any(map(_is_metadata, loose)) and _tell_about(path)
        return local.folder(path, shown, data) if rows else {"train": tables(path, shown, data, named)}
    metadata = [file for file in loose if _is_metadata(file)]
    parts = [entry.name for its in entries.values() for entry in its]
    found = {}
    for split, its in entries.items():
        made: list[Table] = []
        for entry in its:
            if metadata:
                made += (Metadata(one, named, entry.name, parts) for one in _opened(metadata, path, shown, data))
            else:
                made += tables(entry, f"{shown.rstrip('/')}/{entry.name}", data, named)
        if made:
            found[split] = tuple(made)
    return found


def tables(path: Path, shown: str, data: Data, named: str | None) -> tuple[Table, ...]:
    """The tables of one split's folder: its metadata, its files of rows, or its class folders.

    Raises:
        DataError: its files are of several formats.
    """
    files = local.data_files(path)
    if metadata := [file for file in files if _is_metadata(file)]:
        return tuple(Metadata(table, named) for table in _opened(metadata, path, shown, data))
    if files and _tell_about(path):
        return local.opened(path.name, files, path, shown, data)
    return (ClassFolders(path, shown),)


def walk(folder: Path) -> Iterator[Path]:
    """All files below a folder, hidden ones left out, links followed, none twice through a loop of links."""
    seen: set[str] = set()
    for place, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not _is_hidden(name))
        yield from (Path(place, name) for name in sorted(names) if not _is_hidden(name))


def is_picture(name: str) -> bool:
    """Whether a file is named like a picture."""
    return _ends(name, SUFFIXES)


def _tell_about(folder: Path) -> bool:
    """Whether files of rows in a folder tell about what is in it: several folders of pictures are classes instead."""
    return sum(map(_holds_pictures, _visible(folder))) < 2


def _others(folder: Path, entries: dict[str, list[Path]]) -> bool:
    """Whether folders hold pictures that are not named after splits: then those that are may be classes too."""
    named = [entry for its in entries.values() for entry in its]
    return any(entry not in named and _holds_pictures(entry) for entry in _visible(folder))


def _holds_pictures(entry: Path) -> bool:
    return entry.is_dir() and any(is_picture(path.name) for path in walk(entry))


def _visible(folder: Path) -> list[Path]:
    try:
        return [entry for entry in sorted(folder.iterdir()) if not _is_hidden(entry.name)]
    except OSError as error:
        raise DataError(Problem(where=str(folder), says=f"The folder can't be read: {error.strerror}.")) from error


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def _is_metadata(file: Path) -> bool:
    return file.stem.lower() == "metadata"


def _opened(metadata: Sequence[Path], path: Path, shown: str, data: Data) -> tuple[Table, ...]:
    return local.opened("metadata", metadata, path, shown, data)


def _ends(name: str, suffixes: tuple[str, ...]) -> bool:
    return name.lower().endswith(suffixes)


def _are(names: Sequence[str]) -> str:
    return "is" if len(names) == 1 else "are"


def _some(names: Sequence[str], most: int = 3) -> str:
    listed = ", ".join(_shown(name) for name in names[:most])
    return listed if len(names) <= most else f"{listed}, …"


def _shown(path: str) -> str:
    """A path as messages show it, also one that is not UTF-8."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")
