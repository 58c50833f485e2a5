"""`hfadapt check`: whether what a run trained is what loads."""

from __future__ import annotations

import argparse
import json
import sys

SAYS = "check that plain transformers loads what a run trained"
EXAMPLE = "hfadapt check runs/my"


def options(parser: argparse.ArgumentParser) -> None:
    """Its arguments besides --json."""
    parser.add_argument("run", help="a run folder")


def do(arguments: argparse.Namespace) -> None:
    """Carry it out; exit status 1 where something is not as it was when the run trained."""
    from hfadapt.contract import check

    checked = check(arguments.run)
    if arguments.json:
        print(json.dumps({"run": str(checked.run.path), **checked.as_dict()}, ensure_ascii=False))
    else:
        print(checked.line)
    for problem in checked.problems:
        print(problem, file=sys.stderr)
    if not checked.sound:
        sys.exit(1)
