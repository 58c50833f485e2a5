"""Raw pixels learn what colours can tell, from samples of bounded size, and never warn."""

from __future__ import annotations

import io
import warnings

import numpy as np
import pytest
from PIL import Image

from hfadapt.data.images import PictureError
from hfadapt.scoring import pixels
from hfadapt.scoring.pixels import Pictures, picture_baselines
from hfadapt.scoring.regression import Regression

COLOURS = [(200, 40, 40), (40, 200, 40), (40, 40, 200)]


@pytest.fixture(autouse=True)
def _no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", ResourceWarning)  # of other tests' files, whenever they are collected
        yield


def cell(colour, random, size=(24, 20)):
    """A noisy picture of a colour, as a data set stores it."""
    noise = random.normal(colour, 40, (size[1], size[0], 3)).clip(0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, "PNG")
    return {"bytes": file.getvalue(), "path": None}


def coloured(rows, seed=0, targets=None):
    random = np.random.default_rng(seed)
    cells = [cell(COLOURS[i % 3], random) for i in range(rows)]
    return Pictures(cells, np.arange(rows) % 3 if targets is None else targets)


def test_one_label():
    splits = {"validation": coloured(30, 1), "test": coloured(33, 2)}
    found = picture_baselines("label", ["r", "g", "b"], coloured(90), splits, seed=0, replicates=50)
    assert list(found) == ["majority", "pixels"]
    assert [list(of) for of in found.values()] == [["validation", "test"]] * 2
    assert found["majority"]["test"]["accuracy"].value == pytest.approx(1 / 3)
    assert found["pixels"]["test"]["accuracy"].value == 1.0
    assert found["pixels"]["validation"]["mcc"].rows == 30
    assert found["majority"]["test"]["accuracy"].low < 1 / 3


def test_several_labels_and_numbers():
    names = ["red", "not blue", "never"]

    def labels(rows):
        return np.column_stack([np.arange(rows) % 3 == 0, np.arange(rows) % 3 < 2, np.zeros(rows)]).astype(int)

    test = {"test": coloured(30, 1, labels(30))}
    found = picture_baselines("labels", names, coloured(90, 0, labels(90)), test, seed=0, replicates=0)
    assert found["pixels"]["test"]["exact_match"].value > 0.9
    assert found["majority"]["test"]["recall[not blue]"].value == 1.0
    test = {"test": coloured(30, 1, np.arange(30) % 3 + 1.0)}
    found = picture_baselines("number", [], coloured(90, 0, np.arange(90) % 3 + 1.0), test, seed=0, replicates=0)
    assert list(found) == ["mean", "pixels"]
    assert found["pixels"]["test"]["pearson"].value > 0.9 and "pearson" not in found["mean"]["test"]


@pytest.mark.parametrize("rows", [1, 2, 60])
def test_poor_training_sets(rows):
    train = coloured(rows, 0, np.ones(rows, int))
    found = picture_baselines("label", ["a", "b", "c"], train, {"test": coloured(9)}, seed=0, replicates=5)
    for splits in found.values():
        assert splits["test"]["recall[b]"].value == 1.0


def test_large_splits_are_sampled_by_seed(monkeypatch):
    monkeypatch.setattr(pixels, "MOST_TRAIN_ROWS", 20)
    monkeypatch.setattr(pixels, "MOST_JUDGED_ROWS", 15)
    monkeypatch.setattr(pixels, "CHUNK", 4)
    opened = []
    real = pixels._colours

    def watched(cells):
        opened.extend(cells)
        return real(cells)

    monkeypatch.setattr(pixels, "_colours", watched)
    train, test = coloured(60), coloured(40, 1)
    found = picture_baselines("label", ["r", "g", "b"], train, {"test": test}, seed=0, replicates=0)
    assert len(opened) == 20 + 15
    assert found["pixels"]["test"]["accuracy"].rows == 15 and found["majority"]["test"]["accuracy"].rows == 40
    assert sum(cell in test.cells for cell in opened) == 15
    first = [bytes(cell["bytes"]) for cell in opened]
    for seed, same in ((0, True), (1, False)):
        opened.clear()
        picture_baselines("label", ["r", "g", "b"], train, {"test": test}, seed=seed, replicates=0)
        assert ([bytes(cell["bytes"]) for cell in opened] == first) is same


def test_many_labels_learn_from_fewer_pictures_without_choosing(monkeypatch):
    monkeypatch.setattr(pixels, "MOST_TRAIN_ROWS", 200)
    monkeypatch.setattr(pixels, "MOST_FITTED", 300)
    monkeypatch.setattr(pixels, "MOST_TO_CHOOSE", 250)
    fitted = []
    real = Regression._fit_label

    def watched(self, seen, targets, labels, strength):
        fitted.append((seen.shape, seen.dtype, strength))
        return real(self, seen, targets, labels, strength)

    monkeypatch.setattr(Regression, "_fit_label", watched)
    random = np.random.default_rng(0)
    pixels._pixels("label", ["r", "g", "b"], coloured(120), random)
    assert fitted == [((100, 768), np.float32, 0.01)]
    fitted.clear()
    pixels._pixels("label", ["r", "g", "b"], coloured(80), random)
    assert [strength for _, _, strength in fitted[:3]] == [0.01, 0.1, 0.003] and fitted[3][0] == (80, 768)
    fitted.clear()
    pixels._pixels("label", [str(i) for i in range(100)], coloured(80), random)
    assert fitted[0][0] == (40, 768)


def test_colours_are_in_order_and_between_0_and_1():
    random = np.random.default_rng(0)
    cells = [cell(colour, random, size) for colour, size in zip(COLOURS, ((300, 200), (16, 16), (5, 90)), strict=True)]
    found = pixels._colours(cells).reshape(3, pixels.SIDE, pixels.SIDE, 3)
    assert found.mean(axis=(1, 2)) == pytest.approx(np.array(COLOURS) / 255, abs=0.05)
    halves = np.zeros((40, 40, 3), np.uint8)
    halves[:20] = 255
    file = io.BytesIO()
    Image.fromarray(halves).save(file, "PNG")
    upper, lower = np.split(pixels._colours([{"bytes": file.getvalue(), "path": None}]).ravel(), 2)
    assert upper.mean() == pytest.approx(1, abs=0.05) and lower.mean() == pytest.approx(0, abs=0.05)


def test_a_broken_picture_is_told():
    train = Pictures([{"bytes": b"no picture", "path": None}], np.zeros(1, int))
    with pytest.raises(PictureError):
        picture_baselines("label", ["a", "b"], train, {}, seed=0, replicates=0)


def test_as_good_as_published_on_photographs(shared):
    import pyarrow.parquet as pq

    def rows(split):
        table = pq.read_table(shared / "trashnet" / f"{split}.parquet").to_pydict()
        return Pictures(table["image"], np.array(table["label"]))

    found = picture_baselines(
        "label", [str(i) for i in range(6)], rows("train"), {"test": rows("test")}, seed=0, replicates=0
    )
    assert found["pixels"]["test"]["accuracy"].value > 0.5
    assert found["majority"]["test"]["accuracy"].value == pytest.approx(0.236, abs=0.001)
