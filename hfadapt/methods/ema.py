"""The average of the weights along the training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from hfadapt.methods._around import Around
from hfadapt.methods.base import Companion, Surroundings

if TYPE_CHECKING:
    from torch import nn

    from hfadapt.backbones.base import Anatomy


class Ema(Around):
    """An exponential moving average of the weights (Polyak and Juditsky 1992, https://doi.org/10.1137/0330046;
    as the teacher of Tarvainen and Valpola 2017, https://arxiv.org/abs/1703.01780).

    When to use: noisy steps: small batches, a high learning rate that never falls, wrong labels. Compared with
    the best checkpoint of `full`: chooses nothing by the validation rows, which therefore judge it fairly; costs
    a copy of the moving weights. Compared with `soup`: a fixed rule instead of a search.

    After step t of a stage the average keeps min(decay, (1 + t) / (10 + t)) of itself, so that it does not cling
    to its start; statistics of batch norms are averaged too. What is evaluated along the way are the weights
    themselves; a stage ends with their average, in place of its best checkpoint.
    """

    divisible: ClassVar[bool] = False
    copies: ClassVar[int] = 1

    decay: Annotated[float, Field(gt=0, lt=1)] = 0.999
    """How much of itself the average keeps in each step, after a warm-up; 1 / (1 - decay) steps matter."""

    @property
    def arguments(self) -> Mapping[str, Any]:
        """The average takes the place of the best checkpoint."""
        return {**self.inner.arguments, "load_best_model_at_end": False}

    def companions(self, model: nn.Module, anatomy: Anatomy, around: Surroundings) -> Sequence[Companion]:
        """The average."""
        from hfadapt.methods._averaging import MovingAverage

        return [*super().companions(model, anatomy, around), MovingAverage(self.decay)]
