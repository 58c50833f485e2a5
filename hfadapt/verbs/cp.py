"""`hfadapt cp`: a recipe to begin with."""

from __future__ import annotations

import argparse
import json

SAYS = "copy out a recipe that comes with hfadapt"
EXAMPLE = "hfadapt cp sentiment_bert my.yaml"


def options(parser: argparse.ArgumentParser) -> None:
    """Its arguments besides --json."""
    parser.add_argument("name", help="a recipe's name, as `hfadapt list` prints it")
    parser.add_argument("to", nargs="?", help="where to; default NAME.yaml here")


def do(arguments: argparse.Namespace) -> None:
    """Carry it out."""
    from hfadapt.gallery import copy

    made = copy(arguments.name, arguments.to)
    print(json.dumps({"file": str(made)}) if arguments.json else f"{made}")
