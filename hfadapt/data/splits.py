"""Which rows train, validate and test: splits that the source has, files, or shares to set aside."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hfadapt.data import folders, local, sources
from hfadapt.data.local import SPLITS, Splits
from hfadapt.data.sources import Source
from hfadapt.data.table import Table
from hfadapt.errors import DataError, Problem, did_you_mean

if TYPE_CHECKING:
    from hfadapt.recipe import Data

SHARE = 0.1
"""The share of the training rows that is set aside where the source has no such split."""


@dataclass(frozen=True)
class Chosen:
    """Where each split comes from."""

    given: Splits
    """The tables of `train`, and of those splits that have rows of their own."""
    shares: dict[str, float]
    """The share of the training rows for each of the others."""


def choose(data: Data, source: Source, pictures: Sequence[str] = ()) -> Chosen:
    """What `data.train`, `data.validation` and `data.test` ask for.

    pictures: the task's roles that hold some; a split may then be a folder of them.

    Raises:
        DataError: a split or file isn't there, two splits are the same, or nothing is left to train on.
    """
    asked = {"train": data.train or "train", "validation": data.validation, "test": data.test}
    names = {split: _named(source.splits, value) for split, value in asked.items() if isinstance(value, str)}
    given: Splits = {}
    shares: dict[str, float] = {}
    problems: list[Problem] = []
    for split, value in asked.items():
        own = next((name for name in SPLITS[split] if name in source.splits and name not in names.values()), None)
        try:
            if isinstance(value, float):
                shares[split] = value
            elif value is not None:
                given[split] = _tables(split, value, names, data, source, pictures)
            elif own:
                given[split] = source.splits[own]
            else:
                shares[split] = SHARE
        except DataError as error:
            problems += error.problems
    if sum(shares.values()) >= 1:
        listed = " and ".join(f"{share:g} for {split}" for split, share in shares.items())
        problems.append(Problem(field="data", says=f"{listed} leave nothing to train on.", hint="Lower them."))
    if problems:
        raise DataError(*problems)
    return Chosen(given, shares)


def _tables(
    split: str,
    value: str | list[str],
    names: Mapping[str, str | None],
    data: Data,
    source: Source,
    pictures: Sequence[str],
) -> tuple[Table, ...]:
    """The tables of a split of the source, or of files."""
    name = names.get(split)
    if name is None:
        if pictures and split != "train" and isinstance(value, str) and os.path.isdir(local.path_of(value)):
            return folders.tables(local.path_of(value), value, data, sources.named(data, pictures))
        if split == "train" or (isinstance(value, str) and not local.looks_like_path(value)):
            says = f"'{source.shown}' has no split '{value}'."
            raise DataError(Problem(field=f"data.{split}", says=says, hint=did_you_mean(value, source.splits)))
        return local.files(value, data, f"data.{split}")
    first = next(other for other, its in names.items() if its == name)
    if first != split:
        says = f"'{value}' is the split that `{first}` uses already."
        raise DataError(Problem(field=f"data.{split}", says=says, hint="Name another, or a share such as 0.1."))
    return source.splits[name]


def _named(splits: Splits, name: str) -> str | None:
    """The source's split of that name, or of another usual name for it (`dev`, `validation`)."""
    if name in splits:
        return name
    usual = next((names for names in SPLITS.values() if name in names), ())
    return next((one for one in usual if one in splits), None)
