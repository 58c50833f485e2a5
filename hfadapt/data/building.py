"""Checked rows as `datasets.Dataset`s."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import datasets
import numpy as np
import pyarrow as pa

from hfadapt.data import keys
from hfadapt.data.cells import CELL
from hfadapt.data.checks import Split
from hfadapt.data.keys import Keys
from hfadapt.data.labels import Labels
from hfadapt.data.rows import Rows

_SLICE = 65_536
"""Rows of a multi-label column that are made into Arrow at a time; offsets have 32 bits."""


@dataclass(frozen=True)
class Finished:
    """The datasets of all splits, and the SHA-256 of what is in them."""

    splits: dict[str, datasets.Dataset]
    fingerprint: str


def finish(splits: Mapping[str, Split], target: str | None, roles: Sequence[str], labels: Labels) -> Finished:
    """Datasets with a column for each role in the order given, `_file` and `_line`; of pairs also `_image`, `_text`."""
    inputs = {split: its.rows.inputs for split, its in splits.items()}
    targets = {split: {target: _targets(its.ids)} if target else {} for split, its in splits.items()}
    fingerprint = keys.fingerprint(
        {
            split: pa.table({**_comparable(inputs[split], its.keys), **targets[split]}).select(list(roles))
            for split, its in splits.items()
        },
        labels.names,
    )
    pairs = _pairs(splits) if labels.kind == "pairs" else {}
    made = {
        split: _dataset(
            _placed(pa.table({**inputs[split], **targets[split]}).select(list(roles)), its.rows, pairs.get(split, {})),
            f"{fingerprint[:32]}-{split}",
        )
        for split, its in splits.items()
    }
    return Finished(made, fingerprint)


def inputs(rows: Rows, known: Keys) -> datasets.Dataset:
    """A dataset of the inputs alone, with `_file` and `_line`."""
    fingerprint = keys.fingerprint({"inputs": pa.table(_comparable(rows.inputs, known))}, ())[:32]
    return _dataset(_placed(pa.table(rows.inputs), rows, {}), fingerprint)


def _comparable(inputs: Mapping[str, pa.ChunkedArray], known: Keys) -> dict[str, pa.ChunkedArray]:
    """Texts as they are, and for each picture the hash of its file: where it lies is no matter."""
    return {
        role: pa.chunked_array([known.parts[role].exact]) if column.type == CELL else column
        for role, column in inputs.items()
    }


def _pairs(splits: Mapping[str, Split]) -> dict[str, dict[str, np.ndarray]]:
    """Split → the ids of pictures and texts, equal over all splits where they are the same."""
    made: dict[str, dict[str, np.ndarray]] = {split: {} for split in splits}
    ends = np.cumsum([len(its.rows) for its in splits.values()])[:-1]
    train = splits["train"]
    for name, role in (("_image", train.picture), ("_text", next(iter(train.keys.blank), None))):
        if role is not None:
            every = np.concatenate([its.keys.parts[role].exact for its in splits.values()])
            ids = np.unique(every, return_inverse=True)[1].astype(np.int64)
            for split, part in zip(splits, np.split(ids, ends), strict=True):
                made[split][name] = part
    return made


def _targets(ids: np.ndarray) -> pa.ChunkedArray:
    if ids.ndim == 1:
        return pa.chunked_array([ids])
    width = ids.shape[1]
    parts = [ids[start : start + _SLICE] for start in range(0, len(ids), _SLICE)]
    lists = [pa.ListArray.from_arrays(np.arange(len(part) + 1, dtype=np.int32) * width, part.ravel()) for part in parts]
    return pa.chunked_array(lists, pa.list_(pa.int8()))


def _placed(table: pa.Table, rows: Rows, ids: Mapping[str, np.ndarray]) -> pa.Table:
    for name, column in {"_file": rows.file, "_line": rows.line, **ids}.items():
        table = table.append_column(name, pa.chunked_array([column]))
    return table


def _dataset(table: pa.Table, fingerprint: str) -> datasets.Dataset:
    features = datasets.Features.from_arrow_schema(table.schema)
    features |= {field.name: datasets.Image(decode=False) for field in table.schema if field.type == CELL}
    # Without a fingerprint of ours `datasets` pickles the whole table to make one.
    return datasets.Dataset(table, info=datasets.DatasetInfo(features=features), fingerprint=fingerprint)
