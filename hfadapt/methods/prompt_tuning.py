"""Learnt tokens before every text, and a head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from hfadapt.errors import Problem, RecipeError
from hfadapt.methods import _prompts
from hfadapt.methods.base import Stage, Surroundings

if TYPE_CHECKING:
    from torch import nn

    from hfadapt.backbones.base import Anatomy


class PromptTuning(_prompts.Prompts):
    """Learn the embeddings of new tokens that stand before every text, and the head (Lester et al. 2021,
    https://arxiv.org/abs/2104.08691; with encoders WARP, Hambardzumyan et al. 2021,
    https://arxiv.org/abs/2101.00121).

    When to use: a large frozen backbone that serves many tasks, of which each adds a few rows to its
    vocabulary. Needs a large learning rate, 1e-2 or more, and many steps. Compared with `linear-probe`: can
    change what the body looks for, though not how; compared with `lora`: fewer parameters, weaker, the more so
    the smaller the backbone. The tokens are part of the tokenizer that comes out, which inserts them by itself,
    and take their places of `task.max_length`. They start as the names of the labels, then as frequent words.
    """

    rate: ClassVar[float | None] = 1e-2

    tokens: Annotated[int, Field(ge=1)] = 10
    """How many tokens are learnt."""

    def prepare(self, around: Surroundings) -> None:
        """Give the tokenizer the new tokens.

        Raises:
            RecipeError: the task is not on texts, or the tokenizer can't insert tokens.
        """
        if around.task.modality != "text":
            says = f"The method 'prompt-tuning' is for tasks on texts; '{around.task.name}' is not one."
            raise RecipeError(Problem(says, "adapt"))
        tokenizer, names = around.processor, [f"<prompt{i}>" for i in range(self.tokens)]
        labels = around.labels.names if around.labels.kind in ("label", "labels") else ()
        spelt = [tokenizer(name.replace("_", " "), add_special_tokens=False)["input_ids"] for name in labels]
        starts = [ids for ids in spelt if ids][: self.tokens]
        starts += _prompts.frequent(tokenizer, self.tokens - len(starts)) if len(starts) < self.tokens else []
        _prompts.add(tokenizer, names, starts, around)

    def stages(self, model: nn.Module, anatomy: Anatomy) -> Sequence[Stage]:
        """One stage in which the new tokens' embeddings and the head move."""
        return [Stage("prompts", dict.fromkeys([*_prompts.learnt(model), *anatomy.head], 1.0))]
