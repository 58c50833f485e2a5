"""A part of the rows: so many, each label at its share, the fewer among the more."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hfadapt
from hfadapt.data.sampling import drawn

LABELS = st.lists(st.integers(-1, 3), min_size=2, max_size=120)


@settings(deadline=None, max_examples=150)
@given(LABELS, st.integers(0, 2**40), st.data())
def test_so_many_rows_each_label_at_its_share(labels, seed, data):
    strata = np.array(labels)
    most = data.draw(st.integers(1, len(labels)))
    mask = drawn(strata, most, seed)
    assert mask.sum() == most
    kinds, sizes = np.unique(strata, return_counts=True)
    if most >= len(kinds):
        assert set(strata[mask]) == set(kinds)
    for kind, size in zip(kinds, sizes, strict=True):
        # One row of each comes first; what is left is shared out.
        assert abs((strata[mask] == kind).sum() - most * size / len(strata)) < len(kinds) + 1


@settings(deadline=None, max_examples=100)
@given(LABELS, st.integers(0, 2**40), st.data())
def test_fewer_are_among_more_and_the_seed_decides(labels, seed, data):
    strata = np.array(labels)
    few, more = sorted(data.draw(st.tuples(*2 * [st.integers(1, len(labels))])))
    assert not (drawn(strata, few, seed) & ~drawn(strata, more, seed)).any()
    assert (drawn(strata, few, seed) == drawn(strata, few, seed)).all()


def test_another_seed_draws_others():
    strata = np.arange(100) % 4
    assert (drawn(strata, 20, 0) != drawn(strata, 20, 1)).any()


def plan(folder: Path, backbone: Path, **data: object) -> hfadapt.Plan:
    return hfadapt.plan(
        hfadapt.Recipe(
            task="text-classification",
            model=str(backbone),
            data={"path": str(folder), "text": "text", "label": "label", **data},
        )
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 rows to train on, a quarter of them good, and 20 to test."""
    made = tmp_path_factory.mktemp("rows")
    for split, rows in (("train", 40), ("test", 20)):
        with (made / f"{split}.csv").open("w", newline="", encoding="utf-8") as file:
            told = [[f"{split} text {i}", "good" if i % 4 == 0 else "bad"] for i in range(rows)]
            csv.writer(file).writerows([["text", "label"], *told])
    return made


def test_a_plan_has_so_many_and_says_so(folder, backbone):
    its = plan(folder, backbone("bert"), max_train_samples=24, max_eval_samples=8).data
    assert {split: len(rows) for split, rows in its.splits.items()} == {"train": 22, "validation": 2, "test": 8}
    good = its.labels.names.index("good")
    assert its.splits["test"]["label"].count(good) == 2
    assert its.made == {
        "train": "24 of 40, stratified, seed 42, less validation",
        "validation": "10% of train, stratified, seed 42",
        "test": "8 of 20, stratified, seed 42",
    }
    assert its.fingerprint != plan(folder, backbone("bert")).data.fingerprint


def test_more_than_there_are_takes_all(folder, backbone):
    its = plan(folder, backbone("bert"), max_train_samples=40, max_eval_samples=1000).data
    assert its.fingerprint == plan(folder, backbone("bert")).data.fingerprint and its.made["test"] == "given"


def test_a_row_without_a_label_is_told_whatever_is_drawn(folder, backbone, tmp_path):
    lines = (folder / "train.csv").read_text(encoding="utf-8").splitlines()
    (tmp_path / "train.csv").write_text("\n".join([*lines, "a text without,", ""]), encoding="utf-8")
    asked = {"test": 0.2, "max_train_samples": 10}
    with pytest.raises(hfadapt.HfadaptError, match=r"train\.csv:42"):
        plan(tmp_path, backbone("bert"), **asked)
    its = plan(tmp_path, backbone("bert"), on_bad_row="skip", **asked).data
    assert sum(map(len, its.splits.values())) == 10 and len(its.skipped) == 1
    assert its.made["train"] == "10 of 40, stratified, seed 42, less validation and test"
