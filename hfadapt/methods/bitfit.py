"""The head and the biases train."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from hfadapt.backbones._selecting import biases
from hfadapt.errors import Problem, RecipeError
from hfadapt.methods.base import Adaptation, Stage

if TYPE_CHECKING:
    from torch import nn

    from hfadapt.backbones.base import Anatomy


class Bitfit(Adaptation):
    """BitFit (Ben Zaken et al. 2021, https://arxiv.org/abs/2106.10199): train the biases and the head.

    When to use: many adapted models of one base, each a thousandth of its size; few rows. Needs a learning
    rate of 1e-3 or so. Compared with `lora`: adds nothing to the model, and can change less; compared with
    `norm`: moves the biases of the linear layers too, and no gains. Backbones without biases, such as
    ModernBERT and Llama, have nothing for it to move.
    """

    rate: ClassVar[float | None] = 1e-3

    def stages(self, model: nn.Module, anatomy: Anatomy) -> Sequence[Stage]:
        """One stage in which every bias and the head move.

        Raises:
            RecipeError: the backbone has no biases.
        """
        found = biases(model) - set(anatomy.head)
        names = [name for name in anatomy.everything if name in found]
        if not names:
            says = "The backbone has no biases, so that nothing but the head would train."
            raise RecipeError(Problem(says, "adapt", hint="Use 'norm' or 'lora' instead."))
        return [Stage("biases", dict.fromkeys([*names, *anatomy.head], 1.0))]
