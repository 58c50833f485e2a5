"""Folder → {name: what its file defines}: the only registry."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Collection
from functools import cache
from types import ModuleType
from typing import Any

from pydantic import BeforeValidator
from pydantic_core import PydanticCustomError

from hfadapt.errors import did_you_mean
from hfadapt.section import Variant


def names(package: str) -> dict[str, str]:
    """The modules of a package's variants by kebab-case name; `base` and `_private` files are plumbing."""
    folder = importlib.import_module(package)
    files = sorted(m.name for m in pkgutil.iter_modules(folder.__path__))
    return {
        name.replace("_", "-"): f"{package}.{name}" for name in files if name != "base" and not name.startswith("_")
    }


def modules(package: str) -> dict[str, ModuleType]:
    """The variant files of a package by kebab-case name."""
    return {name: importlib.import_module(module) for name, module in names(package).items()}


@cache
def variant(package: str, base: type[Variant], name: str) -> type[Any]:
    """The one subclass of `base` that the file of a name defines; no other file is imported.

    Raises:
        TypeError: the file defines none or several; a mistake of whoever wrote it.
    """
    module = importlib.import_module(f"{package}.{name.replace('-', '_')}")
    here: list[type[Any]] = [
        thing
        for thing in vars(module).values()
        if isinstance(thing, type) and issubclass(thing, base) and thing.__module__ == module.__name__
    ]
    if len(here) != 1:
        raise TypeError(f"{module.__name__} must define one {base.__name__}; it defines {len(here)}")
    here[0].name = name
    return here[0]


def variants(package: str, base: type[Variant]) -> dict[str, type[Any]]:
    """All variants of a package, by name; see `variant`."""
    return {name: variant(package, base, name) for name in names(package)}


@cache
def facts(package: str, kind: type[Any]) -> dict[str, Any]:
    """The one object of type `kind` that each file of `package` defines, by the file's name.

    Raises:
        TypeError: a file defines none or several.
    """
    found = {}
    for name, module in modules(package).items():
        here = [thing for thing in vars(module).values() if isinstance(thing, kind)]
        if len(here) != 1:
            raise TypeError(f"{module.__name__} must define one {kind.__name__}; it defines {len(here)}")
        found[name] = here[0]
    return found


def one_of(package: str, base: type[Variant], what: str) -> BeforeValidator:
    """Makes a variant of a package from its name, or from a mapping with its tag and options.

    Looked up when a value is validated, so that a variant may hold another one. what: as a person calls it.
    """

    def chosen(value: Any) -> Any:
        if isinstance(value, base):
            return value
        kinds = names(package)
        options = dict(value) if isinstance(value, dict) else {}
        name = options.pop(base.tag, None) if isinstance(value, dict) else value
        if isinstance(value, dict) and base.tag not in value:
            implied = [known for known, kind in variants(package, base).items() if kind.implied_by in options]
            if not implied:
                raise _unknown("untagged", f"'{base.tag}' is missing. {_known('', kinds)}")
            name = implied[0]
        if not isinstance(name, str):
            raise _unknown("unknown", f"Expected the name of a {what}. {_known('', kinds)}")
        if name not in kinds:
            raise _unknown("unknown", f"There is no {what} '{name}'. {_known(name, kinds)}")
        return variant(package, base, name).model_validate(options)

    return BeforeValidator(chosen)


def _known(name: str, kinds: Collection[str]) -> str:
    """The nearest name, or all of them where these are few."""
    near = did_you_mean(name, kinds, listing=len(kinds) <= 12)
    return near or "`hfadapt list` shows them all."


def _unknown(kind: str, says: str) -> PydanticCustomError:
    return PydanticCustomError(kind, "{says}", {"says": says})  # type: ignore[arg-type]
