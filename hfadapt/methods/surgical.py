"""The head and one stretch of the model train."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pydantic import model_validator
from pydantic_core import PydanticCustomError

from hfadapt.backbones._selecting import Blocks, Selectors, as_slice, blocks_of, select
from hfadapt.methods.base import Adaptation, Stage

if TYPE_CHECKING:
    from torch import nn

    from hfadapt.backbones.base import Anatomy


class Surgical(Adaptation):
    """Surgical fine-tuning (Lee et al. 2023, https://arxiv.org/abs/2210.11466): one stretch of blocks, and the head.

    When to use: the new data differ from the old in a known way: low in the model where the inputs look different
    (blur, noise, another spelling), in the middle where the things do, high where only the labels do.
    Compared with `partial`, which trains what is nearest to the head: any stretch, nothing else between blocks
    and head.
    """

    blocks: Blocks | None = None
    """The stretch of blocks, of each tower, as Python writes a slice: `0:2`."""
    train: Selectors | None = None
    """What trains instead: a selector or several, such as `embeddings`, `vision.blocks[0:2]`, `norms`."""

    @model_validator(mode="after")
    def _one_of_two(self) -> Surgical:
        if (self.blocks is None) == (self.train is None):
            says = "Give 'blocks' or 'train', not both." if self.blocks else "Give 'blocks', such as '0:2', or 'train'."
            raise PydanticCustomError("both", says)  # type: ignore[arg-type]
        return self

    def stages(self, model: nn.Module, anatomy: Anatomy) -> Sequence[Stage]:
        """One stage.

        Raises:
            RecipeError: the slice holds no block of a tower, or a selector names nothing.
        """
        names: Sequence[str]
        if self.blocks is not None:
            wanted = as_slice(self.blocks)
            towers = [blocks_of(tower, wanted, self.blocks, "adapt.blocks") for tower in anatomy.towers]
            names = [name for blocks in towers for block in blocks for name in block.parameters]
        else:
            names = select(model, anatomy, self.train or (), "adapt.train")
        return [Stage("surgical", dict.fromkeys([*names, *anatomy.head], 1.0))]
