"""Words and patterns that choose parameters of a model: `head`, `blocks[-2:]`, `vision.norms`, `*.attention.*`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from itertools import groupby
from typing import TYPE_CHECKING, Annotated, TypeVar

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from hfadapt.backbones.base import Anatomy, Part, Tower
from hfadapt.errors import Problem, RecipeError, count, did_you_mean

if TYPE_CHECKING:
    from torch import nn


T = TypeVar("T")


def _a_slice(text: str) -> str:
    try:
        as_slice(text)
    except ValueError:
        says = "'{blocks}' is not a slice of blocks such as '4:6' or '-2:'."
        raise PydanticCustomError("slice", says, {"blocks": text}) from None
    return text


def some(value: T) -> T:
    """What a recipe names; refused where it is empty."""
    if not value:
        raise PydanticCustomError("refused", "It is empty; give at least one.")
    return value


Selector = Annotated[str, Field(min_length=1)]
Selectors = Annotated[Selector | list[Selector], AfterValidator(some)]
"""One selector or several, as a recipe writes them; see `select`."""
Blocks = Annotated[str, AfterValidator(_a_slice)]
"""A slice of the blocks, as Python writes it: `4:6`, `-2:`, `:3`."""
_WORDS = ("embeddings", "blocks", "after", "norms", "biases", "everything")
"""What a tower has, and a model besides its head."""


def select(model: nn.Module, anatomy: Anatomy, selectors: Selectors | Iterable[str], field: str) -> tuple[str, ...]:
    """The parameters that at least one selector names, in the model's order; unused ones are never among them.

    A selector is one of these, where a model with two towers may have `vision.` or `text.` before all but `head`:

    - `head`, `embeddings`, `blocks`, `after` (what lies between blocks and head), `everything`
    - `blocks[2]`, `blocks[-2:]`: one block, or a slice of them as Python writes it, of each tower
    - `norms`: of modules whose class has `Norm` in its name; `biases`: whose own name ends in `bias`
    - `vision`, `text`: a tower without the head
    - a pattern of parameter names, such as `*.attention.*`, as `fnmatch` reads it; upper and lower case differ

    field: of the recipe, for the errors.

    Raises:
        RecipeError: selectors that name nothing, all at once.
    """
    chosen: set[str] = set()
    problems: list[Problem] = []
    for selector in [selectors] if isinstance(selectors, str) else selectors:
        try:
            chosen |= _selected(model, anatomy, selector, field)
        except RecipeError as error:
            problems += error.problems
    if problems:
        raise RecipeError(*problems)
    return tuple(name for name, _ in model.named_parameters() if name in chosen)


def as_slice(text: str) -> slice:
    """`4:6` as a slice.

    Raises:
        ValueError: it is anything else.
    """
    start, stop = (int(bound) if bound.strip() else None for bound in text.split(":"))
    return slice(start, stop)


def blocks_of(tower: Tower, wanted: slice, written: str, field: str, hint: str = "") -> tuple[Part, ...]:
    """The blocks of a tower in a slice; written: as the recipe writes it.

    Raises:
        RecipeError: there are none.
    """
    if not (chosen := tower.blocks[wanted]):
        raise RecipeError(Problem(f"'{written}' holds no block: {extent(tower)}.", field, hint=hint))
    return chosen


def extent(tower: Tower) -> str:
    """`the vision tower has 12 blocks`."""
    owner = f"{tower.name} tower" if tower.name else "backbone"
    return f"the {owner} has {count(len(tower.blocks), 'block')}"


def norms(model: nn.Module) -> set[str]:
    """The parameters of all normalisation modules, told by the names of their classes."""
    modules = [(name, module) for name, module in model.named_modules() if "Norm" in type(module).__name__]
    return {name for prefix, m in modules for name, _ in m.named_parameters(prefix=prefix, recurse=False)}


def biases(model: nn.Module) -> set[str]:
    """The parameters called `bias`, and `in_proj_bias` and its like."""
    return {name for name, _ in model.named_parameters() if re.search(r"(^|[._])bias$", name)}


def _selected(model: nn.Module, anatomy: Anatomy, selector: str, field: str) -> set[str]:
    """The parameters that one selector names; never none."""
    owner, dot, word = selector.partition(".")
    towers = [tower for tower in anatomy.towers if tower.name and tower.name == owner]
    word = (word if dot else "everything") if towers else selector
    towers = towers or list(anatomy.towers)
    if inside := re.fullmatch(r"blocks\[(.*)\]", word, re.DOTALL):
        wanted, hint = _inside(inside[1], selector, field), _tree(anatomy)
        return {n for tower in towers for b in blocks_of(tower, wanted, selector, field, hint) for n in b.parameters}
    known = _meaning(word, model, anatomy, towers)
    chosen = set(known) if known is not None else {n for n in anatomy.everything if fnmatchcase(n, selector)}
    if not chosen:
        says = f"'{selector}' names no part and no parameter of the model."
        says = says if known is None else f"'{selector}' selects nothing: the model has none."
        raise RecipeError(Problem(says, field, hint=_nearest(selector, anatomy)))
    return chosen


def _inside(text: str, selector: str, field: str) -> slice:
    """What stands in the brackets of `blocks[…]`."""
    try:
        if ":" in text:
            return as_slice(text)
        index = int(text)
    except ValueError:
        says = f"'{selector}' is not a selection of blocks such as 'blocks[0]', 'blocks[4:6]' or 'blocks[-2:]'."
        raise RecipeError(Problem(says, field)) from None
    return slice(index, index + 1 or None)


def _meaning(word: str, model: nn.Module, anatomy: Anatomy, towers: Sequence[Tower]) -> set[str] | None:
    """What a word selects in some towers, and in the head where these are all of them; None where it is no word."""
    parts = [part for tower in towers for part in tower.parts]
    if len(towers) == len(anatomy.towers):
        parts.append(Part("head", anatomy.head))
    elif word == "head":
        return None
    if word not in ("head", *_WORDS):
        return None
    everything = {name for part in parts for name in part.parameters}
    if word in ("norms", "biases"):
        return everything & (norms(model) if word == "norms" else biases(model))
    kinds = {part.name: re.sub(r"^\w+\.|\[\d+\]$", "", part.name) for part in parts}
    return {name for part in parts if word in ("everything", kinds[part.name]) for name in part.parameters}


def _nearest(selector: str, anatomy: Anatomy) -> str:
    """A hint for a selector that names nothing: the nearest that names something, or the parts that there are."""
    if any(name.startswith(f"{selector}.") for name in anatomy.everything):
        return f"Did you mean '{selector}.*'?"
    if selector.endswith(".head"):
        return "The head belongs to no tower: write 'head'."
    towers = [tower.name for tower in anatomy.towers if tower.name]
    known = {*_WORDS, "head", *towers, *(f"{tower}.{word}" for tower in towers for word in _WORDS)}
    known |= {part.name for part in anatomy.parts if part.name != "unused"}
    return did_you_mean(selector, known - {selector}, listing=False) or _tree(anatomy)


def _tree(anatomy: Anatomy) -> str:
    """`The model: embeddings · blocks[0] … blocks[5] · after · head.`"""
    names = [part.name for part in anatomy.parts if part.name != "unused"]
    shown = []
    for _, alike in groupby(names, key=lambda name: name.partition("[")[0]):
        run = list(alike)
        shown.append(run[0] if len(run) == 1 else f"{run[0]} … {run[-1]}")
    return f"The model: {' · '.join(shown)}."
