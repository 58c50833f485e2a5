"""Pictures that look the same: a perceptual hash, and the rows that it joins."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

SIDE = 64
"""The least side of the picture that a hash is taken of."""
BITS = 10


def near_hash(picture: Image.Image) -> bytes:
    """256 bits."""
    small = np.asarray(picture.convert("L").resize((17, 16), Image.Resampling.BOX), np.float32)
    rise = small[:, 1:] - small[:, :-1]
    return np.packbits(rise > max(2.0, 0.05 * float(np.ptp(small)))).tobytes()


def near_groups(hashes: Sequence[bytes], bits: int = BITS) -> np.ndarray:
    """Rows joined where their hashes differ in few bits: (rows,) int64 group ids."""
    words = np.frombuffer(b"".join(hashes), np.uint64).reshape(len(hashes), 4)
    groups = np.arange(len(hashes))
    for row in range(len(hashes)):
        found = np.bitwise_count(words ^ words[row]).sum(1) <= bits
        ids = np.unique(groups[found])
        groups[np.isin(groups, ids)] = ids[0]
    return np.unique(groups, return_inverse=True)[1].astype(np.int64)
