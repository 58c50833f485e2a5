"""Setting shares of the training rows aside: stratified, repeatable, no text or picture in two splits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hfadapt.data.keys import mixed
from hfadapt.data.local import SPLITS
from hfadapt.errors import DataError, Problem, count

if TYPE_CHECKING:
    from hfadapt.kind import Kind

FREE = -1
"""The stratum of rows without a label."""


@dataclass(frozen=True)
class _Groups:
    """Rows with the same normalised texts, or nearly the same picture, go to one split together."""

    of_row: np.ndarray
    size: np.ndarray
    members: dict[int, np.ndarray]
    """Stratum → its groups, in the order in which they are taken."""


def set_aside(
    keys: np.ndarray, strata: np.ndarray, shares: Mapping[str, float], seed: int, what: str = "text"
) -> dict[str, np.ndarray]:
    """Split → a mask of the rows that go there; `train` has what is left.

    keys: equal for rows that must stay together, uint64; strata: the labels whose proportions to keep;
    a row of each stays in train. The order of rows is no matter, nor that of the shares.
    what: what such rows have in common, for messages.

    Raises:
        DataError: there are too few rows.
    """
    groups = _grouped(keys, strata, seed)
    split_of = np.zeros(len(groups.size), np.int8)
    for place, split in enumerate(SPLITS):
        if split in shares:
            quota = _quotas(groups, split_of, shares[split])
            # From the other end, so that the rows which test don't depend on those which validate.
            _take(groups, split_of, place, quota, backwards=split == "test")
            if not (split_of == place).any():
                _take_smallest(groups, split_of, place)
    _give_back(groups, split_of, strata)
    made = {}
    problems = []
    for place, split in enumerate(SPLITS):
        if split == "train" or split in shares:
            made[split] = split_of[groups.of_row] == place
            share = shares.get(split, 1)
            if len(keys) * share < 1 - 1e-9 or not made[split].any():
                problems.append(_too_few(split, share, len(keys), groups, what))
    if problems:
        raise DataError(*problems)
    return made


def strata(ids: np.ndarray, kind: Kind) -> np.ndarray:
    """The stratum of each row: its label, if any; with several labels the rarest of them; with a number none."""
    if kind in {"label", "pairs"}:
        return ids
    if kind == "number":
        return np.full(len(ids), FREE, np.int64)
    order = np.argsort(ids.sum(0, dtype=np.int64), kind="stable")
    rarest = order[np.argmax(ids[:, order], axis=1)]
    return np.where(ids.any(axis=1), rarest, FREE)


def _grouped(keys: np.ndarray, strata: np.ndarray, seed: int) -> _Groups:
    unique, of_row = np.unique(keys, return_inverse=True)
    # A group with several labels counts for the rarest, so that none is lost among the others.
    kinds, place, total = np.unique(strata, return_inverse=True, return_counts=True)
    rarity = np.lexsort((kinds, total)).argsort()[place]
    order = np.lexsort((rarity, of_row))
    first = order[np.searchsorted(of_row[order], np.arange(len(unique)))]
    stratum = strata[first]
    rank = mixed(unique ^ mixed(np.array([seed % 2**64], np.uint64)))
    by_rank = np.lexsort((rank, stratum))
    present, starts = np.unique(stratum[by_rank], return_index=True)
    members = dict(zip(present.tolist(), np.split(by_rank, starts[1:]), strict=True))
    return _Groups(of_row, np.bincount(of_row), members)


def _quotas(groups: _Groups, split_of: np.ndarray, share: float) -> dict[int, int]:
    """Stratum → rows to take: its share, rounded so that the total is the share of all rows."""
    total = {kind: int(groups.size[its].sum()) for kind, its in groups.members.items()}
    left = {kind: int(groups.size[its[split_of[its] == 0]].sum()) for kind, its in groups.members.items()}
    spare = {kind: left[kind] - 1 for kind in total}
    quota = {kind: min(int(total[kind] * share), spare[kind]) for kind in total}
    missing = int(sum(total.values()) * share + 0.5) - sum(quota.values())
    remainders = sorted(total, key=lambda kind: (quota[kind] - total[kind] * share, kind))
    for kind in [kind for kind in remainders if quota[kind] < spare[kind]][: max(0, missing)]:
        quota[kind] += 1
    return quota


def _take(groups: _Groups, split_of: np.ndarray, place: int, quota: Mapping[int, int], *, backwards: bool) -> None:
    """Give whole groups to the split at a place, as many as the quotas allow."""
    for kind, its in groups.members.items():
        free = its[split_of[its] == 0]
        wanted = quota[kind]
        for group in free[::-1] if backwards else free:
            if not wanted:
                break
            if groups.size[group] <= wanted:
                split_of[group] = place
                wanted -= int(groups.size[group])


def _take_smallest(groups: _Groups, split_of: np.ndarray, place: int) -> None:
    """Give one group to a split that no group is small enough for."""
    spare = [group for its in groups.members.values() for group in its[split_of[its] == 0][1:]]
    if spare:
        split_of[min(spare, key=lambda group: groups.size[group])] = place


def _give_back(groups: _Groups, split_of: np.ndarray, strata: np.ndarray) -> None:
    """Return a group to train for each label whose rows all went elsewhere with rarer labels."""
    in_train = np.unique(strata[split_of[groups.of_row] == 0])
    for kind in np.setdiff1d(strata, in_train):
        split_of[groups.of_row[np.argmax(strata == kind)]] = 0


def _too_few(split: str, share: float, rows: int, groups: _Groups, what: str) -> Problem:
    strata = len(groups.members)
    has = f"{count(rows, 'row')} to train on ({count(len(groups.size), f'different {what}')}"
    has += f", {count(strata, 'label')})" if strata > 1 else ")"
    if split == "train":
        return Problem(field="data", says=f"{has} are too few to set rows aside and train.", hint="Give more rows.")
    return Problem(
        field=f"data.{split}",
        says=f"{has} are too few to set {share:.4g} of them aside for {split}.",
        hint=f"Give more rows, a larger share, or a file of its own (`data.{split}: FILE`).",
    )
