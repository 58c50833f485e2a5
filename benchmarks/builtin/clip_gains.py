"""What builtin/clip-nano can do before any adaptation; writes clip_gains.json beside this file.

    OMP_NUM_THREADS=1 python benchmarks/builtin/clip_gains.py

Zero-shot accuracy on new pictures of colours and shapes that it never saw together, over three seeds of pictures:
told from the other held-out labels, where the colour alone would give 0.5, and from all 144 colours and shapes of the
dataset. Then label accuracy and retrieval on the test split of builtin/scenes, whose style is new to it.
"""

from __future__ import annotations

import datetime
import io
import json
import os
import platform
import random
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import AutoProcessor, CLIPModel, ProcessorMixin

from hfadapt.builtin import scenes
from hfadapt.noise import quiet
from hfadapt.scoring.retrieval import Retrieval

MODEL = Path(scenes.__file__).parent / "clip-nano"
PROMPTS = ("{}", "a picture of {}", "a drawing of {}", "there is {} in the middle")
SEEDS = (0, 1, 2)
EVERY = tuple(f"{colour} {shape}" for colour in scenes.COLOURS for shape in scenes.KINDS)
EACH = 25
"""Pictures of each held-out label and seed."""
REPLICATES = 2000


def main() -> None:
    """Measure, write, print."""
    torch.set_num_threads(1)
    with quiet():
        model = CLIPModel.from_pretrained(MODEL).eval()
        processor = AutoProcessor.from_pretrained(MODEL)
    choices = {"held_out_accuracy": scenes.HELD_OUT, "held_out_accuracy_among_all": EVERY}
    right = {
        name: np.concatenate([zero_shot_held_out(model, processor, seed, among) for seed in SEEDS])
        for name, among in choices.items()
    }
    chance = {name: 1 / len(among) for name, among in choices.items()} | {"label_accuracy": 1 / len(scenes.LABELS)}
    scores = {name: interval(them) for name, them in right.items()} | on_scenes(model, processor)
    texts = len(set(scenes.make()["test"]["caption"]))
    for name, score in scores.items():
        score["chance"] = chance[name] if name in chance else int(name.split("@")[1]) / texts
    written = {
        "date": datetime.date.today().isoformat(),
        "hardware": f"{os.cpu_count()} CPU cores, 1 thread",
        "versions": {"python": platform.python_version()}
        | {name: version(name) for name in ("torch", "transformers", "pillow", "hfadapt")},
        "held_out": {
            "labels": len(scenes.HELD_OUT),
            "pictures": len(SEEDS) * len(scenes.HELD_OUT) * EACH,
            "seeds": list(SEEDS),
        },
        "scores": scores,
    }
    Path(__file__).with_suffix(".json").write_text(json.dumps(written, indent=2) + "\n", encoding="utf-8")
    for name, score in scores.items():
        print(f"{name:28} {score['value']:.3f} [{score['low']:.3f}, {score['high']:.3f}]  chance {score['chance']:.3f}")


def zero_shot_held_out(
    model: CLIPModel, processor: ProcessorMixin, seed: int, among: Sequence[str] = scenes.HELD_OUT
) -> np.ndarray:
    """Which new pictures of held-out labels get the right one of some labels: (held-out labels * EACH,) of bool."""
    draw = random.Random(f"held out {seed}")
    labels = [label for label in scenes.HELD_OUT for _ in range(EACH)]
    shown = [scenes.labelled(draw, label, scenes.PLAIN) for label in labels]
    pictures = [scenes.picture(draw, scene, scenes.PLAIN) for scene in shown]
    return np.asarray(among)[zero_shot(model, processor, pictures, among)] == np.asarray(labels)


def on_scenes(model: CLIPModel, processor: ProcessorMixin) -> dict[str, dict[str, float]]:
    """Label accuracy and recall on the test split of builtin/scenes, with intervals over rows."""
    rows = scenes.make()["test"]
    pictures = [Image.open(io.BytesIO(cell["bytes"])) for cell in rows["image"]]
    guessed = zero_shot(model, processor, pictures, scenes.LABELS)
    scores = {"label_accuracy": interval(np.asarray(rows["label"]) == np.asarray(scenes.LABELS)[guessed])}
    retrieval = Retrieval(replicates=REPLICATES)
    ids = {text: i for i, text in enumerate(rows["caption"])}
    targets = np.asarray([(i, ids[text]) for i, text in enumerate(rows["caption"])])
    shown, said = image_features(model, processor, pictures), text_features(model, processor, rows["caption"])
    retrieval.add({"image_embeds": shown.numpy(), "text_embeds": said.numpy()}, targets)
    for name, score in retrieval.scores().items():
        if name.startswith("recall@"):
            scores[name] = {"value": score.value, "low": float(score.low or 0), "high": float(score.high or 0)}
    return scores


def zero_shot(
    model: CLIPModel, processor: ProcessorMixin, pictures: Sequence[Image.Image], labels: Sequence[str]
) -> np.ndarray:
    """The index of the label whose prompts, averaged, are most similar to each picture: (pictures,)."""
    with_article = [f"{'an' if label[0] in 'aeiou' else 'a'} {label}" for label in labels]
    means = sum(text_features(model, processor, [p.format(label) for label in with_article]) for p in PROMPTS)
    weights = torch.nn.functional.normalize(means, dim=-1)
    return (image_features(model, processor, pictures) @ weights.T).argmax(1).numpy()


@torch.no_grad()
def image_features(model: CLIPModel, processor: ProcessorMixin, pictures: Sequence[Image.Image]) -> torch.Tensor:
    """Unit vectors (pictures, width)."""
    features = model.get_image_features(**processor(images=list(pictures), return_tensors="pt")).pooler_output
    return torch.nn.functional.normalize(features, dim=-1)


@torch.no_grad()
def text_features(model: CLIPModel, processor: ProcessorMixin, texts: Sequence[str]) -> torch.Tensor:
    """Unit vectors (texts, width)."""
    encoded: Any = processor(text=list(texts), padding=True, truncation=True, return_tensors="pt")
    return torch.nn.functional.normalize(model.get_text_features(**encoded).pooler_output, dim=-1)


def interval(right: np.ndarray) -> dict[str, float]:
    """The share of rows that are right, with a 95% bootstrap interval."""
    drawn = np.random.default_rng(0).integers(0, len(right), (REPLICATES, len(right)))
    low, high = np.percentile(right[drawn].mean(1), (2.5, 97.5))
    return {"value": float(right.mean()), "low": float(low), "high": float(high)}


if __name__ == "__main__":
    main()
