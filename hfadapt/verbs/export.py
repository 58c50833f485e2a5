"""`hfadapt export`: a run's model for other runtimes."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from typing import Any

from hfadapt.errors import count
from hfadapt.verbs import CHANGES

SAYS = "export the model of a finished run to ONNX, to ONNX of 8 bits, or through torch.export"
EXAMPLE = "hfadapt export runs/my --to onnx-int8"


def options(parser: argparse.ArgumentParser) -> None:
    """Its arguments besides --json."""
    parser.add_argument("run", help="a run folder")
    parser.add_argument("changes", nargs="*", default=[], metavar="key=value", help=f"{CHANGES}, for the rows to score")
    parser.add_argument("--to", required=True, metavar="FORMAT", help="onnx, onnx-int8 or torch-export")
    parser.add_argument("--out", metavar="DIR", help="the folder; default RUN/FORMAT")


def do(arguments: argparse.Namespace) -> None:
    """Carry it out."""
    from hfadapt import launching

    launching.set_up()
    from hfadapt.exporting import export

    if not arguments.json:
        print(f"exporting {arguments.run} to {arguments.to}, which takes seconds to minutes", flush=True)
    made = export(arguments.run, arguments.to, arguments.out, arguments.changes)
    if arguments.json:
        print(json.dumps({"folder": str(made.path), **made.about}, ensure_ascii=False))
    else:
        print(*_lines(made), sep="\n")


def _lines(made: Any) -> Iterator[str]:
    about = made.about
    to, checked, speed = about["format"], about["checked"], about["speed"]
    files = [path for graph in made.graphs.values() for path in (graph, graph.with_name(f"{graph.name}.data"))]
    size = sum(path.stat().st_size for path in files if path.exists())
    yield f"export      {made.path}  ({', '.join(path.name for path in made.graphs.values())}: {size / 1e6:,.1f} MB)"
    allowed = f", {checked['tolerance']:g} is allowed" if "tolerance" in checked else ""
    batches = f"in {len(checked['shapes'])} batches of different shapes"
    yield f"compared    at most {checked['max_difference']:.2g} from PyTorch's outputs {batches}{allowed}"
    rates = speed["rows_per_second"]
    how = f"CPU, {count(speed['threads'], 'thread')}, batches of {next(iter(speed['shapes'].values()))[0]}"
    yield f"speed       {rates[to]:,.0f} rows/s, PyTorch {rates['pytorch']:,.0f} rows/s ({how})"
    if score := about.get("score"):
        values = f"{score[to]:.4f}, PyTorch {score['pytorch']:.4f}: {score['drop']:+.4f} lost"
        yield f"score       test {score['metric']} {values} ({score['rows']:,} rows)"
    yield f"use         hfadapt predict {made.path} FILE"
