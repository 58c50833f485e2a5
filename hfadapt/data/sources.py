"""What `data.path` means: built-in rows, files here, or a dataset on the Hub."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hfadapt.data import hub, local
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


def find(data: Data) -> Source:
    """The source that `data.path` names.

    Raises:
        DataError: there is nothing there, or it can't be told which files are which split.
    """
    shown = data.path if isinstance(data.path, str) else ", ".join(data.path)
    found = _builtin(shown, data) if shown.startswith("builtin/") else local.splits(data.path, data)
    if found is None:
        return Source(shown, hub.splits(shown, data.name, data.revision))
    wrong = [field for field in ("name", "revision") if getattr(data, field) is not None]
    if wrong:
        says = f"Only a dataset on the Hub has one; '{shown}' is none."
        raise DataError(*(Problem(field=f"data.{field}", says=says, hint="Remove it.") for field in wrong))
    return Source(shown, found)


def _builtin(given: str, data: Data) -> Splits:
    name = given.removeprefix("builtin/")
    folders = {path.name: path for path in BUILTIN.iterdir() if path.is_dir() and local.data_files(path)}
    modules = {path.stem.replace("_", "-"): path.stem for path in BUILTIN.glob("[!_]*.py")}
    if name in folders:
        return local.folder(folders[name], given, data)
    if name in modules:
        made = importlib.import_module(f"hfadapt.builtin.{modules[name]}").make()
        return {split: (_table(columns, f"{given} ({split})"),) for split, columns in made.items()}
    hint = did_you_mean(name, {*folders, *modules})
    raise DataError(Problem(field="data.path", says=f"There is no built-in dataset '{name}'.", hint=hint))


def _table(columns: dict[str, list[Any]], shown: str) -> DatasetTable:
    import datasets

    return DatasetTable(datasets.Dataset.from_dict(columns), shown)
