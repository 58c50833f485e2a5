"""What the classes of rows decide: captions made of their names, and classes that are not trained on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from hfadapt.data.checks import Split
from hfadapt.data.labels import Labels
from hfadapt.data.prompts import Prompts, prompt
from hfadapt.data.rows import Rows
from hfadapt.data.table import Finding
from hfadapt.errors import DataError, Problem, did_you_mean

if TYPE_CHECKING:
    from hfadapt.tasks.base import Role

FEWEST = 2
"""So many base classes and new classes there must be; one alone is never mistaken."""
_FIELD = "task.new_classes"


def captioned(rows: Rows, ids: np.ndarray, labels: Labels, roles: Mapping[str, Role], prompts: Prompts) -> Rows:
    """Rows with the text that the roles ask for: the first template around each one's class; empty where it has none.

    ids: (rows,), below 0 where there is no class.
    """
    role = next(role for role, its in roles.items() if its.holds == "text")
    texts = pa.array([*(prompt(prompts.templates[0], name) for name in labels.names), ""], pa.string())
    column = texts.take(pa.array(np.where(ids < 0, len(labels.names), ids)))
    return replace(rows, inputs={**rows.inputs, role: pa.chunked_array([column])})


def announced(prompts: Prompts) -> Finding:
    """What a person should know whose captions are made though the recipe does not say so."""
    says = f"No column is named like captions, so each is '{prompts.templates[0]}' around the name of a class."
    if len(prompts.templates) > 1:
        says = f"{says} On each visit to a training row one of {len(prompts.templates)} templates is drawn."
    return Finding(f"{says} If a column holds captions, name it: `data.text: COLUMN`.", 0)


def new_classes(prompts: Prompts, labels: Labels) -> tuple[str, ...]:
    """The names of the classes that are not trained on, in their order.

    A share is the last classes in their order, rounded down: in CoOp's benchmark (Zhou et al. 2022,
    https://arxiv.org/abs/2203.05557) the first half, rounded up, are the base classes.

    Raises:
        DataError: there is no class of such a name, or too few are new or remain.
    """
    if prompts.new is None:
        return ()
    if isinstance(prompts.new, float):
        # The share as it is held may lie a trifle below what it says.
        chosen = labels.names[len(labels) - math.floor(len(labels) * prompts.new + 1e-9) :]
    else:
        chosen = tuple(name for name in labels.names if name in prompts.new)
        unknown = [name for name in dict.fromkeys(prompts.new) if name not in chosen]
        if unknown:
            near = {name: did_you_mean(name, labels.names) for name in unknown}
            raise DataError(*(Problem(f"There is no class '{name}'.", _FIELD, hint=near[name]) for name in unknown))
    remain = len(labels) - len(chosen)
    if min(len(chosen), remain) < FEWEST:
        says = f"Of {len(labels)} classes {len(chosen)} would be new and {remain} base."
        raise DataError(Problem(says, _FIELD, hint=f"Leave at least {FEWEST} on either side."))
    return chosen


def without(splits: Mapping[str, Split], labels: Labels, new: tuple[str, ...]) -> dict[str, Split]:
    """The splits, train and validation less the rows of new classes and of none.

    Raises:
        DataError: no row is left there, or test lacks rows of base classes or of new ones.
    """
    ids = [labels.id_of[name] for name in new]
    base = {split: (its.ids >= 0) & ~np.isin(its.ids, ids) for split, its in splits.items()}
    lack = [f"{split} has no row of a base class" for split, its in base.items() if not its.any()]
    if not np.isin(splits["test"].ids, ids).any():
        lack.append("test has no row of a new class")
    if lack:
        raise DataError(*(Problem(f"With these new classes {says}.", _FIELD) for says in lack))
    return {split: its if split == "test" else its.where(base[split]) for split, its in splits.items()}
