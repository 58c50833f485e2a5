"""What the pretraining of builtin/vit-nano earns on ten labelled pictures a class, against the same net from scratch.

    OMP_NUM_THREADS=1 python benchmarks/builtin/vit_gains.py [sign_digits folder]

Two data sets: scikit-learn's handwritten digits, enlarged, and photos of hands that show digits (parquet files named
after their splits with columns `image` and `label`, 0 to 9), skipped where their folder is absent. All arms see the
same pictures in the same order for as long. Each learns at the rate, of two, that does best on held-out rows, with
other pictures to learn from than those counted. Writes vit_gains.json next to this file.
"""

from __future__ import annotations

import argparse
import datetime
import io
import json
import os
import platform
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from PIL import Image
from scipy import stats
from transformers import ViTConfig, ViTForImageClassification

HERE = Path(__file__).parent
BACKBONE = HERE.parent.parent / "hfadapt" / "builtin" / "vit-nano"
ARMS = ("pretrained", "scratch", "scratch, 0.02")
"""The last is random as transformers' ViTConfig would have it by default, which is small for a width of 128."""
RATES = (3e-4, 1e-3)
SEEDS = (0, 1, 2)
A_CLASS, EPOCHS, BATCH, SIZE = 10, 30, 10, 48
CHOOSING_SEED = 100


@dataclass(frozen=True)
class Rows:
    """Pictures (rows, 48, 48, 3) and labels (rows,) from 0 to 9."""

    pictures: NDArray[np.uint8]
    labels: NDArray[np.int64]

    def take(self, rows: NDArray[np.int64]) -> Rows:
        """The rows at these places."""
        return Rows(self.pictures[rows], self.labels[rows])

    def few(self, seed: int) -> Rows:
        """So many of each label, drawn at random."""
        random = np.random.default_rng(seed)
        by_label = [random.permutation(np.flatnonzero(self.labels == label))[:A_CLASS] for label in range(10)]
        return self.take(random.permutation(np.concatenate(by_label)))

    def tensors(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Pictures (rows, 3, 48, 48) from -1 to 1, and labels."""
        return torch.from_numpy(self.pictures).permute(0, 3, 1, 2) / 127.5 - 1, torch.from_numpy(self.labels)


Data = dict[str, Rows]
"""By split: train, validation, test."""


def digits() -> Data:
    """Light on black; 847 to draw from, 250 to choose the rate on, 700 to count."""
    from sklearn.datasets import load_digits

    given = load_digits()
    pictures = np.stack([_resized(Image.fromarray((image * 15.9).astype(np.uint8))) for image in given.images])
    everything = Rows(pictures, given.target.astype(np.int64))
    order = np.random.default_rng(0).permutation(len(pictures))
    parts = np.split(order, [847, 1097])
    return {split: everything.take(rows) for split, rows in zip(("train", "validation", "test"), parts, strict=True)}


def sign_digits(folder: Path) -> Data:
    """The splits as they are."""
    from pyarrow import parquet

    data = {}
    for split in ("train", "validation", "test"):
        table = parquet.read_table(folder / f"{split}.parquet").to_pydict()
        pictures = np.stack([_resized(Image.open(io.BytesIO(image["bytes"]))) for image in table["image"]])
        data[split] = Rows(pictures, np.array(table["label"], np.int64))
    return data


def _resized(image: Image.Image) -> NDArray[np.uint8]:
    return np.asarray(image.convert("RGB").resize((SIZE, SIZE), Image.Resampling.BILINEAR))


def model(arm: str) -> ViTForImageClassification:
    """With ten labels; the body pretrained, or random."""
    if arm == "pretrained":
        return ViTForImageClassification.from_pretrained(BACKBONE, num_labels=10, dtype=torch.float32)
    config = ViTConfig.from_pretrained(BACKBONE, num_labels=10, dtype=torch.float32)
    if arm == "scratch, 0.02":
        config.initializer_range = 0.02
    return ViTForImageClassification(config)


def accuracy(arm: str, train: Rows, judged: Rows, rate: float, seed: int) -> float:
    """Of fine-tuning everything: AdamW, a tenth of the steps to warm up, then half a cosine; no augmentation."""
    torch.manual_seed(seed)
    net = model(arm).train()
    pictures, labels = train.tensors()
    steps = EPOCHS * -(-len(labels) // BATCH)
    optimizer = torch.optim.AdamW(net.parameters(), rate, weight_decay=0.05)
    schedule = transformers.get_cosine_schedule_with_warmup(optimizer, steps // 10, steps)
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(labels)).split(BATCH):
            net(pixel_values=pictures[rows], labels=labels[rows]).loss.backward()
            torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
    pictures, labels = judged.tensors()
    with torch.inference_mode():
        guesses = torch.cat([net.eval()(pixel_values=part).logits.argmax(1) for part in pictures.split(128)])
    return float((guesses == labels).float().mean())


def measured(name: str, data: Data) -> Iterator[tuple[str, dict[str, Any]]]:
    """Of each arm: the rate chosen, the accuracy of each seed, their mean and its interval."""
    for arm in ARMS:
        start = time.monotonic()
        few = data["train"].few(CHOOSING_SEED)
        tried = {rate: accuracy(arm, few, data["validation"], rate, CHOOSING_SEED) for rate in RATES}
        rate = max(tried, key=tried.__getitem__)
        found = [accuracy(arm, data["train"].few(seed), data["test"], rate, seed) for seed in SEEDS]
        print(f"{name} {arm}: {tried}, then {found}, {time.monotonic() - start:.0f} s", flush=True)
        yield arm, {"learning_rate": rate, "held_out": {str(r): a for r, a in tried.items()}, **_interval(found)}


def _interval(found: list[float]) -> dict[str, Any]:
    """The mean over the seeds and its 95% interval, by Student's t."""
    mean, half = float(np.mean(found)), float(stats.sem(found) * stats.t.ppf(0.975, len(found) - 1))
    return {"each": found, "mean": mean, "low": mean - half, "high": mean + half}


def main() -> None:
    """Measure, write, print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("sign_digits", type=Path, nargs="?")
    folder = parser.parse_args().sign_digits
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    data = {"digits": digits()}
    if folder and folder.is_dir():
        data["sign_digits"] = sign_digits(folder)
    else:
        print("sign_digits is skipped: its folder is not there.")
    scores = {}
    for name, splits in data.items():
        scores[name] = dict(measured(name, splits))
        for arm in ARMS[1:]:
            pairs = zip(scores[name]["pretrained"]["each"], scores[name][arm]["each"], strict=True)
            scores[name][f"gain over {arm}"] = _interval([pretrained - scratch for pretrained, scratch in pairs])
    about = {
        "date": datetime.date.today().isoformat(),
        "hardware": f"{os.cpu_count()} CPU cores, 1 thread used",
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        "settings": {"a_class": A_CLASS, "epochs": EPOCHS, "batch": BATCH, "rates": RATES, "seeds": SEEDS},
    }
    text = json.dumps({**about, "accuracy": scores}, indent=2)
    (HERE / "vit_gains.json").write_text(text + "\n", encoding="utf-8")
    print(f"{'':12}  {'':23}  mean   95% interval")
    for name, rows in scores.items():
        for row, its in rows.items():
            print(f"{name:12}  {row:23}  {its['mean']:.3f}  {its['low']:.3f} to {its['high']:.3f}")


if __name__ == "__main__":
    main()
