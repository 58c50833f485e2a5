"""A part of the rows, drawn: to try a recipe quickly, or to see what fewer labels would give."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from hfadapt.data import sharing
from hfadapt.data.rows import Reading
from hfadapt.data.targets import Targets

if TYPE_CHECKING:
    from hfadapt.data.labels import Labels
    from hfadapt.recipe import Data


def draw(
    read: Mapping[str, Reading], understood: Mapping[str, Targets], data: Data, labels: Labels, seed: int
) -> tuple[dict[str, Reading], dict[str, Targets], dict[str, str]]:
    """The rows that `max_train_samples` and `max_eval_samples` leave of each split, their targets, and what to say.

    Rows whose target can't be used stay, so that they are told. The last holds a split of which a part is drawn.
    """
    readings, targets, told = dict(read), dict(understood), dict[str, str]()
    for split, its in understood.items():
        most = data.max_train_samples if split == "train" else data.max_eval_samples
        mask = np.ones(len(its.ids), bool)
        mask[list(its.refused)] = False
        usable = int(mask.sum())
        if most is None or most >= usable:
            continue
        mask[mask] = drawn(sharing.strata(its.ids[mask], labels.kind), most, seed)
        mask[list(its.refused)] = True
        readings[split] = replace(read[split], rows=read[split].rows.where(mask))
        targets[split] = its.where(mask)
        told[split] = f"{most:,} of {usable:,}, {'stratified, ' if labels.names else ''}seed {seed}"
    return readings, targets, told


def drawn(strata: np.ndarray, most: int, seed: int) -> np.ndarray:
    """A mask of so many rows: first one of each stratum, then each at its share. Fewer are always among more."""
    random = np.random.default_rng(seed)
    kinds, place, sizes = np.unique(strata, return_inverse=True, return_counts=True)
    by_kind = np.lexsort((random.permutation(len(strata)), place))
    rank = np.empty(len(strata), np.int64)
    rank[by_kind] = np.arange(len(strata)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    share = (rank + random.random(len(kinds))[place]) / sizes[place]
    mask = np.zeros(len(strata), bool)
    mask[np.lexsort((share, rank > 0))[:most]] = True
    return mask
