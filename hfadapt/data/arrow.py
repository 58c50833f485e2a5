"""Tables that are Arrow already: parquet files, datasets of the Hub, columns made in Python."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq

from hfadapt.data.table import BATCH, BadRow, Batch, Table
from hfadapt.errors import DataError, Problem

_FEW = 64
"""Rows with pictures that are held as Python objects at a time."""


class ArrowTable(Table):
    """Rows of Arrow, told apart by their number. Label ids read as the names of their labels.

    Pictures stay as they are stored: nothing is decoded here.
    """

    @property
    @abstractmethod
    def _features(self) -> dict[str, Any]:
        """Column → its `datasets` feature."""

    @abstractmethod
    def _chunks(self, columns: list[str], most: int) -> Iterator[Any]:
        """Record batches or tables of at most so many rows."""

    @property
    def columns(self) -> dict[str, bool]:
        return {name: _is_text(feature) for name, feature in self._features.items()}

    @property
    def pictures(self) -> frozenset[str]:
        return frozenset(name for name, feature in self._features.items() if _is_picture(feature))

    def label_names(self, column: str) -> tuple[str, ...]:
        feature = self._features[column]
        names = getattr(getattr(feature, "feature", feature), "names", None)
        return tuple(names or ())

    def batches(self, columns: Sequence[str], bad: list[BadRow]) -> Iterator[Batch]:
        names = [self.label_names(column) for column in columns]
        row = 1
        most = _FEW if self.pictures.intersection(columns) else BATCH
        for chunk in self._chunks(list(dict.fromkeys(columns)), most):
            values = [
                _named(chunk.column(column).to_pylist(), listed) for column, listed in zip(columns, names, strict=True)
            ]
            yield Batch(range(row, row + chunk.num_rows), values)
            row += chunk.num_rows


class Parquet(ArrowTable):
    """A parquet file."""

    def __init__(self, path: Path, shown: str):
        super().__init__(shown)
        self._path = path
        self.folder = path.parent

    @cached_property
    def _file(self) -> Any:
        try:
            return pq.ParquetFile(self._path)
        except (pa.ArrowException, OSError) as error:
            raise DataError(self._broken(error)) from error

    @cached_property
    def _features(self) -> dict[str, Any]:
        schema = self._file.schema_arrow
        if b"huggingface" in (schema.metadata or {}):
            return dict(datasets.Features.from_arrow_schema(schema))
        # Without that metadata no column lists labels, and `datasets` refuses some types (maps).
        return {field.name: _feature(field.type) for field in schema}

    def _chunks(self, columns: list[str], most: int) -> Iterator[Any]:
        try:
            yield from self._file.iter_batches(batch_size=most, columns=columns)
        except (pa.ArrowException, OSError) as error:
            raise DataError(self._broken(error)) from error

    def _broken(self, error: Exception) -> Problem:
        reason = str(error).splitlines()[0].rstrip(".")
        return Problem(where=self.shown, says=f"The parquet file can't be read: {reason}.")


class DatasetTable(ArrowTable):
    """A split of a dataset in memory or in the cache of `datasets`."""

    def __init__(self, dataset: datasets.Dataset, shown: str):
        super().__init__(shown)
        self._dataset = dataset

    @property
    def _features(self) -> dict[str, Any]:
        return dict(self._dataset.features)

    def _chunks(self, columns: list[str], most: int) -> Iterator[Any]:
        yield from self._dataset.select_columns(columns).with_format("arrow").iter(batch_size=most)


class StreamedTable(ArrowTable):
    """A split of a dataset that is fetched as it is read."""

    def __init__(self, dataset: datasets.IterableDataset, shown: str):
        super().__init__(shown)
        self._dataset = dataset

    @cached_property
    def _features(self) -> dict[str, Any]:
        try:
            # What the repository does not say is told from the first rows.
            return dict(self._dataset.features or self._dataset._resolve_features().features)
        except Exception as error:
            raise DataError(self._lost(error)) from error

    def _chunks(self, columns: list[str], most: int) -> Iterator[Any]:
        try:
            yield from self._dataset.select_columns(columns).with_format("arrow").iter(batch_size=most)
        except Exception as error:  # Whatever a file, a server or the way to it may raise.
            raise DataError(self._lost(error)) from error

    def _lost(self, error: Exception) -> Problem:
        reason = " ".join(str(error).split())[:300].rstrip(".")
        return Problem(where=self.shown, says=f"The rows can't be fetched: {reason}.")


def _feature(kind: pa.DataType) -> Any:
    """The feature of an Arrow type that says no more than whether it holds texts, pictures or neither."""
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return datasets.Value("string")
    if pa.types.is_struct(kind):
        kind = kind.field("bytes").type if kind.get_field_index("bytes") >= 0 else kind
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind):
        return datasets.Image(decode=False)
    return None


def _is_picture(feature: Any) -> bool:
    """Whether a column holds pictures: said so by `datasets`, or bytes, or bytes with a path."""
    if isinstance(feature, dict):
        return set(feature) == {"bytes", "path"}
    return isinstance(feature, datasets.Image) or getattr(feature, "dtype", "").startswith(("binary", "large_binary"))


def _is_text(feature: Any) -> bool:
    return isinstance(feature, datasets.Value) and feature.dtype in {"string", "large_string", "string_view"}


def _named(values: list[Any], names: tuple[str, ...]) -> list[Any]:
    """The values with label ids replaced by names; -1 and ids out of range are missing labels."""
    if not names:
        return values
    return [_name(value, names) for value in values]


def _name(value: Any, names: tuple[str, ...]) -> Any:
    if isinstance(value, list):
        return [_name(one, names) for one in value]
    if isinstance(value, int):
        return names[value] if 0 <= value < len(names) else None
    return value
