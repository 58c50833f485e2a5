"""Pictures that are decoded once: kept on disk as they are in memory, and read instead of being decoded again."""

from __future__ import annotations

import json
import os
import shutil
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from accelerate import PartialState
from PIL import Image

from hfadapt.errors import HfadaptError, one_line
from hfadapt.recipe import Cache as Options
from hfadapt.tasks._pictures import opened, picture_size, pixels, tones, unscaled
from hfadapt.training.caching import agreed, home
from hfadapt.training.rows import Rows, Visits
from hfadapt.training.store import WHOLE, make_room, touch

_MARK = np.dtype([("digest", np.uint64), ("shape", np.int32, (3,))])
_ROWS_TRIED = 4
"""Rows that are decoded to see what it takes, and whether what is kept gives the very same."""
_BYTES_PER_SECOND = 1e9
"""What a disk whose pages are in memory gives, and takes, at least."""
_LONG = 3
"""A picture that is varied and whose longer side has more than so many times its shorter one is not kept."""
_FORM = 1
"""Grows where what is kept changes."""


class Album:
    """Pixels of rows on disk, a place for each; a place that was never written takes no room.

    A row is there where the digest of its pixels agrees with its mark. So nothing that a crash left half written
    counts, and any number of processes and runs may read and fill one album: each would write the same.
    """

    def __init__(self, folder: Path, room: int):
        """folder: made by `bind`; room: bytes of a place."""
        self.folder, self.room, self.fills = folder, room, True
        self.marks = np.memmap(folder / "marks", _MARK, "r+")
        self.file = (folder / "pixels").open("r+b", buffering=0)

    def __reduce__(self) -> tuple[Any, ...]:
        # A memory map would be pickled as a copy, to which worker processes write in vain.
        return Album, (self.folder, self.room)

    def read(self, row: int) -> np.ndarray | None:
        """The pixels of a row, uint8 of three dimensions, if they are there."""
        mark = self.marks[row]
        shape = tuple(mark["shape"].tolist())
        if not (mark["digest"] and 0 < (size := int(np.prod(shape))) <= self.room):
            return None
        data = os.pread(self.file.fileno(), size, row * self.room)
        if xxhash.xxh3_64_intdigest(data, row) != mark["digest"]:
            return None
        return np.frombuffer(data, np.uint8).reshape(shape)

    def write(self, row: int, pixels: np.ndarray) -> None:
        """pixels: uint8, of three dimensions; those that find no room are not kept."""
        data = pixels.tobytes()
        if len(data) > self.room or not self.fills:
            return
        try:
            self.fills = os.pwrite(self.file.fileno(), data, row * self.room) == len(data)
        except OSError:
            self.fills = False  # The disk is full: what is not there is decoded as ever.
        if self.fills:
            self.marks[row] = (xxhash.xxh3_64_intdigest(data, row), pixels.shape)


def bind(folder: Path, rows: int, room: int, size: int) -> Album:
    """The album in a folder, made if it is not there; size: bytes that it will take, which `make_room` reads.

    Raises:
        OSError: the disk is full, or the folder may not be written.
    """
    if not (folder / WHOLE).exists():
        draft = folder.with_name(f"{folder.name}.{uuid.uuid4().hex}")
        draft.mkdir(parents=True)
        try:
            # Not a hole: to write into one that is mapped ends the process where the disk is full.
            (draft / "marks").write_bytes(bytes(rows * _MARK.itemsize))
            with (draft / "pixels").open("wb") as file:
                file.truncate(rows * room)
            (draft / WHOLE).write_text(json.dumps({"rows": rows, "bytes": size}), encoding="utf-8")
            draft.rename(folder)
        except OSError:
            # Another run may have been first; else there is nothing to open below.
            shutil.rmtree(draft, ignore_errors=True)
    touch(folder)
    return Album(folder, room)


@dataclass(frozen=True)
class Pictures:
    """The pictures of a table's rows, from an album, which is filled along the way."""

    album: Album
    make: Callable[[Sequence[Any]], list[np.ndarray]]
    """From cells to pixels."""
    show: Callable[[np.ndarray], Any]
    """From pixels to what a task varies or encodes."""

    def __call__(self, table: Any, rows: Sequence[int]) -> list[Any]:
        """Of some rows of the table that the album was bound for."""
        found = [self.album.read(row) for row in rows]
        missing = [i for i, one in enumerate(found) if one is None]
        if missing:
            cells = table[[rows[i] for i in missing]]["image"]
            for i, made in zip(missing, self.make(cells), strict=True):
                self.album.write(rows[i], made)
                found[i] = made
        return [self.show(one) for one in found if one is not None]


@dataclass(frozen=True)
class Decoded:
    """Makes of cells what is kept, and of that what tasks take.

    Of pictures that are varied, that is the opened picture; of others, what the processor makes before it rescales
    and normalises.
    """

    processor: Any
    side: int | None
    """Of pictures that are varied; see `Task.working_side`."""
    tones: np.ndarray = field(repr=False)
    """(3, 256); of pictures that are not."""

    @classmethod
    def of(cls, visit: Visits, side: int | None) -> Decoded:
        """For the rows of a split."""
        return cls(visit.processor, side, np.empty((3, 0), np.float32) if side else tones(visit.processor))

    def make(self, cells: Sequence[Any]) -> list[np.ndarray]:
        """Pixels, uint8: (height, width, 3) of pictures that are varied, (3, height, width) of others."""
        if self.side:
            return [np.asarray(opened(cell, self.side)) for cell in cells]
        return unscaled(cells, self.processor)

    def show(self, kept: np.ndarray) -> Any:
        """An RGB picture of Pillow, or model inputs, (3, height, width) float32."""
        if self.side:
            return Image.fromarray(kept)
        return np.stack([tones[channel] for tones, channel in zip(self.tones, kept, strict=True)])

    def as_ever(self, cells: Sequence[Any]) -> list[Any]:
        """What `show` has to give."""
        return [opened(cell, self.side) for cell in cells] if self.side else pixels(cells, self.processor)

    @property
    def room(self) -> int:
        """The most bytes of a row."""
        height, width = (self.side, _LONG * self.side) if self.side else picture_size(self.processor)
        return 3 * height * width


def keep(splits: Sequence[tuple[str, Rows, float]], options: Options, journal: Callable[..., None], stage: str) -> None:
    """Have the pictures of rows kept from now on where it is exact and pays, and not elsewhere; the log says why.

    splits: of each its name, its rows and how often each of them is to be decoded.
    """
    for name, rows, visits in splits:
        if _shows(rows):
            pictures, says = _opened(rows.visit, options, visits)
            rows.visit = replace(rows.visit, pictures=pictures)  # type: ignore[type-var]
            journal("pictures", stage=stage, split=name, keeps=pictures is not None, says=says)


def _shows(rows: Rows) -> bool:
    """Whether pictures are decoded when rows are visited; a stream's are not in a table."""
    return rows.visit is not None and "image" in getattr(rows.table, "column_names", ())


def refusal(options: Options, visits: float) -> str:
    """Why pictures are not kept, as far as the plan tells; empty where they may be.

    visits: how often each is to be decoded.
    """
    wanted = options.pictures or ("off" if options.use == "off" else "auto")
    if wanted == "off":
        return "the recipe wants none"
    return "each is decoded once at the most" if wanted == "auto" and visits <= 1 else ""


def _opened(visit: Any, options: Options, visits: float) -> tuple[Pictures | None, str]:
    """The kept pictures of a split, if it pays, and why."""
    if says := refusal(options, visits):
        return None, says
    side = visit.task.working_side(visit.processor) if visit.trains else None
    folder, rows = home() / _key(visit, side), len(visit.table)
    there, free = agreed(((folder / WHOLE).exists(), _free()))
    try:
        decoded = Decoded.of(visit, side)
        tried = None if there else _tried(decoded, visit.table)
    except HfadaptError:
        raise
    except Exception as error:  # Whatever a processor of any kind raises, a run must not end of it.
        return None, f"the processor can't be taken apart: {one_line(str(error))[:200]}"
    says, total, most = "an earlier run began with it", 0, int(options.most * 2**30)
    if tried:
        total = int(tried.size * rows)
        # Timings differ; all processes do what the first one finds.
        pays, says = agreed((tried.saved * (visits - 1) > tried.cost * visits, tried.says))
        if not tried.exact:
            return None, "what the processor does last is not the same for each pixel"
        if not pays and options.pictures != "on":
            return None, f"decoding is as fast: {says}"
        if total > min(most, free):
            limit = f"`cache.most` is {options.most:g}" if total > most else f"the disk has {free / 2**30:.1f} GiB left"
            return None, f"they would take {total / 2**30:.1f} GiB, and {limit}"
    with PartialState().local_main_process_first():
        try:
            if not (folder / WHOLE).exists():
                make_room(home(), total, most)
            album = bind(folder, rows, decoded.room, total)
        except OSError as error:
            return None, f"the folder of caches can't be used: {error.strerror}"
    return Pictures(album, decoded.make, decoded.show), says


def _free() -> int:
    """Bytes that the disk of the caches has left."""
    folder = home()
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


@dataclass(frozen=True)
class _Tried:
    """What a few rows tell."""

    exact: bool
    """Whether pictures come out of an album bit for bit as they come without."""
    size: float
    """Bytes of a picture."""
    saved: float
    """Seconds less for a picture whose pixels are in memory already."""

    @property
    def cost(self) -> float:
        """Seconds to read a picture's pixels, or to write them."""
        return self.size / _BYTES_PER_SECOND

    @property
    def says(self) -> str:
        """A sentence."""
        return f"to decode one takes {self.saved * 1000:.1f} ms longer than to read {self.size / 1024:.0f} KiB"


def _tried(decoded: Decoded, table: Any) -> _Tried:
    """Keeping compared with decoding, on rows from all over the table."""
    rows = np.unique(np.linspace(0, len(table) - 1, _ROWS_TRIED).astype(int)).tolist()
    cells = list(table[rows]["image"])
    began = time.perf_counter()
    goal = decoded.as_ever(cells)
    took = time.perf_counter() - began
    made = decoded.make(cells)
    began = time.perf_counter()
    shown = [decoded.show(one) for one in made]
    saved = took - (time.perf_counter() - began)
    pairs = [(np.asarray(a), np.asarray(b)) for a, b in zip(shown, goal, strict=True)]
    exact = all(a.dtype == b.dtype and np.array_equal(a, b) for a, b in pairs)
    return _Tried(exact, sum(one.nbytes for one in made) / len(made), saved / len(made))


def _key(visit: Visits, side: int | None) -> str:
    """A digest of all that the kept pixels depend on: the files or bytes, the processor, and what decodes."""
    images = getattr(visit.processor, "image_processor", visit.processor)
    about = (_FORM, type(images).__name__, repr(images), side, version("pillow"), version("transformers"))
    digest = xxhash.xxh3_128(repr(about).encode())
    for batch in visit.table.select_columns("image").with_format("arrow").iter(1000):
        for cell in batch["image"]:
            content, path = cell["bytes"], cell["path"].as_py()
            if content.is_valid:
                digest.update(content.as_buffer())
            elif path and os.path.exists(path):
                state = os.stat(path)
                digest.update(f"{os.path.abspath(path)}:{state.st_size}:{state.st_mtime_ns}".encode())
            digest.update(b"|")
    return f"pictures-{digest.hexdigest()}"
