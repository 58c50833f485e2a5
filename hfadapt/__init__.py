"""Adapt pretrained models by recipe: `read` a recipe, `plan` a run, `adapt` the backbone, hand over what came of it."""

from __future__ import annotations

import warnings
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hfadapt.adapting import adapt
    from hfadapt.console import Console
    from hfadapt.contract import check
    from hfadapt.errors import HfadaptError
    from hfadapt.exporting import export
    from hfadapt.folder import Run, open_run
    from hfadapt.planning import Plan, plan
    from hfadapt.publishing import publish
    from hfadapt.reading import read
    from hfadapt.recipe import Recipe
    from hfadapt.showing import draw_augmented, plan_lines
    from hfadapt.using import predict, score

__version__ = "0.1.0"

# In a notebook without ipywidgets tqdm warns of plain bars, once transformers is imported; hfadapt shows none.
warnings.filterwarnings("ignore", message="IProgress not found")

_HOMES = {
    "read": "reading",
    "plan": "planning",
    "plan_lines": "showing",
    "draw_augmented": "showing",
    "adapt": "adapting",
    "score": "using",
    "predict": "using",
    "check": "contract",
    "export": "exporting",
    "publish": "publishing",
    "open_run": "folder",
    "Recipe": "recipe",
    "Console": "console",
    "Plan": "planning",
    "Run": "folder",
    "HfadaptError": "errors",
}
__all__ = [
    "Console",
    "HfadaptError",
    "Plan",
    "Recipe",
    "Run",
    "adapt",
    "check",
    "draw_augmented",
    "export",
    "open_run",
    "plan",
    "plan_lines",
    "predict",
    "publish",
    "read",
    "score",
]


def __getattr__(name: str) -> Any:
    # Imported when first used: torch and transformers cost seconds, and a syntax error needs neither.
    if name in _HOMES:
        return getattr(import_module(f"hfadapt.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'hfadapt' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
