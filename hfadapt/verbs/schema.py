"""`hfadapt schema`: the format of recipes."""

from __future__ import annotations

import argparse
import json

SAYS = "print the JSON Schema of a recipe"
EXAMPLE = "hfadapt schema > recipe.schema.json"


def options(parser: argparse.ArgumentParser) -> None:
    """Its arguments besides --json."""
    del parser


def do(arguments: argparse.Namespace) -> None:
    """Carry it out."""
    from hfadapt.recipe import schema

    print(json.dumps(schema(), indent=2, ensure_ascii=False))
