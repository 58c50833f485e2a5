"""The regressions behind the baselines: logistic for labels, ridge for numbers."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hfadapt.kind import Kind

Floats = NDArray[np.float64]
Fitted = Callable[[Any], Floats]
"""From features (rows, features) to what a tally takes as predictions of them."""

FEWEST_TO_CHOOSE = 50
"""With fewer rows than this, a tenth is too few to choose the regularisation on."""


@dataclass(frozen=True)
class Regression:
    """A regression whose regularisation is chosen on a tenth of the rows."""

    strengths: tuple[float, ...]
    """Inverse regularisation (scikit-learn's C) to choose from; the first where there is no choosing."""
    solver: Mapping[str, Any]
    """Further arguments of scikit-learn's LogisticRegression."""

    def fit(
        self, kind: Kind, seen: Any, targets: NDArray[Any], names: Sequence[str], random: np.random.Generator
    ) -> Fitted:
        """Learn from seen, (rows, features), dense or sparse, and targets as `Tally.add` takes them.

        names: the labels in the order of their ids; empty for numbers.
        """
        strength = self.strengths[0]
        with _unhurried():
            if len(targets) >= FEWEST_TO_CHOOSE and len(self.strengths) > 1:
                shuffled = random.permutation(len(targets))
                held, rest = np.split(shuffled, [len(targets) // 10])
                loss = {}
                for candidate in self.strengths:
                    guess = self._fit(kind, seen[rest], targets[rest], names, candidate)(seen[held])
                    loss[candidate] = _loss(kind, guess, targets[held])
                strength = min(self.strengths, key=loss.__getitem__)
            return self._fit(kind, seen, targets, names, strength)

    def _fit(self, kind: Kind, seen: Any, targets: NDArray[Any], names: Sequence[str], strength: float) -> Fitted:
        if kind == "number":
            return _fit_number(seen, targets, strength)
        if kind == "label":
            return self._fit_label(seen, targets, len(names), strength)
        models = [self._fit_label(seen, column, 2, strength) for column in targets.T]
        return lambda rows: np.column_stack([model(rows)[:, 1] for model in models])

    def _fit_label(self, seen: Any, targets: NDArray[Any], labels: int, strength: float) -> Fitted:
        """Probabilities (rows, labels) from a logistic regression; labels that were never seen get 0."""
        from sklearn.linear_model import LogisticRegression

        known, ids = np.unique(targets.astype(np.int64), return_inverse=True)
        model = LogisticRegression(C=strength, **self.solver)
        if len(known) > 1:
            model.fit(seen, ids)

        def predict(rows: Any) -> Floats:
            probabilities = np.zeros((rows.shape[0], labels))
            probabilities[:, known] = model.predict_proba(rows) if len(known) > 1 else 1.0
            return probabilities

        return predict


def _fit_number(seen: Any, targets: NDArray[Any], strength: float) -> Fitted:
    """Numbers (rows,) from a ridge regression."""
    from sklearn.linear_model import Ridge

    model = Ridge(alpha=1 / strength).fit(seen, targets.astype(np.float64))
    return lambda rows: np.asarray(model.predict(rows), np.float64)


def _loss(kind: Kind, predicted: Floats, targets: NDArray[Any]) -> float:
    """The mean log loss, or the mean squared error of numbers."""
    if kind == "number":
        return float(((predicted - targets) ** 2).mean())
    chances = np.clip(predicted, 1e-6, 1 - 1e-6)
    if kind == "label":
        return float(-np.log(chances[np.arange(len(targets)), targets.astype(np.int64)]).mean())
    return float(-np.where(targets > 0, np.log(chances), np.log(1 - chances)).mean())


@contextmanager
def _unhurried() -> Iterator[None]:
    """No ConvergenceWarning, a regression a little short of its optimum is still a fair baseline; and no doubt that
    labels are labels where many of them have few rows."""
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.filterwarnings("ignore", "The number of unique classes is greater than 50%", UserWarning)
        yield
