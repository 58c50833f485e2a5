"""What every way to adapt is worth: python benchmarks/methods/measure.py

Appends a line to `results.jsonl` as each cell ends, and skips those that it holds: start it again to go on. Two
processes share the work with `--worker 0/2` and `--worker 1/2`. `report.py` makes the table and the pictures of it.
"""

from __future__ import annotations

import argparse
import ctypes
import datetime
import gc
import importlib
import json
import math
import os
import pkgutil
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from itertools import groupby
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import cells
import columns
import methods
import torch
from cells import Cell, Results

import hfadapt
from hfadapt.errors import HfadaptError
from hfadapt.folder import Run
from hfadapt.noise import quiet
from hfadapt.recipe import Recipe

HERE = Path(__file__).parent
RESULTS = HERE / "results.jsonl"
DATA = HERE.parents[2] / "shared" / "data"
JUDGED = {"test": "test", "shift": "validation"}
"""What is reported of the folder `judged`, by its split."""
PACKAGES = ("torch", "transformers", "peft", "datasets", "accelerate", "numpy", "scikit-learn")


class Meter:
    """Listens to a run: what its training took of time and memory."""

    def __init__(self) -> None:
        self.begun = self.ended = (0.0, 0.0)
        self.held = self.peak = 0

    def __call__(self, event: Mapping[str, Any]) -> None:
        # Data and simple methods are behind, and the backbone is not loaded yet.
        if event["event"] == "baselines":
            _forget_peak()
            self.held, self.begun = _memory("VmRSS"), _clock()
        if event["event"] in ("baselines", "stage done"):
            self.ended, self.peak = _clock(), _memory("VmHWM")

    def cost(self, whole: float) -> dict[str, Any]:
        """Seconds on the clock and of the processor, and bytes; whole: seconds, the choice of weights included."""
        wall, cpu = (b - a for a, b in zip(self.begun, self.ended, strict=True))
        seconds = max(whole, wall)
        share = min(cpu / wall, 1.0) if wall > 0 else 1.0
        return {
            "seconds": round(seconds, 2),
            "cpu_seconds": round(seconds * share, 2),
            "memory_bytes": max(self.peak - self.held, 0),
        }


def _clock() -> tuple[float, float]:
    return time.monotonic(), time.process_time()


def _forget_peak() -> None:
    """Give freed memory back, and let the system count the most memory anew; Linux alone can."""
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")


def _memory(name: str) -> int:
    if sys.platform != "linux":
        return 0
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


@dataclass
class Bench:
    """Where measuring happens, and what it knows already."""

    work: Path
    results: Results
    about: Mapping[str, Any] = field(default_factory=dict)
    known: dict[str, float] = field(default_factory=dict)
    """What untouched backbones know, by the name of the model."""
    name: str = field(default_factory=lambda: datetime.datetime.now().isoformat(timespec="seconds"))
    """Of this start of the harness, which does not try again what failed in it."""

    def measure(self, cell: Cell) -> dict[str, Any]:
        """The line of a cell."""
        line = {"key": cell.key, "way": cell.way.name, "column": cell.column.name, "seed": cell.seed}
        line |= {"settings": cell.settings, **self.about, "date": datetime.datetime.now().isoformat(timespec="seconds")}
        try:
            return line | {"status": "measured"} | self._measured(cell)
        except HfadaptError as error:
            return line | {"status": "does not apply", "says": str(error)}
        except Exception as error:  # a fault of one way must not end the measuring of all
            return line | {"status": "failed", "says": f"{type(error).__name__}: {str(error)[:300]}"}
        finally:
            shutil.rmtree(self.work / "runs", ignore_errors=True)

    def _measured(self, cell: Cell) -> dict[str, Any]:
        """The best of the learning rates, by the validation score, and everything about it."""
        best: tuple[float, Run, dict[str, Any]] | None = None
        tried: dict[str, float | None] = {}
        for rate in self.rates(cell):
            try:
                score, run, cost = self._adapted(cell, rate)
            except HfadaptError as error:
                if tried or "finite" in str(error):
                    tried[f"{rate:g}"] = None
                    continue
                raise
            tried[f"{rate:g}"] = score
            if best is None or score > best[0]:
                best = score, run, cost | {"rate": rate}
        if best is None:
            raise HfadaptError("The loss was no finite number at any learning rate.")
        score, run, found = best
        return {**found, "tried": tried, "scores": self._judged(cell, run, score), "drift": self._drifted(cell, run)}

    def rates(self, cell: Cell) -> tuple[float, ...]:
        """The learning rates to try; none where that which would be taken over has not been chosen."""
        if cell.tries:
            return cell.way.rates(cell.column.backbone)
        rate = self.results.chosen(cell)
        return () if rate is None else (rate,)

    def rows(self, cell: Cell) -> Path:
        """The folder of a column's rows for a seed, made once."""
        folder = self.work / "rows" / cell.column.name / str(cell.seed)
        if not (folder / "done").exists():
            with quiet():
                cell.column.build(folder, cell.seed)
            (folder / "done").touch()
        return folder

    def _adapted(self, cell: Cell, rate: float) -> tuple[float, Run, dict[str, Any]]:
        """The validation score, the run, and its cost."""
        rows, meter = self.rows(cell), Meter()
        train = {**cell.settings["train"], "learning_rate": rate, "seed": cell.seed}
        recipe = Recipe(
            task=cell.settings["task"],
            model=cell.column.model,
            data={"path": str(rows), **cell.column.data},
            adapt=self._filled(cell, cell.way.adapt),
            train=train,
        )
        plan = hfadapt.plan(recipe)
        run = hfadapt.adapt(plan, self.work / "runs" / f"{rate:g}", listener=meter)
        moving = {name for stage in plan.stages for name in stage.speeds}
        scores = run.scores
        cost = {
            **meter.cost(scores["cost"]["train_seconds"]),
            "parameters": plan.parameters,
            "trainable": sum(plan.sizes[name] for name in moving),
            "steps": plan.steps if plan.stages else 0,
            "chose": scores.get("tried", []),
        }
        return _kept(scores["scores"]["validation"])["accuracy"]["value"], run, cost

    def _filled(self, cell: Cell, adapt: Any) -> Any:
        """The options of a way, with paths where it wants the teacher or the unlabelled rows."""
        if isinstance(adapt, dict):
            return {name: self._filled(cell, value) for name, value in adapt.items()}
        if adapt == methods.UNLABELLED:
            return str(self.rows(cell) / "unlabelled")
        return str(self._teacher(cell)) if adapt == methods.TEACHER else adapt

    def _teacher(self, cell: Cell) -> Path:
        """What `full` makes of the same rows, trained at the rate that was chosen for it, or at the middle one."""
        folder = self.work / "teachers" / cell.column.name / str(cell.seed)
        if not folder.exists():
            full = next(way for way in methods.TABLE if way.name == "full")
            its = Cell(full, cell.column, cell.seed)
            rates = full.rates(cell.column.backbone)
            rate = self.results.chosen(its) or rates[len(rates) // 2]
            run = Bench(self.work / "teaching", self.results)._adapted(its, rate)[1]
            folder.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(run.model, folder)
            shutil.rmtree(self.work / "teaching")
        return folder

    def _judged(self, cell: Cell, run: Run, validation: float) -> dict[str, Any]:
        """The scores of the test rows, and of those under shift."""
        found = hfadapt.score(run, [f"data.path={self.rows(cell) / 'judged'}"])
        plain = {split: {n: s.as_dict() for n, s in found[its].items()} for split, its in JUDGED.items()}
        return {"validation": validation} | {split: _kept(its) for split, its in plain.items()}

    def _drifted(self, cell: Cell, run: Run) -> dict[str, float] | None:
        """What the backbone knew of something else, and what is left of it."""
        if cell.column.drift is None:
            return None
        with quiet():
            if cell.column.model not in self.known:
                from hfadapt.backbones._source import locate

                self.known[cell.column.model] = cell.column.drift(Path(locate(cell.column.model).path))
            return {"before": self.known[cell.column.model], "after": cell.column.drift(run.model)}


def _kept(scores: Mapping[str, Any]) -> dict[str, Any]:
    """Accuracy and macro F1, of classes asked for by their names too."""
    told = {name.removeprefix("zero_shot_"): score for name, score in scores.items()}
    return {name: told[name] for name in ("accuracy", "f1_macro") if name in told}


def about(commit: str) -> dict[str, Any]:
    """The code, the versions and the machine."""
    model = "unknown"
    if sys.platform == "linux":
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(
            (line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine()
        )
    versions = {"python": platform.python_version(), "hfadapt": hfadapt.__version__}
    versions |= {name: version(name) for name in PACKAGES}
    return {
        "commit": commit or _commit(),
        "versions": versions,
        "hardware": f"{model}, {os.cpu_count()} cores, 1 thread a process",
    }


def _commit() -> str:
    """The commit of the checkout, and whether files differ from it."""
    told = []
    for command in (["rev-parse", "--short", "HEAD"], ["status", "--porcelain", "-uno"]):
        done = subprocess.run(["git", *command], cwd=HERE, capture_output=True, text=True, check=False)
        told.append(done.stdout.strip())
    return (told[0] or "unknown") + (" and changes" if told[1] else "")


def import_all() -> None:
    """Import every module of hfadapt now, so that a file that is edited while this runs changes nothing."""
    for module in pkgutil.walk_packages(hfadapt.__path__, "hfadapt."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    gc.freeze()  # The Trainer collects garbage; all that was imported need not be searched each time.


def shared(asked: list[Cell], worker: str) -> Iterator[Cell]:
    """The cells in the order of one of several workers, `0/2` say.

    Of each column and seed it begins with its own share of the ways, and goes on with what others have left of theirs,
    from the end, so that any number of workers comes to the end of all.
    """
    mine, of = (int(part) for part in worker.split("/"))
    names = list(dict.fromkeys(cell.way.name for cell in asked))
    for _, group in groupby(asked, lambda cell: (cell.column.name, cell.seed, cell.way.main)):
        its = list(group)
        own = [cell for cell in its if names.index(cell.way.name) % of == mine]
        yield from [*own, *reversed([cell for cell in its if cell not in own])]


def run(asked: list[Cell], bench: Bench, tell: Callable[[str], None] = print, minutes: float = math.inf) -> None:
    """Measure the cells that the results do not hold, in order; what failed is tried again."""
    start = time.monotonic()
    for i, cell in enumerate(asked):
        done = {row["key"] for row in bench.results.rows() if row["status"] != "failed" or row["run"] == bench.name}
        if cell.key in done or not bench.rates(cell):
            continue
        if time.monotonic() - start > 60 * minutes:
            tell(f"{minutes:g} minutes are over.")
            return
        began = _clock()
        line = bench.measure(cell)
        wall, cpu = (round(b - a, 1) for a, b in zip(began, _clock(), strict=True))
        bench.results.append(line | {"run": bench.name, "whole_seconds": wall, "whole_cpu_seconds": cpu})
        past = time.monotonic() - start
        tell(f"{i + 1}/{len(asked)} {past:.0f} s  {cell.name}: {_told(line)} ({wall} s, cpu {cpu} s)")


def _told(line: Mapping[str, Any]) -> str:
    if line["status"] != "measured":
        return f"{line['status']}: {line['says'].splitlines()[0][:150]}"
    scores = line["scores"]
    told = {split: f"{scores[split]['accuracy']['value']:.3f}" for split in JUDGED}
    return json.dumps({**told, "rate": line["rate"], "tried": line["tried"], "drift": line["drift"]})


def main() -> None:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--worker", default="0/1", help="which of how many workers this is, 0/2 say")
    parser.add_argument("--ways", nargs="*", default=[], help="the names of ways; all by default")
    parser.add_argument("--columns", nargs="*", default=[], help="the names of columns; all by default")
    parser.add_argument("--seeds", nargs="*", type=int, default=list(cells.SEEDS))
    parser.add_argument("--data", type=Path, default=DATA, help="the folder of the shared data sets")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--minutes", type=float, default=math.inf, help="begin no cell after so many")
    parser.add_argument("--commit", default="", help="of the code, where this is no checkout")
    parser.add_argument("--list", action="store_true", help="only say what would be measured")
    given = parser.parse_args()
    torch.set_num_threads(1)
    import_all()
    there = columns.named(given.columns, columns.columns(given.data))
    for column in there:
        if column.missing:
            print(f"{column.name} is skipped: there is no {column.missing} in {given.data}.")
    there = [column for column in there if not column.missing]
    asked = list(shared(cells.ordered(columns.named(given.ways, methods.ways()), there, given.seeds), given.worker))
    if given.list:
        print("\n".join(cell.name for cell in asked))
        return
    with tempfile.TemporaryDirectory(prefix="hfadapt-methods-") as work:
        run(
            asked,
            Bench(Path(work), Results(given.out), about(given.commit)),
            lambda text: print(text, flush=True),
            given.minutes,
        )


if __name__ == "__main__":
    main()
