"""Stages as the recipe spells them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import AfterValidator, ConfigDict, Field, field_validator
from pydantic_core import InitErrorDetails, PydanticCustomError, ValidationError

from hfadapt.backbones._selecting import Selector, select, some
from hfadapt.errors import Problem, RecipeError
from hfadapt.methods import base
from hfadapt.methods._depth import Decay, speeds_by_depth
from hfadapt.methods.base import Adaptation
from hfadapt.section import Section

if TYPE_CHECKING:
    from torch import nn

    from hfadapt.backbones.base import Anatomy

Positive = Annotated[float, Field(gt=0)]


class Stage(Section):
    """A stretch of the training in which the same parameters move."""

    train: Annotated[Selector | list[Selector] | dict[Selector, Positive], AfterValidator(some)]
    """What moves: a selector, several, or a mapping of selectors to factors on the learning rate, of which a later
    one wins. Selectors are `head`, `embeddings`, `blocks`, `blocks[-2:]`, `after`, `norms`, `biases`, `everything`,
    a tower (`vision`), a part of it (`vision.blocks[0]`), and patterns of parameter names (`*.attention.*`)."""
    epochs: Positive | None = None
    """How long it takes, in epochs; all stages have it, or none."""
    share: Annotated[float, Field(gt=0, le=1)] | None = None
    """How long it takes, as a share of the run's steps; all stages have it, or none."""
    learning_rate: Positive | None = None
    """That of `train` in the recipe by default."""
    layer_decay: Decay = 1.0
    """The learning rate of a block as a factor of that of the block above it."""
    name: str | None = None
    """`stage 1` and so on by default."""


class Stages(Adaptation):
    """Train in stages that the recipe spells out: what moves, how fast, how long.

    When to use: where no other method does what you want. Stages take `epochs`, or a `share` of the steps, or equal
    shares. Each has a learning-rate schedule of its own. Compared with `lp-ft` and `gradual`, which are such stages
    ready-made: every choice is yours. `adapt: {stages: [...]}` is enough.
    """

    # So is the method named that makes them.
    model_config = ConfigDict(serialize_by_alias=True)

    implied_by: ClassVar[str] = "stages"

    given: Annotated[list[Stage], AfterValidator(some)] = Field(alias="stages")
    """The stages in their order."""

    @field_validator("given")
    @classmethod
    def _fit_together(cls, given: list[Stage]) -> list[Stage]:
        errors: list[InitErrorDetails] = [
            {"type": PydanticCustomError("refused", "{says}", {"says": says}), "loc": loc, "input": None}
            for loc, says in (*_misnamed(given), *_mistimed(given))
        ]
        if errors:
            raise ValidationError.from_exception_data("Stages", errors)
        return given

    @property
    def arguments(self) -> Mapping[str, Any]:
        """The sum of the epochs, where stages have them."""
        epochs = [stage.epochs for stage in self.given if stage.epochs]
        return {"num_train_epochs": float(sum(epochs)), "max_steps": -1} if epochs else {}

    def stages(self, model: nn.Module, anatomy: Anatomy) -> Sequence[base.Stage]:
        """The recipe's stages.

        Raises:
            RecipeError: selectors that name nothing, those of all stages at once.
        """
        lengths = [stage.epochs or stage.share or 1.0 for stage in self.given]
        made, problems = [], list[Problem]()
        for i, (stage, name) in enumerate(zip(self.given, _names(self.given), strict=True)):
            chosen = [stage.train] if isinstance(stage.train, str) else stage.train
            asked = chosen if isinstance(chosen, dict) else dict.fromkeys(chosen, 1.0)
            factors = speeds_by_depth(anatomy, stage.layer_decay)
            speeds: dict[str, float] = {}
            for selector, speed in asked.items():
                try:
                    names = select(model, anatomy, selector, f"adapt.stages.{i}.train")
                except RecipeError as error:
                    problems += error.problems
                else:
                    speeds |= {parameter: speed * factors[parameter] for parameter in names}
            made.append(base.Stage(name, speeds, lengths[i] / sum(lengths), stage.learning_rate))
        if problems:
            raise RecipeError(*problems)
        return made


def _names(given: Sequence[Stage]) -> list[str]:
    return [f"stage {i + 1}" if stage.name is None else stage.name for i, stage in enumerate(given)]


def _misnamed(given: Sequence[Stage]) -> Sequence[tuple[tuple[str | int, ...], str]]:
    """(place, sentence) for names that folders cannot have, or that stand twice."""
    wrong: list[tuple[tuple[str | int, ...], str]] = []
    names = _names(given)
    for i, name in enumerate(names):
        if not re.fullmatch(r"\w([\w .+-]{0,48}[\w+-])?", name):
            says = f"'{name}' cannot name a folder: use up to 50 letters, digits, spaces and the signs . + - _"
            wrong.append(((i, "name"), f"{says}."))
        elif name in names[:i]:
            wrong.append(((i, "name"), f"Two stages are called '{name}'."))
    return wrong


def _mistimed(given: Sequence[Stage]) -> Sequence[tuple[tuple[str | int, ...], str]]:
    """(place, sentence) for lengths that do not go together."""
    shares = [stage.share for stage in given if stage.share is not None]
    epochs = [stage.epochs for stage in given if stage.epochs is not None]
    if (shares and epochs) or len(shares or epochs) not in (0, len(given)):
        return [((), "Give all stages 'epochs', or all a 'share', or none of them either.")]
    if shares and not math.isclose(sum(shares), 1, abs_tol=1e-6):
        return [((), f"The shares of the stages sum to {sum(shares):g}, not to 1.")]
    return []
