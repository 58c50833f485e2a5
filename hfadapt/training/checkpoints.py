"""Checkpoints that are whole or do not count.

The Trainer writes a checkpoint file by file and, when it resumes, trusts the newest folder. Ours are
sealed: the last thing written is a manifest with the digest of every file. Resuming takes the newest
checkpoint that agrees with its manifest, so a crash or a full disk costs one checkpoint, not the run.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

MANIFEST = "MANIFEST.json"
_PREFIX = "checkpoint-"


def seal(checkpoint: Path) -> None:
    """Declare a checkpoint complete."""
    files = {str(p.relative_to(checkpoint)): _digest(p) for p in sorted(checkpoint.rglob("*")) if p.is_file()}
    draft = checkpoint / (MANIFEST + ".draft")
    with draft.open("w", encoding="utf-8") as file:
        json.dump(files, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    draft.rename(checkpoint / MANIFEST)


def is_whole(checkpoint: Path) -> bool:
    """Whether a checkpoint is sealed and every file is as it was then."""
    try:
        files = json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8"))
        return all(_digest(checkpoint / name) == digest for name, digest in files.items())
    except (OSError, ValueError, AttributeError):
        return False


def newest(stage: Path) -> Path | None:
    """The latest whole checkpoint of a stage's folder."""
    return next((c for c in reversed(_sealed(stage)) if is_whole(c)), None)


def rotate(stage: Path, best: str | None) -> None:
    """Remove all sealed checkpoints of a stage but the latest and the best one."""
    kept = {Path(best).name} if best else set()
    for checkpoint in _sealed(stage)[:-1]:
        if checkpoint.name not in kept:
            _discard(checkpoint)


def remove(stage: Path) -> None:
    """Remove all sealed checkpoints of a stage."""
    for checkpoint in _sealed(stage):
        _discard(checkpoint)


def _discard(checkpoint: Path) -> None:
    # Unsealed first: a crash in the middle must not leave what looks whole.
    (checkpoint / MANIFEST).unlink(missing_ok=True)
    shutil.rmtree(checkpoint, ignore_errors=True)


def _sealed(stage: Path) -> list[Path]:
    found = [p.parent for p in stage.glob(f"{_PREFIX}*/{MANIFEST}") if p.parent.name.removeprefix(_PREFIX).isdigit()]
    return sorted(found, key=lambda p: int(p.name.removeprefix(_PREFIX)))


def _digest(path: Path) -> str:
    import xxhash

    state: Any = xxhash.xxh3_128()
    with path.open("rb") as file:
        while piece := file.read(1 << 22):
            state.update(piece)
    return f"{path.stat().st_size}:{state.hexdigest()}"
