"""What goes wrong, said in one sentence to the person who can fix it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """One mistake: where it is, which field it concerns, what is wrong, what to do."""

    says: str
    """What is wrong with the value given; a sentence."""
    field: str = ""
    """Dotted name in the recipe (`train.learning_rate`); empty where no field is to blame."""
    where: str = ""
    """`recipe.yaml:8`, `reviews.csv:12` or `command line`; empty where there is no place."""
    hint: str = ""
    """What to do about it; a sentence, or empty."""

    def __str__(self) -> str:
        place = ": ".join(part for part in (self.where, self.field) if part)
        text = f"{self.says} {self.hint}".strip()
        return one_line(f"{place}: {text}" if place else text)


class HfadaptError(Exception):
    """A mistake that the user can mend. Its text is shown without a traceback; exit status 2."""

    def __init__(self, *problems: Problem | str):
        self.problems = tuple(Problem(p) if isinstance(p, str) else p for p in problems)
        super().__init__("\n".join(str(p) for p in self.problems))


class RecipeError(HfadaptError):
    """The recipe is wrong; all that is wrong with it comes at once."""


class DataError(HfadaptError):
    """The data cannot be used as they are; all that is wrong with them comes at once."""


class RunError(HfadaptError):
    """A run folder is missing, incomplete, or would be overwritten; or training had to stop."""


def one_line(text: str) -> str:
    """The text on one line, its control characters shown rather than sent to a terminal."""
    flat = " ".join(text.splitlines())
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in flat)


def did_you_mean(word: object, choices: Iterable[str], *, listing: bool = True) -> str:
    """A hint that names the nearest of the choices, or, where none is near, lists them."""
    known = sorted(set(choices))
    near = difflib.get_close_matches(str(word).lower(), [k.lower() for k in known], n=1, cutoff=0.6)
    if near:
        nearest = next(k for k in known if k.lower() == near[0])
        return f"Did you mean '{nearest}'?"
    if not listing or not known:
        return ""
    shown = ", ".join(f"'{k}'" for k in known[:12])
    return f"There are: {shown}{', …' if len(known) > 12 else ''}."


def misfit(value: object, why: str) -> str:
    """A sentence about a value and what it should be: `'2e-5' does not fit: it should be a number.`"""
    if value is None:
        return f"It is empty; {why}."
    text = repr(value).lower() if isinstance(value, bool) else repr(value)
    return f"{text if len(text) <= 80 else f'{text[:80]}…'} does not fit: {why}."


def count(number: int, singular: str, plural: str = "") -> str:
    """`1 row`, `2,000 rows`."""
    return f"{number:,} {singular if number == 1 else plural or singular + 's'}"
