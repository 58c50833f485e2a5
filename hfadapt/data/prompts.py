"""Sentences around the names of classes, and what a task that asks for classes by them needs of the rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Captions = Literal["given", "classes"]


@dataclass(frozen=True)
class Prompts:
    """What reading the rows depends on where classes are asked for by their names."""

    templates: tuple[str, ...]
    captions: Captions | None = None
    """Whether captions are a column of texts or made of the classes; None for what the columns suggest."""
    new: float | tuple[str, ...] | None = None
    """The classes that are not trained on: a share of all, the last in their order, or their names."""


def prompt(template: str, name: str) -> str:
    """A template around the name of a class, in which an underscore stands for a space."""
    return template.format(name.replace("_", " "))
