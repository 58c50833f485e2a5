"""Tensors of rows on disk, memory-mapped: written row by row, trusted when whole."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

WHOLE = "whole.json"
"""Written last; a store without it is a draft."""


class Store:
    """Arrays with a place for each row. A row that was never written takes no room: the files have holes.

    Several processes of a machine may write different rows of one store at a time, and see each other's.
    """

    def __init__(self, folder: Path, shapes: Sequence[tuple[int, ...]], rows: int, dtype: torch.dtype):
        """shapes: of a row in each array; folder: made where it is not there."""
        self.folder, self.dtype = folder, dtype
        folder.mkdir(parents=True, exist_ok=True)
        kind = np.dtype(np.uint16 if dtype == torch.bfloat16 else np.float32)
        self.filled = _mapped(folder / "filled", np.dtype(np.bool_), (rows,))
        """Which rows are there, (rows,)."""
        self.arrays = [_mapped(folder / str(i), kind, (rows, *shape)) for i, shape in enumerate(shapes)]

    @property
    def whole(self) -> bool:
        """Whether it was sealed."""
        return (self.folder / WHOLE).exists()

    def write(self, places: np.ndarray, tensors: Sequence[Tensor], lengths: Sequence[Any]) -> None:
        """tensors: one an array, rows first; lengths: one an array: how much of each row's first dimension counts,
        (rows,), or None for all of it."""
        for array, tensor, length in zip(self.arrays, tensors, lengths, strict=True):
            values = self._plain(tensor)
            for i, place in enumerate(places.tolist()):
                if length is None:
                    array[place] = values[i]
                else:
                    array[place, : length[i]] = values[i, : length[i]]
        self.filled[places] = True

    def read(self, places: np.ndarray, lengths: Sequence[int | None]) -> list[Tensor]:
        """The rows at some places; lengths: one an array, how much of each row's first dimension is wanted."""
        found = []
        for array, length in zip(self.arrays, lengths, strict=True):
            values = np.ascontiguousarray(array[places] if length is None else array[places, :length])
            tensor = torch.from_numpy(values)
            found.append(tensor.view(torch.bfloat16) if self.dtype == torch.bfloat16 else tensor)
        return found

    def flush(self) -> None:
        """Have the disk know what was written."""
        for array in (*self.arrays, self.filled):
            array.flush()

    def seal(self, home: Path, about: Mapping[str, Any]) -> None:
        """Say that it is whole, and move it to where others find it; another run may have been first."""
        self.flush()
        (self.folder / WHOLE).write_text(json.dumps(about), encoding="utf-8")
        try:
            self.folder.rename(home)
        except OSError:
            shutil.rmtree(self.folder, ignore_errors=True)
        self.folder = home

    def _plain(self, tensor: Tensor) -> np.ndarray:
        tensor = tensor.detach().to("cpu", self.dtype).contiguous()
        return (tensor.view(torch.uint16) if self.dtype == torch.bfloat16 else tensor).numpy()


def _mapped(path: Path, kind: np.dtype[Any], shape: tuple[int, ...]) -> np.memmap[Any, Any]:
    """An array in a file; a new file is a hole of the right size."""
    size = int(kind.itemsize * np.prod(shape, dtype=np.int64))
    if not path.exists() or path.stat().st_size != size:
        with path.open("wb") as file:
            file.truncate(size)
    return np.memmap(path, kind, "r+", shape=shape)


def make_room(home: Path, size: int, most: int) -> None:
    """Remove the whole stores that were used longest ago until `size` bytes more are within `most`."""
    stores = [path for path in home.glob("*") if (path / WHOLE).exists()] if home.is_dir() else []
    stores.sort(key=lambda path: (path / WHOLE).stat().st_mtime)
    used = {path: _taken(path) for path in stores}
    while stores and sum(used[path] for path in stores) + size > most:
        shutil.rmtree(stores.pop(0), ignore_errors=True)


def _taken(store: Path) -> int:
    """Bytes that a store takes, or will when it is full."""
    about = json.loads((store / WHOLE).read_text(encoding="utf-8"))
    return max(about.get("bytes", 0), sum(file.stat().st_blocks * 512 for file in store.iterdir()))


def touch(store: Path) -> None:
    """Note that a whole store was used."""
    (store / WHOLE).touch()
