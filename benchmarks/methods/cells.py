"""A cell of the table: one way to adapt, on one column, with one seed; and the order in which cells are measured."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from columns import Column
from methods import Way

SEEDS = (0, 1, 2)
BATCH = 16
TRAIN = {
    "per_device_train_batch_size": BATCH,
    "per_device_eval_batch_size": 32,
    "eval_strategy": "no",
    "save_strategy": "no",
    "load_best_model_at_end": False,
}
"""Training arguments of all ways; nothing is evaluated before the end but by ways that need it."""


@dataclass(frozen=True)
class Cell:
    """What is measured at a time, with all learning rates that are tried for it."""

    way: Way
    column: Column
    seed: int

    @property
    def name(self) -> str:
        """For a person, and for the file of results."""
        return f"{self.way.name} / {self.column.name} / {self.seed}"

    @property
    def tries(self) -> bool:
        """Whether learning rates are tried here; other cells take over what this one chose."""
        return self.seed == SEEDS[0] and not self.column.rates_from

    @property
    def settings(self) -> dict[str, Any]:
        """All that the cell's outcome depends on, but for the code and the learning rates."""
        return {
            "adapt": self.way.adapt,
            "task": {**self.column.task, **self.way.task},
            "model": self.column.model,
            "train": {**TRAIN, "max_steps": self.column.steps, **self.way.train},
        }

    @property
    def key(self) -> str:
        """Tells cells apart, and a cell from what it was with other settings."""
        rates = self.way.rates(self.column.backbone) if self.tries else ()
        text = json.dumps([self.settings, rates], sort_keys=True)
        return f"{self.name} / {hashlib.sha256(text.encode()).hexdigest()[:8]}"


def ordered(ways: Sequence[Way], columns: Sequence[Column], seeds: Sequence[int] = SEEDS) -> list[Cell]:
    """Cells in an order in which an interruption at any time leaves a balanced table.

    First the main ways with few rows, column by column, with one seed and then with the others; then with all rows;
    then, with one seed, the long tail on the first column that tries learning rates.
    """
    few, all_rows = ([column for column in columns if column.few is few] for few in (True, False))
    main, tail = ([way for way in ways if way.main is main] for main in (True, False))
    first, others = seeds[:1], seeds[1:]
    trying = [column for column in few if not column.rates_from][:1]
    phases = ((few, first, main), (few, others, main), (all_rows, first, main), (trying, first, tail))
    return [cell for phase in phases for cell in _phase(*phase)]


def _phase(columns: Sequence[Column], seeds: Sequence[int], ways: Sequence[Way]) -> Iterator[Cell]:
    for seed in seeds:
        for column in columns:
            for way in ways:
                if not way.only or column.backbone in way.only:
                    yield Cell(way, column, seed)


class Results:
    """A file with a line for each cell that was measured; several processes may append to it."""

    def __init__(self, path: Path):
        self.path = path

    def rows(self) -> list[dict[str, Any]]:
        """The lines, of each cell the last, whatever its settings were."""
        if not self.path.exists():
            return []
        lines = self.path.read_text(encoding="utf-8").splitlines()
        return list({row["key"].rpartition(" / ")[0]: row for row in map(json.loads, lines)}.values())

    def append(self, row: Mapping[str, Any]) -> None:
        """Add a line in one piece."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")

    def chosen(self, cell: Cell) -> float | None:
        """The learning rate of a cell that tries none; None where there is none yet."""
        name = f"{cell.way.name} / {cell.column.rates_from or cell.column.name} / {SEEDS[0]} / "
        rates = [row.get("rate") for row in self.rows() if row["key"].startswith(name)]
        return rates[-1] if rates else None
