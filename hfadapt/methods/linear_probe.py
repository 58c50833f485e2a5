"""Only the head trains."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from hfadapt.methods.base import Adaptation, Stage

if TYPE_CHECKING:
    from torch import nn

    from hfadapt.backbones.base import Anatomy


class LinearProbe(Adaptation):
    """Train the new head on a frozen body.

    When to use: very few rows, very little compute, or to see what the backbone already knows. Needs a
    learning rate of 1e-3 or so. Compared with `full`: fast and safe, weaker where rows are plenty. Of a
    model with two towers, the projections into their common space train, and the temperature.
    """

    rate: ClassVar[float | None] = 1e-3

    def stages(self, model: nn.Module, anatomy: Anatomy) -> Sequence[Stage]:
        """One stage in which the head and every newly initialised tensor move."""
        return [Stage("probe", dict.fromkeys(anatomy.head, 1.0))]
