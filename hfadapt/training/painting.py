"""The part of augmentation that an accelerator does: all that comes after a crop, on whole batches of bytes.

Each picture's draws are its own, as where a process that reads rows does it; so are bytes, but for how two devices
round, and what the processor makes of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hfadapt.data.augmenting import Augmenter
from hfadapt.errors import one_line
from hfadapt.tasks._pictures import PictureTask, tones
from hfadapt.training.caching import seconds
from hfadapt.training.rows import SEED, Rows, Visits

_ROWS_TRIED = 16
_TOGETHER = 1 << 26
"""Pixels that one call of kornia changes."""
_FAR, _FEW = 2, 0.01
"""By how many of 256 levels a pixel may be another one, and which part of them may be further off: solarize,
posterize and equalize take small differences for large ones."""


class Painter:
    """Finishes what `Visits.begins` began."""

    def __init__(self, augmenter: Augmenter, levels: np.ndarray, device: torch.device):
        """levels: what the processor makes of each byte, (3, 256)."""
        self.augmenter, self.levels = augmenter, torch.from_numpy(levels).to(device)

    def __call__(self, inputs: dict[str, Any]) -> None:
        """Replace the bytes of a batch by model inputs; other batches stay as they are."""
        seeds = inputs.pop(SEED, None)
        if seeds is not None:
            inputs["pixel_values"] = self.levelled(self.painted(inputs["pixel_values"], seeds.tolist()))

    def painted(self, pixels: Tensor, seeds: Sequence[int]) -> Tensor:
        """uint8 (rows, 3, height, width) → the same."""
        with torch.no_grad():
            return torch.stack(self.augmenter.painted(list(pixels.to(self.levels.device)), seeds, _TOGETHER))

    def levelled(self, pixels: Tensor) -> Tensor:
        """uint8 (rows, 3, height, width) → float32, rescaled and normalised."""
        channels = torch.arange(3, device=pixels.device)[:, None, None]
        return self.levels[channels, pixels.int()]


def refusal(visit: Visits | None, device: torch.device) -> str | None:
    """Why rows are not finished on a device, as far as is known before it is tried; None where there is no question."""
    if visit is None or not visit.trains or not isinstance(visit.task, PictureTask) or device.type == "cpu":
        return None
    if not visit.task.augments or not visit.task.augmenter(visit.processor).paints:
        return None
    if torch.are_deterministic_algorithms_enabled():
        return "only what is the same each time is done, and timings are not"
    if visit.task.mixes:
        return "pictures are mixed when they are done"
    if not visit.task.augment.crop:
        return "pictures have sizes of their own where they are not cropped"
    return ""


@contextmanager
def painting(
    rows: Rows,
    device: torch.device,
    workers: int,
    note: Callable[[Callable[[], list[Any]]], list[Any]] = lambda find: find(),
) -> Iterator[tuple[Painter | None, str]]:
    """While it lasts, rows leave to the device what follows a crop, if it does the same in less time.

    Gives what does it there, and why; says nothing where there is no question. workers: processes that read rows;
    note: finds what depends on the device, for all processes and for a run that goes on.
    """
    says = refusal(rows.visit, device)
    if says is None or says:
        yield None, says or ""
        return
    visit: Any = rows.visit
    try:
        levels = tones(visit.processor)
    except Exception as error:  # Whatever a processor does, a run must not end of it.
        yield None, f"the processor can't be taken apart: {one_line(str(error))[:200]}"
        return
    painter = Painter(visit.task.augmenter(visit.processor), levels, device)
    serves, says = note(partial(_tried, rows, painter, workers))
    if not serves:
        yield None, says
        return
    rows.visit = replace(visit, begins=True)
    try:
        yield painter, says
    finally:
        rows.visit = replace(visit, begins=False)


def _tried(rows: Rows, painter: Painter, workers: int) -> list[Any]:
    """Whether the device does the same in less time, and a sentence."""
    try:
        return _compared(rows, painter, workers)
    except Exception as error:  # Whatever a device does, a run must not end of it.
        return [False, f"it does not go on the device: {one_line(str(error))[:200]}"]


def _compared(rows: Rows, painter: Painter, workers: int) -> list[Any]:
    """The same, on rows from all over the table."""
    assert rows.visit is not None
    which = np.unique(np.linspace(0, len(rows) - 1, _ROWS_TRIED).astype(int)).tolist()
    places = [(0, row) for row in which]
    goal = np.stack([row["pixel_values"] for row in rows.visit(places)])
    begun = replace(rows.visit, begins=True)(places)
    pixels, seeds = torch.from_numpy(np.stack([row["pixel_values"] for row in begun])), [row[SEED] for row in begun]
    there = pixels.to(painter.levels.device)
    found = painter.levelled(painter.painted(there, seeds)).cpu().numpy()
    step = np.diff(painter.levels.cpu().numpy(), axis=1).max()
    if (np.abs(found - goal) > (_FAR + 0.5) * step).mean() > _FEW:
        return [False, "on the device pictures come out as others"]
    ahead = _least(lambda: painter.augmenter.painted(list(pixels), seeds), threads=1) / max(1, workers)
    after = _least(lambda: painter.painted(there, seeds), threads=torch.get_num_threads())
    readers = f"{workers} processes that read take" if workers > 1 else "a process that reads takes"
    each = 1000 / len(which)
    return [after < ahead, f"{after * each:.2f} ms a picture after the crop, for which {readers} {ahead * each:.2f}"]


def _least(run: Callable[[], object], threads: int) -> float:
    """The seconds that it takes with some threads, the better of two times."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        return min(seconds(run) for _ in range(2))
    finally:
        torch.set_num_threads(before)
