"""Every picture looked at once: which can't be used, which are the same, and which nearly so."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import xxhash
from PIL import Image

from hfadapt.data import images
from hfadapt.data.near import near_groups
from hfadapt.data.rows import Rows

DECODED = 20_000
"""Pictures of a split that are decoded in full. Where there are more, this many are drawn, and of the others only
the header is read: they are compared by their bytes alone, and damage in their data shows when training meets it."""
_FEW = 64
"""Pictures that are held as Python objects at a time."""


@dataclass(frozen=True)
class Looks:
    """What tells the pictures of one split from others; arrays of one entry a row."""

    exact: np.ndarray
    """Equal where the files are, uint64."""
    normal: np.ndarray
    """Equal where the pictures look the same, uint64."""
    refused: dict[int, str]
    """Row → why its picture can't be used; its keys mean nothing."""

    def where(self, mask: np.ndarray) -> Looks:
        """The rows for which a mask is true; none of them may be refused."""
        return Looks(self.exact[mask], self.normal[mask], {})


def look(splits: Mapping[str, pa.ChunkedArray], seed: int = 0) -> dict[str, Looks]:
    """Split → what its pictures, given as cells, look like; compared over all splits.

    seed: of the draw where not all are decoded.
    """
    seen = {split: _Seen(column, seed) for split, column in splits.items()}
    of_file: dict[int, bytes] = {}
    for its in seen.values():
        of_file |= {int(its.exact[i]): near for i, near in its.near.items()}
    files = np.array(sorted(of_file), np.uint64)
    groups = near_groups([of_file[int(file)] for file in files]) if len(files) else np.zeros(0, np.int64)
    # The least hash of a group stands for it, so that the order of the rows is no matter.
    least = np.full(groups.max(initial=-1) + 1, np.iinfo(np.uint64).max, np.uint64)
    np.minimum.at(least, groups, files)
    normal_of = dict(zip(files.tolist(), least[groups].tolist(), strict=True))
    return {split: its.looks(normal_of) for split, its in seen.items()}


def refused(rows: Rows, role: str, looks: Looks) -> Iterator[tuple[int, str]]:
    """(row, sentence) for each picture that can't be used; it names the picture where the place of the row does not."""
    for row, says in looks.refused.items():
        path = rows.inputs[role][row]["path"].as_py()
        yield row, f"{path}: {says}" if path and rows.line[row] else says


def faults(cells: Iterable[images.Cell], looked_at: int = 0) -> Iterator[str | None]:
    """Why each picture can't be used, or None; as many as `look` decodes are decoded, of the others the header is read.

    looked_at: how many came before these.
    """
    cells = iter(cells)
    for looked in images.look_all(islice(cells, max(DECODED - looked_at, 0))):
        yield looked.problem
    for looked in _glance(cells):
        yield looked.problem


class _Seen:
    """The different cells of a column, each looked at once however many rows share it."""

    def __init__(self, column: pa.ChunkedArray, seed: int):
        keys = np.fromiter(map(_key, _cells(column)), np.uint64, len(column))
        _, first, self._code = np.unique(keys, return_index=True, return_inverse=True)
        self.exact = np.zeros(len(first), np.uint64)
        """Of each of the different cells."""
        self.near: dict[int, bytes] = {}
        """Place among them → perceptual hash, where it was decoded."""
        self._says: dict[int, str] = {}
        decoded = np.zeros(len(first), bool)
        decoded[np.random.default_rng(seed).permutation(len(first))[:DECODED]] = True
        place = np.full(len(column), -1)
        for how, mask in ((images.look_all, decoded), (_glance, ~decoded)):
            place[:] = -1
            place[first[mask]] = np.flatnonzero(mask)
            cells = (cell for i, cell in zip(place, _cells(column), strict=True) if i >= 0)
            for i, looked in zip(place[place >= 0], how(cells), strict=True):
                self._note(int(i), looked, how is images.look_all)

    def _note(self, i: int, looked: images.Looked, decoded: bool) -> None:
        self.exact[i] = looked.exact
        if looked.problem is not None:
            self._says[i] = looked.problem
        elif decoded:
            self.near[i] = looked.near

    def looks(self, normal_of: Mapping[int, int]) -> Looks:
        """Of each row. normal_of: hash of a file → the hash that stands for all pictures that look like it."""
        normal = np.array([normal_of.get(file, file) for file in self.exact.tolist()], np.uint64)
        bad = np.flatnonzero(np.isin(self._code, list(self._says)))
        return Looks(
            self.exact[self._code], normal[self._code], {int(row): self._says[int(self._code[row])] for row in bad}
        )


def _cells(column: pa.ChunkedArray) -> Iterator[dict[str, Any]]:
    for chunk in column.chunks:
        for start in range(0, len(chunk), _FEW):
            yield from chunk.slice(start, _FEW).to_pylist()


def _key(cell: images.Cell) -> int:
    return xxhash.xxh3_64_intdigest(cell["path"].encode() if cell["bytes"] is None else cell["bytes"])


def _glance(cells: Iterable[images.Cell]) -> Iterator[images.Looked]:
    """Pictures whose header alone is read; where that fails, a full look says why."""
    for cell in cells:
        try:
            content = Path(cell["path"]).read_bytes() if cell["bytes"] is None else cell["bytes"]
            with warnings.catch_warnings(action="error"), Image.open(io.BytesIO(content)) as picture:
                size = picture.size
        except Exception:  # Pillow's readers raise nearly anything on broken files.
            yield images.look(cell)
        else:
            yield images.Looked(None, size, xxhash.xxh3_64_intdigest(content))
