"""What the caches will keep, and which embeddings will not train, as far as a plan tells."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from torch import nn

from hfadapt import settings
from hfadapt.training import pictures as decoded
from hfadapt.training import vocabulary
from hfadapt.training.caching import STREAMED, refusal
from hfadapt.training.rows import Rows
from hfadapt.training.stages import steps_of

if TYPE_CHECKING:
    from hfadapt.planning import Plan


_HEAPS = 0.6
"""As which power of their number the tokens grow that rows use: Heaps' law, 0.4 to 0.6 in English."""
_LOOKED_AT = 1_000
"""Rows whose tokens are counted."""


class Kept(NamedTuple):
    """Of a stage."""

    stage: str
    below: str
    """Below what the cache may keep; empty where nothing lies below all that moves."""
    visits: float
    """How often the stage sees a row."""
    refused: str
    """Why nothing is kept."""

    @property
    def serves(self) -> bool:
        """Whether the run will try."""
        return bool(self.below) and not self.refused


class Pictures(NamedTuple):
    """Of the training split."""

    side: int | None
    """The shorter side that they have at most before they are varied, in pixels; None where they are not."""
    refused: str
    """Why they are not kept decoded; empty where they may be."""
    visits: float
    """How often each is seen."""

    @property
    def ready(self) -> bool:
        """Whether what is kept are model inputs but for their scale, so that nothing else is computed again."""
        return not (self.refused or self.side)


def pictures(plan: Plan) -> Pictures | None:
    """None where the task reads none, or training rows are streamed."""
    if plan.recipe.task.modality == "text" or plan.data.stream:
        return None
    epochs = plan.steps / settings.steps_per_epoch(plan.settled, len(plan.data.splits["train"]), 1)
    side = plan.recipe.task.working_side(plan.processor)
    return Pictures(side, decoded.refusal(plan.recipe.cache, epochs), epochs)


def prefixes(plan: Plan) -> list[Kept]:
    """Of each stage, in order."""
    task, settled = plan.recipe.task, plan.settled
    per_epoch = settings.steps_per_epoch(settled, len(plan.data.splits["train"]), 1)
    varies, elusive = task.varies or task.mixes, task.mixes or task.draws_texts
    drawn = plan.recipe.data.sampling == "balanced"
    looked_at = any(method.passes for method in plan.recipe.adapt.chain)
    found = []
    for stage, steps in zip(plan.stages, steps_of(plan.stages, plan.steps), strict=True):
        moving = {plan.anatomy.part_of(name) for name in stage.speeds}
        lowest = [next((p.name for p in tower.parts if p.name in moving), "head") for tower in plan.anatomy.towers]
        below = [name for name in lowest if not name.endswith("embeddings")]
        visits = steps / per_epoch
        why = refusal(plan.recipe.cache, settled, visits, drawn=drawn, varies=varies, elusive=elusive)
        why = STREAMED if plan.data.stream else why
        why = why or ("what is added to the loss looks at all of the model" if looked_at else "")
        found.append(Kept(stage.name, " and ".join(dict.fromkeys(below)), visits, why))
    return found


def unused(plan: Plan, model: nn.Module, first: Callable[[int], Rows]) -> dict[str, int]:
    """The elements of embeddings of tokens that no training text will have, by parameter; see `training.vocabulary`.

    model: the wrapped one; first: encodes so many of the training rows.
    """
    watched = any(its.copies or its.passes or its.evaluates for its in plan.recipe.adapt.chain)
    if plan.data.stream or plan.recipe.task.lazy or vocabulary.refusal(plan.settled, watched=watched):
        return {}
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = {names[id(its.weight)]: its for *_, its in vocabulary.embeddings(model)}
    if not any(name in stage.speeds for name in found for stage in plan.stages):
        return {}
    rows, all_rows = first(_LOOKED_AT), len(plan.data.splits["train"])
    seen = len(vocabulary.used_by(rows.table, plan.processor.all_special_ids))
    used = round(seen * (all_rows / len(rows)) ** _HEAPS)
    return {
        name: (its.num_embeddings - used) * its.embedding_dim
        for name, its in found.items()
        if used <= vocabulary.MOST * its.num_embeddings
    }
