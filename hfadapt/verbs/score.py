"""`hfadapt score`: how a finished run does."""

from __future__ import annotations

import argparse
import json

from hfadapt.verbs import CHANGES

SAYS = "score a finished run or an export of it, on its own rows or others"
EXAMPLE = "hfadapt score runs/my data.test=other.csv"


def options(parser: argparse.ArgumentParser) -> None:
    """Its arguments besides --json."""
    parser.add_argument("run", help="a run folder, or an export of one (RUN/onnx)")
    parser.add_argument("changes", nargs="*", default=[], metavar="key=value", help=CHANGES)


def do(arguments: argparse.Namespace) -> None:
    """Carry it out."""
    from hfadapt import launching

    launching.set_up()
    from hfadapt.folder import plain
    from hfadapt.scoring.table import lines
    from hfadapt.using import score

    found = score(arguments.run, arguments.changes)
    if arguments.json:
        print(json.dumps({"scores": plain(found)}, ensure_ascii=False))
        return
    for split, metrics in found.items():
        main = [m for m in metrics if "[" not in m]
        print(*lines(split, {"model": metrics}, main), sep="\n")
