"""What a batch of pictures takes to augment, compared with one after the other: python benchmarks/augmenting/measure.py

Pictures are the built-in digits at several sides. Both ways take turns in one process, so that both have whatever else
the machine does. Writes `results.json`, and README.md from it; `--threads 2` measures anew what two threads take alone.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from PIL import Image

HERE = Path(__file__).parent
RESULTS, README = HERE / "results.json", HERE / "README.md"
OPTIONS: dict[str, dict[str, Any]] = {
    "colour": {"colour": 0.3},
    "rand_augment": {"rand_augment": 9},
    "trivial_augment": {"trivial_augment": True},
    "erasing": {"erasing": 0.25},
}
SIDES, BATCHES, THREADS = (28, 48, 96, 224), (16, 32), (1, 2)
EPOCHS = 4
"""Other draws for the same pictures."""

Way = Callable[[Sequence[Image.Image], Sequence[np.random.Generator]], list[Image.Image]]


def digits(number: int, side: int) -> list[Image.Image]:
    """So many of the built-in digits."""
    import io

    from hfadapt.builtin import scattered_digits

    cells = scattered_digits.make()["validation"]["image"][:number]
    opened = [Image.open(io.BytesIO(cell["bytes"])) for cell in cells]
    return [picture.resize((side, side), Image.Resampling.BICUBIC) for picture in opened]


def one_by_one(operations: Sequence[Any]) -> Way:
    """Each picture through kornia's operations as a batch by itself."""
    import torch

    def change(picture: Image.Image, draw: np.random.Generator) -> Image.Image:
        pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float() / 255
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(int(draw.integers(1 << 62)))
            for operation in operations:
                pixels = operation(pixels)
        return Image.fromarray((pixels[0].clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy())

    return lambda pictures, draws: [change(*its) for its in zip(pictures, draws, strict=True)]


def compared(option: str, side: int, batch: int, rounds: int) -> dict[str, Any]:
    """Milliseconds of a picture, one by one, and which part of it together takes.

    Of each batch, of which there are a few that draw differently, the least of all rounds counts: what other programs
    do only adds to it.
    """
    from hfadapt.data.augmenting import Augmenter

    augmenter, pictures = Augmenter(SimpleNamespace(**OPTIONS[option]), (side, side)), digits(batch, side)
    ways: dict[str, Way] = {"one by one": one_by_one(augmenter._operations), "together": augmenter}
    least: dict[tuple[str, int], float] = {}
    for number in range(rounds * EPOCHS):
        epoch, made = number % EPOCHS, {}
        for name, way in ways.items():
            draws = [np.random.default_rng([epoch, row]) for row in range(batch)]
            began = time.perf_counter()
            made[name] = way(pictures, draws)
            least[name, epoch] = min(time.perf_counter() - began, least.get((name, epoch), math.inf))
        assert made["together"] == made["one by one"], "the pictures differ"
    apart, together = (sum(least[name, epoch] for epoch in range(EPOCHS)) for name in ways)
    milliseconds = apart / EPOCHS / batch * 1000
    return {
        "option": option,
        "side": side,
        "batch": batch,
        "one_by_one_ms": round(milliseconds, 3),
        "ratio": round(together / apart, 3),
    }


def told(results: Mapping[str, Any]) -> str:
    """README.md."""
    about = results["about"]
    lines = [
        "# What augmenting takes",
        "",
        "`python benchmarks/augmenting/measure.py` measures this and writes this page. Small pictures that drew",
        "the same operation go through kornia together. `0.5 of 0.8` says: half of what one after the other takes,",
        "which is 0.8 milliseconds a picture. Either way the pictures are the same, pixel by pixel. Of more than",
        "128 x 128 pixels each goes alone, since there nothing is gained.",
        "",
        f"Both ways take turns, in {about['rounds']} rounds, of which the least time counts, since what other",
        "programs do only adds to it.",
    ]
    for threads in sorted({row["threads"] for row in results["rows"]}):
        rows = {(its["side"], its["batch"], its["option"]): its for its in results["rows"] if its["threads"] == threads}
        lines += ["", f"## {'One thread' if threads == 1 else f'{threads} threads'}", ""]
        lines += [f"| side | batch | {' | '.join(OPTIONS)} |", "|--:|--:|" + "--:|" * len(OPTIONS)]
        for side, batch in sorted({key[:2] for key in rows}):
            found = [rows[side, batch, option] for option in OPTIONS]
            cells = [f"{its['ratio']:.2f} of {its['one_by_one_ms']:.2f}" for its in found]
            lines.append(f"| {side} | {batch} | {' | '.join(cells)} |")
    versions = ", ".join(f"{name} {its}" for name, its in about["versions"].items())
    return "\n".join([*lines, "", f"Measured on {about['date']}: {about['machine']}; {versions}.", ""])


def main() -> None:
    """Measure all, each number of threads in a process of its own, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--threads", type=int, nargs="+", default=THREADS)
    parser.add_argument("--apart", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.apart:
        cells = [(option, side, batch) for side in SIDES for batch in BATCHES for option in OPTIONS]
        print(json.dumps([compared(*cell, given.rounds) for cell in cells]))
        return
    known = json.loads(RESULTS.read_text(encoding="utf-8"))["rows"] if RESULTS.exists() else []
    rows: list[dict[str, Any]] = [row for row in known if row["threads"] not in given.threads]
    for threads in given.threads:
        command = [sys.executable, str(Path(__file__).resolve()), "--apart", "--rounds", str(given.rounds)]
        environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
        done = subprocess.run(command, stdout=subprocess.PIPE, env=environment, check=True, text=True)
        rows += [{"threads": threads, **row} for row in json.loads(done.stdout.splitlines()[-1])]
    about = {
        "date": datetime.date.today().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}",
        "versions": {name: version(name) for name in ("hfadapt", "torch", "kornia", "pillow")},
        "rounds": given.rounds,
    }
    results = {"about": about, "rows": rows}
    RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    README.write_text(told(results), encoding="utf-8")


if __name__ == "__main__":
    main()
