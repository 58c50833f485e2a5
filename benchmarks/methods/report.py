"""From `results.jsonl` to README.md and pictures: python benchmarks/methods/report.py [results.jsonl] [folder]"""

from __future__ import annotations

import math
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import columns
import drawing
import methods
import numpy as np
from cells import BATCH, Results
from scipy import stats

HERE = Path(__file__).parent
BASE = "full"
"""What the others are compared with."""
SMALL = 0.01
"""A gain below this is none worth its name."""

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Mean:
    """A mean over seeds, and half of the width of its interval at 95%; NaN of fewer than three seeds."""

    value: float
    half: float
    seeds: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Mean:
        """By Student's t."""
        half = stats.sem(values) * stats.t.ppf(0.975, len(values) - 1) if len(values) > 2 else math.nan
        return cls(float(np.mean(values)), float(half), len(values))

    def __str__(self) -> str:
        return f"{self.value:.3f}" + (f" ±{self.half:.3f}" if self.seeds > 2 else "")


@dataclass(frozen=True)
class Entry:
    """What is known of a way on a column."""

    way: str
    column: columns.Column
    rows: Sequence[Row]

    def mean(self, read: Callable[[Row], float]) -> Mean:
        """The mean over the seeds of what is read of their rows."""
        return Mean.of([read(row) for row in self.rows])

    @property
    def test(self) -> Mean:
        """Accuracy on the test rows."""
        return self.mean(test)

    @property
    def trainable(self) -> int:
        """The number of parameters that move."""
        return int(self.rows[0]["trainable"])

    @property
    def seconds(self) -> float:
        """Processor seconds of a training, in the mean."""
        return float(np.mean([row["cpu_seconds"] for row in self.rows]))


def test(row: Row) -> float:
    """Accuracy on the test rows."""
    return float(row["scores"]["test"]["accuracy"]["value"])


def shift(row: Row) -> float:
    """Accuracy on the rows under shift."""
    return float(row["scores"]["shift"]["accuracy"]["value"])


def kept(row: Row) -> float:
    """What the body still knows of what it knew before, above 1 where it knows more."""
    return float(row["drift"]["after"] / row["drift"]["before"])


def entries(rows: Iterable[Row], there: Sequence[columns.Column]) -> dict[str, dict[str, Entry]]:
    """Column → way → entry, the columns and ways in the order of their tables."""
    found: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows:
        if row["status"] == "measured":
            found[row["column"], row["way"]].append(row)
    order = {way.name: i for i, way in enumerate(methods.ways())}
    names = sorted({way for _, way in found}, key=lambda way: (order.get(way, len(order)), way))
    made = {
        column.name: {
            way: Entry(way, column, sorted(found[column.name, way], key=lambda row: row["seed"]))
            for way in names
            if (column.name, way) in found
        }
        for column in there
    }
    return {column: its for column, its in made.items() if its}


def table(head: Sequence[str], body: Iterable[Sequence[Any]]) -> list[str]:
    """A table of markdown; all but the first column are flush right."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *body]
    return ["| " + " | ".join(str(cell) for cell in line) + " |" for line in lines]


def scores(found: Mapping[str, Mapping[str, Entry]], read: Callable[[Row], float]) -> list[str]:
    """Ways by columns; the best of a column is bold, of those with the most seeds."""
    ways = list(dict.fromkeys(way for its in found.values() for way in its))
    best = {}
    for column, its in found.items():
        means = [entry.mean(read) for entry in its.values()]
        best[column] = max(mean.value for mean in means if mean.seeds == max(its.seeds for its in means))

    def cell(column: str, way: str) -> str:
        if way not in found[column]:
            return ""
        mean = found[column][way].mean(read)
        return f"**{mean}**" if mean.value == best[column] else str(mean)

    return table(["way", *found], [[way, *[cell(column, way) for column in found]] for way in ways])


def costs(its: Mapping[str, Entry]) -> list[str]:
    """What the training of each way took on a column."""
    return table(
        ["way", "trainable", "seconds", "peak memory, MB", "learning rate", "steps"],
        [
            [
                way,
                f"{entry.trainable:,}",
                f"{entry.seconds:.1f}",
                f"{np.median([row['memory_bytes'] for row in entry.rows]) / 1e6:.0f}" if entry.trainable else "",
                f"{entry.rows[0]['rate']:g}" if entry.trainable else "",
                entry.rows[0]["steps"],
            ]
            for way, entry in its.items()
        ],
    )


def gains(found: Mapping[str, Mapping[str, Entry]], way: str) -> dict[str, Mean]:
    """By column: how much better a way is than `full` on the same rows with the same seeds."""
    made = {}
    for column, its in found.items():
        if way in its and BASE in its:
            base = {row["seed"]: test(row) for row in its[BASE].rows}
            pairs = [test(row) - base[row["seed"]] for row in its[way].rows if row["seed"] in base]
            if pairs:
                made[column] = Mean.of(pairs)
    return made


def verdicts(found: Mapping[str, Mapping[str, Entry]]) -> list[str]:
    """What paid and what did not, by the figures."""
    ways = [way for way in dict.fromkeys(way for its in found.values() for way in its) if way != BASE]
    over: dict[str, list[float]] = {way: [mean.value for mean in gains(found, way).values()] for way in ways}
    told = sorted(((float(np.mean(its)), way) for way, its in over.items() if its), reverse=True)
    lines = ["Mean difference of test accuracy from `full`, over the columns where both were measured, with the number"]
    lines += ["of columns on which a way is better, alike (within 0.01) and worse:", ""]
    lines += table(
        ["way", "difference", "better", "alike", "worse"],
        [
            [
                way,
                f"{mean:+.3f}",
                sum(gain > SMALL for gain in over[way]),
                sum(abs(gain) <= SMALL for gain in over[way]),
                sum(gain < -SMALL for gain in over[way]),
            ]
            for mean, way in told
        ],
    )
    never = [way for _, way in told if all(gain <= SMALL for gain in over[way])]
    lines += ["", f"**Better than `full` by more than {SMALL} on no column:** {', '.join(never) or 'none'}.", ""]
    lines += _dominated(found)
    return lines


def _dominated(found: Mapping[str, Mapping[str, Entry]]) -> list[str]:
    """Ways that on every column another single way beats in the score with fewer parameters and less time."""
    ways = list(dict.fromkeys(way for its in found.values() for way in its))
    lost = []
    for way in ways:
        at = [column for column, its in found.items() if way in its and its[way].trainable]
        for other in ways:
            if other != way and at and all(other in found[c] and _beats(found[c][other], found[c][way]) for c in at):
                lost.append(f"{way} (by {other})")
                break
    return [
        "**Beaten everywhere at once in the mean score, parameters and time:** " + (", ".join(lost) or "none") + ".",
        "",
    ]


def _beats(one: Entry, other: Entry) -> bool:
    better = one.test.value > other.test.value
    return better and one.trainable <= other.trainable and one.seconds <= other.seconds


def readme(rows: Sequence[Row], there: Sequence[columns.Column]) -> str:
    """The text of README.md."""
    found = entries(rows, there)
    few = {name: its for name, its in found.items() if next(iter(its.values())).column.few}
    lines = ["# What each way to adapt is worth", ""]
    lines += ["Written by `report.py` from `results.jsonl`; do not edit. Accuracy on the test rows, the mean over the"]
    lines += [
        "seeds with its 95% interval (Student's t); a figure without an interval is of one seed or two. The best of"
    ]
    lines += ["each column is bold, which tells little where intervals overlap.", "", *scores(found, test), ""]
    lines += ["![Score against trainable parameters](parameters.png)", ""]
    lines += ["![Score against time](time.png)", "", "## What paid, and what did not", "", *verdicts(found)]
    lines += ["## Under shift", "", "Accuracy on rows unlike those trained on:", ""]
    lines += [f"- {name}: {next(iter(its.values())).column.shift}" for name, its in found.items()]
    lines += ["", *scores(found, shift), "", "## What the body still knows", ""]
    lines += ["What is left of an ability that the adaptation did not ask for, as a share of what the untouched"]
    lines += ["backbone has: 1 forgets nothing.", ""]
    lines += [f"- {name}: {_knowledge(its)}" for name, its in found.items()]
    lines += ["", *scores(found, kept), "", "![Score against what is kept](kept.png)", "", "## What it costs", ""]
    lines += ["Processor seconds of one training on one thread, with the loading of the backbone and the choice of"]
    lines += ["weights at the end, without the judging; a teacher's own training is not counted. Peak memory is the"]
    lines += [
        "growth of the process from before the backbone was loaded. Other work ran on the machine at times, which"
    ]
    lines += ["makes seconds of the processor a little longer, and those of the clock worthless."]
    for name in _typical(few or found):
        lines += ["", f"### {name}", "", *costs(found[name])]
    lines += ["", "## What does not apply", "", *_refusals(rows), "", "## How it was measured", "", *_how(rows, found)]
    return "\n".join(lines) + "\n"


def _knowledge(its: Mapping[str, Entry]) -> str:
    entry = next(iter(its.values()))
    return f"{entry.column.keeps} (untouched: {entry.rows[0]['drift']['before']:.3f})"


def _typical(found: Mapping[str, Mapping[str, Entry]]) -> list[str]:
    """A column for each backbone."""
    return list({next(iter(its.values())).column.backbone: name for name, its in reversed(found.items())}.values())[
        ::-1
    ]


def _refusals(rows: Sequence[Row]) -> list[str]:
    """Each sentence once, with the ways and columns that it was said of."""
    said: dict[tuple[str, str], list[str]] = defaultdict(list)
    for row in rows:
        if row["status"] != "measured" and row["seed"] == 0:
            says = row["says"].splitlines()[0].replace("|", "\\|").replace("{", "").strip()
            said[row["way"], says if row["status"] == "does not apply" else f"FAILED: {says}"].append(row["column"])
    return [f"- {way} on {', '.join(dict.fromkeys(at))}: {says}" for (way, says), at in said.items()] or ["Nothing."]


def _how(rows: Sequence[Row], found: Mapping[str, Mapping[str, Entry]]) -> list[str]:
    measured = [row for row in rows if row["status"] == "measured"]
    lines = [
        f"Every way has the same number of optimizer steps on a column, of {BATCH} rows each, a warm-up of a tenth"
    ]
    lines += [
        "and a linear decay. It is tried at three learning rates of its own kind (see `methods.py`), of which the"
    ]
    lines += [
        "best on the validation rows counts; seed 0 chooses, and the other seeds and the columns named below take"
    ]
    lines += [
        "over. A seed draws the few rows, the head, and the order. Validation and test rows are the same for all.",
        "",
    ]
    lines += table(
        ["column", "backbone", "steps", "learning rate of", "measured: ways with 1, 2, 3 seeds"],
        [_of_column(name, its) for name, its in found.items()],
    )
    spent = sum(row.get("whole_cpu_seconds", 0) for row in rows) / 3600
    versions = measured[-1]["versions"] if measured else {}
    commits = list(dict.fromkeys(row["commit"] for row in measured))
    dates = sorted(row["date"][:10] for row in measured)
    lines += [
        "",
        f"- {len(measured)} cells, {spent:.1f} hours of the processor, {dates[0]} to {dates[-1]}",
    ]
    lines += [f"- {'; '.join(dict.fromkeys(row['hardware'] for row in measured))}"]
    lines += [
        "- " + ", ".join(f"{name} {number}" for name, number in versions.items()),
        f"- commits {', '.join(commits)}",
    ]
    lines += ["- banking-10 has 20 of the 77 intents, for the budget is too small for all of them"]
    lines += [
        "- Texts are cut at 48 tokens, test rows are at most 300 of texts; small backbones, few steps: what holds"
    ]
    lines += ["  here need not hold of large backbones and long trainings."]
    return lines


def _of_column(name: str, its: Mapping[str, Entry]) -> list[Any]:
    column, seeds = next(iter(its.values())).column, Counter(len(entry.rows) for entry in its.values())
    return [name, column.backbone, column.steps, column.rates_from or name, ", ".join(str(seeds[n]) for n in (1, 2, 3))]


def draw(found: Mapping[str, Mapping[str, Entry]], folder: Path) -> None:
    """The pictures beside README.md."""
    told: list[tuple[str, str, Callable[[Entry], float], bool]] = [
        ("parameters", "trainable parameters", lambda entry: entry.trainable, True),
        ("time", "processor seconds of a training", lambda entry: entry.seconds, True),
        ("kept", "kept of what the backbone knew (1: all)", lambda entry: entry.mean(kept).value, False),
    ]
    for name, axis, across, logarithmic in told:
        panels = {
            column: [
                drawing.Point(way, across(entry), entry.test.value, np.nan_to_num(entry.test.half))
                for way, entry in its.items()
            ]
            for column, its in found.items()
        }
        drawing.scatter(folder / f"{name}.png", panels, axis, "test accuracy", logarithmic)


def main() -> None:
    """Write README.md and the pictures."""
    source = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "results.jsonl"
    folder = Path(sys.argv[2]) if len(sys.argv) > 2 else HERE
    rows, there = Results(source).rows(), columns.columns(Path())
    if not any(row["status"] == "measured" for row in rows):
        raise SystemExit(f"There are no results in {source}; measure.py makes them.")
    folder.mkdir(parents=True, exist_ok=True)
    draw(entries(rows, there), folder)
    (folder / "README.md").write_text(readme(rows, there), encoding="utf-8")
    print(f"{folder / 'README.md'}: {len(rows)} cells")


if __name__ == "__main__":
    main()
