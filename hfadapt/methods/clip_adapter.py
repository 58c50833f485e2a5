"""A small adapter after the projections of CLIP."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from hfadapt.errors import Problem, RecipeError
from hfadapt.methods.base import Adaptation, Stage, Surroundings

if TYPE_CHECKING:
    from torch import nn

    from hfadapt.backbones.base import Anatomy
    from hfadapt.methods._projection import Blended


class ClipAdapter(Adaptation):
    """Blend CLIP's embeddings with what a linear bottleneck makes of them (after CLIP-Adapter, Gao et al. 2021,
    https://arxiv.org/abs/2110.04544).

    The embedding f becomes (1 - ratio) f + ratio W f. In the paper the two maps that W consists of are each
    followed by a ReLU; here they are not, so that all is one linear map again, and what comes out is a plain
    CLIP with other projections.

    When to use: few rows or little compute, for only what lies after the towers trains. Needs a large learning
    rate, 1e-3 to 1e-2. Compared with `linear-probe`: fewer parameters, and held near the checkpoint's own
    projections; compared with `coop`: cheaper, since nothing goes back through a tower.
    """

    rate: ClassVar[float | None] = 1e-3

    ratio: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """The adapter's part in an embedding."""
    reduction: Annotated[int, Field(ge=1)] = 4
    """How many times fewer dimensions the bottleneck has than an embedding."""
    towers: Annotated[list[Literal["vision", "text"]], Field(min_length=1)] = Field(default=["vision"])
    """Whose embeddings are blended: `vision`, `text`, or both."""

    def prepare(self, around: Surroundings) -> None:
        """Refuse other tasks.

        Raises:
            RecipeError: the task is not on pictures with texts.
        """
        if not around.task.contrasts:
            says = (
                f"The method 'clip-adapter' is for tasks that join pictures and texts; '{around.task.name}' does not."
            )
            raise RecipeError(Problem(says, "adapt"))

    def wrap(self, model: nn.Module, anatomy: Anatomy) -> nn.Module:
        """Put the bottlenecks beside the projections.

        Raises:
            RecipeError: a tower has no linear projection, as SigLIP's have none.
        """
        from torch import nn

        from hfadapt.methods._projection import Blended

        if len(anatomy.towers) == 1:
            return model  # refused by `prepare`; planning goes on to find what else is wrong
        for tower in dict.fromkeys(self.towers):
            projection = getattr(model, name := _projection(tower), None)
            if not isinstance(projection, nn.Linear):
                says = f"The {tower} tower of this backbone ends in no linear projection to put an adapter beside."
                raise RecipeError(Problem(says, "adapt", hint="Use a CLIP checkpoint, or 'linear-probe'."))
            setattr(model, name, Blended(projection, self.ratio, self.reduction))
        return model

    def stages(self, model: nn.Module, anatomy: Anatomy) -> Sequence[Stage]:
        """One stage in which the bottlenecks move."""
        moving = [f"{name}.{part}.weight" for name, _ in _blended(model) for part in ("down", "up")]
        return [Stage("adapter", dict.fromkeys(moving, 1.0))]

    def finish(self, model: nn.Module) -> nn.Module:
        """Merge the bottlenecks into the projections."""
        for name, blended in list(_blended(model)):
            setattr(model, name, blended.merged())
        return model


def _projection(tower: str) -> str:
    """transformers' name of what follows a tower."""
    return "visual_projection" if tower == "vision" else "text_projection"


def _blended(model: Any) -> Iterator[tuple[str, Blended]]:
    from hfadapt.methods._projection import Blended

    return ((name, module) for name, module in model.named_children() if isinstance(module, Blended))
