"""Base classes judged among base classes, new ones among new ones."""

from __future__ import annotations

import numpy as np
import pytest

from hfadapt.scoring.base_to_new import BaseToNew
from hfadapt.scoring.kinds import BASE_TO_NEW, best_first

# Of four classes 1 and 3 are new.
CHANCES = np.array(
    [
        [0.1, 0.7, 0.2, 0.0],  # 2, though 1 is the greatest of all: right for a row of class 2
        [0.3, 0.4, 0.2, 0.1],  # 0: right
        [0.0, 0.1, 0.2, 0.7],  # 2: wrong for a row of class 0
        [0.8, 0.1, 0.0, 0.1 - 1e-9],  # 1: right
        [0.9, 0.0, 0.0, 0.1],  # 3: wrong for a row of class 1
    ]
)
TARGETS = np.array([2, 0, 0, 1, 1])


def scored(chances=CHANCES, targets=TARGETS, cuts=(), **options):
    counter = BaseToNew([1, 3], 4, **options)
    for rows, ids in zip(np.split(chances, cuts), np.split(targets, cuts), strict=True):
        counter.add(rows, ids)
    return counter.scores()


def test_each_side_is_answered_among_its_own_classes():
    found = {name: (score.value, score.rows) for name, score in scored().items()}
    assert tuple(found) == BASE_TO_NEW
    assert found["base_accuracy"] == (pytest.approx(2 / 3), 3)
    assert found["new_accuracy"] == (pytest.approx(1 / 2), 2)
    assert found["harmonic_mean"] == (pytest.approx(2 / (3 / 2 + 2)), 5)
    assert all(best_first(name) for name in BASE_TO_NEW)


def test_rows_of_one_side_have_no_other_scores():
    assert set(scored(CHANCES[:3], TARGETS[:3], replicates=20)) == {"base_accuracy"}
    assert set(scored(CHANCES[3:], TARGETS[3:])) == {"new_accuracy"}
    assert BaseToNew([1, 3], 4).scores() == {}


def test_nothing_right_on_one_side_is_a_mean_of_nothing():
    found = scored(CHANCES[[0, 4]], TARGETS[[0, 4]])
    assert [score.value for score in found.values()] == [1, 0, 0]


def test_intervals_cover_the_value_and_do_not_depend_on_the_cuts():
    draw = np.random.default_rng(0)
    chances, targets = draw.random((300, 4)), draw.integers(0, 4, 300)
    whole = scored(chances, targets, replicates=300, seed=7)
    assert whole == scored(chances, targets, cuts=(1, 64, 200), replicates=300, seed=7)
    for score in whole.values():
        assert score.low < score.value < score.high and score.high - score.low < 0.25
    rows = scored(chances, targets, replicates=300, seed=8)
    assert any(rows[name].low != whole[name].low for name in rows)
