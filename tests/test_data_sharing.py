"""Shares of the training rows: disjoint, complete, stratified, repeatable."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hfadapt.data.sharing import FREE, set_aside, strata
from hfadapt.errors import DataError

SHARES = {"validation": 0.1, "test": 0.2}


def keys(size: int) -> np.ndarray:
    return np.arange(size, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)


def refused(*args) -> str:
    with pytest.raises(DataError) as caught:
        set_aside(*args)
    return str(caught.value)


@settings(deadline=None, max_examples=150)
@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=80),
    st.sampled_from([SHARES, {"test": 0.3}, {"validation": 0.05, "test": 0.6}]),
    st.integers(0, 2**70),
    st.booleans(),
)
def test_every_row_goes_to_one_split(labels, shares, seed, duplicates):
    labels = np.array(labels)
    texts = keys(len(labels)) % np.uint64(17 if duplicates else 2**63)
    try:
        made = set_aside(texts, labels, shares, seed)
    except DataError:
        spare = len(np.unique(texts)) - len(set(labels))
        wanted = [share * len(labels) for share in shares.values()]
        assert min(wanted) < 1 or spare < sum(wanted) + len(set(labels)) + 2
        return
    assert list(made) == ["train", *(s for s in ("validation", "test") if s in shares)]
    assert (np.sum(list(made.values()), axis=0) == 1).all()
    assert all(mask.any() for mask in made.values())
    assert set(labels[made["train"]]) == set(labels)
    for key in np.unique(texts):
        assert sum(mask[texts == key].any() for mask in made.values()) == 1


@settings(deadline=None, max_examples=100)
@given(st.lists(st.integers(0, 3), min_size=20, max_size=200), st.integers(0, 100))
def test_labels_keep_their_proportions_to_a_row(labels, seed):
    labels = np.array(labels)
    made = set_aside(keys(len(labels)), labels, SHARES, seed)
    for split, share in SHARES.items():
        assert abs(made[split].sum() - share * len(labels)) <= 1
        for label, total in zip(*np.unique(labels, return_counts=True), strict=True):
            if total > 3:
                assert abs((labels[made[split]] == label).sum() - share * total) < 1 + 1e-9


def test_the_seed_decides_and_nothing_else():
    labels = np.arange(200) % 3
    once = set_aside(keys(200), labels, SHARES, 7)
    again = set_aside(keys(200), labels, {"test": 0.2, "validation": 0.1}, 7)
    other = set_aside(keys(200), labels, SHARES, 8)
    assert all((once[split] == again[split]).all() for split in once)
    assert (once["test"] != other["test"]).any()
    order = np.random.default_rng(0).permutation(200)
    moved = set_aside(keys(200)[order], labels[order], SHARES, 7)
    assert all((moved[split] == once[split][order]).all() for split in once)


def test_known_rows_for_a_known_seed():
    # A change here silently changes the test rows of everybody's runs.
    made = set_aside(keys(30), np.arange(30) % 2, SHARES, 42)
    assert np.flatnonzero(made["validation"]).tolist() == [6, 12, 17]
    assert np.flatnonzero(made["test"]).tolist() == [4, 5, 7, 8, 13, 16]


def test_one_share_does_not_move_the_other():
    labels = np.arange(100) % 2
    both = set_aside(keys(100), labels, SHARES, 1)
    assert (set_aside(keys(100), labels, {"validation": 0.1}, 1)["validation"] == both["validation"]).all()
    assert (set_aside(keys(100), labels, {"test": 0.2}, 1)["test"] == both["test"]).all()


def test_a_label_with_one_row_stays_in_train():
    labels = np.array([0] * 40 + [1])
    for seed in range(20):
        made = set_aside(keys(41), labels, {"validation": 0.3, "test": 0.3}, seed)
        assert made["train"][40]


def test_a_label_that_always_comes_with_a_rarer_one_stays_in_train():
    # Both rows of label 5 are copies of rows of labels 1 and 2, which have other rows to keep.
    texts = np.array([0, 0, 1, 2, 2, 3, *range(10, 30)], np.uint64)
    labels = np.array([1, 5, 1, 2, 5, 2, *[0] * 20])
    for seed in range(30):
        made = set_aside(texts, labels, {"test": 0.65}, seed)
        assert set(labels[made["train"]]) == {0, 1, 2, 5}


def test_rows_are_not_asked_of_labels_that_have_none_to_give():
    labels = np.array([*[0] * 10, *range(1, 11)])
    assert set_aside(keys(20), labels, {"validation": 0.1}, 0)["validation"].sum() == 2


def test_a_whole_label_is_never_taken_for_want_of_a_smaller_group():
    texts = np.array([0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3], np.uint64)
    labels = np.array([0, 0, 0, 1, 1, 1, 1, 1, 1, 2, 2])
    made = set_aside(texts, labels, {"validation": 0.1}, 0)
    assert set(labels[made["validation"]]) == {1} and made["validation"].sum() == 3


def test_a_text_with_several_labels_counts_for_the_rarest():
    texts = np.array([*range(10), *range(90)], np.uint64)
    labels = np.array([*[1] * 10, *[0] * 90])
    for seed in range(20):
        made = set_aside(texts, labels, {"test": 0.2}, seed)
        assert labels[made["test"]].sum() == 2


def test_texts_that_all_come_thrice_can_still_be_divided():
    made = set_aside(
        np.arange(18, dtype=np.uint64) % np.uint64(6), np.arange(18) % 2, {"validation": 0.1, "test": 0.1}, 0
    )
    assert {split: int(mask.sum()) for split, mask in made.items()} == {"train": 12, "validation": 3, "test": 3}


def test_too_few_rows_name_their_number_and_the_remedy():
    says = refused(keys(3), np.array([0, 1, 0]), {"validation": 0.1, "test": 0.5}, 0)
    assert says.startswith("data.validation: 3 rows") and "`data.validation: FILE`" in says
    assert "1 different text" in refused(np.zeros(20, np.uint64), np.zeros(20, int), SHARES, 0)
    assert "20 labels" in refused(keys(20), np.arange(20), SHARES, 0)


def test_strata():
    assert strata(np.array([2, 0]), "label").tolist() == [2, 0]
    assert strata(np.array([2.5, 0.0]), "number").tolist() == [FREE, FREE]
    several = np.array([[1, 1, 0], [1, 0, 0], [1, 0, 1], [0, 0, 1], [0, 0, 0]], np.int8)
    assert strata(several, "labels").tolist() == [1, 0, 2, 2, FREE]
