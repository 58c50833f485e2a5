"""Weights that are pulled to their start."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from hfadapt.methods._around import Near
from hfadapt.methods.base import Surroundings, Term

if TYPE_CHECKING:
    from torch import nn

    from hfadapt.backbones.base import Anatomy


class L2Sp(Near):
    """L2-SP (Li et al. 2018, https://arxiv.org/abs/1802.01483): the loss grows with the distance of the weights
    from the checkpoint's.

    When to use: few rows, and a backbone whose knowledge the task needs. Compared with `full`: the same speed,
    a copy of the moving weights in memory, and weights that stay near the checkpoint; compared with `anchor`:
    cheaper, but blind to what a change of the weights does to the features. To the loss are added
    alpha/2 · |w - w0|² over the moving weights that came with the checkpoint and beta/2 · |w|² over those of a
    new head. Of an adapter, its own weights are held at their start, where they change nothing. Weight decay,
    which would pull everything to zero, is off.
    """

    divisible: ClassVar[bool] = False
    copies: ClassVar[int] = 1

    alpha: Annotated[float, Field(ge=0)] = 0.01
    """The pull to the checkpoint's weights."""
    beta: Annotated[float, Field(ge=0)] = 0.01
    """The pull of a new head's weights to zero."""

    @property
    def arguments(self) -> Mapping[str, Any]:
        """No weight decay besides."""
        return {**self.inner.arguments, "weight_decay": 0.0}

    def terms(self, model: nn.Module, anatomy: Anatomy, around: Surroundings) -> Sequence[Term]:
        """The penalty, one value a batch."""
        from hfadapt.methods._terms import Pull, started_at_random

        moving = {name: None for stage in self.stages(model, anatomy) for name in stage.speeds}
        new = started_at_random(model, anatomy, around)
        return [*super().terms(model, anatomy, around), Pull(model, moving, new, self.alpha, self.beta)]
