"""On what it is measured: backbones and rows, few or all, each with rows under shift and knowledge to forget."""

from __future__ import annotations

import csv
import io
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import drift
import numpy as np

TASK_OF_TEXTS = {"type": "text-classification", "max_length": 48}
MINILM = "sentence-transformers/all-MiniLM-L6-v2"
SIDE = 48
"""The pixels a side of the pictures that both backbones of pictures read; they are shrunk once, not at each visit."""
FEW_TEST_ROWS = 300
INTENTS = 20
"""So many of the 77 intents, every third in the order of their names."""


@dataclass(frozen=True)
class Column:
    """A backbone, rows, and a budget that all ways share."""

    name: str
    backbone: str
    """A key of `methods.RATES`."""
    model: str
    task: Mapping[str, Any]
    data: Mapping[str, str]
    """The columns that the recipe names."""
    steps: int
    build: Callable[[Path, int], None]
    """Writes into a folder, for a seed: a table a split (`test` short, for it is judged for every learning rate),
    `judged/` with the test rows as `test` and those under shift as `validation`, and `unlabelled/`."""
    drift: Callable[[Path], float] | None = None
    """What of the backbone's knowledge a model in a folder has kept, from 0 to 1."""
    rates_from: str = ""
    """The column whose learning rate is taken over; its own are tried where none is named."""
    shift: str = ""
    keeps: str = ""
    few: bool = True
    needs: Sequence[Path] = field(default=(), repr=False)

    @property
    def missing(self) -> str:
        """The first data set that is not there."""
        return next((path.name for path in self.needs if not path.is_dir()), "")


def columns(data: Path) -> list[Column]:
    """All columns, one of each backbone first; data: the folder of the shared data sets."""
    text = {"text": "text", "label": "label"}
    image = {"image": "image", "label": "label"}
    domains = "imdb, trained on amazon and yelp"
    similarity = partial(drift.similarity, data / "stsb")
    pictures = partial(drift.other_pictures, data / "mnist_folder")

    def texts(name: str, steps: int, build: Any, source: str, shift: str, **more: Any) -> Column:
        needs = (data / source, data / "stsb")
        return Column(
            name,
            "minilm",
            MINILM,
            TASK_OF_TEXTS,
            text,
            steps,
            build,
            similarity,
            shift=shift,
            needs=needs,
            keeps="sentence similarity",
            **more,
        )

    def photos(name: str, steps: int, build: Any, source: str, **more: Any) -> Column:
        needs = (data / source, data / "mnist_folder")
        return Column(
            name,
            "vit-nano",
            "builtin/vit-nano",
            {"type": "image-classification"},
            image,
            steps,
            build,
            pictures,
            shift="noise, darkness, blur",
            keeps="handwritten digits",
            needs=needs,
            **more,
        )

    emoji = {"type": "image-classification", "templates": ["a picture of {}."]}
    return [
        photos("sign-10", 40, partial(_pictures, data / "sign_digits", 10), "sign_digits"),
        Column("emoji-16", "clip-nano", "builtin/clip-nano", emoji, image, 40,
               partial(_emoji, data / "emoji_twemoji", data / "emoji_fluent", 16), drift.zero_shot,
               shift="another artist's emoji", keeps="zero-shot on scenes",
               needs=(data / "emoji_twemoji", data / "emoji_fluent")),
        texts("uci-64", 24, partial(_sentences, data / "uci_sentences", 64), "uci_sentences", domains),
        photos("trash-10", 40, partial(_pictures, data / "trashnet", 10), "trashnet", rates_from="sign-10"),
        texts("uci-8", 24, partial(_sentences, data / "uci_sentences", 8), "uci_sentences", domains,
              rates_from="uci-64"),
        texts("banking-10", 32, partial(_intents, data / "banking77", 10), "banking77", "typing errors"),
        photos("sign", 100, partial(_pictures, data / "sign_digits", None), "sign_digits", rates_from="sign-10",
               few=False),
        photos("trash", 100, partial(_pictures, data / "trashnet", None), "trashnet", rates_from="sign-10", few=False),
        texts("uci", 64, partial(_sentences, data / "uci_sentences", None), "uci_sentences", domains,
              rates_from="uci-64", few=False),
    ]  # fmt: skip


def drawn(labels: Sequence[Any], each: int | None, seed: int) -> list[int]:
    """The places of some rows of each label, drawn by a seed; None takes all."""
    if each is None:
        return list(range(len(labels)))
    draw, by_label = np.random.default_rng(seed), dict[Any, list[int]]()
    for place, label in enumerate(labels):
        by_label.setdefault(label, []).append(place)
    return sorted(int(i) for label in sorted(by_label) for i in draw.permutation(by_label[label])[:each])


Texts = list[tuple[str, str]]


def _sentences(source: Path, each: int | None, folder: Path, seed: int) -> None:
    rows = {split: _read(source / f"{split}.csv") for split in ("train", "validation", "test")}
    near = {
        split: [(row["text"], row["label"]) for row in its if row["domain"] != "imdb"] for split, its in rows.items()
    }
    far = [(row["text"], row["label"]) for its in rows.values() for row in its if row["domain"] == "imdb"]
    _write_texts(folder, near, each, seed, _some(near["test"]), _some(far))


def _intents(source: Path, each: int | None, folder: Path, seed: int) -> None:
    rows = {split: _read(source / f"{split}.csv") for split in ("train", "validation", "test")}
    every = sorted({row["label"] for row in rows["train"]})
    names = set(every[:: len(every) // INTENTS][:INTENTS])
    kept = {split: [(row["text"], row["label"]) for row in its if row["label"] in names] for split, its in rows.items()}
    kept["validation"] = _some(kept["validation"], 160)
    test = _some(kept["test"])
    draw = random.Random(0)
    _write_texts(folder, kept, each, seed, test, [(mistyped(text, draw), label) for text, label in test])


def mistyped(text: str, draw: random.Random) -> str:
    """A text with two neighbouring letters exchanged in every third word of four letters or more."""
    words = []
    for word in text.split(" "):
        if len(word) > 3 and draw.random() < 1 / 3:
            at = draw.randrange(1, len(word) - 1)
            word = word[:at] + word[at + 1] + word[at] + word[at + 2 :]
        words.append(word)
    return " ".join(words)


def _read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _some(rows: Texts, number: int = FEW_TEST_ROWS) -> Texts:
    """So many rows, drawn, in the order of their lengths, so that the batches that are judged hold little padding."""
    return sorted(random.Random(0).sample(rows, min(number, len(rows))), key=lambda row: len(row[0]))


def _write_texts(folder: Path, rows: Mapping[str, Texts], each: int | None, seed: int, test: Texts, far: Texts) -> None:
    chosen = [rows["train"][i] for i in drawn([label for _, label in rows["train"]], each, seed)]
    validation = sorted(rows["validation"], key=lambda row: len(row[0]))
    parts = {"train": chosen, "validation": validation, "test": [test[i] for i in _one_each(test)]}
    parts |= {"judged/train": chosen, "judged/validation": far, "judged/test": test, "unlabelled/train": rows["train"]}
    for name, its in parts.items():
        path = folder / f"{name}.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("text", "label"), *its])


def _one_each(rows: Sequence[Sequence[Any]]) -> list[int]:
    """The place of the first row of each label, the label coming last in a row."""
    return sorted({row[-1]: i for i, row in reversed(list(enumerate(rows)))}.values())


Pictures = list[tuple[Any, int]]


def _pictures(source: Path, each: int | None, folder: Path, seed: int) -> None:
    rows, label = _opened(source)
    _write_pictures(folder, rows, label, each, seed, spoilt(rows["test"]))


def _emoji(source: Path, other: Path, each: int | None, folder: Path, seed: int) -> None:
    rows, label = _opened(source)
    _write_pictures(folder, rows, label, each, seed, _opened(other)[0]["test"])


def _opened(source: Path) -> tuple[dict[str, Pictures], Any]:
    """Pictures of the backbone's size with their labels by split, and the labels' feature."""
    import datasets
    from PIL import Image

    rows, label = {}, None
    for split in ("train", "validation", "test"):
        table = datasets.Dataset.from_parquet(str(source / f"{split}.parquet"))
        label = table.features["label"]
        shown = (row["image"].convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC) for row in table)
        rows[split] = list(zip(shown, table["label"], strict=True))
    return rows, label


def spoilt(rows: Pictures) -> Pictures:
    """The pictures with noise, darker, and blurred, in turn."""
    from PIL import Image, ImageEnhance, ImageFilter

    draw, made = np.random.default_rng(0), []
    for i, (picture, label) in enumerate(rows):
        if i % 3 == 0:
            noisy = np.asarray(picture, np.float32) + draw.normal(0, 25, (SIDE, SIDE, 3))
            picture = Image.fromarray(noisy.clip(0, 255).astype(np.uint8))
        elif i % 3 == 1:
            picture = ImageEnhance.Brightness(picture).enhance(0.5)
        else:
            picture = picture.filter(ImageFilter.GaussianBlur(1.0))
        made.append((picture, label))
    return made


def _write_pictures(
    folder: Path, rows: Mapping[str, Pictures], label: Any, each: int | None, seed: int, far: Pictures
) -> None:
    import datasets

    chosen = [rows["train"][i] for i in drawn([of for _, of in rows["train"]], each, seed)]
    parts = {
        "train": chosen,
        "validation": rows["validation"],
        "test": [rows["test"][i] for i in _one_each(rows["test"])],
    }
    parts |= {"judged/train": chosen, "judged/validation": far, "judged/test": rows["test"]}
    parts |= {"unlabelled/train": rows["train"]}
    features = datasets.Features({"image": datasets.Image(), "label": label})
    for name, its in parts.items():
        path = folder / f"{name}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        cells = [{"bytes": _png(picture), "path": None} for picture, _ in its]
        datasets.Dataset.from_dict({"image": cells, "label": [of for _, of in its]}, features).to_parquet(str(path))


def _png(picture: Any) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    return stream.getvalue()


def named(names: Iterable[str], among: Sequence[Any]) -> list[Any]:
    """Those of some columns or ways with the names that were asked for; all where none was."""
    wanted = list(names)
    unknown = set(wanted) - {one.name for one in among}
    if unknown:
        raise SystemExit(f"There is no {', '.join(sorted(unknown))}; there are {', '.join(one.name for one in among)}.")
    return [one for one in among if not wanted or one.name in wanted]
