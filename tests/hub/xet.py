"""Files back out of what hf_xet uploads: xorbs of chunks, and shards that say which chunks make a file.

The formats are those of hf_xet 1.8; chunks have to be stored plain (HF_XET_XORB_COMPRESSION_POLICY=none).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

_RECORD = 48
_HAS_CHECKS, _HAS_SHA256 = 1 << 31, 1 << 30


def _hex(raw: bytes) -> str:
    """A hash as hf_xet prints it: four little-endian words."""
    return "".join(f"{word:016x}" for word in struct.unpack("<4Q", raw))


def files(shard: bytes) -> Iterator[tuple[str, list[tuple[str, int, int]]]]:
    """Each file of a shard: its sha256, and its pieces as (xorb, first chunk, end chunk)."""
    at = _RECORD
    while (head := shard[at : at + 32]) != b"\xff" * 32:
        flags, pieces = struct.unpack("<II", shard[at + 32 : at + 40])
        at += _RECORD
        found = []
        for _ in range(pieces):
            first, end = struct.unpack("<II", shard[at + 40 : at + 48])
            found.append((_hex(shard[at : at + 32]), first, end))
            at += _RECORD
        if flags & _HAS_CHECKS:
            at += _RECORD * pieces
        if flags & _HAS_SHA256:
            yield _hex(shard[at : at + 32]), found
            at += _RECORD
        assert head, "the shard ends early"


def chunks(xorb: bytes) -> list[bytes]:
    """The chunks of a xorb."""
    at, found = 0, []
    while at < len(xorb) and not xorb[at : at + 8].startswith(b"XETBLOB"):
        stored, scheme = int.from_bytes(xorb[at + 1 : at + 4], "little"), xorb[at + 4]
        assert scheme == 0, "the chunks are compressed"
        found.append(xorb[at + 8 : at + 8 + stored])
        at += 8 + stored
    return found


@dataclass
class Store:
    """What a content-addressed store was sent."""

    xorbs: dict[str, bytes] = field(default_factory=dict)
    shards: list[bytes] = field(default_factory=list)

    def read(self, sha256: str) -> bytes | None:
        """The bytes of a file; None where no shard names it or a xorb is missing."""
        for shard in self.shards:
            for name, pieces in files(shard):
                if name == sha256 and all(xorb in self.xorbs for xorb, _, _ in pieces):
                    return b"".join(
                        chunk for xorb, first, end in pieces for chunk in chunks(self.xorbs[xorb])[first:end]
                    )
        return None
