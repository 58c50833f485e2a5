"""From `results.json` to README.md: python benchmarks/speed/report.py [FOLDER]"""

from __future__ import annotations

import json
import statistics
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import questions
from questions import Question, Setup

HERE = Path(__file__).parent
Run = Mapping[str, Any]
Sides = Mapping[str, Mapping[int, Run]]
"""The measurements of a training by side and repeat."""

HEADER = """# How fast hfadapt is

`python benchmarks/speed/measure.py` asks these questions and writes this page; `results.json` has every measurement.
Ratios are of medians; the spread is that of the ratios of single repeats, lowest to highest.

"""
NOTES = """
## How it was measured

- Every measurement is a process of its own. The sides of a training take turns: A B A B …
- Both sides have the same rows, the same cut of texts (128 tokens), model, batch, epochs, learning rate and seed, and
  the same number of parameters that move. Beyond that hfadapt has its defaults.
- **Rows a second** count from the end of the first epoch to the end of the last step, on both sides by a callback at
  the end of every step; start-up, evaluation and checkpoints are left out.
- **Training** counts from where the model is loaded to where the last step is done, on hfadapt's side with filling the
  cache, and with the trials by which it sees whether a cache or unpadding is exact and pays. In the training of the
  probe, evaluations and checkpoints of every epoch are counted on both sides. **All epochs** and **all of training**
  are the same without the trials: they are a few passes over a dozen rows, as many for any number of rows, so that on
  samples as small as these they would hide the rest. The medians below have them.
- **The whole process** is what a person waits for: `hfadapt run`, which imports, looks at the rows, fits simple
  methods, trains, evaluates each epoch, judges with intervals, draws, writes the card, and loads the model in a fresh
  process to check it; the careful Trainer's process imports, tokenises, trains, evaluates each epoch, evaluates on
  two splits and saves; scikit-learn's embeds the rows and fits.
- **The careful Trainer** pads to the longest text of a batch, makes batches of similar length and has AdamW fused.
  Where few blocks train, it freezes the others; it unfreezes block by block with one Trainer a stage.
- **transformers' example** pads every text to 128 tokens and takes the rows in any order, with a batch of 8. As its
  rate does not depend on the rows, it is given the first of them only.
- **The limit** is the time of the products of the model's linear layers, forward and backward, with real tokens only;
  those of the attention are added as if they ran as fast.
- **Memory** is by how much the process grows from before the model is loaded to its peak in training; Linux only.
- An **arithmetic ratio** counts 1 for a forward and 2 for a backward pass through a block: of N blocks of which t
  train, N + 2t without a cache and 3t with one. Nine tenths of it are aimed at.
"""


def write(folder: Path = HERE, setups: Sequence[Setup] = questions.SETUPS) -> str:
    """Write README.md beside the results; returns its table."""
    runs = json.loads((folder / "results.json").read_text(encoding="utf-8"))["runs"]
    measured = by_setup(runs, setups)
    table = "\n".join(_answers(measured))
    text = (
        HEADER
        + table
        + "\n"
        + _parts()
        + NOTES
        + "\n".join(["", *_values(measured, setups), "", *_about(runs, setups)])
    )
    (folder / "README.md").write_text(text.rstrip() + "\n", encoding="utf-8")
    return table


TAKES = """
## What takes the time

- **A step of full fine-tuning.** {parts}
- **A linear probe** takes more than the 1.3 forward passes that were aimed at. In a run of 3.7 s the trial takes 0.25,
  what Trainer collects of garbage before its first step 0.25, the first epoch 1.9, the validation rows 0.4, and each
  of the nine further epochs 0.1: 40 steps of 2 ms, an evaluation and a checkpoint. To leave out, for once, what
  Trainer and Accelerate do to all modules at each step, and padding, made that 1.6 ms.
- **The whole process of a probe**: 5 s to import libraries and look at the rows, 4 to train, 6 to judge with
  intervals, draw, save and write the card, and to wait for the check in a fresh process. Most of it does not grow with
  the rows.
- **Two processes.** In plain torch, with texts of one length in a batch, two processes that do not know of each other
  compute 8 rows each, forward, backward and update, in the time of one alone (158 and 154 ms): neither cores nor
  memory are short. Trained together, the backward pass takes 38 ms longer, of which gloo alone needs 29 to exchange
  46 MB; and one process computes 16 rows in 282 ms, less than twice the time of 8. So 1.5 is what 16 rows a step
  allow, and 1.8 what 128 do (2,008 and 1,095 ms). It is not that one process waits for longer texts: the tokens of the
  two differ by less than a hundredth. What else hfadapt lacks at 128 rows was not found.
"""


def _parts() -> str:
    """What takes the time, with the shares that `parts.py` measured beside this file."""
    path = HERE / "parts.json"
    if not path.exists():
        return ""
    found = json.loads(path.read_text(encoding="utf-8"))
    shares = ", ".join(f"{share:.0%} {name}" for name, share in found["parts"].items())
    inside = ", ".join(f"{share:.0%} {name}" for name, share in found["operators of forward and backward"].items())
    told = f"A step takes {found['step_seconds'] * 1000:.0f} ms (`parts.py`): {shares}. Of forward and backward:"
    return TAKES.format(parts=f"{told} {inside}.")


def by_setup(runs: Sequence[Run], setups: Sequence[Setup]) -> dict[str, Sides]:
    """Training → side → repeat → measurement, of trainings as they are asked for now; what failed is left out."""
    digests = {setup.name: setup.digest for setup in setups}
    found: dict[str, dict[str, dict[int, Run]]] = defaultdict(lambda: defaultdict(dict))
    for run in runs:
        if digests.get(run["setup"]) == run["digest"] and "failed" not in run:
            found[run["setup"]][run["side"]][run["repeat"]] = run
    return {name: dict(sides) for name, sides in found.items()}


@dataclass(frozen=True)
class Answer:
    """What was measured of a question."""

    value: float
    low: float
    high: float
    repeats: int


def answer(question: Question, sides: Sides) -> Answer | None:
    """The ratio of medians and the range of single ratios; None where a side was not measured."""
    over = _column(sides, *question.over)
    under = _column(sides, *question.under) if question.under else dict.fromkeys(over, 1.0)
    both = sorted(set(over) & set(under))
    if not both:
        return None
    single = [over[i] / under[i] for i in both]
    value = statistics.median(over[i] for i in both) / statistics.median(under[i] for i in both)
    return Answer(value, min(single), max(single), len(both))


def differing(sides: Sides) -> bool:
    """Whether the sides that tell it did not move as many parameters."""
    return len({run["trainable"] for its in sides.values() for run in its.values() if "trainable" in run}) > 1


def _column(sides: Sides, side: str, value: str) -> dict[int, float]:
    """A value of a side by repeat, where it is above zero."""
    return {i: float(run[value]) for i, run in sides.get(side, {}).items() if run.get(value)}


def _answers(measured: Mapping[str, Sides]) -> list[str]:
    lines = ["| question | reached | aimed at | spread | repeats |", "| --- | ---: | ---: | ---: | ---: |"]
    for question in questions.QUESTIONS:
        sides = measured.get(question.setup, {})
        found = answer(question, sides)
        aim = "" if question.aim is None else f"{'≤' if question.at_most else '≥'} {question.aim:g} {question.unit}"
        if found is None:
            lines.append(f"| {question.says} | not measured | {aim} | | |")
            continue
        mark = {True: " ✓", False: " ✗", None: ""}[question.reached(found.value)]
        says = question.says + (" (**the sides moved different parameters**)" if differing(sides) else "")
        reached = f"{found.value:.2f} {question.unit}{mark}"
        lines.append(f"| {says} | {reached} | {aim} | {found.low:.2f}–{found.high:.2f} | {found.repeats} |")
    return lines


_UNITS = {
    "rate": ("rows a second", 1.0),
    "seconds": ("training, s", 1.0),
    "set_up": ("of it trials, s", 1.0),
    "whole_seconds": ("whole process, s", 1.0),
    "forward_seconds": ("forward pass, s", 1.0),
    "peak": ("memory, MB", 1e-6),
    "gflops": ("GFLOP/s", 1.0),
}


def _values(measured: Mapping[str, Sides], setups: Sequence[Setup]) -> list[str]:
    """The medians of every side."""
    units = " | ".join(says for says, _ in _UNITS.values())
    lines = ["## Medians", "", f"| training | rows | batch | epochs | side | {units} | parameters that move |"]
    lines.append("| --- | ---: | ---: | ---: | --- |" + " ---: |" * (len(_UNITS) + 1))
    for setup in setups:
        for side in setup.sides:
            its = measured.get(setup.name, {}).get(side)
            if not its:
                continue
            runs = list(its.values())
            cells = [_median(runs, value, factor) for value, (_, factor) in _UNITS.items()]
            cells.append(f"{runs[0]['trainable']:,}" if "trainable" in runs[0] else "")
            sizes = f"{setup.fewer.get(side, setup.rows)} | {setup.batch} | {setup.epochs}" if setup.epochs else " | |"
            peer = f" ({runs[0]['peer']})" if "peer" in runs[0] else ""
            lines.append(f"| {setup.name} | {sizes} | {side}{peer} | {' | '.join(cells)} |")
    return lines


def _median(runs: Sequence[Run], value: str, factor: float) -> str:
    found = [run[value] * factor for run in runs if run.get(value)]
    if not found:
        return ""
    median = statistics.median(found)
    return f"{median:.0f}" if median >= 100 else f"{median:.2f}"


def _about(runs: Sequence[Run], setups: Sequence[Setup]) -> list[str]:
    """Machine, versions, dates and commits of what is shown, and what failed."""
    digests = {setup.name: setup.digest for setup in setups}
    shown = [run for run in runs if digests.get(run["setup"]) == run["digest"]]
    dates = sorted(run["date"][:10] for run in shown)
    lines = [f"- {len(shown)} measurements, {dates[0]} to {dates[-1]}"] if shown else []
    lines += [f"- {hardware}" for hardware in dict.fromkeys(run["hardware"] for run in shown)]
    versions = dict.fromkeys(", ".join(f"{k} {v}" for k, v in run["versions"].items()) for run in shown)
    lines += [f"- {its}" for its in versions]
    lines += [f"- commits {', '.join(dict.fromkeys(run['commit'].strip() for run in shown))}"] if shown else []
    failed = [run for run in shown if "failed" in run]
    lines += [f"- failed: {r['setup']}, {r['side']}: {r['failed'].strip().splitlines()[-1][:200]}" for r in failed]
    return lines


if __name__ == "__main__":
    print(write(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE))
