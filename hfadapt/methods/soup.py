"""The average of checkpoints that go well together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from hfadapt.methods._around import Around
from hfadapt.methods.base import Companion, Surroundings

if TYPE_CHECKING:
    from torch import nn

    from hfadapt.backbones.base import Anatomy


class Soup(Around):
    """A greedy soup (Wortsman et al. 2022, https://arxiv.org/abs/2203.05482) of the checkpoints of one run.

    When to use: a score worth one evaluation a checkpoint and no more training. Compared with the best checkpoint
    of `full`: never worse on the validation rows, which choose, and often better on others; compared with `ema`:
    takes what the validation rows like. The paper's soups are of several runs; one run's checkpoints differ less.

    Each evaluation of the last stage keeps the moving weights, in float32, on disk until the run ends. From the
    best down, each that does not lower the validation score of the average joins it. The model stays as training
    left it (0 checkpoints among what was tried) where that scores higher. Without evaluations nothing happens.
    """

    divisible: ClassVar[bool] = False
    evaluates: ClassVar[bool] = True

    most: Annotated[int, Field(ge=1)] = 10
    """How many checkpoints are kept, the best of all."""

    def companions(self, model: nn.Module, anatomy: Anatomy, around: Surroundings) -> Sequence[Companion]:
        """The collector."""
        from hfadapt.methods._averaging import GreedySoup

        return [*super().companions(model, anatomy, around), GreedySoup(self.most)]
