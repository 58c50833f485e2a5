"""The contract of an adaptation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from hfadapt.section import Variant

if TYPE_CHECKING:
    from torch import nn

    from hfadapt.backbones.base import Anatomy


@dataclass(frozen=True)
class Stage:
    """A stretch of the training in which the same parameters move."""

    name: str
    speeds: Mapping[str, float]
    """The parameters that move, each with its factor on the recipe's learning rate."""
    share: float = 1.0
    """The part of all training steps that this stage takes; the shares of a run sum to 1."""


class Adaptation(Variant):
    """A way to adapt: which modules change, and what moves when and how fast.

    It returns descriptions; the engine acts on them. It never sees data, devices or optimizers,
    and must not depend on the values of weights: planning calls it on a model without any.
    """

    tag: ClassVar[str] = "method"

    def wrap(self, model: nn.Module, anatomy: Anatomy) -> nn.Module:
        """Change modules before training (insert adapters, say); by default none."""
        return model

    def stages(self, model: nn.Module, anatomy: Anatomy) -> Sequence[Stage]:
        """What trains when. `model` is what `wrap` returned; `anatomy` is that of the model before."""
        raise TypeError(f"{type(self).__name__} defines no stages")

    def keep(self, model: nn.Module, folder: Path) -> None:
        """Save into the run folder what besides the plain model is worth keeping; by default nothing."""

    def finish(self, model: nn.Module) -> nn.Module:
        """Undo `wrap` after training: what is returned is plain transformers."""
        return model
