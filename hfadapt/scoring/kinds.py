"""The kinds of answer: what each counts as its prediction, and which metrics it offers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, get_args

import numpy as np
from numpy.typing import NDArray

from hfadapt.errors import HfadaptError, did_you_mean
from hfadapt.kind import Kind
from hfadapt.scoring import counting, moments

Floats = NDArray[np.float64]

PER_LABEL = ("f1", "precision", "recall")
"""Metrics of each label, named `f1[NAME]`."""
LESS_IS_BETTER = frozenset({"rmse", "mae"})
RECALLED_AT = (1, 5, 10)
WAYS = ("image_to_text", "text_to_image")
PAIRED = tuple(f"{way}recall@{k}" for way in ("", *(f"{way}_" for way in WAYS)) for k in RECALLED_AT)
"""Metrics of pairs, which `retrieval` computes; `recall@K` is the mean of both ways."""
ZERO_SHOT = ("zero_shot_accuracy", "zero_shot_f1_macro")
"""Metrics of pairs with labels, which are told by their names."""
BASE_TO_NEW = ("base_accuracy", "new_accuracy", "harmonic_mean")
"""Metrics of pairs of which some labels are not trained on; see `base_to_new`."""


class Answers(ABC):
    """What a tally asks of a kind whose rows can be scored one by one."""

    summed: ClassVar[tuple[str, ...]]
    """Metrics that sums over the rows suffice for."""
    ranked: ClassVar[tuple[str, ...]]
    """Metrics that the rows have to be kept for; `ranking` computes them."""
    shape: tuple[tuple[int, ...], tuple[int, ...]]
    """The shapes of one row's scores and target."""
    targets: tuple[int, int] | None
    """The least and the greatest target, whole numbers; None where a target is any number."""
    ranked_columns: int

    @abstractmethod
    def __init__(self, names: Sequence[str]):
        """For labels of these names, in the order of their ids."""

    @abstractmethod
    def predicted(self, scores: Floats) -> NDArray[Any]:
        """What is predicted: label ids (rows,), 0 or 1 (rows, labels), or numbers (rows,)."""

    @abstractmethod
    def summands(self, predicted: NDArray[Any], true: NDArray[Any]) -> NDArray[np.floating]:
        """What to sum: (rows, columns), the first column all ones."""

    @abstractmethod
    def metrics(self, sums: Floats) -> dict[str, Floats]:
        """The metrics of sums (samples, columns) → (samples,) each."""

    @abstractmethod
    def to_rank(self, scores: Floats, true: NDArray[Any]) -> tuple[Floats, NDArray[Any]]:
        """What to keep for the ranked metrics: scores and outcomes, (rows, ranked_columns) each."""


class OneLabel(Answers):
    """One label a row; the prediction is the most probable one."""

    summed = (
        "accuracy",
        "balanced_accuracy",
        "f1_macro",
        "f1_micro",
        "precision_macro",
        "recall_macro",
        "mcc",
    )
    ranked = ("roc_auc",)

    def __init__(self, names: Sequence[str]):
        self.names = tuple(names)
        self.shape = (len(names),), ()
        self.targets = 0, len(names) - 1
        # of two labels the second's probability says all, of more each is ranked against the rest
        self._ranked = np.array([1]) if len(names) == 2 else np.arange(len(names))
        self.ranked_columns = len(self._ranked)

    def predicted(self, scores: Floats) -> NDArray[Any]:
        return np.asarray(scores.argmax(axis=1))

    def summands(self, predicted: NDArray[Any], true: NDArray[Any]) -> NDArray[np.floating]:
        every = np.arange(len(self.names))
        return counting.summands(predicted[:, None] == every, true[:, None] == every)

    def metrics(self, sums: Floats) -> dict[str, Floats]:
        return counting.label_metrics(sums, self.names)

    def to_rank(self, scores: Floats, true: NDArray[Any]) -> tuple[Floats, NDArray[Any]]:
        return scores[:, self._ranked], true[:, None] == self._ranked


class SeveralLabels(Answers):
    """Any number of labels a row; those of at least even probability are predicted."""

    summed = ("f1_micro", "f1_macro", "precision_micro", "recall_micro", "exact_match")
    ranked = ("roc_auc_macro", "map")

    def __init__(self, names: Sequence[str]):
        self.names = tuple(names)
        self.shape = (len(names),), (len(names),)
        self.targets = 0, 1
        self.ranked_columns = len(names)

    def predicted(self, scores: Floats) -> NDArray[Any]:
        return (scores >= 0.5).astype(np.int64)

    def summands(self, predicted: NDArray[Any], true: NDArray[Any]) -> NDArray[np.floating]:
        return counting.summands(predicted > 0, true > 0)

    def metrics(self, sums: Floats) -> dict[str, Floats]:
        return counting.labels_metrics(sums, self.names)

    def to_rank(self, scores: Floats, true: NDArray[Any]) -> tuple[Floats, NDArray[Any]]:
        return scores, true > 0


class Number(Answers):
    """A number a row."""

    summed = ("pearson", "rmse", "mae", "r2")
    ranked = ("spearman",)
    shape = (), ()
    targets = None
    ranked_columns = 1

    def __init__(self, names: Sequence[str]):
        self._centre: tuple[float, float] | None = None

    def predicted(self, scores: Floats) -> NDArray[Any]:
        return scores

    def summands(self, predicted: NDArray[Any], true: NDArray[Any]) -> NDArray[np.floating]:
        self._centre = self._centre or moments.centre_of(predicted, true)
        return moments.summands(predicted, true, self._centre)

    def metrics(self, sums: Floats) -> dict[str, Floats]:
        return moments.number_metrics(sums)

    def to_rank(self, scores: Floats, true: NDArray[Any]) -> tuple[Floats, NDArray[Any]]:
        return scores[:, None], true[:, None]


STREAMED: Mapping[Kind, type[Answers]] = {
    "label": OneLabel,
    "labels": SeveralLabels,
    "number": Number,
}
"""The kinds that a tally counts row by row; pairs are judged all together, by `retrieval`."""


def names_for(kind: Kind, names: Sequence[str]) -> tuple[str, ...]:
    """The metrics that a kind offers for labels of these names (none for numbers, and for pairs without labels)."""
    if kind == "pairs":
        return (*PAIRED, *ZERO_SHOT) if names else PAIRED
    of = STREAMED[kind]
    per_label = [f"{metric}[{name}]" for metric in PER_LABEL for name in names] if kind != "number" else []
    return (*of.summed, *of.ranked, *per_label)


def best_first(metric_name: str) -> bool:
    """Whether more of the metric is better.

    Raises:
        HfadaptError: no kind offers such a metric.
    """
    of_labels = (*ZERO_SHOT, *BASE_TO_NEW)
    known = list(dict.fromkeys([name for kind in get_args(Kind) for name in names_for(kind, ())] + [*of_labels]))
    metric, bracket, _ = metric_name.partition("[")
    if metric_name not in known and not (metric in PER_LABEL and bracket and metric_name.endswith("]")):
        raise HfadaptError(f"There is no metric '{metric_name}'. {did_you_mean(metric_name, known)}")
    return metric_name not in LESS_IS_BETTER
