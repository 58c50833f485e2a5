"""Metrics of predicted numbers that are functions of sums of powers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

ROUNDING = 1e-12
"""A sum of squares is taken as 0 below this share of what it was computed from."""


def summands(predicted: Floats, true: Floats, centre: tuple[float, float]) -> Floats:
    """What to sum; predicted, true: (rows,).

    Without a centre near the data (`centre_of` the first rows), numbers far from 0 with a small
    spread, such as years, would lose their variance to rounding.

    Returns:
        (rows, 8): 1, the centred p and t, p², t², p·t, and the error's square and size.
    """
    p, t = predicted - centre[0], true - centre[1]
    error = predicted - true
    return np.column_stack([np.ones_like(p), p, t, p * p, t * t, p * t, error * error, np.abs(error)])


def centre_of(predicted: Floats, true: Floats) -> tuple[float, float]:
    """Where to centre: the medians, which for constants are exact, as a mean is not."""
    return float(np.median(predicted)), float(np.median(true))


def number_metrics(sums: Floats) -> dict[str, Floats]:
    """Metrics per weighting: sums (samples, 8) → (samples,); NaN where undefined.

    Pearson's correlation is undefined where predictions or targets are all alike, R² where the
    targets are.
    """
    rows, p, t, pp, tt, pt, squared, size = sums.T
    spread_p, spread_t = _spread(pp, p, rows), _spread(tt, t, rows)
    together = pt - p * t / rows
    return {
        "pearson": np.clip(together / np.sqrt(spread_p * spread_t), -1, 1),
        "rmse": np.sqrt(squared / rows),
        "mae": size / rows,
        "r2": 1 - squared / spread_t,
    }


def _spread(squares: Floats, total: Floats, rows: Floats) -> Floats:
    """The sum of squares about the mean; NaN where it is 0 but for rounding."""
    spread = squares - total**2 / rows
    return np.where(spread > ROUNDING * squares, spread, np.nan)
