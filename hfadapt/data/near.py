"""Pictures that look the same: a perceptual hash, and the rows that it joins."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from hfadapt.data.keys import mixed

SIDE = 64
"""The least side of the picture that a hash is taken of."""
BYTES = 120
"""The length of a hash."""
CROWD = 256
"""More rows of one band than this are compared in another way."""
BITS = 8
"""Hashes that differ in at most so many bits are of pictures that look the same."""


def near_hash(picture: Image.Image) -> bytes:
    """BYTES bytes, few of whose bits differ where an RGB picture was encoded anew, resized or made a little brighter.

    On a grid of 16 x 16: is it darker than most, lighter than the mean, lighter than most (3 bits a place, measured in
    the picture's own deviation)? On coarser grids: how light (2 x 2) and of what colour (4 x 4, Cb and Cr) it is, in 4
    steps. Each scale is a thermometer code, so that a small change flips one bit. The signs of differences (dHash) and
    256 bits told handwritten digits apart far worse.
    """
    # Bilinear averages where it shrinks and stays smooth where it grows; a box repeats the pixels of small pictures.
    grid = np.asarray(picture.resize((16, 16), Image.Resampling.BILINEAR).convert("YCbCr"), np.float32)
    light = grid[..., 0]
    # The least deviation keeps the noise of blank pictures below the steps.
    light = (light - light.mean()) / max(float(light.std()), 8.0)
    how_light = grid[..., 0].reshape(2, 8, 2, 8).mean((1, 3))
    colour = grid[..., 1:].reshape(4, 4, 4, 4, 2).mean((1, 3)) - 128
    scales = ((light, (-1.8, 0.15, 1.8)), (how_light, (51, 102, 153, 204)), (colour, (-50, -17, 17, 50)))
    flags = np.concatenate([(values[..., None] > np.array(steps, np.float32)).reshape(-1) for values, steps in scales])
    return np.packbits(flags).tobytes().ljust(BYTES, b"\0")


def near_groups(hashes: Sequence[bytes], bits: int = BITS) -> np.ndarray:
    """Join rows whose hashes differ in at most so many bits, directly or through others: (rows,) int64 group ids.

    Hashes that differ in `bits` bits agree in full in one of `bits + 1` bands of them, so that only rows that share a
    band are compared (Manku et al. 2007, Detecting Near-Duplicates for Web Crawling).
    """
    if not len(hashes):
        return np.zeros(0, np.int64)
    rows = np.frombuffer(b"".join(hashes), np.dtype((np.void, len(hashes[0]))))
    distinct, row_to_distinct = np.unique(rows, return_inverse=True)
    flags = np.unpackbits(distinct.view(np.uint8).reshape(len(distinct), -1), axis=1)
    # The bits that tell most come first and are dealt out evenly: a band of corners is the same in every picture.
    flags = flags[:, np.argsort(np.abs(flags.mean(0) - 0.5), kind="stable")]
    words = _words(flags)
    group = np.arange(len(distinct))
    for band in range(bits + 1):
        key = np.zeros(len(distinct), np.uint64)
        for word in _words(flags[:, band :: bits + 1]).T:
            key = mixed(key) ^ word
        group = _joined(group, mixed(key), words, bits)
    return np.unique(group, return_inverse=True)[1][row_to_distinct].astype(np.int64)


def _words(flags: np.ndarray) -> np.ndarray:
    """Bits packed in uint64: (rows, words)."""
    packed = np.packbits(flags, axis=1)
    return np.ascontiguousarray(np.pad(packed, ((0, 0), (0, -packed.shape[1] % 8)))).view(np.uint64)


def _joined(group: np.ndarray, key: np.ndarray, words: np.ndarray, bits: int) -> np.ndarray:
    """The groups after rows of equal key were compared."""
    order = np.argsort(key, kind="stable")
    starts = np.flatnonzero(np.diff(key[order], prepend=~key[order[:1]]))
    sizes = np.diff(starts, append=len(order))
    for start, size in zip(starts[sizes > CROWD].tolist(), sizes[sizes > CROWD].tolist(), strict=True):
        group = _joined_crowd(group, order[start : start + size], words, bits)
    # All small buckets at once: each row with the next of its bucket, the next but one, and so on.
    end = np.repeat(starts + np.where(sizes > CROWD, 0, sizes), sizes)
    found = []
    for step in range(1, CROWD):
        at = np.flatnonzero(np.arange(step, len(order) + step) < end)
        if not at.size:
            break
        one, other = order[at], order[at + step]
        apart = group[one] != group[other]
        found.append(_near(words, one[apart], other[apart], bits))
    return _merged(group, found)


def _joined_crowd(group: np.ndarray, rows: np.ndarray, words: np.ndarray, bits: int) -> np.ndarray:
    """The groups after the many rows of one bucket were compared, but for those in what is one group already.

    Where thousands of pictures look the same, some hundred are compared with all, and the rest are found joined.
    """
    while True:
        _, of_row, sizes = np.unique(group[rows], return_inverse=True, return_counts=True)
        outside = np.flatnonzero(of_row != sizes.argmax())[:CROWD]
        if not outside.size:
            return group
        found = []
        for row in outside:
            others = rows[of_row != of_row[row]]
            found.append(_near(words, np.broadcast_to(rows[row], others.shape), others, bits))
        group = _merged(group, found)
        # What was compared with all need not be met again.
        rows = np.delete(rows, outside)


def _near(words: np.ndarray, one: np.ndarray, other: np.ndarray, bits: int) -> np.ndarray:
    """Those pairs whose hashes differ in few bits: (2, pairs). Most are told apart by the first word."""
    near = np.flatnonzero(np.bitwise_count(words[one, 0] ^ words[other, 0]) <= bits)
    differ = np.bitwise_count(words[one[near]] ^ words[other[near]]).sum(1, dtype=np.int64)
    return np.stack([one, other])[:, near[differ <= bits]]


def _merged(group: np.ndarray, found: list[np.ndarray]) -> np.ndarray:
    """The groups after pairs of rows were joined."""
    pairs = np.concatenate(found, axis=1) if found else np.zeros((2, 0), np.int64)
    if not pairs.size:
        return group
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    one, other = group[pairs]
    joins = coo_array((np.ones(len(one), bool), (one, other)), shape=(len(group), len(group)))
    return connected_components(joins, directed=False)[1].astype(np.int64)[group]
