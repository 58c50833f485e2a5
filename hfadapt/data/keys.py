"""64-bit keys of rows' inputs: equal where the texts or pictures are equal, whatever process made them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from hfadapt.data.text import is_blank, normalised

if TYPE_CHECKING:
    from hfadapt.data.looking import Looks


@dataclass(frozen=True)
class Same:
    """Which rows are the same in some way; arrays of one entry a row."""

    exact: np.ndarray
    """Equal where the rows' inputs are equal, uint64."""
    normal: np.ndarray
    """Equal where texts are but for case, spacing and Unicode form, and where pictures look the same; uint64."""

    def where(self, mask: np.ndarray) -> Same:
        """The rows for which a mask is true."""
        return Same(self.exact[mask], self.normal[mask])


@dataclass(frozen=True)
class Keys(Same):
    """What tells all inputs of each row from those of others; arrays of one entry a row."""

    parts: dict[str, Same]
    """Role → by its input alone."""
    blank: dict[str, np.ndarray]
    """Role → where its text shows nothing."""

    def where(self, mask: np.ndarray) -> Keys:
        """The rows for which a mask is true."""
        parts = {role: its.where(mask) for role, its in self.parts.items()}
        blank = {role: its[mask] for role, its in self.blank.items()}
        return Keys(self.exact[mask], self.normal[mask], parts, blank)


def keys(inputs: Mapping[str, pa.ChunkedArray], looks: Mapping[str, Looks] | None = None) -> Keys:
    """The keys of rows given as one column a role: texts, or pictures, for which there are looks."""
    size = len(next(iter(inputs.values())))
    exact, normal = np.zeros(size, np.uint64), np.zeros(size, np.uint64)
    parts, blank = {}, {}
    for role, column in inputs.items():
        if looks and role in looks:
            parts[role] = Same(looks[role].exact, looks[role].normal)
        else:
            parts[role], blank[role] = _of_texts(column)
        exact = mixed(exact) ^ parts[role].exact
        normal = mixed(normal) ^ parts[role].normal
    return Keys(exact, normal, parts, blank)


def _of_texts(column: pa.ChunkedArray) -> tuple[Same, np.ndarray]:
    """The keys of a column of texts, and which of them are blank."""
    exact, normal = np.zeros(len(column), np.uint64), np.zeros(len(column), np.uint64)
    blank = np.zeros(len(column), bool)
    at = 0
    for chunk in column.chunks:
        values = chunk.to_pylist()
        part = slice(at, at + len(values))
        exact[part] = _hashed(values)
        normal[part] = _hashed([normalised(value) for value in values])
        blank[part] = [is_blank(value) for value in values]
        at += len(values)
    return Same(exact, normal), blank


def mixed(numbers: np.ndarray) -> np.ndarray:
    """Each 64-bit number sent to another that looks random (the steps of splitmix64)."""
    with np.errstate(over="ignore"):
        numbers = numbers + np.uint64(0x9E3779B97F4A7C15)
        numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        numbers ^= numbers >> np.uint64(31)
    return numbers


def fingerprint(tables: Mapping[str, pa.Table], names: tuple[str, ...]) -> str:
    """The SHA-256 of all rows of some columns and of the label names; how Arrow cuts them is no matter."""
    digest = hashlib.sha256(repr(names).encode())
    for split, table in tables.items():
        for role in table.column_names:
            digest.update(f"{split}/{role}/{table.num_rows}/".encode())
            _digest_column(digest, table.column(role))
    return digest.hexdigest()


def _digest_column(digest: hashlib._Hash, column: pa.ChunkedArray) -> None:
    if pa.types.is_string(column.type):
        # Lengths first: without them "ab", "c" would equal "a", "bc".
        digest.update(pc.binary_length(column).to_numpy().astype("<i8").tobytes())
        for chunk in column.chunks:
            digest.update("".join(chunk.to_pylist()).encode())
    else:
        for chunk in column.chunks:
            flat = chunk.flatten() if pa.types.is_list(chunk.type) else chunk
            digest.update(flat.to_numpy(zero_copy_only=False).astype(_bytes(flat.type)).tobytes())


def _bytes(kind: pa.DataType) -> str:
    return "<f8" if pa.types.is_floating(kind) else "<i8"


def _hashed(values: list[str]) -> np.ndarray:
    return np.fromiter((xxhash.xxh3_64_intdigest(value.encode()) for value in values), np.uint64, len(values))
