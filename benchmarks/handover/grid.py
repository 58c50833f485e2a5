"""What of what was trained is lost on the way out: python benchmarks/handover/grid.py

Trains small random backbones of every kind with `full` and `lora`, and one that reads, one that sees and one with two
towers with every method, for a few steps; then checks all runs in a fresh process of plain transformers and peft.
Writes `grid.json` and, with what `families.py` measured of exports, the table in `README.md` beside itself.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest.mock import patch

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"

import families

import hfadapt
from hfadapt import adapting, discover, judging, tiny
from hfadapt.contract import check_all
from hfadapt.errors import HfadaptError
from hfadapt.noise import quiet
from hfadapt.recipe import Recipe

HERE = Path(__file__).parent
EVERY = {"bert": "text", "vit": "image", "clip": "image-text"}
"""The kinds on which every method is tried; `full` and `lora` are on all."""
OPTIONS: dict[str, dict[str, Any]] = {
    "stages": {"stages": [{"train": "head"}, {"train": "everything"}]},
    "surgical": {"blocks": "-1:"},
    "pretrain": {"epochs": 1},
    "wise-ft": {"mix": [0.5, 1.0]},
}
ALLOWED = {"model": 0.0, "adapter": 1e-5, "merging": 1e-5, "onnx": 1e-4}
"""The greatest difference of an output at which a cell passes."""
LIBRARIES = ("torch", "transformers", "peft", "onnx", "onnxruntime")


def cells() -> Iterator[tuple[str, str, str]]:
    """(kind, modality, method) of every run."""
    for kind, modality in sorted(families.kinds().items()):
        # The first is the teacher of another.
        methods = ("full", *(name for name in discover.names("hfadapt.methods") if name != "full"))
        yield from ((kind, modality, method) for method in (methods if kind in EVERY else ("full", "lora")))
        if modality == "image-text":
            yield from ((kind, "image", method) for method in ("full", "lora"))


def trained(folder: Path) -> Iterator[tuple[tuple[str, str, str], Any]]:
    """Each cell with its run, or with the sentence that refuses it."""
    (rows := folder / "rows").mkdir()
    data, backbones = families.data(rows), dict[str, Path]()
    train = {"max_steps": 10, "learning_rate": 1e-3, "warmup_steps": 0, "eval_strategy": "steps", "eval_steps": 5}
    for number, (kind, modality, method) in enumerate(cells()):
        if kind not in backbones:
            with quiet():
                backbones[kind] = tiny.checkpoint(folder / kind, kind, families.WORDS * 4)
        options = OPTIONS.get(method, {})
        if method == "distill":
            options = {"teacher": str(folder / f"full {kind} {modality}")}
        task: Any = families.TASKS[modality]
        section = dict(data[modality])
        if method == "coop" and modality == "image-text":
            task = {"type": task, "captions": "classes"}
            section = {**data["image"]}
        recipe = {"task": task, "model": str(backbones[kind]), "data": section, "train": train}
        out = folder / (f"full {kind} {modality}" if method == "full" else str(number))
        try:
            plan = hfadapt.plan(Recipe(**recipe, adapt={"method": method, **options}))
            yield (kind, modality, method), hfadapt.adapt(plan, out)
        except HfadaptError as error:
            yield (kind, modality, method), str(error).splitlines()[0].removeprefix("Python: ")


def measured(folder: Path) -> list[dict[str, Any]]:
    """A row a cell: what differs after loading, the findings, or why there is no such run."""
    found, runs = [], []
    for (kind, modality, method), run in trained(folder):
        row: dict[str, Any] = {"kind": kind, "task": families.TASKS[modality], "method": method}
        found.append(row | ({"refused": run} if isinstance(run, str) else {}))
        runs += [] if isinstance(run, str) else [run]
        print(kind, method, row.get("refused", ""), flush=True)
    for row, checked in zip((row for row in found if "refused" not in row), check_all(runs), strict=True):
        row |= {"differences": dict(checked.differences), "findings": [str(its) for its in checked.problems]}
    return found


def lines(rows: list[dict[str, Any]], exports: dict[str, Any], about: str) -> Iterator[str]:
    """The table as Markdown."""
    ran = [row for row in rows if "differences" in row]
    yield "# What is lost on the way out"
    yield ""
    yield "Written by `grid.py`; do not edit. The greatest difference of a logit between the model that trained and"
    yield "what loads elsewhere, over 8 validation rows, on small random backbones of every kind."
    yield ""
    yield "| | what | cells that pass | of | allowed | greatest difference |"
    yield "| --- | --- | ---: | ---: | ---: | ---: |"
    told = {
        "model": "`model/` through the Auto class and `pipeline`, in a fresh process",
        "adapter": "`adapter/` upon its base through peft, in a fresh process",
        "merging": "the merged model against the adapter that trained",
    }
    for name, what in told.items():
        values = [row["differences"][name] for row in ran if name in row["differences"] and _asked(name, row)]
        passed = sum(value <= ALLOWED[name] for value in values)
        yield f"| {name} | {what} | {passed} | {len(values)} | {ALLOWED[name]:g} | {max(values):.1g} |"
    onnx = [its["onnx"].get("max_difference", float("inf")) for its in exports.values()]
    what = "ONNX Runtime against PyTorch"
    yield f"| onnx | {what} | {sum(v <= ALLOWED['onnx'] for v in onnx)} | {len(onnx)} | 0.0001 | {max(onnx):.1g} |"
    yield ""
    kinds, methods = {row["kind"] for row in ran}, {row["method"] for row in ran}
    findings = [(row, says) for row in ran for says in row["findings"]]
    yield f"{len(ran)} runs: {len(kinds)} kinds of backbones with `full` and `lora` (towers as classifiers too), and"
    on = ", ".join(f"`{its}`" for its in EVERY)
    yield f"{len(methods)} methods on {on}, where they apply; findings: {len(findings)}."
    yield from (f"- {row['kind']}, {row['method']}: {says}" for row, says in findings)
    yield ""
    yield "Merging rounds more than is allowed here, in float32, for:"
    yield ""
    off = [(row, row["differences"]["merging"]) for row in ran if _asked("merging", row)]
    yield from (f"- {row['kind']}, {row['method']}: {by:.1g}" for row, by in off if by > ALLOWED["merging"])
    yield ""
    yield "Not every method goes with every task; these were refused while planning:"
    yield ""
    yield from (f"- {row['kind']}, {row['method']}: {row['refused']}" for row in rows if "refused" in row)
    yield ""
    yield about


def _asked(name: str, row: dict[str, Any]) -> bool:
    """Whether there is anything to lose: only adapters are merged."""
    return name != "merging" or "adapter" in row["differences"]


def main() -> None:
    """Measure, and write both files."""
    # Charts and simple methods take half of so small a run.
    with (
        tempfile.TemporaryDirectory() as folder,
        patch.object(judging, "draw", lambda *_: None),
        patch.object(judging, "compare", lambda *_: {}),
        patch.object(adapting, "write_card", lambda *_: None),
    ):
        rows = measured(Path(folder))
    versions = {name: version(name) for name in LIBRARIES}
    (HERE / "grid.json").write_text(
        json.dumps({"versions": versions, "cells": rows}, indent=1) + "\n", encoding="utf-8"
    )
    exports = json.loads(families.TABLE.read_text(encoding="utf-8"))["kinds"]
    told = ", ".join(f"{name} {number}" for name, number in versions.items())
    about = f"{told}; {platform.machine()}, one thread."
    (HERE / "README.md").write_text("\n".join(lines(rows, exports, about)) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
