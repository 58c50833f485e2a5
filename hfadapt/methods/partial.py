"""The head and some of the blocks train."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from pydantic import Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from hfadapt.errors import Problem, RecipeError, count
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
    blocks: str | None = None
    """A slice of the blocks, as Python writes it: `4:6`, `-2:`, `:3`. What is above stays frozen."""

    @model_validator(mode="after")
    def _one_of_two(self) -> Partial:
        if self.top is not None and self.blocks is not None:
            raise PydanticCustomError("both", "Give 'top' or 'blocks', not both.")
        return self

    @field_validator("blocks")
    @classmethod
    def _a_slice(cls, blocks: str | None) -> str | None:
        try:
            _slice(blocks or ":")
        except ValueError:
            says = "'{blocks}' is not a slice of blocks such as '4:6' or '-2:'."
            raise PydanticCustomError("slice", says, {"blocks": blocks}) from None
        return blocks

    def stages(self, model: nn.Module, anatomy: Anatomy) -> Sequence[Stage]:
        """One stage.

        Raises:
            RecipeError: the slice holds no block of a tower, or `top` asks for more than it has.
        """
        names = [name for tower in anatomy.towers for name in self._of(tower)]
        return [Stage("partial", dict.fromkeys([*names, *anatomy.head], 1.0))]

    def _of(self, tower: Tower) -> list[str]:
        """The parameters of a tower that move."""
        owner = f"{tower.name} tower" if tower.name else "backbone"
        there = f"the {owner} has {count(len(tower.blocks), 'block')}"
        if self.top is not None and self.top > len(tower.blocks):
            raise RecipeError(Problem(f"{self.top} is too many: {there}.", "adapt.top"))
        chosen = tower.blocks[_slice(self.blocks) if self.blocks else slice(-(self.top or 2), None)]
        if not chosen:
            raise RecipeError(Problem(f"'{self.blocks}' holds no block: {there}.", "adapt.blocks"))
        names = [name for block in chosen for name in block.parameters]
        return [*names, *tower.after] if chosen[-1] is tower.blocks[-1] else names


def _slice(text: str) -> slice:
    """`4:6` as a slice; ValueError for anything else."""
    start, stop = (int(bound) if bound.strip() else None for bound in text.split(":"))
    return slice(start, stop)
