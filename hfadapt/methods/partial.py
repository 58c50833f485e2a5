"""The head and some of the blocks train."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from hfadapt.backbones._selecting import Blocks, as_slice, blocks_of, extent
from hfadapt.errors import Problem, RecipeError
from hfadapt.methods.base import Adaptation, Stage

if TYPE_CHECKING:
    from torch import nn

    from hfadapt.backbones.base import Anatomy, Tower


class Partial(Adaptation):
    """Train the head, what lies between it and the blocks, and the top blocks or a slice of them.

    When to use: not enough rows or memory for `full`. The lower blocks hold what is common to most
    tasks, so little is lost. Compared with `full`: faster in the ratio of (N + 2t) to 3N for t of N
    blocks; compared with `linear-probe`: can change the features. Of a model with two towers, each is
    treated so.
    """

    top: Annotated[int, Field(ge=1)] | None = None
    """How many blocks train, counted from the head; 2 where neither this nor `blocks` is given."""
    blocks: Blocks | None = None
    """A slice of the blocks, as Python writes it: `4:6`, `-2:`, `:3`. What is above stays frozen."""

    @model_validator(mode="after")
    def _one_of_two(self) -> Partial:
        if self.top is not None and self.blocks is not None:
            raise PydanticCustomError("both", "Give 'top' or 'blocks', not both.")
        return self

    def stages(self, model: nn.Module, anatomy: Anatomy) -> Sequence[Stage]:
        """One stage.

        Raises:
            RecipeError: the slice holds no block of a tower, or `top` asks for more than it has.
        """
        names = [name for tower in anatomy.towers for name in self._of(tower)]
        return [Stage("partial", dict.fromkeys([*names, *anatomy.head], 1.0))]

    def _of(self, tower: Tower) -> list[str]:
        """The parameters of a tower that move."""
        if self.top is not None and self.top > len(tower.blocks):
            raise RecipeError(Problem(f"{self.top} is too many: {extent(tower)}.", "adapt.top"))
        wanted = as_slice(self.blocks) if self.blocks is not None else slice(-(self.top or 2), None)
        chosen = blocks_of(tower, wanted, self.blocks or "", "adapt.blocks")
        names = [name for block in chosen for name in block.parameters]
        return [*names, *tower.after] if chosen[-1] is tower.blocks[-1] else names
