"""What simple methods reach on the same split, counted by the same code as the model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from hfadapt.kind import Kind
from hfadapt.scoring.regression import Regression
from hfadapt.scoring.tally import Score, Tally

Floats = NDArray[np.float64]

MOST_TRAIN_ROWS = 50_000
"""The regression on words learns from a sample of so many rows; more would take minutes."""
MANY_ROWS = 20_000
"""With more rows than this, words and pairs of words that occur in one row only are left out."""
CHUNK = 2000
WORDS = Regression(
    strengths=(10.0, 1.0),
    # saga to three digits: as accurate here as the default solver, in a tenth of its time
    solver={"solver": "saga", "tol": 1e-3, "random_state": 0},
)


class Rows(Protocol):
    """Rows to learn from or to be judged on, of texts or of pictures."""

    @property
    def targets(self) -> NDArray[Any]:
        """As `Tally.add` takes them: (rows,) label ids or numbers, or (rows, labels) of 0 and 1."""

    def __len__(self) -> int: ...

    def take(self, rows: NDArray[np.int64]) -> Self:
        """The rows at these places."""

    def chunks(self) -> Iterator[Self]:
        """All rows in order, a few at a time."""


Model = Callable[[Any], Floats]
"""From rows to what a tally takes as predictions of them."""


@dataclass(frozen=True)
class Texts:
    """Rows to learn from or to be judged on."""

    text: Sequence[str]
    text_pair: Sequence[str] | None
    targets: NDArray[Any]
    """As in `Rows`."""

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
    models = usual(kind, names, train)
    words = _tfidf(kind, names, train, seed)
    if words is not None:
        models["tfidf"] = words
    return {
        name: {
            split: judged(model, kind, names, rows, seed=seed, replicates=replicates) for split, rows in splits.items()
        }
        for name, model in models.items()
    }


def judged(
    model: Model, kind: Kind, names: Sequence[str], rows: Rows, *, seed: int, replicates: int
) -> dict[str, Score]:
    """The scores of a model on rows."""
    tally = Tally(kind, names, replicates=replicates, seed=seed)
    for chunk in rows.chunks():
        tally.add(model(chunk), chunk.targets)
    return tally.scores()


def usual(kind: Kind, names: Sequence[str], train: Rows) -> dict[str, Model]:
    """`majority`, or `mean` for numbers: every row is given the label frequencies or the mean of the training rows."""
    if kind == "label":
        mean = np.bincount(train.targets.astype(np.int64), minlength=len(names)) / len(train)
    else:
        mean = np.asarray(train.targets, np.float64).mean(axis=0)
    name = "mean" if kind == "number" else "majority"
    return {name: lambda rows: np.broadcast_to(mean, (len(rows), *mean.shape))}


def sample(rows: int, most: int, random: np.random.Generator) -> NDArray[np.int64]:
    """The places of so many rows at most, in order, drawn without replacement."""
    return np.sort(random.permutation(rows)[:most])


def _tfidf(kind: Kind, names: Sequence[str], train: Texts, seed: int) -> Model | None:
    """The regression on words; None where there are no words."""
    random = np.random.default_rng([seed, 3])
    train = train.take(sample(len(train), MOST_TRAIN_ROWS, random))
    features = _features(train)
    if features is None:
        return None
    fitted = WORDS.fit(kind, features(train), train.targets, names, random)
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
