"""`hfadapt predict`: answers for rows."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any, TextIO

SAYS = "answer the rows of a file, or the pictures of a folder"
EXAMPLE = "hfadapt predict runs/my reviews.csv --out answers.jsonl"
_SECONDS = {True: 0.2, False: 60.0}
"""Between two words on the progress: on a terminal, where the line moves, and in a log."""


def options(parser: argparse.ArgumentParser) -> None:
    """Its arguments besides --json."""
    parser.add_argument("run", help="a run folder, or an export of one (RUN/onnx)")
    parser.add_argument(
        "file",
        help="csv, tsv, json, jsonl or parquet with the columns of the recipe; or, for pictures, a folder or a picture",
    )
    parser.add_argument(
        "--out",
        metavar="FILE",
        help="a .csv or .jsonl file, which appears when it is whole; the same command goes on after a kill. "
        "Default: JSON lines to stdout",
    )


def do(arguments: argparse.Namespace) -> None:
    """Carry it out."""
    from hfadapt import launching

    launching.set_up()
    from hfadapt.drafting import Draft, check
    from hfadapt.using import ask

    out = Path(arguments.out) if arguments.out else None
    if out:
        check(out)
    asked = ask(arguments.run, arguments.file)
    if out is None:
        _print(asked)
        return
    draft = Draft(out, asked.stamp)
    progress = Progress(sys.stderr, draft.rows, asked.rows)
    for piece in asked.pieces(draft.rows) if draft.rows < asked.rows else ():
        draft.add(piece)
        progress(draft.rows)
    progress.end()
    draft.finish()
    told = {"rows": draft.rows, "file": str(out)}
    print(json.dumps(told) if arguments.json else f"{draft.rows:,} rows answered in {out}")


def _print(asked: Any) -> None:
    """Answers to stdout; the progress does not come between them where both go to a terminal."""
    progress, done = Progress(sys.stderr, 0, asked.rows), 0
    shows = not sys.stdout.isatty()
    for piece in asked.pieces(0):
        sys.stdout.writelines(json.dumps(answer, ensure_ascii=False) + "\n" for answer in piece)
        sys.stdout.flush()
        done += len(piece)
        if shows:
            progress(done)
    if shows:
        progress.end()


class Progress:
    """How many rows are answered, and the time left: a line that moves on a terminal, one now and then in a log."""

    def __init__(self, stream: TextIO, done: int, rows: int):
        self.stream, self.first, self.rows = stream, done, rows
        self.moves = stream.isatty()
        self.began = self.told = time.monotonic()
        if done:
            self._write(f"going on after {done:,} of {rows:,} rows", lasts=True)

    def __call__(self, done: int) -> None:
        """So many rows are answered."""
        from hfadapt.console import clock

        now = time.monotonic()
        if now - self.told >= _SECONDS[self.moves] and done > self.first:
            self.told = now
            pace = (done - self.first) / (now - self.began)
            left = clock((self.rows - done) / pace)
            self._write(f"  {done / self.rows:4.0%}  row {done:,}/{self.rows:,}  {pace:,.0f} rows/s  {left} left")

    def end(self) -> None:
        """Clear the line that moved."""
        if self.moves:
            self._write("")

    def _write(self, text: str, *, lasts: bool = False) -> None:
        before, after = ("\r\033[K", "\n" if lasts else "") if self.moves else ("", "\n")
        self.stream.write(f"{before}{text}{after}")
        self.stream.flush()
