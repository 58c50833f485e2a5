"""A stream of predictions in, scores with intervals out; memory does not grow with the rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hfadapt.errors import HfadaptError, did_you_mean
from hfadapt.kind import Kind
from hfadapt.scoring import ranking
from hfadapt.scoring.kinds import STREAMED, best_first, names_for
from hfadapt.scoring.reservoir import Reservoir
from hfadapt.scoring.sums import Sums

if TYPE_CHECKING:
    from hfadapt.scoring.evaluated import ExtraMetric

__all__ = ["Kind", "Score", "Tally", "best_first", "names_for"]

Floats = NDArray[np.float64]

BLOCK_ROWS = 1024
"""Rows are summed in blocks of so many, however they come, so that rounding is the same too."""
BLOCK_VALUES = 2**20
"""Blocks are shorter where rows times labels would exceed this."""
MOST_SUMS = 10_000_000
"""Replicates are cut so that replicates times labels stays below this: 240 MB of sums."""
MOST_CONFUSED = 1000
"""With more labels than this, which was taken for which is not counted: the counts are labels squared."""


@dataclass(frozen=True)
class Score:
    """A metric's value with its 95% interval."""

    value: float
    low: float | None
    """None, like `high`, where no interval was asked for or the metric has none."""
    high: float | None
    rows: int
    """How many rows the value was computed from."""

    def as_dict(self) -> dict[str, float | int | None]:
        """For JSON."""
        return asdict(self)


class Tally:
    """Counts predictions against targets, in batches of any size; the cuts do not change the scores.

    Intervals are percentiles over bootstrap replicates. They say how much a score would vary with
    other rows of the same kind, not with other training runs; where every row is right they have
    no width. Rank metrics (ROC-AUC, average precision, Spearman) are exact up to
    `reservoir.MOST_ROWS` rows, and beyond come from a uniform sample of that size.
    """

    def __init__(
        self,
        kind: Kind,
        names: Sequence[str],
        *,
        replicates: int = 0,
        seed: int = 0,
        only: Sequence[str] | None = None,
        extra: Sequence[ExtraMetric] = (),
    ):
        """Start an empty tally.

        Args:
            kind: what a row is given; not `pairs`, for which there is `retrieval.Retrieval`.
            names: the labels in the order of their ids; empty for numbers.
            replicates: bootstrap replicates; 0 for no intervals.
            seed: what the bootstrap and the sampling of rows depend on.
            only: the built-in metrics wanted; all by default.
            extra: metrics of the `evaluate` library, computed beside the built-in ones.

        Raises:
            HfadaptError: `only` names metrics that this kind does not offer.
        """
        offered = names_for(kind, names)
        unknown = [metric for metric in only or () if metric not in offered]
        if unknown:
            raise HfadaptError(*(f"There is no metric '{m}' here. {did_you_mean(m, offered)}" for m in unknown))
        self._wanted = tuple(metric for metric in offered if only is None or metric in only)
        self._of = STREAMED[kind](names)
        self._extra, self._replicates, self._seed = tuple(extra), replicates, seed
        labels = max(1, len(names))
        self._block = max(1, min(BLOCK_ROWS, BLOCK_VALUES // labels))
        self._sums = Sums(min(replicates, max(1, MOST_SUMS // labels)), seed)
        ranked = any(metric in self._wanted for metric in self._of.ranked)
        self._kept = Reservoir(self._of.ranked_columns, seed) if ranked else None
        counted = kind == "label" and labels <= MOST_CONFUSED
        self._confusion = np.zeros((labels, labels), np.int64) if counted else None
        self._waiting: tuple[Floats, NDArray[Any]] | None = None
        self._rows = 0
        self._scores: dict[str, Score] | None = None

    def add(self, predicted: NDArray[Any], targets: NDArray[Any]) -> None:
        """Count rows.

        Args:
            predicted: (rows, labels) probabilities, of which the greatest (`label`) or those of at
                least 0.5 (`labels`) are predicted; (rows,) numbers for `number`.
            targets: (rows,) label ids; (rows, labels) of 0 and 1; (rows,) numbers.

        Raises:
            HfadaptError: a prediction or target is not a finite number, or a target is no label.
            ValueError: wrong shapes.
        """
        if self._scores is not None:
            raise RuntimeError("Tally.add was called after Tally.scores, which ends the stream")
        predicted, targets = np.asarray(predicted, np.float64), np.asarray(targets)
        expected = tuple((len(predicted), *row) for row in self._of.shape)
        if (predicted.shape, targets.shape) != expected:
            raise ValueError(f"expected shapes {expected}, got {predicted.shape} and {targets.shape}")
        refuse_predictions(predicted)
        _refuse_targets(targets, self._of.targets)
        self._rows += len(predicted)
        self._in_blocks(predicted, targets.astype(np.float64 if self._of.targets is None else np.int64))

    def scores(self) -> dict[str, Score]:
        """The scores of all rows; no more can be added. Metrics that are undefined for them are left out."""
        if self._scores is None:
            if self._waiting is not None and len(self._waiting[0]):
                self._count(*self._waiting)
            self._waiting = None
            self._scores = {**self._built_in(), **self._others()} if self._rows else {}
        return dict(self._scores)

    @property
    def confusion(self) -> NDArray[np.int64] | None:
        """How many rows of each label (first axis) were given each label (second axis): (labels, labels).

        No more can be added then. None for other kinds than `label`, and for more than
        `MOST_CONFUSED` labels.
        """
        self.scores()
        return self._confusion

    def _in_blocks(self, predicted: Floats, targets: NDArray[Any]) -> None:
        if self._waiting is not None:
            predicted = np.concatenate([self._waiting[0], predicted])
            targets = np.concatenate([self._waiting[1], targets])
        whole = len(predicted) - len(predicted) % self._block
        for start in range(0, whole, self._block):
            self._count(predicted[start : start + self._block], targets[start : start + self._block])
        # copied: a view would keep the caller's whole array alive
        self._waiting = predicted[whole:].copy(), targets[whole:].copy()

    def _count(self, scores: Floats, targets: NDArray[Any]) -> None:
        predicted = self._of.predicted(scores)
        with np.errstate(over="ignore", invalid="ignore"):  # a number too great to square leaves its metrics out
            self._sums.add(self._of.summands(predicted, targets))
        if self._confusion is not None:
            np.add.at(self._confusion, (targets, predicted), 1)
        if self._kept is not None:
            self._kept.add(*self._of.to_rank(scores, targets))
        for metric in self._extra:
            metric.add(predicted, targets)

    def _built_in(self) -> dict[str, Score]:
        with np.errstate(all="ignore"):  # what overflows or is undefined becomes NaN, and is left out
            found = {metric: score_of(s, self._rows) for metric, s in self._of.metrics(self._sums.samples()).items()}
        if self._kept is not None:
            kept = self._kept.rows()
            for metric in set(self._of.ranked) & set(self._wanted):
                samples = ranking.samples(metric, *kept, replicates=self._replicates, seed=self._seed)
                found[metric] = score_of(samples, len(kept[0]))
        return {metric: score for metric in self._wanted if (score := found[metric]) is not None}

    def _others(self) -> dict[str, Score]:
        """The extra metrics; a key that a built-in metric or an earlier one has becomes `METRIC/KEY`."""
        found: dict[str, Score] = {}
        for metric in self._extra:
            for key, value in metric.compute().items():
                name = f"{metric.name}/{key}" if key in self._wanted or key in found else key
                found[name] = Score(value, None, None, self._rows)
        return found


def refuse_predictions(predicted: Floats) -> None:
    bad = _bad_rows(~np.isfinite(predicted))
    if bad:
        raise HfadaptError(
            f"{bad:,} of {len(predicted):,} predictions are not finite numbers; training has diverged:"
            " lower the learning rate, or train in float32 or bfloat16 rather than float16."
        )


def _refuse_targets(targets: NDArray[Any], bounds: tuple[float, float] | None) -> None:
    bad, expected = _bad_rows(~np.isfinite(targets)), "finite numbers"
    if not bad and bounds is not None:
        wrong = (targets < bounds[0]) | (targets > bounds[1]) | (targets % 1 != 0)
        bad, expected = _bad_rows(wrong), f"whole numbers from {bounds[0]} to {bounds[1]}"
    if bad:
        raise HfadaptError(
            f"{bad:,} of {len(targets):,} targets are not {expected}; mend these rows or leave them out."
        )


def _bad_rows(wrong: NDArray[np.bool_]) -> int:
    return int(wrong.any(axis=tuple(range(1, wrong.ndim))).sum())


def score_of(samples: Floats, rows: int) -> Score | None:
    """A metric's value and its values on the replicates as a Score; None where the value is undefined."""
    value, resampled = float(samples[0]), samples[1:][np.isfinite(samples[1:])]
    if not np.isfinite(value):
        return None
    if not len(resampled):
        return Score(value, None, None, rows)
    low, high = np.percentile(resampled, [2.5, 97.5])
    # labels of few rows bias the replicates of macro metrics, at times all to one side of the value
    return Score(value, min(value, float(low)), max(value, float(high)), rows)
