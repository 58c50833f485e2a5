"""Pictures: opened as training sees them, and looked at once for what is wrong with them and what they resemble.

A picture cell is what `datasets.Image(decode=False)` stores: `{"bytes": bytes | None, "path": str | None}`.
"""

from __future__ import annotations

import io
import os
import re
import threading
import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, cast

import numpy as np
import xxhash
from PIL import Image, UnidentifiedImageError

from hfadapt.data.near import BYTES, SIDE, near_hash

Cell = Mapping[str, Any]

MOST_PIXELS = 150_000_000
"""A declared size above this is refused before decoding: Pillow takes 4 bytes a pixel, and 0.6 GB is enough."""
LARGE = 50_000_000
"""A picture with more pixels is shrunk by a whole factor before anything else is done with it."""
MOST_BYTES = 1 << 30
"""A longer file is refused before it is read."""

# Not EPS (runs Ghostscript) and not the formats that only announce that they cannot be read.
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM", "JPEG2000", "AVIF", "ICO", "TGA")
_OTHERS = (
    (
        re.compile(rb"(\xef\xbb\xbf)?\s*(<\?xml[^>]*>\s*|<!--.*?-->\s*|<!DOCTYPE svg[^>]*>\s*)*<svg\b", re.S),
        "an SVG drawing",
    ),
    (re.compile(rb"%PDF-"), "a PDF document"),
    (re.compile(rb"%!PS"), "a PostScript drawing"),
    (re.compile(rb"....ftyp(heic|heix|mif1|msf1)", re.S), "a HEIC picture"),
)
_STRIPE = 4_000_000
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ORIENTATION = 0x0112


class PictureError(Exception):
    """Why a cell gives no picture: one sentence, without the file's name."""


@dataclass(frozen=True)
class Looked:
    """What one look at a picture tells."""

    problem: str | None
    """Why it cannot be used, or None."""
    size: tuple[int, int] = (0, 0)
    """Width and height in pixels, upright; zeros where there is a problem."""
    exact: int = 0
    """64 bits, equal where the bytes of the files are equal."""
    near: bytes = b"\0" * BYTES
    """Of BYTES bytes, few of whose bits differ where the pictures look the same (see `near_hash`)."""


def open_picture(cell: Cell, *, within: int | None = None) -> Image.Image:
    """A cell's picture as training and using see it: RGB, upright, first frame, transparent parts over white.

    An ordinary 8-bit picture equals `exif_transpose(Image.open(...)).convert("RGB")`, which is what the pipelines of
    transformers see. Sixteen bits are divided by 257; floats within 0..1 or 0..255 are taken at their word, and any
    other numbers are stretched from their least to their greatest. Above LARGE pixels the picture is shrunk.

    within: the picture may be shrunk while it loads (much faster for photographs), neither side below this.
    Raises PictureError.
    """
    return _decoded(_content(cell), within)[0]


def open_small(cell: Cell, side: int) -> Image.Image:
    """A cell's picture whose shorter side has `side` pixels where it had more: no larger part of it is ever decoded.

    Of a photograph of twelve megapixels, a side of 96 pixels takes less than a third of the time. Raises PictureError.
    """
    picture = open_picture(cell, within=side)
    width, height = picture.size
    shorter = min(width, height)
    if shorter <= side:
        return picture
    return picture.resize((round(width * side / shorter), round(height * side / shorter)), Image.Resampling.BILINEAR)


def look(cell: Cell) -> Looked:
    """Decode a picture once, and say whether it can be used, how large it is and what tells it from others."""
    try:
        content = _content(cell)
        picture, size = _decoded(content, SIDE)
    except PictureError as error:
        return Looked(str(error))
    return Looked(None, size, xxhash.xxh3_64_intdigest(content), near_hash(picture))


def look_all(cells: Iterable[Cell], *, threads: int | None = None) -> Iterator[Looked]:
    """Look at many pictures, in order; a few at a time are decoded in threads, so that memory does not grow.

    threads: as many as the cores by default, at most 8.
    """
    threads = threads or min(
        8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    with ThreadPoolExecutor(threads, thread_name_prefix="look") as pool:
        waiting: deque[Future[Looked]] = deque()
        try:
            for cell in cells:
                waiting.append(pool.submit(look, cell))
                if len(waiting) >= 4 * threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _content(cell: Cell) -> bytes:
    """The bytes of the picture's file."""
    if cell.get("bytes") is not None:
        content = bytes(cell["bytes"])
    elif cell.get("path"):
        content = _read(Path(cell["path"]))
    else:
        raise PictureError("There is no picture in this row.")
    if not content:
        raise PictureError("The file is empty.")
    return content


def _read(path: Path) -> bytes:
    try:
        if path.is_dir():
            raise PictureError("This is a folder, not a picture.")
        if path.exists() and not path.is_file():
            raise PictureError("This is not a file.")
        if path.stat().st_size > MOST_BYTES:
            size = path.stat().st_size / (1 << 30)
            raise PictureError(f"The file takes {size:.1f} GB; {MOST_BYTES >> 30} GB is the most for a picture.")
        return path.read_bytes()
    except FileNotFoundError:
        raise PictureError("There is no such file.") from None
    except PermissionError:
        raise PictureError("The file may not be read: permission is denied.") from None
    except (OSError, ValueError) as error:
        raise PictureError(f"The file cannot be read ({getattr(error, 'strerror', None) or error}).") from None


def _decoded(content: bytes, within: int | None) -> tuple[Image.Image, tuple[int, int]]:
    """The picture, and its width and height before any shrinking."""
    try:
        with _silent(), Image.open(io.BytesIO(content), formats=_formats()) as image:
            width, height = image.size
            _bounded(image)
            if image.format == "PNG":
                _checked(content)
            if within:
                # A JPEG is decoded at a half, a quarter or an eighth of its size.
                image.draft(None, (within, within))
            image.load()
            picture = _rgb_within(image, within)
            # Only now: some formats turn themselves while they load.
            turn = image.getexif().get(_ORIENTATION)
    except PictureError:
        raise
    except Exception as error:  # Pillow's readers raise nearly anything on broken files.
        raise PictureError(_sentence(error, content)) from None
    if turn in _UPRIGHT:
        picture = picture.transpose(_UPRIGHT[turn])
    return picture, ((height, width) if turn in (5, 6, 7, 8) else (width, height))


@cache
def _formats() -> list[str]:
    Image.init()
    return [name for name in _FORMATS if name in Image.OPEN]


def _bounded(image: Image.Image) -> None:
    width, height = image.size
    if not width or not height:
        raise PictureError(f"The picture is {width} x {height} pixels: nothing to see.")
    # libjpeg keeps all coefficients of a progressive picture besides its pixels.
    most = MOST_PIXELS // 2 if image.info.get("progressive") else MOST_PIXELS
    if width * height > most:
        raise PictureError(f"{_declared(width * height, most)} ({width} x {height}).")


def _declared(pixels: int, most: int = MOST_PIXELS) -> str:
    return f"The picture claims {pixels / 1e6:,.0f} million pixels, and {most / 1e6:.0f} million is the most"


def _checked(content: bytes) -> None:
    """Compare a PNG's checksums, which Pillow does not do while it decodes."""
    with Image.open(io.BytesIO(content), formats=("PNG",)) as image:
        try:
            image.verify()
        except SyntaxError:
            raise PictureError("The picture is damaged: a checksum in it does not agree with its data.") from None


def _rgb_within(image: Image.Image, within: int | None) -> Image.Image:
    """In RGB, shrunk by a whole factor where it is large or may be shrunk."""
    width, height = image.size
    factor = max(1, min(width, height) // within) if within else 1
    while (width // factor) * (height // factor) > LARGE:
        factor += 1
    if width * height <= LARGE:
        picture = _rgb(image, _scale(image))
        return picture.reduce(factor) if factor > 1 else picture
    # In stripes, since a second copy in full size may take as much memory as the first.
    small = Image.new("RGB", (-(-width // factor), -(-height // factor)))
    scale, step = _scale(image), factor * max(1, _STRIPE // (width * factor))
    for top in range(0, height, step):
        stripe = image.crop((0, top, width, min(height, top + step)))
        small.paste(_rgb(stripe, scale).reduce(factor), (0, top // factor))
    return small


def _scale(image: Image.Image) -> tuple[float, float]:
    """Which number is black and which white, in a picture of more than 8 bits."""
    if image.mode.startswith("I;16"):
        return 0, 65535
    if image.mode not in ("I", "F"):
        return 0, 255
    numbers = np.asarray(image)
    numbers = numbers[np.isfinite(numbers)]
    if not numbers.size:
        raise PictureError("The picture holds no finite number.")
    least, most = float(numbers.min()), float(numbers.max())
    usual = (1, 255) if image.mode == "F" else (255, 65535)
    white = next((white for white in usual if most <= white), None)
    if least >= 0 and white:
        return 0, white
    return least, max(most, least + 1)


def _rgb(image: Image.Image, scale: tuple[float, float]) -> Image.Image:
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        black, white = scale
        numbers = np.nan_to_num(np.asarray(image, np.float32), nan=black, posinf=white, neginf=black)
        shades = (numbers - black) * (255 / (white - black)) + 0.5
        return Image.fromarray(shades.clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        seen = image.convert("RGBA")
        paper = Image.new("RGBA", seen.size, "white")
        return Image.alpha_composite(paper, seen).convert("RGB")
    return image.convert("RGB")


def _sentence(error: Exception, content: bytes) -> str:
    """What went wrong, for the person who can fix the file."""
    if isinstance(error, Image.DecompressionBombError):
        pixels = re.search(r"\d+", str(error))
        return f"{_declared(int(pixels.group()))}." if pixels else f"{error}."
    if isinstance(error, UnidentifiedImageError):
        for start, what in _OTHERS:
            if start.match(content[:4096]):
                return f"This is {what}, which is not read here; save it as PNG or JPEG."
        if b"\0" not in content[:1024]:
            return "This is text, not a picture."
        return "This is not a picture in a known format."
    if isinstance(error, EOFError) or "truncated" in str(error).lower():
        return "The picture is cut off: its data end too early."
    if isinstance(error, MemoryError):
        return "The picture takes more memory than there is."
    return f"The picture is damaged: {str(error).strip().rstrip('.') or type(error).__name__}."


_silence = threading.Lock()
_depth = 0
_PILLOW = r"(PIL|hfadapt\.data\.images)\b"


@contextmanager
def _silent() -> Iterator[None]:
    """Pillow's warnings are ignored meanwhile; unlike `warnings.catch_warnings`, any number of threads may do so."""
    global _depth
    with _silence:
        _depth += 1
        if _depth == 1:
            warnings.filterwarnings("ignore", module=_PILLOW)
    try:
        yield
    finally:
        with _silence:
            _depth -= 1
            ours: Any = ("ignore", None, Warning, re.compile(_PILLOW), 0)
            # Not there where someone restored the filters meanwhile.
            if not _depth and ours in warnings.filters:
                cast(list[Any], warnings.filters).remove(ours)
