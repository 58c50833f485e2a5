"""`hfadapt list`: what comes with it."""

from __future__ import annotations

import argparse
import json

SAYS = "name the recipes, tasks, methods, families, models and data that come with hfadapt"
EXAMPLE = "hfadapt list"


def options(parser: argparse.ArgumentParser) -> None:
    """Its arguments besides --json."""
    del parser


def do(arguments: argparse.Namespace) -> None:
    """Carry it out."""
    from hfadapt.gallery import listing

    found = listing()
    if arguments.json:
        print(json.dumps(found, ensure_ascii=False, indent=2))
        return
    for kind, things in found.items():
        print(kind)
        width = max(map(len, things))
        for name, says in things.items():
            print(f"  {name:<{width}}  {says}".rstrip())
