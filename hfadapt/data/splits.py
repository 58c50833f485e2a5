"""Which rows train, validate and test: splits that the source has, files, or shares to set aside."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hfadapt.data import local
from hfadapt.data.local import SPLITS, Splits
from hfadapt.data.sources import Source
from hfadapt.errors import DataError, Problem, did_you_mean

if TYPE_CHECKING:
    from hfadapt.recipe import Data

SHARE = 0.1
"""The share of the training rows that is set aside where the source has no such split."""


@dataclass
class Chosen:
    """Where each split comes from."""

    given: Splits = field(default_factory=dict)
    """The tables of `train`, and of those splits that have rows of their own."""
    shares: dict[str, float] = field(default_factory=dict)
    """The share of the training rows for each of the others."""


def choose(data: Data, source: Source) -> Chosen:
    """What `data.train`, `data.validation` and `data.test` ask for.

    Raises:
        DataError: a split or file isn't there, two splits are the same, or nothing is left to train on.
    """
    asked = {"train": data.train or "train", "validation": data.validation, "test": data.test}
    chosen, used = Chosen(), dict[str, str]()
    problems: list[Problem] = []
    for split, value in asked.items():
        try:
            _take(split, value, data, source, chosen, used)
        except DataError as error:
            problems += error.problems
    if problems:
        raise DataError(*problems)
    for split in asked:
        if split not in chosen.given and split not in chosen.shares:
            _take_default(split, source, chosen, used)
    if sum(chosen.shares.values()) >= 1:
        shares = " and ".join(f"{share:g} for {split}" for split, share in chosen.shares.items())
        raise DataError(Problem(field="data", says=f"{shares} leave nothing to train on.", hint="Lower them."))
    return chosen


def _take(split: str, value: Any, data: Data, source: Source, chosen: Chosen, used: dict[str, str]) -> None:
    if value is None:
        return
    if isinstance(value, float):
        chosen.shares[split] = value
        return
    name = _named(source.splits, value) if isinstance(value, str) else None
    if name is None:
        if split == "train" or (isinstance(value, str) and not local.looks_like_path(value)):
            raise DataError(_no_such(split, value, source))
        chosen.given[split] = local.files(value, data, f"data.{split}")
    elif name in used:
        says = f"'{value}' is the split that `{used[name]}` uses already."
        raise DataError(Problem(field=f"data.{split}", says=says, hint="Name another, or a share such as 0.1."))
    else:
        used[name] = split
        chosen.given[split] = source.splits[name]


def _take_default(split: str, source: Source, chosen: Chosen, used: Mapping[str, str]) -> None:
    own = next((name for name in SPLITS[split] if name in source.splits and name not in used), None)
    if own is None:
        chosen.shares[split] = SHARE
    else:
        chosen.given[split] = source.splits[own]


def _named(splits: Splits, name: str) -> str | None:
    """The source's split of that name, or of another usual name for it (`dev`, `validation`)."""
    if name in splits:
        return name
    usual = next((names for names in SPLITS.values() if name in names), ())
    return next((one for one in usual if one in splits), None)


def _no_such(split: str, name: str, source: Source) -> Problem:
    says = f"'{source.shown}' has no split '{name}'."
    return Problem(field=f"data.{split}", says=says, hint=did_you_mean(name, source.splits))
