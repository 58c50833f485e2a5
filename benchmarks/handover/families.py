"""Which kinds of backbones can be exported: python benchmarks/handover/families.py [MODEL_TYPE ...]

Trains a small random backbone of every kind for one step and exports the run to every format, with all that exporting
compares; what 8 bits cost, a random model can't tell. Writes `families.json` beside itself after each kind; of kinds
that are named, these alone anew.
"""

from __future__ import annotations

import csv
import json
import os
import random
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"

from PIL import Image, ImageDraw

import hfadapt
from hfadapt import discover, tiny
from hfadapt.backbones.base import Family
from hfadapt.errors import HfadaptError
from hfadapt.exported.folder import FORMATS
from hfadapt.exporting import export
from hfadapt.noise import quiet
from hfadapt.recipe import Recipe

TABLE = Path(__file__).with_name("families.json")
LIBRARIES = ("torch", "transformers", "onnx", "onnxscript", "onnxruntime")
TASKS = {"text": "text-classification", "image": "image-classification", "image-text": "image-text-contrastive"}
WORDS = ["table", "chair", "window", "river", "stone", "bread", "paper", "cloud", "garden", "street"]


def kinds() -> dict[str, str]:
    """Model type → what it reads, of all families."""
    families = discover.facts("hfadapt.backbones", Family)
    return {kind: family.modality for family in families.values() for kind in family.model_types}


def data(folder: Path) -> dict[str, dict[str, Any]]:
    """Modality → the `data` section of rows that are drawn into a folder."""
    draw = random.Random(0)
    rows = []
    for i in range(40):
        kind, text = ("round", "angular")[i % 2], " ".join(draw.choices(WORDS, k=draw.randint(2, 9)))
        picture = Image.new("RGB", (40, 36), tuple(draw.randrange(180, 256) for _ in range(3)))
        shape = ImageDraw.Draw(picture).ellipse if i % 2 == 0 else ImageDraw.Draw(picture).rectangle
        shape((8, 6, 20 + i % 7, 20 + i % 5), fill=tuple(draw.randrange(120) for _ in range(3)))
        picture.save(folder / f"{i}.png")
        rows.append({"file": f"{i}.png", "text": f"{text} {kind}", "label": kind})
    with (folder / "rows.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    parts = {"path": str(folder / "rows.csv"), "validation": 0.2, "test": 0.2}
    return {
        "text": {**parts, "text": "text", "label": "label"},
        "image": {**parts, "image": "file", "label": "label"},
        "image-text": {**parts, "image": "file", "text": "text"},
    }


def measure(kind: str, modality: str, section: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Format → what came of it: the most that an output differs from PyTorch's, or the sentence that was told."""
    with quiet():
        backbone = tiny.checkpoint(folder / "backbone", kind, WORDS * 4)
    recipe = Recipe(task=TASKS[modality], model=str(backbone), data=section, train={"max_steps": 1})
    run = hfadapt.adapt(hfadapt.plan(recipe), folder / "run")
    found: dict[str, Any] = {}
    for to in FORMATS:
        try:
            found[to] = {"max_difference": export(run, to).about["checked"]["max_difference"]}
        except HfadaptError as error:
            found[to] = {"refused": str(error)}
    return found


def main(named: list[str]) -> None:
    """Measure the kinds that are named, or all."""
    table = json.loads(TABLE.read_text(encoding="utf-8")) if TABLE.exists() else {"kinds": {}}
    table["versions"] = {name: version(name) for name in LIBRARIES}
    for kind, modality in sorted(kinds().items()):
        if named and kind not in named:
            continue
        with tempfile.TemporaryDirectory() as folder:
            rows = Path(folder) / "rows"
            rows.mkdir()
            table["kinds"][kind] = {"reads": modality, **measure(kind, modality, data(rows)[modality], Path(folder))}
        TABLE.write_text(json.dumps(table, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        print(kind, json.dumps(table["kinds"][kind]), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
