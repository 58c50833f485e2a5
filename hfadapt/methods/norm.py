"""The head and the normalisation layers train."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from hfadapt.backbones._selecting import select
from hfadapt.methods.base import Adaptation, Stage

if TYPE_CHECKING:
    from torch import nn

    from hfadapt.backbones.base import Anatomy


class Norm(Adaptation):
    """Train gains and biases of the normalisation layers, and the head.

    Of layer norms: Qi et al. 2022, https://arxiv.org/abs/2211.08682; of batch norms: Frankle et al. 2020,
    https://arxiv.org/abs/2003.00152. Batch norms measure the statistics of the new data too.

    When to use: few rows, or pictures of another kind than the backbone saw, in a model with batch norms. Needs a
    learning rate of 1e-3 or so. Compared with `bitfit`: works where a backbone has no biases; compared
    with `full`: moves a thousandth of the parameters.
    """

    rate: ClassVar[float | None] = 1e-3

    def stages(self, model: nn.Module, anatomy: Anatomy) -> Sequence[Stage]:
        """One stage in which every normalisation layer and the head move.

        Raises:
            RecipeError: the model has no normalisation layers.
        """
        names = select(model, anatomy, ["norms"], "adapt")
        return [Stage("norms", dict.fromkeys([*names, *anatomy.head], 1.0))]
