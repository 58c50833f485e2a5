"""Nothing trains."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from hfadapt.methods.base import Adaptation, Stage

if TYPE_CHECKING:
    from torch import nn

    from hfadapt.backbones.base import Anatomy


class Untrained(Adaptation):
    """Judge and save the model as it starts.

    When to use: with a head that needs no training, such as `head: zero-shot` of a task, or with a checkpoint
    that already tells these labels apart. Compared with `linear-probe`: costs no training; a new head answers
    at random.
    """

    def stages(self, model: nn.Module, anatomy: Anatomy) -> Sequence[Stage]:
        """No stage."""
        return []
