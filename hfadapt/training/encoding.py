"""Rows encoded before training: by all threads that there are, and once for all processes of a machine."""

from __future__ import annotations

import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hfadapt.training.caching import agreed

if TYPE_CHECKING:
    import datasets

_PARALLEL, _THREADS = "TOKENIZERS_PARALLELISM", "RAYON_NUM_THREADS"


def encode_all(
    rows: datasets.Dataset, encode: Callable[[Any], dict[str, list[Any]]], *, together: bool = False
) -> datasets.Dataset:
    """What `encode` makes of all rows, which it is given as columns, some at a time.

    together: whether every process asks for the same rows now: the first one of each machine encodes them, and the
    others read its result.
    """

    def made(**options: Any) -> datasets.Dataset:
        if not rows.cache_files:
            # Else it pickles the tokenizer to name a file that there will not be, which takes longer than to encode.
            options["new_fingerprint"] = uuid.uuid4().hex
        return rows.map(encode, batched=True, remove_columns=rows.column_names, load_from_cache_file=False, **options)

    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        with threads():
            return made()
    return _shared(made) if together else made()


@contextmanager
def threads() -> Iterator[None]:
    """While it lasts, a tokenizer divides a batch among as many threads as OpenMP may use, or one for each core.

    Elsewhere it must not: processes that are forked later, such as those that load rows, would inherit its locks.
    """
    before = os.environ.get(_PARALLEL)
    if limit := os.environ.get("OMP_NUM_THREADS"):
        # Read once, when the first threads are made.
        os.environ.setdefault(_THREADS, limit)
    os.environ[_PARALLEL] = "true"
    try:
        yield
    finally:
        os.environ[_PARALLEL] = before or "false"


def _shared(made: Callable[..., datasets.Dataset]) -> datasets.Dataset:
    """What one process of each machine makes, read by all of them from a file that is gone afterwards."""
    import datasets
    from accelerate import PartialState

    state = PartialState()
    folder = Path(tempfile.gettempdir()) / f"hfadapt-{agreed(uuid.uuid4().hex)}"
    file = str(folder / "rows.arrow")
    if state.is_local_main_process:
        folder.mkdir()
        with threads():
            made(cache_file_name=file)
    state.wait_for_everyone()
    found = datasets.Dataset.from_file(file)
    state.wait_for_everyone()
    if state.is_local_main_process:
        # What is mapped into memory stays there.
        shutil.rmtree(folder, ignore_errors=True)
    return found
