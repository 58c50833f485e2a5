"""A learnt context before every text of CLIP."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from hfadapt.errors import Problem, RecipeError
from hfadapt.methods import _prompts
from hfadapt.methods.base import Stage, Surroundings

if TYPE_CHECKING:
    from torch import nn

    from hfadapt.backbones.base import Anatomy


class Coop(_prompts.Prompts):
    """Context optimization (CoOp, Zhou et al. 2022, https://arxiv.org/abs/2109.01134), one context for all classes.

    When to use: classes with names and a few pictures of each, a two-tower backbone, and no wish to change
    any of its weights. Needs a large learning rate, 1e-3 to 1e-2. Compared with `linear-probe`: far fewer
    parameters, and the outcome still answers for classes that it never saw, often worse than before. The
    context is part of the tokenizer that comes out, which puts it before every text, so that the plain pipeline
    reads it too: let `task.templates` be `["{}."]` where it takes the place of a hand-written sentence.
    """

    rate: ClassVar[float | None] = 3e-3

    context: Annotated[int, Field(ge=1)] = 4
    """How many tokens are learnt."""
    start: Annotated[str, Field(min_length=1)] = "a photo of a"
    """The words whose embeddings the context starts from; repeated where there are too few."""
    train_temperature: bool = False
    """Whether the factor on the cosines, and SigLIP's bias, move too."""

    def prepare(self, around: Surroundings) -> None:
        """Give the tokenizer the context, and let the text tower still find the end of a text.

        Raises:
            RecipeError: the task is not on pictures with texts, or the tokenizer can't insert tokens.
        """
        if not around.task.contrasts:
            says = f"The method 'coop' is for tasks that join pictures and texts; '{around.task.name}' does not."
            raise RecipeError(Problem(says, "adapt"))
        tokenizer = around.processor.tokenizer
        _find_the_end(around, tokenizer)
        starts = _prompts.words(tokenizer, self.start, self.context)
        if not starts:
            raise RecipeError(Problem(f"The tokenizer makes nothing of '{self.start}'.", "adapt.start"))
        _prompts.add(tokenizer, [f"<ctx{i}>" for i in range(self.context)], starts, around)

    def stages(self, model: nn.Module, anatomy: Anatomy) -> Sequence[Stage]:
        """One stage in which the context moves."""
        temperature = [name for name in anatomy.head if "." not in name] if self.train_temperature else []
        return [Stage("context", dict.fromkeys([*_prompts.learnt(model), *temperature], 1.0))]


def _find_the_end(around: Surroundings, tokenizer: Any) -> None:
    """Tell a CLIP which token ends a text.

    Where its configuration says 2, as OpenAI's do, it takes the token with the highest id for the end
    (`CLIPTextTransformer.forward`), and the context's ids are higher still.
    """
    config = around.config.text_config
    if getattr(config, "eos_token_id", None) != 2:
        return
    if tokenizer.eos_token_id != len(tokenizer) - 1:
        says = f"'{around.source.name}' takes the token with the highest id for the end of a text, which it is not."
        raise RecipeError(Problem(says, "model", hint="Set eos_token_id in the text_config of its config.json."))
    config.eos_token_id = tokenizer.eos_token_id
