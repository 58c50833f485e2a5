"""Pictures of results are written for any number of labels and any names, without a word on the terminal."""

from __future__ import annotations

import subprocess
import sys
import warnings

import numpy as np
import pytest
from PIL import Image

from hfadapt.scoring import drawing

DRAWS = True
"""Its charts are drawn."""


@pytest.fixture(autouse=True)
def _no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", ResourceWarning)  # of other tests' files, whenever they are collected
        yield


def counts(labels, rows=500, seed=0):
    random = np.random.default_rng(seed)
    true = random.integers(0, labels, rows)
    predicted = np.where(random.random(rows) < 0.7, true, random.integers(0, labels, rows))
    found = np.zeros((labels, labels), np.int64)
    np.add.at(found, (true, predicted), 1)
    return found


@pytest.fixture
def drawn(monkeypatch):
    """The figures drawn, as matplotlib has them."""
    figures = []
    real = drawing._save

    def save(figure, path):
        figures.append(figure)
        real(figure, path)

    monkeypatch.setattr(drawing, "_save", save)
    return figures


@pytest.mark.parametrize("labels", [1, 2, 20, 21, 130])
def test_any_number_of_labels(tmp_path, drawn, labels):
    found = counts(labels)
    drawing.confusion(tmp_path / "it.png", found, [f"label {i}" for i in range(labels)])
    with Image.open(tmp_path / "it.png") as picture:
        assert picture.format == "PNG" and 200 < picture.width < 2500 and 200 < picture.height < 2500
    axes = drawn[0].axes[0]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted", "true")
    numbers = sorted(int(text.get_text()) for text in axes.texts)
    assert numbers == (sorted(found[found > 0]) if labels <= 20 else [])
    shown = [text.get_text() for text in axes.get_yticklabels()]
    assert len(shown) == (labels if labels <= 60 else 40) and shown[0].startswith("label ")
    sums = np.asarray(axes.images[0].get_array()).sum(axis=1)
    assert sums.max() < 1 + 1e-6 and (labels > 60 or sums.min() > 1 - 1e-6)
    assert f"500 rows, {np.trace(found) / 500:.1%} right" in axes.get_title(loc="left")


def test_true_labels_are_rows(tmp_path, drawn):
    drawing.confusion(tmp_path / "it.png", np.array([[3, 1], [0, 0]]), ["cat", "dog"])
    axes = drawn[0].axes[0]
    assert axes.images[0].get_array().tolist() == [[0.75, 0.25], [0, 0]]
    assert {text.get_text(): text.get_position() for text in axes.texts} == {"3": (0, 0), "1": (1, 0)}


def test_of_many_labels_the_most_confused_ones(tmp_path, drawn):
    found = np.diag(np.full(100, 50))
    found[7, 93] = 5
    drawing.confusion(tmp_path / "it.png", found, [f"n{i}" for i in range(100)])
    axes = drawn[0].axes[0]
    shown = [text.get_text() for text in axes.get_yticklabels()]
    assert {"n7", "n93"} <= set(shown) and shown == sorted(shown, key=lambda name: int(name[1:]))
    assert axes.images[0].get_array()[shown.index("n7"), shown.index("n93")] == pytest.approx(5 / 55)
    assert axes.get_title(loc="left").endswith("99.9% right; the 40 of 100 labels with the most mistakes")


def test_no_rows(tmp_path):
    drawing.confusion(tmp_path / "it.png", np.zeros((3, 3), np.int64), ["a", "b", "c"])
    assert (tmp_path / "it.png").stat().st_size > 1000


def test_worst_mistakes(tmp_path, drawn):
    modes = [("RGB", (90, 30)), ("L", (3, 200)), ("RGBA", (72, 72)), ("P", (1, 1))]
    pictures = [Image.new(mode, size) for mode, size in modes] * 8
    captions = [f"cat → dog ({i})" for i in range(32)]
    drawing.worst(tmp_path / "it.png", pictures, captions)
    assert [text.get_text() for text in drawn[0].texts] == captions[:24]
    assert len(drawn[0].axes) == 24
    with Image.open(tmp_path / "it.png") as picture:
        assert picture.width > picture.height > 600
    drawing.worst(tmp_path / "two.png", pictures[:2], captions[:2])
    with Image.open(tmp_path / "two.png") as picture:
        assert picture.height < 400
    drawing.worst(tmp_path / "none.png", [], [])
    assert not (tmp_path / "none.png").exists()
    with pytest.raises(ValueError):
        drawing.worst(tmp_path / "it.png", pictures, captions[:3])


def test_captions_break_at_the_arrow_first():
    assert drawing._wrapped("cat → dog (0.93)") == ["cat → dog (0.93)"]
    long = "People & Body → Smileys & Emotion (0.87)"
    assert drawing._wrapped(long) == ["People & Body →", "Smileys & Emotion (0.87)"]
    many = drawing._wrapped("word " * 60)
    assert len(many) == 4 and many[-1].endswith("…") and max(map(len, many)) <= drawing.LONGEST_LINE


def test_long_names_are_cut_to_one_line():
    assert drawing.shortened("one\ntwo  three") == "one two three"
    assert drawing.shortened("x" * 50) == "x" * (drawing.LONGEST_NAME - 1) + "…"


def test_names_in_any_script_print_nothing(tmp_path):
    code = """
import sys
import numpy as np
from PIL import Image
from hfadapt.scoring import drawing
names = ["你好", "$x^2_$ \\\\frac{", "😀 عربى", "नमस्ते", "\\ue000\\n\\t", "", "a_b"]
drawing.confusion(sys.argv[1], np.ones((7, 7), np.int64), names)
drawing.worst(sys.argv[1], [Image.new("RGB", (9, 9))] * 7, names)
assert "matplotlib.pyplot" not in sys.modules
"""
    command = [sys.executable, "-W", "default", "-c", code, str(tmp_path / "it.png")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_drawing_leaves_matplotlib_as_it_was(tmp_path):
    import logging

    import matplotlib

    log = logging.getLogger("matplotlib.font_manager")
    before = matplotlib.rcParams["font.family"], log.level
    drawing.confusion(tmp_path / "it.png", counts(3), ["a", "b", "c"])
    assert (matplotlib.rcParams["font.family"], log.level) == before
