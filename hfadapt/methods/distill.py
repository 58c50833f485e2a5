"""A model that learns from another one's answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from hfadapt.methods._around import Around
from hfadapt.methods.base import Surroundings, Term

if TYPE_CHECKING:
    from torch import nn

    from hfadapt.backbones.base import Anatomy


class Distill(Around):
    """Knowledge distillation (Hinton et al. 2015, https://arxiv.org/abs/1503.02531): learn from the labels and from
    the answers of a teacher that was trained for them.

    When to use: a small model is to do what a large one does, or one model what an ensemble's best does. Compared
    with `full`: better where labels are few or wrong, at the cost of the teacher's forward pass in each step.

    The loss of a row is that of the task + weight · T² · KL(teacher, student), both at temperature T. Where a row
    has several labels, KL is the mean over the labels of that of each; of a number it is the squared difference,
    without T. With `hidden` the states of the blocks are compared too (Sun et al. 2019,
    https://arxiv.org/abs/1908.09355): block k of n with block round(k · N / n) of the teacher's N, by the squared
    distance of their normalised states.

    The teacher must tell the same labels apart, in any order, and read the same inputs: the vocabulary, or the
    size and the normalisation of pictures. Pairs of texts need two models that both read token types, or neither.
    """

    divisible: ClassVar[bool] = False
    copies: ClassVar[int] = 1
    passes: ClassVar[int] = 1

    teacher: str
    """A run folder, or a checkpoint of the same task: a folder or a model on the Hub."""
    temperature: Annotated[float, Field(gt=0)] = 2.0
    """T, by which both models' logits are divided: the greater, the more the teacher's small chances count."""
    weight: Annotated[float, Field(ge=0)] = 1.0
    """The factor on what the answers are apart."""
    hidden: Annotated[float, Field(ge=0)] = 0.0
    """The factor on what the states of the blocks are apart; needs blocks of the same width."""

    def prepare(self, around: Surroundings) -> None:
        """Refuse a teacher that does not fit."""
        from hfadapt.methods._teacher import check

        super().prepare(around)
        check(self.teacher, around, hidden=self.hidden > 0)

    def terms(self, model: nn.Module, anatomy: Anatomy, around: Surroundings) -> Sequence[Term]:
        """What the teacher adds, one value a row."""
        from hfadapt.methods._teacher import Lesson, load

        lesson = Lesson(
            model,
            anatomy,
            around,
            load(self.teacher, around),
            temperature=self.temperature,
            weight=self.weight,
            hidden=self.hidden,
        )
        return [*super().terms(model, anatomy, around), lesson]
