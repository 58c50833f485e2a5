"""What simple methods reach on the same split, counted by the same code as the model."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hfadapt.kind import Kind
from hfadapt.scoring.tally import Score, Tally

Floats = NDArray[np.float64]
Model = Callable[["Texts"], Floats]
"""From rows to what a tally takes as predictions of them."""

MOST_TRAIN_ROWS = 50_000
"""A baseline learns from a sample of so many rows; more would take minutes."""
MANY_ROWS = 20_000
"""With more rows than this, words and pairs of words that occur in one row only are left out."""
FEWEST_TO_CHOOSE = 50
"""With fewer rows than this, a tenth is too few to choose the regularisation on."""
STRENGTHS = (10.0, 1.0)
"""Inverse regularisation (scikit-learn's C) to choose from; the first where there is no choosing."""
CHUNK = 2000


@dataclass(frozen=True)
class Texts:
    """Rows to learn from or to be judged on."""

    text: Sequence[str]
    text_pair: Sequence[str] | None
    targets: NDArray[Any]
    """As `Tally.add` takes them: (rows,) label ids or numbers, or (rows, labels) of 0 and 1."""

    def __len__(self) -> int:
        return len(self.targets)

    def take(self, rows: NDArray[np.int64]) -> Texts:
        """The rows at these places."""
        pair = None if self.text_pair is None else [self.text_pair[int(i)] for i in rows]
        return Texts([self.text[int(i)] for i in rows], pair, self.targets[rows])

    def chunks(self) -> Iterator[Texts]:
        """All rows in order, a few at a time."""
        for start in range(0, len(self), CHUNK):
            part = slice(start, start + CHUNK)
            pair = None if self.text_pair is None else self.text_pair[part]
            yield Texts(self.text[part], pair, self.targets[part])


def text_baselines(
    kind: Kind, names: Sequence[str], train: Texts, splits: Mapping[str, Texts], *, seed: int, replicates: int
) -> dict[str, dict[str, dict[str, Score]]]:
    """The scores of two baselines, by baseline, split and metric.

    `majority` (`mean` for numbers) gives every row the label frequencies (the mean) of the training
    rows. `tfidf` is a logistic (ridge) regression on words and pairs of words, weighted by TF-IDF
    with logarithmic counts; it is left out where the training texts hold no words.

    Args:
        kind: what a row is given.
        names: the labels in the order of their ids; empty for numbers.
        train: the rows to learn from.
        splits: the rows to be judged on, by the name of the split.
        seed: what samples and intervals depend on.
        replicates: bootstrap replicates for the intervals; 0 for none.
    """
    models = {"mean" if kind == "number" else "majority": _majority(kind, names, train)}
    words = _tfidf(kind, names, train, seed)
    if words is not None:
        models["tfidf"] = words

    def scores(model: Model, split: Texts) -> dict[str, Score]:
        tally = Tally(kind, names, replicates=replicates, seed=seed)
        for chunk in split.chunks():
            tally.add(model(chunk), chunk.targets)
        return tally.scores()

    return {name: {split: scores(model, rows) for split, rows in splits.items()} for name, model in models.items()}


def _majority(kind: Kind, names: Sequence[str], train: Texts) -> Model:
    if kind == "label":
        usual = np.bincount(train.targets.astype(np.int64), minlength=len(names)) / len(train)
    else:
        usual = np.asarray(train.targets, np.float64).mean(axis=0)
    return lambda rows: np.broadcast_to(usual, (len(rows), *usual.shape))


def _tfidf(kind: Kind, names: Sequence[str], train: Texts, seed: int) -> Model | None:
    """The regression on words; None where there are no words."""
    random = np.random.default_rng([seed, 3])
    train = train.take(np.sort(random.permutation(len(train))[:MOST_TRAIN_ROWS]))
    features = _features(train)
    if features is None:
        return None
    seen = features(train)
    fit = {"label": _fit_label, "labels": _fit_labels, "number": _fit_number}[kind]
    with _unhurried():
        strength = STRENGTHS[0]
        if len(train) >= FEWEST_TO_CHOOSE:
            shuffled = random.permutation(len(train))
            held, rest = np.split(shuffled, [len(train) // 10])
            loss = {}
            for candidate in STRENGTHS:
                guess = fit(seen[rest], train.targets[rest], names, candidate)(seen[held])
                loss[candidate] = _loss(kind, guess, train.targets[held])
            strength = min(STRENGTHS, key=loss.__getitem__)
        fitted = fit(seen, train.targets, names, strength)
    return lambda rows: fitted(features(rows))


def _features(train: Texts) -> Callable[[Texts], Any] | None:
    """From rows to a sparse matrix (rows, features); None where the training texts hold no words.

    For pairs of texts a and b: |a - b|, a * b and their cosine.
    """
    from scipy import sparse
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectors = TfidfVectorizer(
        ngram_range=(1, 2), sublinear_tf=True, min_df=2 if len(train) > MANY_ROWS else 1, max_features=200_000
    )
    try:
        vectors.fit([*train.text, *(train.text_pair or ())])
    except ValueError:  # 'empty vocabulary', and nothing else for a list of strings
        return None

    def of(rows: Texts) -> Any:
        a = vectors.transform(rows.text)
        if rows.text_pair is None:
            return a
        b = vectors.transform(rows.text_pair)
        both = a.multiply(b)
        cosine = sparse.csr_matrix(np.asarray(both.sum(axis=1)).reshape(-1, 1))  # the rows have length 1
        return sparse.hstack([abs(a - b), both, cosine]).tocsr()

    return of


Fitted = Callable[[Any], Floats]


def _fit_label(seen: Any, targets: NDArray[Any], names: Sequence[str], strength: float) -> Fitted:
    """Probabilities (rows, labels) from a logistic regression; labels that were never seen get 0."""
    from sklearn.linear_model import LogisticRegression

    known, ids = np.unique(targets.astype(np.int64), return_inverse=True)
    # saga to three digits: as accurate here as the default solver, in a tenth of its time
    model = LogisticRegression(C=strength, solver="saga", tol=1e-3, random_state=0)
    if len(known) > 1:
        model.fit(seen, ids)

    def predict(rows: Any) -> Floats:
        probabilities = np.zeros((rows.shape[0], len(names)))
        probabilities[:, known] = model.predict_proba(rows) if len(known) > 1 else 1.0
        return probabilities

    return predict


def _fit_labels(seen: Any, targets: NDArray[Any], names: Sequence[str], strength: float) -> Fitted:
    """Probabilities (rows, labels) from one regression a label."""
    models = [_fit_label(seen, column, ("no", "yes"), strength) for column in targets.T]
    return lambda rows: np.column_stack([model(rows)[:, 1] for model in models])


def _fit_number(seen: Any, targets: NDArray[Any], names: Sequence[str], strength: float) -> Fitted:
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
    """No ConvergenceWarning: a regression a little short of its optimum is still a fair baseline."""
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        yield
