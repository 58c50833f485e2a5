"""`hfadapt predict`: answers for rows."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hfadapt.errors import HfadaptError

SAYS = "answer the rows of a file, or the pictures of a folder"
EXAMPLE = "hfadapt predict runs/my reviews.csv > answers.jsonl"


def options(parser: argparse.ArgumentParser) -> None:
    """Its arguments besides --json."""
    parser.add_argument("run", help="a run folder")
    parser.add_argument(
        "file",
        help="csv, tsv, json, jsonl or parquet with the columns of the recipe; or, for pictures, a folder or a picture",
    )
    parser.add_argument("--out", metavar="FILE", help="a .csv or .jsonl file; default JSON lines to stdout")


def do(arguments: argparse.Namespace) -> None:
    """Carry it out."""
    import csv

    from hfadapt import launching

    launching.set_up()
    from hfadapt.using import predict

    out = Path(arguments.out) if arguments.out else None
    if out and out.suffix not in {".csv", ".jsonl"}:
        raise HfadaptError(f"--out must end in .csv or .jsonl, not in '{out.suffix}'.")
    answers = predict(arguments.run, arguments.file)
    first = next(answers, None)
    stream = out.open("w", encoding="utf-8", newline="") if out else sys.stdout
    writer = csv.DictWriter(stream, list(_flat(first))) if first and out and out.suffix == ".csv" else None
    if writer:
        writer.writeheader()
    number = 0
    for answer in [] if first is None else _chain(first, answers):
        number += 1
        if writer:
            writer.writerow(_flat(answer))
        else:
            stream.write(json.dumps(answer, ensure_ascii=False) + "\n")
    if out:
        stream.close()
        print(
            json.dumps({"rows": number, "file": str(out)}) if arguments.json else f"{number:,} rows answered in {out}"
        )


def _chain(first: dict[str, Any], rest: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    yield first
    yield from rest


def _flat(answer: dict[str, Any]) -> dict[str, Any]:
    """An answer as one row of a table: labels joined by `|`, a column for each probability."""
    row: dict[str, Any] = {}
    for key, value in answer.items():
        if isinstance(value, dict):
            row |= value
        else:
            row[key] = "|".join(value) if isinstance(value, list) else value
    return row
