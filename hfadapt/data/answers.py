"""What one raw target says: the names of labels, a number, or why it can't be used."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any

from hfadapt.data.table import type_name

if TYPE_CHECKING:
    from hfadapt.kind import Kind

_DECIMAL_COMMA = re.compile(r"-?[0-9]+,[0-9]+")


class Refused(str):
    """A sentence that says why a value can't be used."""


Answer = tuple[str, ...] | float | Refused
"""The names of a row's labels (one where the kind is `label`), or its number, or neither."""


def answer(value: Any, kind: Kind, separator: str | None) -> Answer:
    """What a raw target says, given what a row is answered with and what separates labels in a text."""
    if kind == "number":
        return number(value)
    if kind == "labels":
        return _names(value, separator)
    if kind == "pairs" and is_missing(value):
        return ()
    name = _name(value)
    return name if isinstance(name, Refused) else (name,)


def number(value: Any) -> float | Refused:
    """The number that a raw target is, or says as a text."""
    if is_missing(value):
        return Refused("The number is missing.")
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        return Refused(f"Expected a number, found {type_name(value)}.")
    try:
        # float() takes 1_000, which no table means.
        found = float("no number" if isinstance(value, str) and "_" in value else value)
    except (ValueError, OverflowError):
        comma = isinstance(value, str) and _DECIMAL_COMMA.fullmatch(value)
        return Refused(f"{_shown(value)} is not a number{'; write a point for the comma' if comma else ''}.")
    return found if math.isfinite(found) else Refused(f"{_shown(value)} is not a finite number.")


def is_missing(value: Any) -> bool:
    """Whether a cell holds no target: null, an empty text, or the NaN that stands for null among floats."""
    return value is None or (isinstance(value, str) and not value) or (isinstance(value, float) and value != value)


def _name(value: Any) -> str | Refused:
    if is_missing(value):
        return Refused("The label is missing.")
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        if not value.is_integer():
            return Refused(f"The label {value!r} is not a whole number.")
        return str(int(value))
    if isinstance(value, int):
        return str(value)
    if not isinstance(value, str):
        return Refused(f"The label is {type_name(value)}, {_shown(value)}; expected one label.")
    try:
        value.encode()
    except UnicodeEncodeError:
        return Refused("The label holds half of a character (a lone surrogate).")
    return value


def _names(value: Any, separator: str | None) -> tuple[str, ...] | Refused:
    if value is None:
        return Refused("The labels are missing; an empty list says that there are none.")
    if isinstance(value, str) and separator:
        return tuple(name for part in value.split(separator) if (name := part.strip()))
    if not isinstance(value, list):
        return Refused(f"The labels are {type_name(value)}, {_shown(value)}; expected a list of labels.")
    names = []
    for one in value:
        name = _name(one)
        if isinstance(name, Refused):
            return Refused(f"In the list of labels: {name}")
        names.append(name)
    return tuple(names)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"
