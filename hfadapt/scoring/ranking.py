"""Metrics that depend on the order of all scores, so that rows have to be kept.

The values are those of scikit-learn and scipy, as tests hold. Here the statistic is computed for many weightings of the
rows at once, from one sort: a call of `roc_auc_score` costs 3 ms whatever the number of rows, which dozens of labels
times a thousand replicates turn into minutes for each model and split.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hfadapt.scoring.sums import poisson_weights

Floats = NDArray[np.float64]

MOST_WORK = 50_000_000
"""Replicates are cut so that rows * columns * replicates stays below this: a few seconds."""
FEWEST_REPLICATES = 40
"""But never below this (or below what was asked for), the least that two 2.5% tails can be read from."""
SLICE = 1_000_000
"""Weights are drawn for so many rows * replicates at a time."""


def replicates_for(rows: int, columns: int, asked: int) -> int:
    """How many bootstrap replicates so many rows and columns get."""
    return min(asked, max(FEWEST_REPLICATES, MOST_WORK // max(1, rows * columns)))


def samples(metric: str, scores: Floats, truths: NDArray[Any], replicates: int, seed: int) -> Floats:
    """The metric on the rows, then on each bootstrap replicate of them; NaN where undefined.

    Args:
        metric: `roc_auc`, `roc_auc_macro` or `map`, each the mean over columns, or `spearman`.
        scores: (rows, columns); one column for `spearman`.
        truths: (rows, columns): outcomes, or numbers for `spearman`.

    Returns:
        (1 + replicates,), with fewer replicates than asked for where the rows are many.
    """
    columns = [_METRICS[metric](s, t) for s, t in zip(scores.T, truths.T, strict=True)]
    values = [_mean(np.array([column(np.ones((len(scores), 1))) for column in columns]))]
    replicates = replicates_for(len(scores), scores.shape[1], replicates)
    random = np.random.default_rng([seed, 2])
    width = max(1, SLICE // max(1, len(scores)))
    for start in range(0, replicates, width):
        weights = poisson_weights(random, len(scores), min(width, replicates - start))
        values.append(_mean(np.array([column(weights.astype(np.float64)) for column in columns])))
    return np.concatenate(values)


def _mean(columns: Floats) -> Floats:
    """The mean over the columns that are defined: (columns, samples) → (samples,)."""
    defined = np.isfinite(columns)
    return _ratio(np.where(defined, columns, 0.0).sum(axis=0), defined.sum(axis=0).astype(np.float64))


def _ratio(above: Floats, below: Floats) -> Floats:
    return np.divide(above, below, out=np.full_like(above, np.nan), where=below > 0)


class _Sorted:
    """Rows in the order of their scores, with rows of equal score as one group."""

    def __init__(self, scores: Floats):
        self.order = np.argsort(scores, kind="stable")
        ordered = scores[self.order]
        new = np.append(True, ordered[1:] != ordered[:-1])
        self.starts = np.flatnonzero(new)
        self.group = np.cumsum(new) - 1

    def totals(self, weights: Floats) -> Floats:
        """The weight of each group: (rows, samples) in sorted order → (groups, samples)."""
        if len(self.starts) == len(self.order):
            return weights
        return np.asarray(np.add.reduceat(weights, self.starts, axis=0))


Weighted = Callable[[Floats], Floats]
"""From weights (rows, samples) to the metric of each sample (samples,)."""


def _weighted_roc_auc(scores: Floats, outcomes: Floats) -> Weighted:
    in_order = _Sorted(scores)
    happened = outcomes[in_order.order].astype(bool)[:, None]

    def of(weights: Floats) -> Floats:
        weights = weights[in_order.order]
        yes = in_order.totals(weights * happened)
        no = in_order.totals(weights * ~happened)
        below = np.cumsum(no, axis=0)
        won = (yes * (below - no / 2)).sum(axis=0)
        return _ratio(won, yes.sum(axis=0) * below[-1])

    return of


def _weighted_average_precision(scores: Floats, outcomes: Floats) -> Weighted:
    in_order = _Sorted(-scores)
    happened = outcomes[in_order.order].astype(bool)[:, None]

    def of(weights: Floats) -> Floats:
        weights = weights[in_order.order]
        yes = in_order.totals(weights * happened)
        found, shown = np.cumsum(yes, axis=0), np.cumsum(in_order.totals(weights), axis=0)
        precision = np.divide(found, shown, out=np.zeros_like(found), where=shown > 0)
        return _ratio((yes * precision).sum(axis=0), found[-1])

    return of


def _weighted_spearman(predicted: Floats, true: Floats) -> Weighted:
    orders = (_Sorted(predicted), _Sorted(true))

    def ranks(in_order: _Sorted, weights: Floats) -> Floats:
        """The mean rank of each row's copies among all copies, about its mean, in the rows' own order."""
        totals = in_order.totals(weights[in_order.order])
        middle = np.cumsum(totals, axis=0) - totals / 2 - totals.sum(axis=0) / 2
        back = np.empty_like(in_order.order)
        back[in_order.order] = in_order.group
        return np.asarray(middle[back])

    def of(weights: Floats) -> Floats:
        p, t = (ranks(in_order, weights) for in_order in orders)
        together = (weights * p * t).sum(axis=0)
        return _ratio(together, np.sqrt((weights * p * p).sum(axis=0) * (weights * t * t).sum(axis=0)))

    return of


_METRICS: dict[str, Callable[[Floats, Any], Weighted]] = {
    "roc_auc": _weighted_roc_auc,
    "roc_auc_macro": _weighted_roc_auc,
    "map": _weighted_average_precision,
    "spearman": _weighted_spearman,
}
