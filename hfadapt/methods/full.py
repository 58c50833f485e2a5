"""Everything trains."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from hfadapt.methods.base import Adaptation, Stage

if TYPE_CHECKING:
    from torch import nn

    from hfadapt.backbones.base import Anatomy


class Full(Adaptation):
    """Fine-tune every parameter.

    When to use: a few hundred labelled rows or more, and memory for gradients and optimizer state of the
    whole model. Compared with `linear-probe`: slower and stronger; may distort what the backbone knew
    where rows are few.
    """

    def stages(self, model: nn.Module, anatomy: Anatomy) -> Sequence[Stage]:
        """One stage in which all parameters move at the recipe's learning rate."""
        return [Stage("full", dict.fromkeys(anatomy.everything, 1.0))]
