"""Checked rows as `datasets.Dataset`s."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import datasets
import numpy as np
import pyarrow as pa

from hfadapt.data import keys
from hfadapt.data.checks import Split
from hfadapt.data.labels import Labels
from hfadapt.data.rows import Rows

_SLICE = 65_536
"""Rows of a multi-label column that are made into Arrow at a time; offsets have 32 bits."""


@dataclass(frozen=True)
class Finished:
    """The datasets of all splits, and the SHA-256 of what is in them."""

    splits: dict[str, datasets.Dataset]
    fingerprint: str


def finish(splits: Mapping[str, Split], target: str, roles: Sequence[str], labels: Labels) -> Finished:
    """Datasets with a column for each role in the order given, `_file` and `_line`."""
    content = {
        split: pa.table({**its.rows.texts, target: _targets(its.ids)}).select(list(roles))
        for split, its in splits.items()
    }
    fingerprint = keys.fingerprint(content, labels.names)
    made = {
        split: _dataset(_placed(table, splits[split].rows), f"{fingerprint[:32]}-{split}")
        for split, table in content.items()
    }
    return Finished(made, fingerprint)


def inputs(rows: Rows) -> datasets.Dataset:
    """A dataset of the texts alone, with `_file` and `_line`."""
    table = pa.table(rows.texts)
    return _dataset(_placed(table, rows), keys.fingerprint({"inputs": table}, ())[:32])


def _targets(ids: np.ndarray) -> pa.ChunkedArray:
    if ids.ndim == 1:
        return pa.chunked_array([ids])
    width = ids.shape[1]
    parts = [ids[start : start + _SLICE] for start in range(0, len(ids), _SLICE)]
    lists = [pa.ListArray.from_arrays(np.arange(len(part) + 1, dtype=np.int32) * width, part.ravel()) for part in parts]
    return pa.chunked_array(lists, pa.list_(pa.int8()))


def _placed(table: pa.Table, rows: Rows) -> pa.Table:
    return table.append_column("_file", pa.chunked_array([rows.file])).append_column(
        "_line", pa.chunked_array([rows.line])
    )


def _dataset(table: pa.Table, fingerprint: str) -> datasets.Dataset:
    # Without a fingerprint of ours `datasets` pickles the whole table to make one.
    return datasets.Dataset(table, fingerprint=fingerprint)
