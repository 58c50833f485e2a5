"""The replicates of rank metrics are what scikit-learn and scipy give for the weighted rows."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import average_precision_score, roc_auc_score

from hfadapt.scoring import ranking

SCIKIT_LEARN = {"roc_auc": roc_auc_score, "map": average_precision_score}


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("metric", ["roc_auc", "map", "spearman"])
def test_weighted_metric_equals_repeated_rows(metric, ties):
    random = np.random.default_rng(0)
    for rows in (2, 5, 40, 300):
        scores, truths = random.random(rows), random.random(rows)
        if ties:
            scores, truths = scores.round(1), truths.round(1)
        if metric != "spearman":
            truths = truths > 0.5
        weights = random.poisson(1, (rows, 20)).astype(float)
        found = ranking._METRICS[metric](scores, truths)(weights)
        for sample, value in zip(weights.T.astype(int), found, strict=True):
            s, t = np.repeat(scores, sample), np.repeat(truths, sample)
            if metric == "spearman":
                expected = stats.spearmanr(s, t).statistic if len(set(s)) > 1 < len(set(t)) else np.nan
            elif not t.any() or (t.all() and metric == "roc_auc"):
                expected = np.nan
            else:
                expected = SCIKIT_LEARN[metric](t, s)
            assert value == pytest.approx(expected, abs=1e-9, nan_ok=True)


def test_undefined_columns_are_left_out_of_the_mean():
    random = np.random.default_rng(1)
    scores, truths = random.random((60, 3)), random.random((60, 3)) > 0.5
    truths[:, 1] = False
    found = ranking.samples("roc_auc", scores, truths, replicates=10, seed=0)
    assert found[0] == pytest.approx(np.mean([roc_auc_score(truths[:, k], scores[:, k]) for k in (0, 2)]))
    assert np.isfinite(found).all() and len(found) == 11
    assert np.isnan(ranking.samples("map", scores[:, 1:2], truths[:, 1:2], replicates=10, seed=0)).all()


def test_slices_do_not_change_the_replicates(monkeypatch):
    random = np.random.default_rng(1)
    scores, truths = random.random((50, 2)), random.random((50, 2)) > 0.5
    whole = ranking.samples("map", scores, truths, replicates=21, seed=0)
    monkeypatch.setattr(ranking, "SLICE", 50 * 7)
    parts = ranking.samples("map", scores, truths, replicates=21, seed=0)
    assert len(parts) == len(whole) == 22
    assert parts.std() == pytest.approx(whole.std(), rel=0.5) and parts[0] == whole[0]


def test_replicates_shrink_with_size():
    assert ranking.replicates_for(1000, 2, 1000) == 1000
    assert ranking.replicates_for(100_000, 1, 1000) == 500
    assert ranking.replicates_for(100_000, 50, 1000) == ranking.FEWEST_REPLICATES
    assert ranking.replicates_for(100_000, 50, 10) == 10
