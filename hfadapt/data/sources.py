"""What `data.path` means: built-in rows, files here, or a dataset on the Hub."""

from __future__ import annotations

import importlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hfadapt.data import folders, hub, local
from hfadapt.data.arrow import DatasetTable
from hfadapt.data.local import Splits
from hfadapt.errors import DataError, Problem, did_you_mean

if TYPE_CHECKING:
    from hfadapt.recipe import Data

BUILTIN = Path(__file__).parent.parent / "builtin"


@dataclass(frozen=True)
class Source:
    """The tables of each split that a source has."""

    shown: str
    """What messages call it: the path as given."""
    splits: Splits


def find(data: Data, pictures: Sequence[str] = ()) -> Source:
    """The source that `data.path` names.

    pictures: the task's roles that hold some; without any a folder of pictures is no source.

    Raises:
        DataError: there is nothing there, or it can't be told which files are which split.
    """
    shown = data.path if isinstance(data.path, str) else ", ".join(data.path)
    if shown.startswith("builtin/"):
        found: Splits | None = _builtin(shown, data)
    elif pictures and isinstance(data.path, str) and os.path.isdir(folder := local.path_of(data.path)):
        found = folders.splits(folder, shown, data, named(data, pictures))
    else:
        found = local.splits(data.path, data)
    if found is None:
        return Source(shown, hub.splits(shown, data.name, data.revision, streaming=data.streaming))
    wrong = [field for field in ("name", "revision") if getattr(data, field) is not None]
    if wrong:
        says = f"Only a dataset on the Hub has one; '{shown}' is none."
        raise DataError(*(Problem(field=f"data.{field}", says=says, hint="Remove it.") for field in wrong))
    return Source(shown, found)


def named(data: Data, pictures: Sequence[str]) -> str | None:
    """The column of pictures that the recipe names, if it does."""
    return next((data.columns[role] for role in pictures if role in data.columns), None)


def _builtin(given: str, data: Data) -> Splits:
    name = given.removeprefix("builtin/")
    kept = {path.name: path for path in BUILTIN.iterdir() if path.is_dir() and _holds_rows(path)}
    modules = {path.stem.replace("_", "-"): path.stem for path in BUILTIN.glob("[!_]*.py")}
    if name in kept:
        return local.folder(kept[name], given, data)
    if name in modules:
        made = _made(modules[name])
        return {split: (_table(columns, f"{given} ({split})"),) for split, columns in made.items()}
    hint = did_you_mean(name, {*kept, *modules})
    raise DataError(Problem(field="data.path", says=f"There is no built-in dataset '{name}'.", hint=hint))


@cache
def _made(module: str) -> dict[str, dict[str, list[Any]]]:
    """The columns of each split; pictures take seconds to draw, which a process that plans often does once."""
    return importlib.import_module(f"hfadapt.builtin.{module}").make()


def _holds_rows(folder: Path) -> bool:
    # A model's folder holds json files too.
    return bool(local.data_files(folder)) and not (folder / "config.json").exists()


def _table(columns: dict[str, list[Any]], shown: str) -> DatasetTable:
    import datasets

    return DatasetTable(datasets.Dataset.from_dict(columns), shown)
