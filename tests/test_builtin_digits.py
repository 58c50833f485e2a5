"""The built-in digits: always the same, no digit in two splits, no two pictures alike. And the backbone for them."""

from __future__ import annotations

from collections import Counter
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from hfadapt.builtin import scattered_digits


@pytest.fixture(scope="module")
def made() -> dict:
    return scattered_digits.make()


@pytest.fixture(scope="module")
def pictures(made) -> dict[str, np.ndarray]:
    """By split: (rows, 48, 48, 3)."""
    return {
        split: np.stack([np.asarray(Image.open(BytesIO(image["bytes"]))) for image in columns["image"]])
        for split, columns in made.items()
    }


def test_each_row_is_a_picture_and_a_label(made, pictures):
    assert {split: len(columns["label"]) for split, columns in made.items()} == {
        "train": 2400,
        "validation": 250,
        "test": 347,
    }
    for split, columns in made.items():
        assert list(columns) == ["image", "label"]
        assert pictures[split].shape == (len(columns["label"]), 48, 48, 3) and pictures[split].dtype == np.uint8
        assert all(image["path"] is None and image["bytes"].startswith(b"\x89PNG") for image in columns["image"])


def test_every_label_has_its_share_of_each_split(made):
    everywhere = Counter(str(label) for label in load_digits().target)
    for columns in made.values():
        counts = Counter(columns["label"])
        assert set(counts) == set("0123456789")
        for label, count in counts.items():
            share = count / len(columns["label"])
            assert abs(share - everywhere[label] / 1797) < 0.01


def test_no_digit_is_drawn_in_two_splits():
    digits = load_digits()
    drawn = scattered_digits.sources(digits.target)
    rows = np.concatenate(list(drawn.values()))
    assert sorted(rows) == list(range(1797))
    inks = {split: {digits.images[row].tobytes() for row in rows} for split, rows in drawn.items()}
    assert not inks["train"] & inks["test"] and not inks["train"] & inks["validation"]
    assert not inks["validation"] & inks["test"]


def test_it_is_the_same_each_time_whatever_was_drawn_before(made):
    np.random.seed(7)
    np.random.random(5)
    assert scattered_digits.make() == made


def test_the_same_digit_is_drawn_twice_and_differently(made, pictures):
    labels = made["train"]["label"]
    assert labels[:1200] == labels[1200:]
    first, second = pictures["train"][:1200].astype(float), pictures["train"][1200:].astype(float)
    assert np.abs(first - second).mean((1, 2, 3)).min() > 5


def test_colours_and_places_vary(made, pictures):
    shown = pictures["train"].astype(float)
    assert (shown.mean((1, 2)).std(0) > 30).all()
    # what stands out from the ground, by its distance from the median colour
    apart = np.abs(shown - np.median(shown, (1, 2), keepdims=True)).sum(-1)
    weights = apart * (apart > np.quantile(apart, 0.9, (1, 2), keepdims=True))
    places = np.arange(48)
    for axis in (1, 2):
        middles = (weights.sum(3 - axis) * places).sum(1) / weights.sum((1, 2))
        assert middles.std() > 3.5 and 20 < middles.mean() < 28
    # either is the lighter one, the digit or its ground
    brighter = (weights[..., None] * shown).sum((1, 2, 3)) / weights.sum((1, 2)) / 3 > shown.mean((1, 2, 3))
    assert 0.35 < brighter.mean() < 0.65


def test_datasets_reads_the_pictures(made):
    import datasets

    rows = datasets.Dataset.from_dict(made["test"]).cast_column("image", datasets.Image())
    assert rows[0]["image"].size == (48, 48) and rows[0]["image"].mode == "RGB"


BACKBONE = Path(scattered_digits.__file__).parent / "vit-nano"


def test_the_backbone_lacks_nothing_but_a_head():
    import torch
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    model, loading = AutoModelForImageClassification.from_pretrained(
        BACKBONE, num_labels=10, dtype=torch.float32, output_loading_info=True
    )
    assert {kind: keys for kind, keys in loading.items() if keys} == {
        "missing_keys": {"classifier.weight", "classifier.bias"}
    }
    assert 1e6 < sum(weight.numel() for weight in model.parameters()) < 4e6
    shown = AutoImageProcessor.from_pretrained(BACKBONE)(Image.new("RGB", (100, 80), (255, 0, 128)))
    shown = torch.tensor(np.stack(shown["pixel_values"]))
    assert shown.shape == (1, 3, 48, 48)
    assert torch.allclose(shown[0, :, 0, 0], torch.tensor([1.0, -1.0, 0.0039]), atol=1e-3)
    assert torch.isfinite(model(pixel_values=shown).logits).all()


def test_the_backbone_is_small_and_speaks_of_no_machine():
    assert sum(path.stat().st_size for path in BACKBONE.iterdir()) < 8e6
    for name in ("config.json", "preprocessor_config.json"):
        assert "_name_or_path" not in (BACKBONE / name).read_text() and "/" not in (BACKBONE / name).read_text()
    assert (BACKBONE / "README.md").read_text().startswith("# builtin/vit-nano")
