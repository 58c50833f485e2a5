"""The models and rows of the trainings, made once in a folder of the harness."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from questions import Setup

COMES_ALONG = {"minilm": "sentence-transformers/all-MiniLM-L6-v2", "nano": "builtin/vit-nano"}
SPLITS = ("train", "validation", "test")
LABELS = ("cold", "warm")


def folder_of_model(name: str, work: Path) -> Path:
    """The checkpoint of a model, made where it is not there yet."""
    if name not in (*MADE, *COMES_ALONG):
        return Path(name)
    if name in COMES_ALONG:
        from hfadapt.backbones._source import locate

        return Path(locate(COMES_ALONG[name]).path)
    folder = work / "models" / name
    if not (folder / "config.json").exists():
        MADE[name](folder, work)
    return folder


def rows_of(setup: Setup, work: Path, source: Path) -> Path:
    """The folder of a training's rows, made where it is not there yet; source: of the shared data sets."""
    if setup.data not in DATA:
        return Path(setup.data)
    folder = work / "rows" / f"{setup.data}-{setup.rows}"
    if not (folder / "done").exists():
        others = max(4, setup.rows // 6)
        DATA[setup.data](folder, {"train": setup.rows, "validation": others, "test": others}, source)
        (folder / "done").touch()
    return folder


def read(folder: Path, split: str) -> list[tuple[str, str]]:
    """The rows of a split for a peer: text or path of a picture, and label."""
    table = folder / f"{split}.csv"
    if table.exists():
        with table.open(newline="", encoding="utf-8") as file:
            return [(row["text"], row["label"]) for row in csv.DictReader(file)]
    return [(str(path), path.parent.name) for path in sorted((folder / split).glob("*/*.jpg"))]


def _bert(folder: Path, work: Path) -> None:
    """A BERT-base of random weights with MiniLM's words."""
    import torch
    from transformers import AutoTokenizer, BertConfig, BertModel

    tokenizer = AutoTokenizer.from_pretrained(folder_of_model("minilm", work))
    torch.manual_seed(0)
    BertModel(BertConfig(vocab_size=len(tokenizer))).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _vit(folder: Path, work: Path) -> None:
    """A ViT-B/16 of random weights, 224 pixels."""
    import torch
    from transformers import ViTConfig, ViTImageProcessor, ViTModel

    torch.manual_seed(0)
    ViTModel(ViTConfig()).save_pretrained(folder)
    ViTImageProcessor().save_pretrained(folder)


def _clip(folder: Path, work: Path) -> None:
    """A CLIP ViT-B/32 of random weights."""
    import torch
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

    torch.manual_seed(0)
    CLIPModel(CLIPConfig()).save_pretrained(folder)
    CLIPImageProcessor().save_pretrained(folder)


MADE: dict[str, Callable[[Path, Path], None]] = {"bert": _bert, "vit": _vit, "clip": _clip}


def _sentences(folder: Path, counts: dict[str, int], source: Path) -> None:
    """Of UCI Sentiment Labelled Sentences (Kotzias et al. 2015)."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, count in counts.items():
        table = source / "uci_sentences" / f"{split}.csv"
        if not table.exists():
            raise SystemExit(f"There is no {table}; --data names the folder that holds uci_sentences.")
        with table.open(newline="", encoding="utf-8") as file:
            rows = [(row["text"], row["label"]) for row in csv.DictReader(file)]
        draw = np.random.default_rng(0)
        with (folder / f"{split}.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(("text", "label"))
            writer.writerows(rows[i] for i in draw.permutation(len(rows))[:count])


def _pictures(folder: Path, counts: dict[str, int], source: Path) -> None:
    """Small pictures, 320 × 240."""
    _drawn(folder, counts, (320, 240))


def _photos(folder: Path, counts: dict[str, int], source: Path) -> None:
    """Pictures of 12 megapixels, with as much grain as a camera gives."""
    _drawn(folder, counts, (4000, 3000))


DATA: dict[str, Callable[[Path, dict[str, int], Path], None]] = {
    "sentences": _sentences,
    "pictures": _pictures,
    "photos": _photos,
}


def _drawn(folder: Path, counts: dict[str, int], size: tuple[int, int]) -> None:
    """Blurred patches of colour under grain, one of two labels, as JPEGs in a folder for each split and label."""
    from PIL import Image

    draw = np.random.default_rng(0)
    grain = draw.normal(0, 6, (250, 250, 3))
    width, height = size
    tiled = np.tile(grain, (-(-height // 250), -(-width // 250), 1))[:height, :width]
    for split, count in counts.items():
        for i in range(count):
            label = i % 2
            patches = draw.integers(0, 200, (9, 12, 3)) + np.asarray([55 * label, 0, 55 * (1 - label)])
            smooth = Image.fromarray(patches.astype(np.uint8)).resize(size, Image.Resampling.BICUBIC)
            noisy = (np.asarray(smooth, dtype=np.float32) + tiled).clip(0, 255).astype(np.uint8)
            path = folder / split / LABELS[label] / f"{i}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(noisy).save(path, quality=92)


def recipe(setup: Setup, model: Path, rows: Path, seed: int, **train: Any) -> dict[str, Any]:
    """What hfadapt is given: its defaults, but for what both sides must have alike."""
    texts = (rows / "train.csv").exists()
    task = {"type": "text-classification", "max_length": setup.longest} if texts else {"type": "image-classification"}
    columns = {"text": "text", "label": "label"} if texts else {}
    arguments = {"per_device_train_batch_size": setup.batch, "num_train_epochs": setup.epochs}
    arguments |= {"learning_rate": setup.rate, "seed": seed}
    if not setup.whole:
        arguments |= {"eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": False}
    data = {"path": str(rows), **columns}
    return {"task": task, "model": str(model), "data": data, "adapt": setup.adapt, "train": arguments | train}


def write_recipe(path: Path, values: dict[str, Any]) -> None:
    """A recipe file; JSON is YAML."""
    path.write_text(json.dumps({"hfadapt": 1, **values}), encoding="utf-8")


def labels_of(rows: Sequence[tuple[str, str]]) -> dict[str, int]:
    """Ids of the labels."""
    return {name: i for i, name in enumerate(sorted({label for _, label in rows}))}
