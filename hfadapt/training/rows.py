"""Encoded rows, and the order in which an epoch visits them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from hfadapt.data.labels import Labels
from hfadapt.kind import IGNORED
from hfadapt.settings import cut
from hfadapt.tasks._pictures import PictureTask
from hfadapt.tasks.base import Columns, Task

PLACE, SERVED, SEED, LENGTHS = "_place", "_served", "_seed", "_lengths"
"""What a batch says of its rows, not to the model: the place of each in the cache, and whether its inputs were left
out because all rows of its batch are there; of what is still to be done to its picture where the device does it; and
how long it is, where padding comes after it."""
_CHUNK = 50
"""How many batches are sorted by length together; upstream's LengthGroupedSampler uses the same."""


class Rows(Dataset[dict[str, Any]]):
    """Model inputs with `labels`, encoded before or when they are visited.

    An index says which row, whether it is the row's ghost, and in which epoch: `index % n`, `index // n % 2`
    and `index // 2n` of n rows. A ghost has the same inputs and an ignored target: ghosts fill the last batch
    so that every process gets as many rows, and add nothing to loss or gradient.
    """

    def __init__(self, table: Any, lengths: np.ndarray | None = None, visit: Visits | None = None):
        """table: a `datasets.Dataset` of encoded rows, or of raw ones that `visit` encodes."""
        self.table, self.lengths, self.visit = table, lengths, visit
        self.kept: tuple[np.ndarray, int, int] | None = None

    def keep(self, filled: np.ndarray, begin: int, views: int) -> None:
        """Rows that a cache holds need not be encoded.

        filled: which of the cache's places hold a row; begin: the place of the first row of these; views: how many
        epochs differ, where rows vary.
        """
        self.kept = (filled, begin, views)

    @property
    def varies(self) -> bool:
        """Whether a row is another one in each epoch."""
        return self.visit is not None and self.visit.changes

    @property
    def elusive(self) -> bool:
        """Whether more than the picture of a row is another one in each epoch, so that no view of it can be kept."""
        if self.visit is None or not self.varies:
            return False
        return self.visit.task.mixes or self.visit.task.draws_texts

    @property
    def drawn(self) -> str:
        """What the random changes of a row depend on, besides its place."""
        return f"{self.visit.task!r} {self.visit.seed}" if self.visit and self.varies else ""

    def __len__(self) -> int:
        return len(self.table)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        # Python would otherwise count up until an IndexError, which ghosts never raise.
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """The rows of a batch, read together."""
        size = len(self)
        places = [(index // (2 * size), index % size) for index in indices]
        kept: list[int] = []
        served = False
        if self.kept:
            filled, begin, views = self.kept
            places = [(epoch % views, row) for epoch, row in places]
            kept = [begin + view * size + row for view, row in places]
            served = bool(filled[kept].all())
        rows = self.visit(places, blank=served) if self.visit else as_rows(self.table[[row for _, row in places]])
        for row, place in zip(rows, kept, strict=False):
            row[PLACE], row[SERVED] = place, served
        for row, index in zip(rows, indices, strict=True):
            if index // size % 2:
                row["labels"] = _ignored(row["labels"])
        return rows


@dataclass(frozen=True)
class Visits:
    """Encodes rows when they are visited; training rows may be another one in each epoch.

    What is drawn for a row depends on the seed, the epoch and the row alone, so that a resumed run, and any
    number of processes, sees the same.
    """

    task: Task
    processor: Any
    table: Any
    """A `datasets.Dataset` of raw rows; `labels` where targets are known."""
    labels: Labels
    seed: int = 0
    trains: bool = False
    pictures: Callable[[Any, Sequence[int]], list[Any]] | None = None
    """Gives the pictures of some rows of the table where they are kept decoded; see `training.pictures`."""
    begins: bool = False
    """Whether pictures are varied in part only; see `training.painting`."""

    @property
    def changes(self) -> bool:
        """Whether anything is drawn."""
        return self.trains and (self.task.varies or self.task.mixes)

    def __call__(self, places: Sequence[tuple[int, int]], *, blank: bool = False) -> list[dict[str, Any]]:
        """The encoded rows at some places: the epoch and the row of each; blank: without looking at pictures."""
        if blank:
            columns = dict(self.unseen[[row for _, row in places]])
            targets = columns.pop("labels")
            blanks = self.task.encode({**columns, "image": [None] * len(places)}, self.processor)
            return as_rows({**blanks, "pixel_values": [self.black] * len(places), "labels": targets})
        rows = self._encoded(places, part=0)
        if self.trains and self.task.mixes:
            draws = self._draws(places, part=1)
            others = [
                (epoch, int(draw.integers(len(self.table)))) for (epoch, _), draw in zip(places, draws, strict=True)
            ]
            rows = self.task.mix(rows, self._encoded(others, part=2), draws, self.labels)
        return rows

    @cached_property
    def unseen(self) -> Any:
        """The table without its pictures."""
        return self.table.remove_columns("image")

    @cached_property
    def black(self) -> Any:
        """Stands for a picture that nobody looks at; models ask for the size of what they are given."""
        (row,) = self._encoded([(0, 0)], part=0)
        return np.zeros_like(row["pixel_values"], dtype=np.float32)

    def _encoded(self, places: Sequence[tuple[int, int]], part: int) -> list[dict[str, Any]]:
        which = [row for _, row in places]
        columns = dict((self.unseen if self.pictures else self.table)[which])
        if self.pictures:
            columns["image"] = self.pictures(self.table, which)
        targets = columns.pop("labels", None)
        more = {} if targets is None else {"labels": targets}
        inputs: Columns = columns
        if self.begins:
            assert isinstance(self.task, PictureTask)
            inputs, more[SEED] = self.task.begin_to_vary(columns, self.processor, self._draws(places, part))
        elif self.trains and self.task.varies:
            inputs = self.task.vary(columns, self.processor, self._draws(places, part))
        return as_rows({**self.task.encode(inputs, self.processor), **more})

    def _draws(self, places: Sequence[tuple[int, int]], part: int) -> list[np.random.Generator]:
        return [np.random.default_rng([self.seed, epoch, row, part]) for epoch, row in places]


def as_rows(columns: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Columns as rows."""
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def _ignored(target: Any) -> Any:
    if isinstance(target, np.ndarray):
        return np.full_like(target, IGNORED)
    return [IGNORED] * len(target) if isinstance(target, list) else type(target)(IGNORED)


class Order(Sampler[int]):
    """The order of an epoch: a function of the seed and the epoch's number only.

    So it is the same on every process, after a resume, and however a batch is divided.
    """

    def __init__(
        self,
        rows: Rows,
        *,
        strategy: str,
        batch: int,
        together: int,
        seed: int,
        epoch: Callable[[], int],
        processes: int = 1,
        weights: np.ndarray | None = None,
        earlier: int = 0,
    ):
        """strategy: a `train_sampling_strategy`; batch: rows of an optimizer step over all processes;
        together: rows that all processes read at once, of which an epoch is made a multiple; processes: how many;
        epoch: tells the number of the epoch that begins; weights: chances of the rows, (rows,);
        earlier: epochs of earlier stages, so that rows that vary do not repeat themselves."""
        self.rows, self.strategy, self.batch, self.together = rows, strategy, batch, together
        self.seed, self.epoch, self.weights, self.earlier = seed, epoch, weights, earlier
        self.processes = processes

    def __len__(self) -> int:
        return math.ceil(len(self.rows) / self.together) * self.together

    def __iter__(self) -> Iterator[int]:
        epoch, size = self.epoch(), len(self.rows)
        indices = self.visit(epoch)
        ghosts = size + np.arange(len(self) - len(indices)) % size
        start = 2 * size * (self.earlier + epoch) if self.rows.varies else 0
        return iter((start + np.concatenate([indices, ghosts])).tolist())

    def visit(self, epoch: int) -> np.ndarray:
        """The rows in the order in which the epoch visits them, (rows,)."""
        generator = np.random.default_rng([self.seed, epoch])
        size = len(self.rows)
        if self.strategy == "sequential":
            return np.arange(size)
        if self.weights is not None:
            order = generator.choice(size, size, p=self.weights / self.weights.sum())
        else:
            order = generator.permutation(size)
        if self.strategy != "group_by_length" or self.rows.lengths is None:
            return order
        return self._by_length(order, self.rows.lengths, generator)

    def _by_length(self, order: np.ndarray, lengths: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """Batches of similar lengths, in random order; the last one, which may be short, stays last."""
        chunk = self.batch * _CHUNK
        order = np.concatenate(
            [
                part[np.argsort(-lengths[part], kind="stable")]
                for part in np.split(order, range(chunk, len(order), chunk))
            ]
        )
        batches = np.split(order, range(self.batch, len(order), self.batch))
        whole = [i for i, part in enumerate(batches) if len(part) == self.batch]
        rest = [part for part in batches if len(part) < self.batch]
        order = np.concatenate([batches[i] for i in generator.permutation(whole)] + rest) if whole else order
        return self._dealt(order)

    def _dealt(self, order: np.ndarray) -> np.ndarray:
        """Each process gets texts as long as the others', for at every step they wait for one another.

        Of the rows that all read at once, the longest first, the first process would read the first of them.
        """
        if self.processes == 1:
            return order
        turns = np.arange(self.together).reshape(-1, self.processes)
        turns[1::2] = turns[1::2, ::-1]
        whole = len(order) // self.together * self.together
        dealt = order[:whole].reshape(-1, self.together)[:, turns.T.reshape(-1)]
        return np.concatenate([dealt.reshape(-1), order[whole:]])


class ByLength(Dataset[dict[str, Any]]):
    """Rows to be judged, the longest first in each stretch of them, so that hardly any place of a batch is padding."""

    def __init__(self, rows: Rows, batch: int):
        """batch: rows that all processes judge at once, of which a stretch is a multiple."""
        assert rows.lengths is not None
        self.rows, self.stretch = rows, batch * _CHUNK
        starts = range(0, len(rows), self.stretch)
        parts = [start + np.argsort(-rows.lengths[start : start + self.stretch], kind="stable") for start in starts]
        self.order = np.concatenate(parts) if parts else np.arange(0)
        """Which row stands at each place, (rows,)."""

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """The rows at some places."""
        return self.rows.__getitems__(self.order[list(indices)].tolist())


_JITTER = (0.1, 0.05, 0.02, 0.0)
"""By which part lengths are made longer at random before rows are sorted by them, so that others meet in each epoch."""


class TokenBatches:
    """Batches of texts of similar length whose rows times the longest of them stay within a number of tokens.

    Like `Order`, a function of the seed and the epoch's number only, of which each process visits its share. Every
    epoch has as many batches.
    """

    def __init__(
        self,
        rows: Rows,
        *,
        tokens: int,
        batches: int,
        processes: int,
        process: int,
        together: int,
        seed: int,
        epoch: Callable[[], int],
    ):
        """tokens: the budget; batches: of all processes in an epoch, see `settings.in_tokens`; process: which of the
        processes this is; together: batches of an optimizer step over all processes, which are of similar length."""
        assert rows.lengths is not None
        self.lengths, self.tokens, self.batches = rows.lengths, tokens, batches
        self.processes, self.process, self.together = processes, process, together
        self.seed, self.epoch = seed, epoch

    def __len__(self) -> int:
        return math.ceil(self.batches / self.processes)

    def __iter__(self) -> Iterator[list[int]]:
        batches = self.visit(self.epoch())
        # A ghost alone where there are too few for all processes.
        ghost = np.array([len(self.lengths) + int(self.lengths.argmin())])
        batches += [ghost] * (len(self) * self.processes - len(batches))
        return (batch.tolist() for batch in batches[self.process :: self.processes])

    def visit(self, epoch: int) -> list[np.ndarray]:
        """The rows of each batch of an epoch, in the order in which all processes visit them."""
        generator = np.random.default_rng([self.seed, epoch])
        order = generator.permutation(len(self.lengths))
        draws = generator.random(len(order))
        for jitter in _JITTER:
            longer = self.lengths[order] * (1 + jitter * draws)
            found = order[np.argsort(-longer, kind="stable")]
            sizes = cut(self.lengths[found].tolist(), self.tokens)
            if len(sizes) <= self.batches:
                break
        batches = _halved(np.split(found, np.cumsum(sizes)[:-1]), self.batches)
        steps = [batches[i : i + self.together] for i in range(0, len(batches), self.together)]
        whole = [i for i, step in enumerate(steps) if len(step) == self.together]
        rest = [batch for step in steps if len(step) < self.together for batch in step]
        return [batch for i in generator.permutation(whole) for batch in steps[i]] + rest


def _halved(batches: list[np.ndarray], number: int) -> list[np.ndarray]:
    """As many batches as there shall be: those with most rows are halved."""
    while short := number - len(batches):
        largest = set(sorted(range(len(batches)), key=lambda i: -len(batches[i]))[:short])
        batches = [
            part
            for i, batch in enumerate(batches)
            for part in (np.array_split(batch, 2) if i in largest and len(batch) > 1 else [batch])
        ]
    return batches


def balanced(targets: np.ndarray) -> np.ndarray:
    """Chances that draw each label equally often; targets: (rows,) ids → (rows,)."""
    counts = np.bincount(targets)
    return np.asarray(1 / counts[targets])


class Collate:
    """Collates rows, with what the batch says of them beside it.

    That is arrays of numpy's, which stay with the process: to read tensors from a device would be to wait for it, and
    through lists Accelerate and Trainer would go number by number. A class rather than a closure, so that worker
    processes that are spawned can pickle it.
    """

    def __init__(self, collate: Callable[[list[dict[str, Any]]], dict[str, Any]]):
        self.collate = collate

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        beside = {name: np.array([row.pop(name) for row in rows]) for name in (PLACE, SERVED, SEED) if name in rows[0]}
        batch = self.collate(rows)
        return batch | beside | {LENGTHS: ends(batch.get("attention_mask"))}


def ends(mask: Tensor | None) -> np.ndarray | None:
    """How long the rows of a mask, (rows, length), are, (rows,); None where they are not padded at their ends alone."""
    if mask is None or mask.ndim != 2:
        return None
    here = mask.detach().to("cpu", torch.bool)
    counts = here.sum(1)
    return counts.numpy() if torch.equal(here, torch.arange(here.shape[1]) < counts[:, None]) else None
