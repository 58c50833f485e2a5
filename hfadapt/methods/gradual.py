"""Block after block joins the training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import AfterValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from hfadapt.backbones._selecting import Selectors, select, some
from hfadapt.errors import Problem, RecipeError
from hfadapt.methods._depth import Decay, speeds_by_depth
from hfadapt.methods.base import Adaptation, Stage

if TYPE_CHECKING:
    from torch import nn

    from hfadapt.backbones.base import Anatomy, Tower


class Gradual(Adaptation):
    """Gradual unfreezing, as in ULMFiT (Howard & Ruder 2018, https://arxiv.org/abs/1801.06146).

    The head trains first; after each equal share of the steps the next block joins, and the embeddings join last. What
    lies between blocks and head joins with the top block. Each stage has a learning-rate schedule of its own. Of a
    model with two towers, the blocks at the same distance from the head join together.

    When to use: few rows, where `full` is unstable or forgets. Needs a step or more for each of its stages, two more
    than there are blocks; `blocks_at_once` and `groups` make them fewer. Compared with `lp-ft`: many small changes
    instead of one; compared with `full`: cheaper early stages, and the lower blocks move for less long.
    """

    order: Literal["top-down", "bottom-up"] = "top-down"
    """From which end of the blocks they join."""
    blocks_at_once: Annotated[int, Field(ge=1)] = 1
    """How many blocks join together."""
    groups: Annotated[list[Selectors], AfterValidator(some)] | None = None
    """What joins, in this order, instead: `[[head], ["blocks[-2:]"], [everything]]`. What no group names stays
    frozen."""
    layer_decay: Decay = 1.0
    """The learning rate of a block as a factor of that of the block above it; ULMFiT has 1 / 2.6."""

    @model_validator(mode="after")
    def _one_of_two(self) -> Gradual:
        if self.groups is not None and (others := {"order", "blocks_at_once"} & self.model_fields_set):
            raise PydanticCustomError("both", "Give 'groups' or '{other}', not both.", {"other": min(others)})
        return self

    def stages(self, model: nn.Module, anatomy: Anatomy) -> Sequence[Stage]:
        """A stage for each group, in which it moves with all groups before it.

        Raises:
            RecipeError: a selector names nothing, or a group adds nothing to those before it.
        """
        speeds = speeds_by_depth(anatomy, self.layer_decay)
        groups = self._chosen(model, anatomy) if self.groups is not None else self._by_depth(anatomy)
        moving: dict[str, float] = {}
        stages = []
        for name, group in groups.items():
            moving = moving | {parameter: speeds[parameter] for parameter in group}
            stages.append(Stage(name, moving, 1 / len(groups)))
        return stages

    def _by_depth(self, anatomy: Anatomy) -> dict[str, list[str]]:
        """The parameters that join in each stage, by its name; no stage is empty."""
        layers = [_layers(tower, self.blocks_at_once) for tower in anatomy.towers]
        joining = [
            [name for tower in layers for names in tower[i : i + 1] for name in names]
            for i in range(max(len(tower) for tower in layers))
        ]
        if self.order == "bottom-up":
            joining.reverse()
        end = self.order.partition("-")[0]
        groups = {"head": list(anatomy.head)}
        groups |= {f"{end} {(i + 1) * self.blocks_at_once}": names for i, names in enumerate(joining)}
        groups["all"] = list(anatomy.embeddings.parameters)
        return {name: group for name, group in groups.items() if group}

    def _chosen(self, model: nn.Module, anatomy: Anatomy) -> dict[str, Sequence[str]]:
        groups: dict[str, Sequence[str]] = {}
        earlier: set[str] = set()
        problems: list[Problem] = []
        for i, selectors in enumerate(self.groups or ()):
            field = f"adapt.groups.{i}"
            try:
                group = select(model, anatomy, selectors, field)
            except RecipeError as error:
                problems += error.problems
                continue
            if not set(group) - earlier:
                problems.append(Problem("It adds nothing to the groups before it.", field))
            groups[f"group {i + 1}"] = group
            earlier |= set(group)
        if problems:
            raise RecipeError(*problems)
        return groups


def _layers(tower: Tower, at_once: int) -> list[list[str]]:
    """The parameters of the blocks of a tower, some blocks at once, from the top; with what lies above them."""
    blocks = [block.parameters for block in reversed(tower.blocks)]
    layers = [[name for names in blocks[i : i + at_once] for name in names] for i in range(0, len(blocks), at_once)]
    layers[0] += tower.after
    return layers
