"""Everything trains, from random weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from hfadapt.methods.base import Adaptation, Stage

if TYPE_CHECKING:
    from torch import nn

    from hfadapt.backbones.base import Anatomy


class FromScratch(Adaptation):
    """Train the checkpoint's architecture from new random weights; its tokenizer or image processor stays.

    When to use: to see what the pretraining is worth, or with very many rows unlike those of the pretraining.
    Needs more epochs than `full`, and a warm-up. Compared with `full`: the same cost a step, and far weaker
    where rows are few.
    """

    rate: ClassVar[float | None] = 3e-4

    @property
    def scratch(self) -> bool:
        """Always."""
        return True

    def stages(self, model: nn.Module, anatomy: Anatomy) -> Sequence[Stage]:
        """One stage in which all parameters move at the recipe's learning rate."""
        return [Stage("scratch", dict.fromkeys(anatomy.everything, 1.0))]
