"""What a model has kept of what its backbone knew before it was adapted; untouched backbones are asked the same way."""

from __future__ import annotations

import csv
import random
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

PAIRS = 200
PICTURES = {"train": 400, "test": 200}
SCENES = 200
BATCH = 50


@torch.no_grad()
def similarity(stsb: Path, model: Path) -> float:
    """Spearman's correlation of the similarity of sentences with that which people see in them.

    Of two sentences it is the cosine of the means of their tokens' last states.
    """
    from scipy.stats import spearmanr
    from transformers import AutoModel

    batches, first, second, people = _sentences(stsb)
    body = AutoModel.from_pretrained(model, dtype=torch.float32).eval()
    vectors: dict[int, np.ndarray] = {}
    for places, batch in batches:
        mask = batch["attention_mask"].unsqueeze(-1)
        means = (body(**batch).last_hidden_state * mask).sum(1) / mask.sum(1)
        vectors |= zip(places, torch.nn.functional.normalize(means, dim=-1).numpy(), strict=True)
    alike = [float(vectors[a] @ vectors[b]) for a, b in zip(first, second, strict=True)]
    return float(np.nan_to_num(spearmanr(alike, people).statistic))


@cache
def _sentences(stsb: Path) -> tuple[list[tuple[list[int], Any]], list[int], list[int], list[float]]:
    """Batches of like length with their places, the places of the pairs, and what people say."""
    import columns
    from transformers import AutoTokenizer

    from hfadapt.backbones._source import locate

    with (stsb / "test.csv").open(newline="", encoding="utf-8") as file:
        rows = random.Random(0).sample(list(csv.DictReader(file)), PAIRS)
    texts = [row[side] for side in ("sentence1", "sentence2") for row in rows]
    # That of a model with learnt tokens would put them before every sentence.
    tokenizer = AutoTokenizer.from_pretrained(locate(columns.MINILM).path)
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    parts = [order[start : start + BATCH] for start in range(0, len(order), BATCH)]
    batches = [
        (part, tokenizer([texts[i] for i in part], padding=True, truncation=True, max_length=64, return_tensors="pt"))
        for part in parts
    ]
    return batches, list(range(PAIRS)), list(range(PAIRS, 2 * PAIRS)), [float(row["score"]) for row in rows]


@torch.no_grad()
def other_pictures(source: Path, model: Path) -> float:
    """The accuracy of the five nearest neighbours, by the features of pictures of another kind."""
    from sklearn.neighbors import KNeighborsClassifier
    from transformers import AutoModel

    body = AutoModel.from_pretrained(model, dtype=torch.float32).eval()
    features, labels = {}, {}
    for split, (pictures, its) in _digits(source).items():
        found = [body(pixel_values=part).last_hidden_state.mean(1) for part in pictures.split(BATCH)]
        features[split], labels[split] = torch.cat(found).numpy(), its
    centre, spread = features["train"].mean(0), features["train"].std(0) + 1e-6
    nearest = KNeighborsClassifier(5, metric="cosine").fit((features["train"] - centre) / spread, labels["train"])
    return float(nearest.score((features["test"] - centre) / spread, labels["test"]))


@cache
def _digits(source: Path) -> dict[str, tuple[torch.Tensor, np.ndarray]]:
    """Pixels (rows, 3, 48, 48) from -1 to 1 and labels by split."""
    from PIL import Image

    made = {}
    for split, number in PICTURES.items():
        paths = sorted((source / split).glob("*/*.png"))
        paths = random.Random(0).sample(paths, min(number, len(paths)))
        shown = [Image.open(path).convert("RGB").resize((48, 48)) for path in paths]
        pixels = torch.from_numpy(np.stack([np.asarray(one) for one in shown])).permute(0, 3, 1, 2) / 127.5 - 1
        made[split] = pixels, np.asarray([int(path.parent.name) for path in paths])
    return made


@torch.no_grad()
def zero_shot(model: Path) -> float:
    """The accuracy of asking for the coloured shapes in the middle of drawn scenes by their names.

    A model that only kept the tower of pictures is asked with the text tower and the projections of the checkpoint.
    """
    from transformers import AutoConfig, CLIPModel

    from hfadapt.builtin import scenes

    folder = Path(scenes.__file__).parent / "clip-nano"
    clip = CLIPModel.from_pretrained(folder, dtype=torch.float32).eval()
    if "CLIPModel" in (AutoConfig.from_pretrained(model).architectures or ()):
        clip = CLIPModel.from_pretrained(model, dtype=torch.float32).eval()
    else:
        adapted, told = CLIPModel.from_pretrained(model, dtype=torch.float32, output_loading_info=True)
        kept = {n: t for n, t in adapted.state_dict().items() if n not in told["missing_keys"]}
        assert any("vision_model" in name for name in kept)
        clip.load_state_dict(kept, strict=False)
    pixels, right, texts = _scenes()
    said = clip.get_text_features(**texts).pooler_output
    seen = torch.cat([clip.get_image_features(pixel_values=part).pooler_output for part in pixels.split(BATCH)])
    alike = torch.nn.functional.normalize(seen, dim=-1) @ torch.nn.functional.normalize(said, dim=-1).T
    return float((alike.argmax(1).numpy() == right).mean())


@cache
def _scenes() -> tuple[torch.Tensor, np.ndarray, Any]:
    """Pixels, the places of the right labels (scenes,), and the encoded labels."""
    from transformers import AutoProcessor

    from hfadapt.builtin import scenes

    processor = AutoProcessor.from_pretrained(Path(scenes.__file__).parent / "clip-nano")
    draw, labels = random.Random("what it knew"), list(scenes.LABELS)
    right = np.asarray([i % len(labels) for i in range(SCENES)])
    drawn = [scenes.picture(draw, scenes.labelled(draw, labels[i], scenes.PLAIN), scenes.PLAIN) for i in right.tolist()]
    texts = processor(text=[f"a picture of a {label}" for label in labels], padding=True, return_tensors="pt")
    return processor(images=drawn, return_tensors="pt")["pixel_values"], right, texts
