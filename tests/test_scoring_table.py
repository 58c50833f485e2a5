"""Tables line up and their numbers can be read."""

from __future__ import annotations

import pytest

from hfadapt.scoring.table import cell, lines
from hfadapt.scoring.tally import Score


def test_table_lines_up():
    named = {
        "adapted model": {"accuracy": Score(0.8731, 0.824, 0.917, 200), "mcc": Score(0.7, None, None, 200)},
        "tfidf": {"accuracy": Score(0.64, 0.557, 0.702, 200)},
    }
    assert lines("test, 200 rows", named, ["accuracy", "roc_auc", "mcc"]) == [
        "test, 200 rows  accuracy             mcc",
        "adapted model   0.873 (0.824–0.917)  0.700",
        "tfidf           0.640 (0.557–0.702)  –",
    ]


def test_table_of_nothing_is_its_heading():
    assert lines("test", {}, ["accuracy"]) == ["test"]
    assert lines("test", {"model": {}}, ["accuracy"]) == ["test", "model"]


@pytest.mark.parametrize(
    ("score", "shown"),
    [
        (Score(-0.02, -0.12, 0.31, 9), "-0.020 (-0.120 to 0.310)"),
        (Score(0.00033, 0.00023, 0.00044, 9), "0.00033 (0.00023–0.00044)"),
        (Score(-1e-17, -6e-6, 0.1, 9), "0.000 (0.000 to 0.100)"),
        (Score(12345.678, 12000.0, 13000.0, 9), "12345.7 (12000.0–13000.0)"),
        (Score(1.0, 1.0, 1.0, 9), "1.000 (1.000–1.000)"),
        (None, "–"),
    ],
)
def test_cells(score, shown):
    assert cell(score) == shown
