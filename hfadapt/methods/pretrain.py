"""More pretraining, on the inputs of the task's own domain, before the task."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from hfadapt.errors import Problem, RecipeError
from hfadapt.methods._around import Around
from hfadapt.methods.base import Surroundings

if TYPE_CHECKING:
    from torch import nn


class Pretrain(Around):
    """Pretrain the backbone further on texts or pictures without labels, then adapt it as `inner` says.

    Gururangan et al. 2020, https://arxiv.org/abs/2004.10964. Texts by masked language modelling (Devlin et al.
    2018, https://arxiv.org/abs/1810.04805), with the checkpoint's own head for it where it has one; pictures by
    masked image modelling (SimMIM, Xie et al. 2021, https://arxiv.org/abs/2111.09886). All of the body moves. What
    only the task's model has, such as BERT's pooler, stays as it was in the checkpoint.

    When to use: there are many more unlabelled rows than labelled ones, of a kind that the backbone saw little of.
    Compared with `full`: it costs the time of a second training. A thousand rows gain nothing where the checkpoint
    comes without its head for masked words, as sentence encoders do: the head must be learnt first. A checkpoint
    that was trained by labels may lose by it: `builtin/vit-nano`, one epoch on some 1,470 pictures of hands, went
    from 0.585 to 0.478 at 5e-5, and to 0.179 at 5e-4 (validation accuracy, ten pictures a class, one seed).
    """

    divisible: ClassVar[bool] = False

    path: Annotated[str, Field(min_length=1)] | Annotated[list[str], Field(min_length=1)] | None = None
    """The unlabelled rows, as under `data.path`: files, a glob, a folder, a dataset id or `builtin/…`, read like
    those of `data`. Of several splits the training one counts. By default the training rows themselves."""
    text: str | None = None
    """The column of texts; guessed where none is named."""
    image: str | None = None
    """The column of pictures; guessed where none is named."""
    epochs: Annotated[float, Field(gt=0)] = 3.0
    """How often the unlabelled rows are visited, each time with other parts masked."""
    learning_rate: Annotated[float, Field(gt=0)] | None = None
    """By default 5e-5."""
    mask: Annotated[float, Field(gt=0, lt=1)] | None = None
    """The share of a text's tokens, or of a picture's area, that is to be told from the rest; by default 0.15 for
    texts and 0.6 for pictures."""
    batch_size: Annotated[int, Field(ge=1)] = 32
    """The rows that each process takes at a time; a step is one such batch."""

    def prepare(self, around: Surroundings) -> None:
        """As the inner method; one that adds tokens does not go with it.

        Raises:
            RecipeError: the inner method adds tokens.
        """
        super().prepare(around)
        if getattr(around.config, "prompt_tokens", None):
            says = f"'{self.inner.name}' adds tokens that a model for masked words does not know."
            raise RecipeError(Problem(says, "adapt.inner", hint="Use another method inside."))

    def keep(self, model: nn.Module, folder: Path) -> None:
        """Nothing: an adapter of the inner method belongs to a body that is in no checkpoint but `model/`."""
