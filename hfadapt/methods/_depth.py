"""Learning rates that fall with the depth."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

if TYPE_CHECKING:
    from hfadapt.backbones.base import Anatomy

Decay = Annotated[float, Field(gt=0, le=1)]
"""The learning rate of a block as a factor of that of the block above it."""


def speeds_by_depth(anatomy: Anatomy, decay: Decay, head_speed: float = 1.0) -> dict[str, float]:
    """The factor on the learning rate of every parameter that can move.

    Of a tower with n blocks, block i from 1 to n has decay ** (n + 1 - i), the embeddings count as block 0, and what
    lies above the blocks has 1, as in BEiT (https://github.com/microsoft/unilm/blob/master/beit/optim_factory.py).
    Each tower has a depth of its own: a text tower of 6 blocks does not lie below a vision tower of 12.
    """
    speeds: dict[str, float] = {}
    for tower in anatomy.towers:
        for depth, part in enumerate((*reversed(tower.blocks), tower.embeddings), start=1):
            speeds |= dict.fromkeys(part.parameters, decay**depth)
        speeds |= dict.fromkeys(tower.after, 1.0)
    return speeds | dict.fromkeys(anatomy.head, head_speed)
