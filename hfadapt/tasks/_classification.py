"""What all tasks that answer with labels or a number share: kinds of problem, losses, answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, field_validator
from pydantic_core import PydanticCustomError

from hfadapt.kind import IGNORED, Kind
from hfadapt.section import Section
from hfadapt.tasks.base import Task

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor
    from transformers import PreTrainedConfig

    from hfadapt.data.labels import Labels

ProblemType = Literal["single_label_classification", "multi_label_classification", "regression"]
_KINDS: dict[str, Kind] = {
    "single_label_classification": "label",
    "multi_label_classification": "labels",
    "regression": "number",
}
VALUE = "value"
"""What the answer of a regression is called."""


class Loss(Section):
    """Changes to the usual loss: cross-entropy, binary cross-entropy, or squared error."""

    class_weights: Literal["balanced"] | dict[str, Annotated[float, Field(ge=0)]] | None = None
    """A factor on the loss of each label: by name, or `balanced` for the inverse of its frequency.
    Labels that are not named have 1. The factors are scaled to average 1 over the training rows."""
    focal: Annotated[float, Field(ge=0)] = 0.0
    """The exponent of the focal loss (Lin et al. 2017, https://arxiv.org/abs/1708.02002); 0 is none."""


class Classification(Task):
    """The base of tasks whose model ends in one logit a label."""

    problem_type: ProblemType | None = None
    """transformers' name for the kind of problem; by default told from the targets: lists are
    multi-label, anything else is single-label. A regression is only ever asked for."""
    loss: Loss = Loss()
    """Class weights and focal loss; label smoothing is `train.label_smoothing_factor`."""

    @field_validator("loss")
    @classmethod
    def _fits(cls, loss: Loss, info: Any) -> Loss:
        if info.data.get("problem_type") == "regression" and loss != Loss():
            raise PydanticCustomError("refused", "A regression has no classes to weigh.")
        return loss

    def kind(self, target: Sequence[Any], separator: str | None) -> Kind:
        """The kind that the recipe names, else multi-label for lists and single-label for the rest."""
        if self.problem_type:
            return _KINDS[self.problem_type]
        lists = sum(isinstance(value, list | tuple) for value in target)
        return "labels" if separator or lists * 2 > len(target) else "label"

    def score(self, kind: Kind) -> str:
        """Macro F1, which a rare label moves as much as a common one; Pearson's r for a number."""
        return {"label": "f1_macro", "labels": "f1_micro", "number": "pearson"}[kind]

    def configure(self, config: PreTrainedConfig, labels: Labels) -> None:
        """Set `problem_type`, `num_labels`, `id2label` and `label2id`."""
        config.problem_type = next(name for name, kind in _KINDS.items() if kind == labels.kind)
        names = labels.names or (VALUE,)
        config.id2label = dict(enumerate(names))
        config.label2id = {name: i for i, name in enumerate(names)}

    def losses(
        self,
        found: Mapping[str, Tensor],
        targets: Tensor,
        kind: Kind,
        weights: Tensor | None = None,
        smoothing: float = 0.0,
        *,
        whole: tuple[Mapping[str, Tensor], Tensor] | None = None,
    ) -> Tensor:
        """The loss of each item, 0 where its target is ignored.

        found: `logits`, (rows, labels); targets: (rows,) ids or numbers, (rows, labels) of 0 and 1, or, for one
        label a row, its shares in mixed rows, (rows, labels); weights: (labels,); result: the shape of targets.
        """
        import torch
        from torch.nn import functional

        logits = found["logits"].float()
        if kind == "number":
            squares = functional.mse_loss(logits.squeeze(-1), targets.float(), reduction="none")
            return torch.where(targets == IGNORED, 0.0, squares)
        if kind == "label":
            if targets.ndim == 2:
                return self._of_shares(logits, targets, weights, smoothing)
            losses = functional.cross_entropy(logits, targets, reduction="none", label_smoothing=smoothing)
            if self.loss.focal:
                correct = logits.softmax(-1).gather(1, targets.clamp(min=0)[:, None])[:, 0]
                losses = losses * (1 - correct) ** self.loss.focal
            return losses if weights is None else losses * weights[targets.clamp(min=0)]
        goal = targets.clamp(min=0).float()
        # A mixed row has shares of both: the losses are mixed, each with its own factors.
        losses = (1 - goal) * self._of_each(logits, 0.0, smoothing)
        losses = losses + goal * self._of_each(logits, 1.0, smoothing) * (1.0 if weights is None else weights)
        return torch.where(targets == IGNORED, 0.0, losses)

    def _of_each(self, logits: Tensor, goal: float, smoothing: float) -> Tensor:
        """Binary cross-entropy with every label present (1) or absent (0): the shape of logits."""
        import torch
        from torch.nn import functional

        goals = torch.full_like(logits, goal * (1 - smoothing) + smoothing / 2)
        losses = functional.binary_cross_entropy_with_logits(logits, goals, reduction="none")
        return losses * (goal - logits.sigmoid()).abs() ** self.loss.focal if self.loss.focal else losses

    def _of_shares(self, logits: Tensor, shares: Tensor, weights: Tensor | None, smoothing: float) -> Tensor:
        """The share of each label in a row times the loss of that label: (rows, labels), its mean the rows' mean."""
        import torch

        labels = shares.shape[1]
        chances = logits.log_softmax(-1)
        losses = -(1 - smoothing) * chances - smoothing * chances.mean(-1, keepdim=True)
        if self.loss.focal:
            losses = losses * (1 - chances.exp()) ** self.loss.focal
        if weights is not None:
            losses = losses * weights
        return torch.where(shares == IGNORED, 0.0, labels * shares * losses)

    def weights(self, targets: np.ndarray, labels: Labels) -> np.ndarray | None:
        """The factor of each label, scaled so that the training rows' factors average 1.

        targets: (rows,) ids or (rows, labels) of 0 and 1; result: (labels,).

        Raises:
            KeyError: the recipe weighs a label that is not there; planning refuses it before.
        """
        import numpy as np

        if self.loss.class_weights is None or labels.kind == "number":
            return None
        counts = np.bincount(targets, minlength=len(labels)) if labels.kind == "label" else targets.sum(0)
        if self.loss.class_weights == "balanced":
            factors = 1 / np.maximum(counts, 1)
        else:
            factors = np.ones(len(labels))
            for name, factor in self.loss.class_weights.items():
                factors[labels.id_of[name]] = factor
        return np.asarray(factors * counts.sum() / max((factors * counts).sum(), 1e-12), dtype=np.float32)

    def predictions(self, found: Mapping[str, np.ndarray], kind: Kind) -> np.ndarray:
        """Softmax, sigmoid, or the number itself; `logits`: (rows, labels)."""
        import numpy as np

        logits = np.asarray(found["logits"], dtype=np.float64)
        if kind == "number":
            return logits.reshape(-1)
        if kind == "labels":
            return np.asarray(0.5 * (1 + np.tanh(0.5 * logits)))
        powers = np.exp(logits - logits.max(-1, keepdims=True))
        return np.asarray(powers / powers.sum(-1, keepdims=True))

    def answers(self, found: Mapping[str, np.ndarray], labels: Labels) -> list[dict[str, Any]]:
        """`label` and `probability` of each row; `labels` and `probabilities`; or `value`."""
        chances = self.predictions(found, labels.kind)
        if labels.kind == "number":
            return [{VALUE: float(value)} for value in chances]
        if labels.kind == "label":
            best = chances.argmax(-1)
            return [
                {"label": labels.names[i], "probability": float(row[i])} for i, row in zip(best, chances, strict=True)
            ]
        return [
            {
                "labels": [name for name, p in zip(labels.names, row, strict=True) if p >= 0.5],
                "probabilities": {name: float(p) for name, p in zip(labels.names, row, strict=True)},
            }
            for row in chances
        ]
