"""Folder → {name: what its file defines}: the only registry."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from types import ModuleType
from typing import Any

from hfadapt.section import Variant


def modules(package: str) -> dict[str, ModuleType]:
    """The variant files of a package by kebab-case name; `base` and `_private` files are plumbing."""
    folder = importlib.import_module(package)
    names = sorted(m.name for m in pkgutil.iter_modules(folder.__path__))
    return {
        name.replace("_", "-"): importlib.import_module(f"{package}.{name}")
        for name in names
        if name != "base" and not name.startswith("_")
    }


@cache
def variants(package: str, base: type[Variant]) -> dict[str, type[Any]]:
    """The one subclass of `base` that each file of `package` defines, by the file's name.

    Raises:
        TypeError: a file defines none or several; a mistake of whoever wrote the file.
    """
    found: dict[str, type[Any]] = {}
    for name, module in modules(package).items():
        here = [
            thing
            for thing in vars(module).values()
            if isinstance(thing, type) and issubclass(thing, base) and thing.__module__ == module.__name__
        ]
        if len(here) != 1:
            raise TypeError(f"{module.__name__} must define one {base.__name__}; it defines {len(here)}")
        here[0].name = name
        found[name] = here[0]
    return found


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
