"""How fast hfadapt is beside others: python benchmarks/speed/measure.py

Each measurement is a process of its own; the sides of a training take turns, so that what else the machine does falls
on all of them. `results.json` is written after every measurement, and what it holds is not measured again (but with
--again): start it once more to go on. At the end `report.py` writes README.md.
"""

from __future__ import annotations

import argparse
import datetime
import json
import multiprocessing
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import ours
import questions
import report
import stock
from questions import Setup
from sides import Order, apart

HERE = Path(__file__).parent
DATA = HERE.parents[2] / "shared" / "data"
PACKAGES = ("torch", "transformers", "peft", "datasets", "accelerate", "numpy", "scikit-learn", "pillow", "hfadapt")
IMPORTED = (
    "hfadapt.adapting",
    "hfadapt.planning",
    "sklearn.linear_model",
    "peft",
    "transformers.models.bert.modeling_bert",
    "transformers.models.clip.modeling_clip",
    "transformers.models.vit.modeling_vit",
)
"""What is imported before a measurement is forked where start-up does not count."""
LIMIT = 1800
"""Seconds after which a measurement has failed."""
STARTS = 3
"""A command that answers at once is started so often; the median counts."""
MISTAKE = "hfadapt: 1\ntask: text-classification\nmodel: builtin/vit-nano\ndata: {path: rows.csv\n"


@dataclass
class Results:
    """The file of results: one line for every measurement."""

    path: Path
    runs: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def read(cls, path: Path) -> Results:
        """Those of a file, none where there is no file."""
        return cls(path, json.loads(path.read_text(encoding="utf-8"))["runs"] if path.exists() else [])

    def add(self, run: Mapping[str, Any]) -> None:
        """Take one in, in place of what it repeats with whatever settings, and write the file whole or not at all."""
        self.runs = [old for old in self.runs if _same(old) != _same(run)] + [dict(run)]
        lines = ",\n".join(json.dumps(its, ensure_ascii=False) for its in self.runs)
        draft = self.path.with_suffix(".draft")
        draft.parent.mkdir(parents=True, exist_ok=True)
        draft.write_text(f'{{"runs": [\n{lines}\n]}}\n', encoding="utf-8")
        draft.replace(self.path)


def _same(run: Mapping[str, Any]) -> tuple[Any, ...]:
    return run["setup"], run["side"], run["repeat"]


@dataclass
class Bench:
    """Where measuring happens."""

    work: Path
    results: Results
    about: Mapping[str, Any]
    data: Path = DATA
    script: str = ""
    launch: Callable[[str], None] = apart
    """What carries an order out in a process that knows the libraries already."""

    def __post_init__(self) -> None:
        self.forks = multiprocessing.get_context("forkserver")
        self.forks.set_forkserver_preload(list(IMPORTED))

    def run(self, setups: Sequence[Setup], repeats: int, tell: Callable[[str], None] = print) -> None:
        """Measure what the results do not hold: of a training, all sides in turn, again and again."""
        held = {run["key"] for run in self.results.runs if "failed" not in run}
        asked = [
            (setup, repeat, side)
            for setup in setups
            for repeat in range(min(repeats, setup.repeats))
            for side in setup.sides
        ]
        start = time.perf_counter()
        for i, (setup, repeat, side) in enumerate(asked):
            key = f"{setup.name} / {side} / {repeat} / {setup.digest}"
            key += f" / {Path(self.script).name}" if self.script and side == questions.EXAMPLE else ""
            if key in held:
                continue
            found = self.measure(setup, side, repeat)
            now = datetime.datetime.now().isoformat(timespec="seconds")
            who = {"key": key, "setup": setup.name, "digest": setup.digest, "side": side, "repeat": repeat}
            self.results.add({**who, "seed": repeat, **found, "date": now, **self.about})
            tell(f"{i + 1}/{len(asked)} {time.perf_counter() - start:.0f} s  {setup.name}, {side}: {_told(found)}")

    def measure(self, setup: Setup, side: str, repeat: int) -> dict[str, Any]:
        """The values of a side, or why it has none."""
        out = self.work / "now"
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True)
        if setup.name == "start":
            return _started(side, out)
        model, rows = stock.folder_of_model(setup.model, self.work), stock.rows_of(setup, self.work, self.data)
        order = Order(setup, side, model, rows, out, repeat, self.script if side == questions.EXAMPLE else "")
        if side in ("one", "two"):
            return _by_command(order, 2 if side == "two" else 1)
        if setup.whole:
            return _by_command(order) if side == questions.OURS else self._by_process(order)
        return self._by_fork(order)

    def _by_fork(self, order: Order) -> dict[str, Any]:
        """In a fresh process that has imported the libraries, and done nothing else."""
        if self.launch is not apart:
            self.launch(order.as_json())
            return _found(order.out)
        process = self.forks.Process(target=apart, args=(order.as_json(),))
        process.start()
        process.join(LIMIT)
        if process.is_alive():
            process.kill()
        return _found(order.out)

    def _by_process(self, order: Order) -> dict[str, Any]:
        """In a Python that starts from nothing, which is timed too."""
        (order.out / "order.json").write_text(order.as_json(), encoding="utf-8")
        seconds, _ = _timed([sys.executable, str(HERE / "sides.py"), str(order.out / "order.json")], order.out)
        return _found(order.out) | {"whole_seconds": seconds}


def _by_command(order: Order, processes: int = 0) -> dict[str, Any]:
    """By `hfadapt run`; processes: how many, each with one thread; 0 leaves it to hfadapt."""
    train = {"logging_steps": order.steps} if processes else {}
    if processes:
        train["per_device_train_batch_size"] = order.setup.batch // processes
    values = stock.recipe(order.setup, order.model, order.rows, order.seed, **train)
    stock.write_recipe(order.out / "recipe.yaml", values)
    command = [sys.executable, "-m", "hfadapt", "run", str(order.out / "recipe.yaml"), "--out", str(order.out / "run")]
    command += ["--processes", str(processes)] if processes else []
    more = {"HFADAPT_CACHE": str(order.out / "caches")} | ({"HFADAPT_THREADS": "1"} if processes else {})
    seconds, code = _timed(command, order.out, more)
    if code:
        return _failed(order.out)
    return ours.logged(order.out / "run", order) | {"whole_seconds": seconds}


def _started(side: str, out: Path) -> dict[str, Any]:
    """How long a command takes that answers at once."""
    (out / "broken.yaml").write_text(MISTAKE, encoding="utf-8")
    command = [str(Path(sys.executable).with_name("hfadapt"))]
    command += ["--help"] if side == "help" else ["run", str(out / "broken.yaml")]
    timed = [_timed(command, out) for _ in range(STARTS)]
    if any(code != {"help": 0, "mistake": 2}[side] for _, code in timed):
        return _failed(out)
    return {"whole_seconds": statistics.median(seconds for seconds, _ in timed)}


def _timed(command: Sequence[str], out: Path, more: Mapping[str, str] | None = None) -> tuple[float, int]:
    """Seconds of a command, and its code; what it prints goes to a file."""
    with (out / "printed.txt").open("w", encoding="utf-8") as file:
        began = time.perf_counter()
        environment = {**os.environ, **(more or {})}
        done = subprocess.run(command, env=environment, stdout=file, stderr=file, cwd=out, timeout=LIMIT, check=False)
        return round(time.perf_counter() - began, 3), done.returncode


def _found(out: Path) -> dict[str, Any]:
    """What a side left."""
    path = out / "found.json"
    if path.exists():
        return dict(json.loads(path.read_text(encoding="utf-8")))
    return _failed(out)


def _failed(out: Path) -> dict[str, Any]:
    """The end of what was printed, and above it the first error of several processes."""
    printed = (out / "printed.txt").read_text(encoding="utf-8").strip() if (out / "printed.txt").exists() else ""
    errors = [line for line in printed.splitlines() if "Error" in line]
    return {"failed": "\n".join([printed[-2000:], *errors[:1]]).strip() or "It left nothing."}


def _told(found: Mapping[str, Any]) -> str:
    if "failed" in found:
        return "failed: " + found["failed"].strip().splitlines()[-1][:200]
    shown = ("seconds", "set_up", "rate", "whole_seconds", "forward_seconds", "peak", "trainable", "cache", "loss")
    return "  ".join(f"{name} {found[name]}" for name in shown if name in found)


def about(threads: int) -> dict[str, Any]:
    """The code, the versions and the machine."""
    model = platform.machine()
    if sys.platform == "linux":
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), model)
    return {
        "commit": " ".join(_commit()),
        "versions": {"python": platform.python_version()} | {name: version(name) for name in PACKAGES},
        "hardware": f"{model}, {os.cpu_count()} cores, {threads} threads",
    }


def _commit() -> Iterator[str]:
    """The commit of the checkout, and whether the package differs from it."""
    for command in (["rev-parse", "--short", "HEAD"], ["status", "--porcelain", "-uno", "--", "../../hfadapt"]):
        done = subprocess.run(["git", *command], cwd=HERE, capture_output=True, text=True, check=False)
        yield done.stdout.strip() if command[0] == "rev-parse" else "and changes" * bool(done.stdout.strip())


def main() -> None:
    """Measure what was asked for, and report."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--questions", nargs="*", default=[], help="the names of trainings; all by default")
    parser.add_argument(
        "--repeats", type=int, default=5, help="how often each side is measured; some less often, see questions.py"
    )
    parser.add_argument("--data", type=Path, default=DATA, help="the folder of the shared data sets")
    parser.add_argument(
        "--peer-script", default="", help="your copy of transformers' run_classification.py or run_glue.py"
    )
    parser.add_argument("--threads", type=int, default=2, help="of each measured process")
    parser.add_argument("--small", action="store_true", help="few rows, to try whether all of it runs; needs --out")
    parser.add_argument("--again", action="store_true", help="measure also what the results hold")
    parser.add_argument("--out", type=Path, default=HERE, help="the folder of results.json and README.md")
    parser.add_argument("--list", action="store_true", help="only say what would be measured")
    given = parser.parse_args()
    setups = questions.chosen(given.questions)
    if given.small:
        if given.out == HERE:
            parser.error("--small needs another --out")
        setups = [setup.small() for setup in setups]
    if given.list:
        print("\n".join(f"{setup.name}: {', '.join(setup.sides)}" for setup in setups))
        return
    os.environ |= {"OMP_NUM_THREADS": str(given.threads), "HF_HUB_OFFLINE": "1"}
    results = Results.read(given.out / "results.json")
    if given.again:
        results.runs = [run for run in results.runs if run["setup"] not in {setup.name for setup in setups}]
    script = str(Path(given.peer_script).resolve()) if given.peer_script else ""
    with tempfile.TemporaryDirectory(prefix="hfadapt-speed-") as work:
        bench = Bench(Path(work), results, about(given.threads), given.data.resolve(), script)
        bench.run(setups, given.repeats, lambda text: print(text, flush=True))
    print(report.write(given.out, setups if given.small else questions.SETUPS))


if __name__ == "__main__":
    main()
