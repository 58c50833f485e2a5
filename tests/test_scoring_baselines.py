"""Simple methods learn what words can tell, never crash on poor data, and never warn."""

from __future__ import annotations

import random
import warnings

import numpy as np
import pytest

from hfadapt.scoring import baselines
from hfadapt.scoring.baselines import Texts, text_baselines
from hfadapt.scoring.regression import Regression

WORDS = ["river", "stone", "garden", "window", "paper", "silver", "market", "engine", "copper", "bridge"]


@pytest.fixture(autouse=True)
def _no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", ResourceWarning)  # of other tests' files, whenever they are collected
        yield


def told(rows: int, sign, seed: int = 0):
    """Texts of random words, each with the words of its sign: (texts, rows of sign)."""
    draw = random.Random(seed)
    return [" ".join([*draw.choices(WORDS, k=5), sign(i), draw.choice(WORDS)]) for i in range(rows)]


def by_label(rows, seed=0):
    ids = np.arange(rows) % 3
    return Texts(told(rows, lambda i: ("fine", "awful", "boring")[i % 3], seed), None, ids)


def test_one_label():
    train = Texts([*by_label(120).text, "fine"], None, np.append(by_label(120).targets, 0))
    found = text_baselines(
        "label", ["a", "b", "c"], train, {"validation": by_label(30, 1), "test": by_label(33, 2)}, seed=0, replicates=50
    )
    assert list(found) == ["majority", "tfidf"]
    assert [list(splits) for splits in found.values()] == [["validation", "test"]] * 2
    assert found["majority"]["test"]["accuracy"].value == pytest.approx(1 / 3)
    assert found["majority"]["test"]["accuracy"].low < 1 / 3
    assert found["tfidf"]["test"]["accuracy"].value > 0.95
    assert found["tfidf"]["validation"]["roc_auc"].rows == 30


def test_several_labels_one_of_them_never_seen():
    def rows(count, seed):
        signs = [("fine", "cheap")[: 1 + i % 2] if i % 3 else () for i in range(count)]
        targets = np.array([["fine" in s, "cheap" in s, False, True] for s in signs]).astype(int)
        return Texts(told(count, lambda i: " ".join(signs[i]), seed), None, targets)

    names = ["fine", "cheap", "never", "always"]
    found = text_baselines("labels", names, rows(120, 0), {"test": rows(40, 1)}, seed=0, replicates=0)
    assert found["majority"]["test"]["recall[fine]"].value == 1.0
    assert found["majority"]["test"]["recall[cheap]"].value == 0.0
    assert found["tfidf"]["test"]["exact_match"].value > 0.9
    assert found["tfidf"]["test"]["f1[always]"].value == 1.0


def test_numbers():
    def rows(count, seed):
        return Texts(told(count, lambda i: ("poor", "fair", "great")[i % 3], seed), None, np.arange(count) % 3 + 1.0)

    found = text_baselines("number", [], rows(120, 0), {"test": rows(40, 1)}, seed=0, replicates=0)
    assert list(found) == ["mean", "tfidf"]
    assert set(found["mean"]["test"]) == {"rmse", "mae", "r2"}
    assert found["mean"]["test"]["r2"].value == pytest.approx(0, abs=0.01)
    assert found["tfidf"]["test"]["pearson"].value > 0.95


def test_pairs_are_compared():
    def rows(count, seed):
        first, second = told(count, lambda i: "a", seed), told(count, lambda i: "b", seed + 50)
        same = np.arange(count) % 2
        pair = [a if alike else b for a, b, alike in zip(first, second, same, strict=True)]
        return Texts(first, pair, same)

    found = text_baselines("label", ["other", "same"], rows(80, 0), {"test": rows(40, 1)}, seed=0, replicates=0)
    assert found["tfidf"]["test"]["accuracy"].value > 0.9


@pytest.mark.parametrize("rows", [1, 2, 80])
def test_one_label_in_training(rows):
    train = Texts(told(rows, lambda i: "fine"), None, np.ones(rows, int))
    found = text_baselines("label", ["a", "b", "c"], train, {"test": by_label(30)}, seed=0, replicates=5)
    for splits in found.values():
        assert splits["test"]["accuracy"].value == pytest.approx(1 / 3)
        assert splits["test"]["recall[b]"].value == 1.0


def test_label_absent_from_training():
    train = by_label(90)
    some = np.flatnonzero(train.targets != 1)
    found = text_baselines("label", ["a", "b", "c"], train.take(some), {"test": by_label(30)}, seed=0, replicates=0)
    assert found["tfidf"]["test"]["recall[b]"].value == 0.0
    assert found["tfidf"]["test"]["recall[c]"].value == 1.0


def test_texts_without_words_have_no_tfidf():
    train = Texts(["?!", "…", ""], None, np.array([0, 1, 1]))
    found = text_baselines("label", ["a", "b"], train, {"test": train}, seed=0, replicates=0)
    assert list(found) == ["majority"]


def test_large_training_sets_are_sampled_by_seed(monkeypatch):
    monkeypatch.setattr(baselines, "MOST_TRAIN_ROWS", 12)
    train, test = by_label(300), by_label(60, 1)

    def probabilities(seed):
        return baselines._tfidf("label", ["a", "b", "c"], train, seed)(test)

    assert (probabilities(0) == probabilities(0)).all()
    assert (probabilities(0) != probabilities(1)).any()


def test_rare_words_are_dropped_from_large_training_sets(monkeypatch):
    train = Texts(["red blue", "red blue", "red green"], None, np.zeros(3))
    assert baselines._features(train)(train).shape == (3, 5)
    monkeypatch.setattr(baselines, "MANY_ROWS", 2)
    assert baselines._features(train)(train).shape == (3, 3)


def test_chunks_cover_all_rows(monkeypatch):
    monkeypatch.setattr(baselines, "CHUNK", 7)
    rows = Texts(list("abcdefghijklmnop"), list("abcdefghijklmnop"), np.arange(16))
    parts = list(rows.chunks())
    assert [len(part) for part in parts] == [7, 7, 2]
    assert [t for part in parts for t in part.text_pair] == rows.text_pair
    assert np.concatenate([part.targets for part in parts]).tolist() == list(range(16))


def test_regularisation_is_chosen_on_rows_held_out(monkeypatch):
    fitted = []
    real = Regression._fit_label

    def watched(self, seen, targets, labels, strength):
        fitted.append((len(targets), strength))
        return real(self, seen, targets, labels, strength)

    monkeypatch.setattr(Regression, "_fit_label", watched)
    baselines._tfidf("label", ["a", "b", "c"], by_label(60), 0)
    assert fitted[:2] == [(54, 10.0), (54, 1.0)] and fitted[2][0] == 60
    fitted.clear()
    noise = Texts(told(300, lambda i: "x"), None, np.random.default_rng(0).integers(0, 3, 300))
    baselines._tfidf("label", ["a", "b", "c"], noise, 0)
    assert fitted[2] == (300, 1.0)
    fitted.clear()
    baselines._tfidf("label", ["a", "b", "c"], by_label(30), 0)
    assert fitted == [(30, 10.0)]
