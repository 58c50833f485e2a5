"""What a run costs as the rows grow: python benchmarks/scale/measure.py [--rows 1000 3000 …] [--ways held streamed]

A tiny BERT learns one epoch of sentences made here: planning, baselines, training, scores and the run's files are all
inside. Each size runs in a fresh process of one thread, in turn, and its line goes to `results.json` as it ends; what
is there is measured anew only where `--again` says so. README.md is written from it each time.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import itertools
import json
import math
import os
import platform
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RESULTS, README = HERE / "results.json", HERE / "README.md"
ROWS = (1_000, 3_000, 10_000, 30_000, 100_000)
WAYS = {
    "held": "all rows in memory, a tenth each to validate and to test",
    "streamed": "rows streamed from a file, judged by others ten times on the way",
}
JUDGED = 1_000
"""Rows to validate, and as many to test, where the rows to train on are streamed."""
BATCH = 16
PHASES = ("plan", "encode", "baselines", "train", "judge")
REPEATED = 0.01
"""The share of sentences that stand in the data a second time, as in rows that people collect."""

_PLACES = [
    "kitchen",
    "garden",
    "station",
    "library",
    "harbour",
    "market",
    "studio",
    "cellar",
    "valley",
    "meadow",
    "office",
    "bridge",
]
_THINGS = [
    "soup",
    "lamp",
    "ticket",
    "parcel",
    "letter",
    "engine",
    "window",
    "basket",
    "camera",
    "ladder",
    "jacket",
    "bottle",
    "mirror",
    "pencil",
]
_ADVERBS = [
    "slowly",
    "again",
    "today",
    "rarely",
    "twice",
    "nearby",
    "early",
    "often",
    "badly",
    "neatly",
    "late",
    "outside",
]
_SIGNS = {
    "good": ["wonderful", "splendid", "delightful", "perfect", "lovely", "superb"],
    "bad": ["dreadful", "broken", "awful", "useless", "horrid", "ruined"],
    "neither": ["ordinary", "usual", "average", "common", "plain", "regular"],
}


def sentences(rows: int, seed: int = 0) -> list[tuple[str, str]]:
    """So many texts of 4 to 40 words with a label each; a few of them twice."""
    draw = random.Random(seed)
    made: list[tuple[str, str]] = []
    for number in range(rows):
        if made and draw.random() < REPEATED:
            made.append(draw.choice(made[-1000:]))
            continue
        label = draw.choice(list(_SIGNS))
        words = [
            part
            for _ in range(draw.choice((1, 1, 2, 3, 6)))
            for part in (draw.choice(_THINGS), "in the", draw.choice(_PLACES), draw.choice(_ADVERBS))
        ]
        words.insert(draw.randrange(len(words)), draw.choice(_SIGNS[label]))
        # A number keeps nearly all sentences apart, however many there are.
        made.append((" ".join([*words, f"number {number}"]), label))
    return made


def one(way: str, rows: int, folder: Path) -> dict[str, Any]:
    """Carry a run out in this process: the seconds of its phases, and the most memory held by the end of each.

    Seconds are counted on the clock and of the processor; the latter are the same where other programs run too.
    """
    import torch

    from hfadapt import adapting, judging, tiny
    from hfadapt.noise import quiet
    from hfadapt.planning import plan
    from hfadapt.recipe import Recipe

    torch.set_num_threads(1)
    streams = way == "streamed"
    made = sentences(rows + 2 * JUDGED * streams)
    with quiet():
        tiny.checkpoint(folder / "bert", "bert", [text for text, _ in made[:1000]])
    parts = {"rows": made} if not streams else {"validation": made[:JUDGED], "test": made[JUDGED : 2 * JUDGED]}
    for name, part in (parts | ({"train": made[2 * JUDGED :]} if streams else {})).items():
        with (folder / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("text", "label"), *part])
    data = {"path": str(folder / "*.csv"), **({"streaming": True} if streams else {})}
    length = {"max_steps": math.ceil(rows / BATCH)} if streams else {"num_train_epochs": 1}
    given = {"task": "text-classification", "model": str(folder / "bert"), "data": data, "cache": "off"}
    recipe = Recipe.model_validate(given | {"train": length | {"per_device_train_batch_size": BATCH}})
    del made, parts, part
    begun = _peak()
    marks = [("begin", time.perf_counter(), time.process_time(), begun)]

    def mark(name: str) -> None:
        marks.append((name, time.perf_counter(), time.process_time(), _peak()))

    planned = plan(recipe)
    mark("plan")
    compare = judging.compare

    def compared(*given: Any) -> Any:
        mark("encode")
        return compare(*given)

    judging.compare = compared

    def listen(event: Mapping[str, Any]) -> None:
        phase = {"baselines": "baselines", "stage done": "train", "end": "judge"}.get(event["event"])
        if phase:
            mark(phase)

    adapting.adapt(planned, folder / "run", listener=listen)
    spans = [(after[0], after[1] - before[1], after[2] - before[2]) for before, after in itertools.pairwise(marks)]
    return {
        "way": way,
        "rows": rows,
        "seconds": {name: round(wall, 3) for name, wall, _ in spans},
        "cpu_seconds": {name: round(cpu, 3) for name, _, cpu in spans},
        "memory_at_start_bytes": begun,
        "peak_memory_bytes": {name: held for name, *_, held in marks[1:]},
    }


def _peak() -> int:
    """The most memory that this process has held, in bytes."""
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return held if sys.platform == "darwin" else held * 1024


def apart(way: str, rows: int, seconds: float) -> dict[str, Any]:
    """The same in a fresh process of one thread."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(Path(__file__).resolve()), "--one", way, str(rows), folder]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        done = subprocess.run(command, stdout=subprocess.PIPE, env=environment, timeout=seconds, check=True, text=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def told(results: Mapping[str, Any]) -> str:
    """README.md."""
    lines = [
        "# What a run costs as the rows grow",
        "",
        "`python benchmarks/scale/measure.py` measures this and writes this page. A tiny BERT learns one epoch of",
        "sentences that are made as it goes, in batches of 16. The whole run is inside: reading and checking the rows,",
        "simple methods, training, scores with intervals, the card. Each size has a fresh process of one thread.",
        "Milliseconds are the processor's, for a row; `clock` is what passed meanwhile. What a process holds before it",
        "begins, libraries above all, is in the peak; `above` is what came to it.",
    ]
    for way, says in WAYS.items():
        runs = sorted((run for run in results["runs"] if run["way"] == way), key=lambda run: run["rows"])
        if runs:
            lines += ["", f"## {says[0].upper()}{says[1:]}", "", *_table(runs), "", *_growth(runs)]
    return "\n".join([*lines, "", _where(results), ""])


def _table(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = [
        "| rows | clock, s | ms a row | " + " | ".join(PHASES) + " | peak, MiB | above |",
        "|--:|--:|--:|" + "--:|" * len(PHASES) + "--:|--:|",
    ]
    for run in runs:
        cells = [f"{run['rows']:,}", f"{sum(run['seconds'].values()):.1f}", f"{1000 * _cpu(run) / run['rows']:.2f}"]
        cells += [f"{1000 * run['cpu_seconds'][phase] / run['rows']:.2f}" for phase in PHASES]
        cells += [f"{held / 2**20:,.0f}" for held in (_held(run), _held(run) - run["memory_at_start_bytes"])]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _cpu(run: Mapping[str, Any]) -> float:
    return float(sum(run["cpu_seconds"].values()))


def _held(run: Mapping[str, Any]) -> int:
    return int(max(run["peak_memory_bytes"].values()))


def _growth(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """What each further row costs from one size to the next: what is fixed falls out."""
    lines = []
    for small, great in itertools.pairwise(runs):
        rows = great["rows"] - small["rows"]
        seconds, held = 1000 * (_cpu(great) - _cpu(small)) / rows, (_held(great) - _held(small)) / rows / 1024
        lines.append(
            f"- From {small['rows']:,} to {great['rows']:,} rows each further row takes {seconds:.2f} ms and "
            f"{held:.2f} KiB at the peak."
        )
    return lines


def _where(results: Mapping[str, Any]) -> str:
    about = results["about"]
    versions = ", ".join(f"{name} {its}" for name, its in about["versions"].items())
    return f"Measured on {about['date']}, commit {about['commit']}: {about['machine']}; {versions}."


def _about() -> dict[str, Any]:
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=HERE, stdout=subprocess.PIPE, text=True)
    return {
        "date": datetime.date.today().isoformat(),
        "commit": commit.stdout.strip() or "unknown",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}",
        "versions": {name: version(name) for name in ("hfadapt", "torch", "transformers", "datasets", "scikit-learn")},
    }


def main() -> None:
    """Measure what is missing, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=list(ROWS))
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--seconds", type=float, default=3600, help="the most that one size may take")
    parser.add_argument("--again", action="store_true", help="measure what results.json holds anew")
    parser.add_argument("--one", nargs=3, metavar=("WAY", "ROWS", "FOLDER"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(one(given.one[0], int(given.one[1]), Path(given.one[2]))))
        return
    known = json.loads(RESULTS.read_text(encoding="utf-8"))["runs"] if RESULTS.exists() else []
    runs = {(run["way"], run["rows"]): run for run in known}
    for way, rows in itertools.product(given.ways, given.rows):
        if (way, rows) not in runs or given.again:
            runs[way, rows] = apart(way, rows, given.seconds)
            results = {"about": _about(), "runs": [runs[key] for key in sorted(runs)]}
            RESULTS.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
            README.write_text(told(results), encoding="utf-8")


if __name__ == "__main__":
    main()
