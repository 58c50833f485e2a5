"""Features that are held near their start."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from hfadapt.methods._around import Near
from hfadapt.methods.base import Surroundings, Term

if TYPE_CHECKING:
    from torch import nn

    from hfadapt.backbones.base import Anatomy


class Anchor(Near):
    """Feature anchoring: the loss grows with the distance of the features from those of the model as it began.

    When to use: features that must serve besides the task: other tasks, search, rows unlike those trained on.
    Compared with `l2-sp`: weights may move as long as the features of the training rows stay; costs a forward
    pass of a frozen copy in each step, about a third more, and its memory. A relative of DELTA (Li et al. 2019,
    https://arxiv.org/abs/1901.09229), which weighs the channels of feature maps, and of Learning without
    Forgetting (Li and Hoiem 2016, https://arxiv.org/abs/1606.09282), which holds the answers of old heads.

    The features are the mean over tokens, padding left out, or places of what the last block of each tower
    answers; the distance is squared, and relative to the mean square of the row's features in the beginning.
    """

    divisible: ClassVar[bool] = False
    copies: ClassVar[int] = 1
    passes: ClassVar[int] = 1

    weight: Annotated[float, Field(ge=0)] = 1.0
    """The factor on the relative squared distance, of which the mean over the rows is added to the loss."""

    def terms(self, model: nn.Module, anatomy: Anatomy, around: Surroundings) -> Sequence[Term]:
        """The distance, one value a row."""
        from hfadapt.methods._terms import Anchored

        return [*super().terms(model, anatomy, around), Anchored(model, anatomy, self.weight)]
