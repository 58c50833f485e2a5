"""Metrics that are functions of counts: how often each label was predicted, true, and both.

Undefined ratios are 0, as in scikit-learn with `zero_division=0`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


def summands(predicted: Bools, true: Bools) -> NDArray[np.float32]:
    """What to sum; predicted, true: (rows, labels), of which one a row or any number.

    Returns:
        (rows, 2 + 3 * labels): 1, wholly right, then for each label both, predicted, true.
    """
    whole = (predicted == true).all(axis=1, keepdims=True)
    parts = [np.ones_like(whole), whole, predicted & true, predicted, true]
    return np.hstack(parts).astype(np.float32)


def label_metrics(sums: Floats, names: Sequence[str]) -> dict[str, Floats]:
    """Metrics of rows with one label each, per weighting: sums (samples, 2 + 3 * labels) → (samples,)."""
    rows, right, both, predicted, true = _parts(sums, len(names))
    precision, recall, f1 = _ratios(both, predicted, true)
    accuracy = right / rows
    seen = (predicted + true) > 0
    return {
        "accuracy": accuracy,
        "balanced_accuracy": _mean(recall, true > 0),
        "f1_macro": _mean(f1, seen),
        "f1_micro": accuracy,  # each row predicts one label and has one, so micro F1 is accuracy
        "precision_macro": _mean(precision, seen),
        "recall_macro": _mean(recall, seen),
        "mcc": _mcc(rows, right, predicted, true),
        **_per_label(names, f1=f1, precision=precision, recall=recall),
    }


def labels_metrics(sums: Floats, names: Sequence[str]) -> dict[str, Floats]:
    """Metrics of rows with several labels, per weighting: sums (samples, 2 + 3 * labels) → (samples,)."""
    rows, right, both, predicted, true = _parts(sums, len(names))
    precision, recall, f1 = _ratios(both, predicted, true)
    micro = _ratios(both.sum(axis=1), predicted.sum(axis=1), true.sum(axis=1))
    return {
        "f1_micro": micro[2],
        "f1_macro": f1.mean(axis=1),  # over every label, seen or not: scikit-learn's rule for several labels
        "precision_micro": micro[0],
        "recall_micro": micro[1],
        "exact_match": right / rows,
        **_per_label(names, f1=f1, precision=precision, recall=recall),
    }


def _parts(sums: Floats, labels: int) -> tuple[Floats, Floats, Floats, Floats, Floats]:
    both, predicted, true = np.split(sums[:, 2:], [labels, 2 * labels], axis=1)
    return sums[:, 0], sums[:, 1], both, predicted, true


def _ratios(both: Floats, predicted: Floats, true: Floats) -> tuple[Floats, Floats, Floats]:
    """Precision, recall and F1."""
    return _divide(both, predicted), _divide(both, true), _divide(2 * both, predicted + true)


def _divide(above: Floats, below: Floats) -> Floats:
    return np.divide(above, below, out=np.zeros_like(above), where=below > 0)


def _mean(values: Floats, where: Bools) -> Floats:
    return _divide((values * where).sum(axis=1), where.sum(axis=1).astype(np.float64))


def _mcc(rows: Floats, right: Floats, predicted: Floats, true: Floats) -> Floats:
    """Matthews' correlation (Gorodkin 2004, 'Comparing two K-category assignments …')."""
    covariance = right * rows - (predicted * true).sum(axis=1)
    spread = (rows**2 - (predicted**2).sum(axis=1)) * (rows**2 - (true**2).sum(axis=1))
    return _divide(covariance, np.sqrt(spread))


def _per_label(names: Sequence[str], **ratios: Floats) -> dict[str, Floats]:
    return {f"{ratio}[{name}]": of[:, i] for ratio, of in ratios.items() for i, name in enumerate(names)}
