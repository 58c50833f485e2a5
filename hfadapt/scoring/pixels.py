"""What simple methods reach on pictures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hfadapt.kind import Kind
from hfadapt.scoring.baselines import Model, judged, sample, usual
from hfadapt.scoring.regression import Regression
from hfadapt.scoring.tally import Score

SIDE = 16
"""Pictures are shrunk to so many pixels a side; 24 were no better on photographs, and take three times as long."""
LEAST_SPREAD = 0.02
"""Pixels are divided by their standard deviation, but not by less than this share of white."""
MOST_TRAIN_ROWS = 5000
"""A sample of so many pictures is learnt from: to open and to fit them takes some ten seconds."""
MOST_FITTED = 250_000
"""The sample is smaller where its rows times labels would exceed this, but not below a fifth."""
MOST_TO_CHOOSE = 50_000
"""The regularisation is not chosen where rows times labels exceed this."""
MOST_JUDGED_ROWS = 5000
"""Of a longer split a sample of so many pictures is judged; their scores tell the number."""
CHUNK = 500
PIXELS = Regression(strengths=(0.01, 0.1, 0.003), solver={"tol": 1e-3, "max_iter": 50})


@dataclass(frozen=True)
class Pictures:
    """Rows to learn from or to be judged on."""

    cells: Sequence[Mapping[str, Any]]
    """Pictures as `data.images` opens them."""
    targets: NDArray[Any]
    """As in `baselines.Rows`."""

    def __len__(self) -> int:
        return len(self.targets)

    def take(self, rows: NDArray[np.int64]) -> Pictures:
        """The rows at these places."""
        return Pictures([self.cells[int(i)] for i in rows], self.targets[rows])

    def chunks(self) -> Iterator[Pictures]:
        """All rows in order, a few at a time."""
        for start in range(0, len(self), CHUNK):
            part = slice(start, start + CHUNK)
            yield Pictures(self.cells[part], self.targets[part])


def picture_baselines(
    kind: Kind, names: Sequence[str], train: Pictures, splits: Mapping[str, Pictures], *, seed: int, replicates: int
) -> dict[str, dict[str, dict[str, Score]]]:
    """The scores of two baselines, by baseline, split and metric.

    `majority` (`mean` for numbers) gives every row the label frequencies (the mean) of the training
    rows. `pixels` is a logistic (ridge) regression on the colours of the pictures, shrunk to
    `SIDE` × `SIDE` pixels and standardised; it learns from and is judged on samples of large splits.

    Args:
        kind: what a row is given.
        names: the labels in the order of their ids; empty for numbers.
        train: the rows to learn from.
        splits: the rows to be judged on, by the name of the split.
        seed: what samples and intervals depend on.
        replicates: bootstrap replicates for the intervals; 0 for none.

    Raises:
        PictureError: a picture cannot be opened.
    """
    random = np.random.default_rng([seed, 4])
    few = {split: rows.take(sample(len(rows), MOST_JUDGED_ROWS, random)) for split, rows in splits.items()}
    (name, model), *_ = usual(kind, names, train).items()
    told = (name, model, splits), ("pixels", _pixels(kind, names, train, random), few)
    return {
        name: {
            split: judged(model, kind, names, rows, seed=seed, replicates=replicates) for split, rows in over.items()
        }
        for name, model, over in told
    }


def _pixels(kind: Kind, names: Sequence[str], train: Pictures, random: np.random.Generator) -> Model:
    """The regression on colours."""
    labels = max(1, len(names))
    most = max(min(MOST_TRAIN_ROWS, MOST_FITTED // labels), MOST_TRAIN_ROWS // 5)
    train = train.take(sample(len(train), most, random))
    seen = np.concatenate([_colours(chunk.cells) for chunk in train.chunks()])
    centre, spread = seen.mean(axis=0), np.maximum(seen.std(axis=0), LEAST_SPREAD)
    seen = (seen - centre) / spread
    regression = PIXELS if len(train) * labels <= MOST_TO_CHOOSE else Regression(PIXELS.strengths[:1], PIXELS.solver)
    fitted = regression.fit(kind, seen, train.targets, names, random)
    return lambda rows: fitted((_colours(rows.cells) - centre) / spread)


def _colours(cells: Sequence[Mapping[str, Any]]) -> NDArray[np.float32]:
    """The pictures' colours from 0 to 1: (rows, SIDE * SIDE * 3)."""
    from PIL.Image import Resampling

    from hfadapt.data.images import open_picture

    shrunk = np.empty((len(cells), SIDE * SIDE * 3), np.float32)
    for i, cell in enumerate(cells):
        picture = open_picture(cell, within=4 * SIDE)  # enough for the shrinking to stay smooth
        shrunk[i] = np.asarray(picture.resize((SIDE, SIDE), Resampling.BILINEAR)).ravel()
    return shrunk / np.float32(255)
