"""Everything trains, the slower the deeper."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from hfadapt.methods._depth import Decay, speeds_by_depth
from hfadapt.methods.base import Adaptation, Stage

if TYPE_CHECKING:
    from torch import nn

    from hfadapt.backbones.base import Anatomy


class Layerwise(Adaptation):
    """Fine-tune everything with a learning rate that decays from the head to the embeddings.

    As in ELECTRA (Clark et al. 2020, https://arxiv.org/abs/2003.10555) and BEiT (Bao et al. 2021,
    https://arxiv.org/abs/2106.08254). Of a model with two towers, each has a depth of its own.

    When to use: transformers of 12 blocks or more, pictures above all, where the lower blocks should stay near what
    they were. Bears a larger learning rate than `full`. Compared with `full`: the same cost, gentler
    on the lower blocks; compared with `partial`: no block is frozen.
    """

    layer_decay: Decay = 0.75
    """The learning rate of a block as a factor of that of the block above it. The top block has it once, the
    embeddings of a tower of n blocks have it n + 1 times."""
    head_speed: Annotated[float, Field(gt=0)] = 1.0
    """The head's factor on the learning rate."""

    def stages(self, model: nn.Module, anatomy: Anatomy) -> Sequence[Stage]:
        """One stage in which everything moves."""
        return [Stage("layerwise", speeds_by_depth(anatomy, self.layer_decay, self.head_speed))]
