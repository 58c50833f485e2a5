"""Handwritten digits, scattered over coloured, textured pictures. Made anew each time, always the same."""

from __future__ import annotations

import zlib
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIZE = 48
"""Width and height of a picture, in pixels."""
SPLITS = {"train": 1200, "validation": 250, "test": 347}
"""How many of scikit-learn's 1,797 digits each split draws; none is drawn in two splits."""
TRAIN_DRAWINGS = 2
"""Each digit to train on is drawn so many times, at other places and in other colours."""

_Y, _X = np.mgrid[:SIZE, :SIZE].astype(np.float32) / SIZE - 0.5

Floats = NDArray[np.floating[Any]]
Random = np.random.Generator


def make() -> dict[str, dict[str, list[Any]]]:
    """Split → columns `image` (as datasets.Image is stored: PNG, 48 x 48, RGB) and `label` ("0" to "9")."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    made: dict[str, dict[str, list[Any]]] = {}
    for number, (split, rows) in enumerate(sources(digits.target).items()):
        random = np.random.default_rng([2, number])
        rows = np.tile(rows, TRAIN_DRAWINGS if split == "train" else 1)
        made[split] = {
            "image": [{"bytes": _png(_picture(digits.images[row], random)), "path": None} for row in rows],
            "label": [str(digits.target[row]) for row in rows],
        }
    return made


def sources(labels: NDArray[np.int64]) -> dict[str, NDArray[np.int64]]:
    """The places of the digits that each split draws, in random order; in each, every label at its share of all."""
    random = np.random.default_rng(1)
    shuffled = random.permutation(len(labels))
    rank = np.empty(len(labels))
    for label in np.unique(labels):
        rows = shuffled[labels[shuffled] == label]
        rank[rows] = (np.arange(len(rows)) + random.random()) / len(rows)
    ordered = shuffled[np.argsort(rank[shuffled], kind="stable")]
    ends = np.cumsum(list(SPLITS.values()))[:-1]
    return {split: random.permutation(rows) for split, rows in zip(SPLITS, np.split(ordered, ends), strict=True)}


def _picture(digit: Floats, random: Random) -> NDArray[np.uint8]:
    """A digit (8, 8) of 0 to 16, turned at most 25 degrees, somewhere on a ground: (48, 48, 3)."""
    ground, colour = _colours(random)
    picture = ground + _texture(random)[..., None] * random.normal(0, 16, 3).astype(np.float32)
    picture += _mask(digit, random)[..., None] * (colour - picture)
    picture += random.uniform(2, 10) * random.standard_normal(picture.shape, np.float32)
    return picture.clip(0, 255).astype(np.uint8)


def _colours(random: Random) -> tuple[Floats, Floats]:
    """Of the ground and the digit, apart in brightness; either is the lighter one."""
    bright = np.array([0.3, 0.59, 0.11], np.float32)
    while True:
        ground, colour = random.uniform(20, 235, (2, 3)).astype(np.float32)
        if abs(bright @ (ground - colour)) > 60:
            return ground, colour


def _mask(digit: Floats, random: Random) -> Floats:
    """How much of each pixel the digit covers: (48, 48), 0 to 1; its height is 20 to 38 pixels."""
    edged = np.zeros((12, 12), np.float32)
    edged[2:-2, 2:-2] = digit / 16
    scale, turn = 8 / random.uniform(20, 38), np.deg2rad(random.uniform(-25, 25))
    stretch = np.exp(random.normal(0, 0.08))
    across = scale * stretch * np.array([np.cos(turn), np.sin(turn)])
    down = scale / stretch * np.array([-np.sin(turn), np.cos(turn)])
    room = SIZE / 2 - 3.4 / scale  # the digit stays inside, a corner apart
    middle = SIZE / 2 + random.uniform(-room, room, 2)
    start = 6 - across * middle[0] - down * middle[1]
    back = (across[0], down[0], start[0], across[1], down[1], start[1])  # from a pixel to a place in the digit
    drawn = Image.fromarray(edged).transform((SIZE, SIZE), Image.Transform.AFFINE, back, Image.Resampling.BICUBIC)
    thin = random.uniform(0.25, 0.45)
    return ((np.asarray(drawn) - np.float32(thin)) / 0.35).clip(0, 1)


def _texture(random: Random) -> Floats:
    """A gradient, stripes, noise or blobs, about -1 to 1: (48, 48)."""
    turn = random.uniform(0, 2 * np.pi)
    slope = _X * np.float32(2 * np.cos(turn)) + _Y * np.float32(2 * np.sin(turn))
    kind = random.integers(0, 4)
    if kind == 0:
        return slope
    if kind == 1:
        return np.sin(slope * np.float32(random.uniform(6, 30)))
    cells = (SIZE // 2, random.integers(3, 9))[kind - 2]
    rough = Image.fromarray(random.normal(0, 1, (cells, cells)).astype(np.float32))
    return np.asarray(rough.resize((SIZE, SIZE), Image.Resampling.BICUBIC))


def _png(picture: NDArray[np.uint8]) -> bytes:
    file = BytesIO()
    Image.fromarray(picture).save(file, "PNG", compress_type=zlib.Z_HUFFMAN_ONLY)  # noise has nothing to repeat
    return file.getvalue()
