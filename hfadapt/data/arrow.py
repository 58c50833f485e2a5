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


class ArrowTable(Table):
    """Rows of Arrow, told apart by their number. Label ids read as the names of their labels."""

    @property
    @abstractmethod
    def _features(self) -> dict[str, Any]:
        """Column → its `datasets` feature."""

    @abstractmethod
    def _chunks(self, columns: list[str]) -> Iterator[Any]:
        """Record batches or tables of at most BATCH rows."""

    @property
    def columns(self) -> dict[str, bool]:
        return {name: _is_text(feature) for name, feature in self._features.items()}

    def label_names(self, column: str) -> tuple[str, ...]:
        feature = self._features[column]
        names = getattr(getattr(feature, "feature", feature), "names", None)
        return tuple(names or ())

    def batches(self, columns: Sequence[str], bad: list[BadRow]) -> Iterator[Batch]:
        names = [self.label_names(column) for column in columns]
        row = 1
        for chunk in self._chunks(list(dict.fromkeys(columns))):
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
        return {field.name: datasets.Value("string") if _holds_text(field.type) else None for field in schema}

    def _chunks(self, columns: list[str]) -> Iterator[Any]:
        try:
            yield from self._file.iter_batches(batch_size=BATCH, columns=columns)
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

    def _chunks(self, columns: list[str]) -> Iterator[Any]:
        yield from self._dataset.select_columns(columns).with_format("arrow").iter(batch_size=BATCH)


def _holds_text(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


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
