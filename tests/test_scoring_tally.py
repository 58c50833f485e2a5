"""The stream gives what scikit-learn and scipy give on all rows at once, and intervals that cover."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
import warnings

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sk

from hfadapt.errors import HfadaptError
from hfadapt.scoring import reservoir, tally
from hfadapt.scoring.reservoir import Reservoir
from hfadapt.scoring.sums import poisson_weights
from hfadapt.scoring.tally import Score, Tally, best_first, names_for

NEAR = 1e-9


def one_label(random, rows, labels):
    """Targets that may lack a label, and probabilities that somewhat follow them."""
    targets = random.integers(0, max(1, labels - random.integers(0, 2)), rows)
    scores = random.random((rows, labels)).round(2) + 0.4 * np.eye(labels)[targets]
    return scores / scores.sum(axis=1, keepdims=True), targets


def several_labels(random, rows, labels):
    targets = (random.random((rows, labels)) < random.random(labels)).astype(int)
    return (0.7 * random.random((rows, labels)) + 0.3 * targets).round(2), targets


def numbers(random, rows, _):
    targets = random.normal(random.normal(0, 1000), random.uniform(0.1, 10), rows)
    return (targets + random.normal(0, 3, rows)).round(1), targets.round(1)


ROWS = {"label": one_label, "labels": several_labels, "number": numbers}


def tallied(kind, names, predicted, targets, random=None, **options):
    """All rows through a tally, in batches of random sizes."""
    counted = Tally(kind, names, **options)
    start = 0
    while start < len(targets):
        stop = start + (len(targets) if random is None else int(random.integers(1, len(targets) + 1)))
        counted.add(predicted[start:stop], targets[start:stop])
        start = stop
    return counted.scores()


def mean_over_columns(metric, targets, scores):
    defined = [metric(t, s) for t, s in zip(targets.T, scores.T, strict=True) if 0 < t.sum() < len(t)]
    return np.mean(defined) if defined else None


def expected_label(scores, targets, labels):
    predicted, every = scores.argmax(axis=1), range(labels)
    columns = [1] if labels == 2 else list(every)
    onehot = (targets[:, None] == np.array(columns)).astype(int)
    ratios = sk.precision_recall_fscore_support(targets, predicted, labels=every, zero_division=0)
    return {
        "accuracy": sk.accuracy_score(targets, predicted),
        "balanced_accuracy": sk.balanced_accuracy_score(targets, predicted),
        "f1_macro": sk.f1_score(targets, predicted, average="macro", zero_division=0),
        "f1_micro": sk.f1_score(targets, predicted, average="micro"),
        "precision_macro": sk.precision_score(targets, predicted, average="macro", zero_division=0),
        "recall_macro": sk.recall_score(targets, predicted, average="macro", zero_division=0),
        "mcc": sk.matthews_corrcoef(targets, predicted),
        "roc_auc": mean_over_columns(sk.roc_auc_score, onehot, scores[:, columns]),
        **{f"{name}[n{i}]": ratios[k][i] for k, name in enumerate(("precision", "recall", "f1")) for i in every},
    }


def expected_labels(scores, targets, labels):
    predicted = (scores >= 0.5).astype(int)
    ratios = sk.precision_recall_fscore_support(targets, predicted, zero_division=0)
    some = [(t, s) for t, s in zip(targets.T, scores.T, strict=True) if t.any()]
    return {
        **{f"f1_{a}": sk.f1_score(targets, predicted, average=a, zero_division=0) for a in ("micro", "macro")},
        "precision_micro": sk.precision_score(targets, predicted, average="micro", zero_division=0),
        "recall_micro": sk.recall_score(targets, predicted, average="micro", zero_division=0),
        "exact_match": sk.accuracy_score(targets, predicted),
        "roc_auc_macro": mean_over_columns(sk.roc_auc_score, targets, scores),
        "map": np.mean([sk.average_precision_score(t, s) for t, s in some]) if some else None,
        **{
            f"{name}[n{i}]": ratios[k][i] for k, name in enumerate(("precision", "recall", "f1")) for i in range(labels)
        },
    }


def expected_number(predicted, targets, _):
    alike = np.ptp(predicted) == 0 or np.ptp(targets) == 0
    return {
        "pearson": None if alike else stats.pearsonr(predicted, targets).statistic,
        "spearman": None if alike else stats.spearmanr(predicted, targets).statistic,
        "rmse": sk.root_mean_squared_error(targets, predicted),
        "mae": sk.mean_absolute_error(targets, predicted),
        "r2": None if np.ptp(targets) == 0 else sk.r2_score(targets, predicted),
    }


EXPECTED = {"label": expected_label, "labels": expected_labels, "number": expected_number}


@pytest.mark.parametrize("kind", ROWS)
@pytest.mark.parametrize("seed", range(15))
def test_stream_equals_scikit_learn(kind, seed):
    random = np.random.default_rng(seed)
    rows, labels = [1, 2, 7, 60, 300, 3000][seed % 6], int(random.integers(2, 6))
    predicted, targets = ROWS[kind](random, rows, labels)
    names = [f"n{i}" for i in range(labels)] if kind != "number" else []
    found = tallied(kind, names, predicted, targets, random)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn's, about labels that are absent
        expected = EXPECTED[kind](predicted, targets, labels)
    assert set(expected) == set(names_for(kind, names))
    assert list(found) == [name for name in names_for(kind, names) if expected[name] is not None]
    for name, score in found.items():
        assert score.value == pytest.approx(expected[name], rel=NEAR, abs=NEAR), name
        assert (score.low, score.high, score.rows) == (None, None, rows)


@pytest.mark.parametrize("kind", ROWS)
def test_cuts_do_not_change_scores(kind):
    random = np.random.default_rng(5)
    predicted, targets = ROWS[kind](random, 2500, 3)
    names = ["a", "b", "c"] if kind != "number" else []
    whole = tallied(kind, names, predicted, targets, replicates=50, seed=1)
    for _ in range(3):
        assert tallied(kind, names, predicted, targets, random, replicates=50, seed=1) == whole
    other = tallied(kind, names, predicted, targets, replicates=50, seed=2)
    assert {n: s.value for n, s in other.items()} == {n: s.value for n, s in whole.items()}
    assert other != whole


@pytest.mark.parametrize("kind", ROWS)
def test_every_metric_has_an_interval_around_its_value(kind):
    random = np.random.default_rng(3)
    predicted, targets = ROWS[kind](random, 400, 3)
    names = ["a", "b", "c"] if kind != "number" else []
    found = tallied(kind, names, predicted, targets, replicates=200)
    assert len(found) == len(names_for(kind, names)) or kind == "label"
    for name, score in found.items():
        assert score.low is not None and score.high is not None, name
        assert score.low <= score.value <= score.high, name
        assert score.high - score.low < 1 or kind == "number"


def test_intervals_hold_the_value_where_replicates_are_biased():
    assert tally.score_of(np.array([0.5, 0.1, 0.1, np.nan, 0.3]), 7) == Score(0.5, 0.1, 0.5, 7)
    assert tally.score_of(np.array([0.5, np.nan]), 7) == Score(0.5, None, None, 7)
    assert tally.score_of(np.array([np.nan, 0.1]), 7) is None


def test_intervals_cover_the_truth():
    random = np.random.default_rng(11)
    covered = dict.fromkeys(("accuracy", "roc_auc", "mae", "pearson"), 0)
    for seed in range(200):
        targets = random.integers(0, 2, 150)
        first = stats.norm.cdf(random.normal(np.where(targets == 1, -1, 1), 1))
        found = tallied(
            "label", ["a", "b"], np.column_stack([first, 1 - first]), targets, None,
            replicates=200, seed=seed, only=["accuracy", "roc_auc"],
        )  # fmt: skip
        true = random.normal(0, 1, 150)
        found |= tallied(
            "number", [], true + random.normal(0, 1, 150), true, None,
            replicates=200, seed=seed, only=["mae", "pearson"],
        )  # fmt: skip
        truths = {
            "accuracy": stats.norm.cdf(1),
            "roc_auc": stats.norm.cdf(2**0.5),
            "mae": (2 / np.pi) ** 0.5,
            "pearson": 0.5**0.5,
        }
        for name, truth in truths.items():
            covered[name] += found[name].low <= truth <= found[name].high
    assert all(0.88 * 200 <= times <= 0.99 * 200 for times in covered.values()), covered


def test_weights_are_poisson_whatever_the_cuts():
    whole = poisson_weights(np.random.default_rng(0), 2000, 101)
    counts = np.bincount(whole.astype(int).ravel(), minlength=9) / whole.size
    assert counts == pytest.approx(stats.poisson.pmf(np.arange(len(counts)), 1), abs=0.004)
    assert abs(np.corrcoef(whole[:, :5].T) - np.eye(5)).max() < 0.1
    random = np.random.default_rng(0)
    parts = [poisson_weights(random, rows, 101) for rows in (1, 2, 997, 1000)]
    assert (np.concatenate(parts) == whole).all()


def test_rows_for_rank_metrics_are_bounded(monkeypatch):
    monkeypatch.setattr(reservoir, "MOST_ROWS", 500)
    random = np.random.default_rng(0)
    targets = random.integers(0, 2, 6000)
    predicted = random.random((6000, 2)) + 0.4 * np.eye(2)[targets]
    found = tallied("label", ["a", "b"], predicted, targets, random, replicates=50)
    assert (found["roc_auc"].rows, found["accuracy"].rows) == (500, 6000)
    assert found["roc_auc"].value == pytest.approx(sk.roc_auc_score(targets, predicted[:, 1]), abs=0.08)
    assert found["roc_auc"].value != pytest.approx(sk.roc_auc_score(targets[:500], predicted[:500, 1]), abs=NEAR)
    assert found == tallied("label", ["a", "b"], predicted, targets, random, replicates=50)


def test_reservoir_is_uniform(monkeypatch):
    monkeypatch.setattr(reservoir, "MOST_ROWS", 50)
    kept = np.zeros(400)
    for seed in range(300):
        sample = Reservoir(1, seed)
        for part in np.split(np.arange(400), [30, 60, 200]):
            sample.add(part[:, None].astype(float), part[:, None])
        scores, truths = sample.rows()
        assert len(set(truths.ravel())) == 50 and (scores == truths).all()
        kept[truths.ravel()] += 1
    # each row is kept in 50/400 of the samples; the variance of so many binomials is known
    assert kept.mean() == pytest.approx(300 / 8)
    assert kept.var() == pytest.approx(300 * 7 / 64, rel=0.35)
    assert kept[:50].mean() == pytest.approx(kept[-50:].mean(), rel=0.1)


def test_memory_does_not_grow_with_rows(monkeypatch):
    monkeypatch.setattr(reservoir, "MOST_ROWS", 1000)

    def peak(batches):
        random = np.random.default_rng(0)
        tracemalloc.start()
        counted = Tally("label", ["a", "b", "c"], replicates=20)
        for _ in range(batches):
            counted.add(*one_label(random, 500, 3))
        top = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return top

    peak(5)
    assert peak(200) < 1.1 * peak(20)


def test_many_labels_cut_blocks_and_replicates(monkeypatch):
    monkeypatch.setattr(tally, "MOST_SUMS", 60)
    monkeypatch.setattr(tally, "BLOCK_VALUES", 20)
    predicted, targets = one_label(np.random.default_rng(0), 100, 6)
    counted = Tally("label", list("abcdef"), replicates=1000, only=["accuracy"])
    counted.add(predicted, targets)
    accuracy = counted.scores()["accuracy"]
    assert counted._sums.samples().shape[0] == 1 + 10 and counted._block == 3
    assert accuracy.value == pytest.approx(sk.accuracy_score(targets, predicted.argmax(axis=1)))


def test_confusion_counts_every_row(monkeypatch):
    random = np.random.default_rng(2)
    scores, targets = one_label(random, 2500, 4)
    counted = Tally("label", list("abcd"), replicates=20)
    for start in range(0, 2500, 700):
        counted.add(scores[start : start + 700], targets[start : start + 700])
    expected = sk.confusion_matrix(targets, scores.argmax(axis=1), labels=range(4))
    assert (counted.confusion == expected).all() and counted.confusion.dtype == np.int64
    with pytest.raises(RuntimeError, match="ends the stream"):
        counted.add(scores, targets)
    assert (Tally("label", ["a", "b"]).confusion == 0).all()
    assert Tally("labels", ["a", "b"]).confusion is None and Tally("number", []).confusion is None
    monkeypatch.setattr(tally, "MOST_CONFUSED", 3)
    assert Tally("label", list("abcd")).confusion is None


def test_only_the_metrics_asked_for():
    predicted, targets = one_label(np.random.default_rng(0), 50, 2)
    counted = Tally("label", ["a", "b"], only=["f1[b]", "accuracy"])
    counted.add(predicted, targets)
    assert list(counted.scores()) == ["accuracy", "f1[b]"]
    assert counted._kept is None
    with pytest.raises(HfadaptError, match=r"'acuracy' here. Did you mean 'accuracy'\?\n.*'pearsonx'"):
        Tally("label", ["a", "b"], only=["acuracy", "pearsonx"])


@pytest.mark.parametrize("kind", ROWS)
def test_no_rows_no_scores(kind):
    names = ["a", "b"] if kind != "number" else []
    assert Tally(kind, names, replicates=9).scores() == {}
    empty = Tally(kind, names, replicates=9)
    empty.add(*(a[:0] for a in ROWS[kind](np.random.default_rng(0), 4, 2)))
    assert empty.scores() == {}


def test_one_label_only():
    found = tallied("label", ["a", "b", "c"], np.tile([0.8, 0.1, 0.1], (20, 1)), np.zeros(20), replicates=30)
    assert "roc_auc" not in found
    assert found["accuracy"] == Score(1.0, 1.0, 1.0, 20)
    assert (found["f1_macro"].value, found["mcc"].value, found["f1[b]"].value) == (1.0, 0.0, 0.0)


@pytest.mark.parametrize("constant", [0.1, 1e9 + 0.3, 0.0])
def test_constant_numbers_have_no_correlation(constant):
    random = np.random.default_rng(0)
    moving = random.normal(constant, 1, 3000)
    still = np.full(3000, constant)
    found = tallied("number", [], still, moving, replicates=20)
    assert set(found) == {"rmse", "mae", "r2"}
    assert set(tallied("number", [], moving, still)) == {"rmse", "mae"}


def test_replicates_without_rows_do_not_count():
    found = tallied("label", ["a", "b"], np.array([[0.9, 0.1]]), np.zeros(1), replicates=50, only=["f1_macro"])
    assert found == {"f1_macro": Score(1.0, 1.0, 1.0, 1)}


def test_replicates_of_one_value_have_no_spread():
    targets = np.array([0.1, 0.2, 0.7])
    found = tallied("number", [], targets + np.array([0.01, -0.02, 0.03]), targets, replicates=500)
    assert found["r2"].low > 0 and found["pearson"].low > 0.9


def test_numbers_far_from_zero_keep_their_variance():
    random = np.random.default_rng(0)
    targets = 1e8 + np.sort(random.normal(0, 1, 5000))
    predicted = targets + random.normal(0, 1, 5000)
    found = tallied("number", [], predicted, targets, random)
    assert found["pearson"].value == pytest.approx(stats.pearsonr(predicted, targets).statistic, abs=NEAR)
    assert found["r2"].value == pytest.approx(sk.r2_score(targets, predicted), abs=1e-7)


def test_numbers_that_overflow_leave_metrics_out_quietly():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = tallied("number", [], np.array([1e200, -1e200, 3.0]), np.array([1.0, 2.0, 3.0]), replicates=5)
    assert "mae" in found and "rmse" not in found


def test_bad_rows_are_counted():
    scores = np.full((5, 2), 0.5)
    scores[1, 0] = scores[3, 0] = scores[3, 1] = np.nan
    with pytest.raises(HfadaptError, match=r"^2 of 5 predictions are not finite numbers; training has diverged"):
        Tally("label", ["a", "b"]).add(scores, np.zeros(5))
    with pytest.raises(HfadaptError, match=r"^1 of 2 targets are not finite numbers; mend"):
        Tally("number", []).add(np.zeros(2), np.array([1.0, np.inf]))
    with pytest.raises(HfadaptError, match=r"^2 of 3 targets are not whole numbers from 0 to 1; mend"):
        Tally("label", ["a", "b"]).add(np.zeros((3, 2)), np.array([-1, 2, 0]))
    with pytest.raises(HfadaptError, match=r"^1 of 2 targets are not whole numbers from 0 to 1; mend"):
        Tally("labels", ["a", "b"]).add(np.zeros((2, 2)), np.array([[0, 1], [0.5, 1]]))
    with pytest.raises(ValueError, match=r"expected shapes \(\(3, 2\), \(3,\)\), got \(3, 2\) and \(2,\)"):
        Tally("label", ["a", "b"]).add(np.zeros((3, 2)), np.zeros(2))


def test_scores_end_the_stream():
    counted = Tally("number", [])
    counted.add(np.arange(3.0), np.arange(3.0))
    assert counted.scores() == counted.scores() != {}
    with pytest.raises(RuntimeError, match="ends the stream"):
        counted.add(np.arange(3.0), np.arange(3.0))


class Counting:
    """A stand-in for a metric of the evaluate library."""

    def __init__(self, name, *keys):
        self.name, self.keys, self.got = name, keys, []

    def add(self, predicted, targets):
        self.got.append((predicted, targets))

    def compute(self):
        return dict.fromkeys(self.keys, float(len(self.got)))


def test_extra_metrics_get_predictions_and_own_names():
    predicted, targets = several_labels(np.random.default_rng(0), 1500, 3)
    extra = [Counting("mine", "exact_match", "new"), Counting("yours", "new")]
    found = tallied("labels", ["a", "b", "c"], predicted, targets, extra=extra, only=["exact_match"])
    assert list(found) == ["exact_match", "mine/exact_match", "new", "yours/new"]
    assert found["new"] == Score(2.0, None, None, 1500)
    given = np.concatenate([p for p, _ in extra[0].got])
    assert (given == (predicted >= 0.5)).all()


def test_directions():
    directions = {name: best_first(name) for kind in ROWS for name in names_for(kind, ["good", "[x]"])}
    assert len(directions) == 7 + 1 + 5 + 2 + 4 + 1 + 6 - 2  # f1_macro and f1_micro are of two kinds
    assert {name for name, best in directions.items() if not best} == {"rmse", "mae"}
    with pytest.raises(HfadaptError, match=r"There is no metric 'acuracy'\. Did you mean 'accuracy'\?"):
        best_first("acuracy")
    for wrong in ("accuracy[good]", "f1", "f1[good"):
        with pytest.raises(HfadaptError):
            best_first(wrong)


def test_score_as_dict():
    assert Score(0.5, None, None, 3).as_dict() == {"value": 0.5, "low": None, "high": None, "rows": 3}


def test_scoring_imports_nothing_heavy():
    modules = ["tally", "kinds", "ranking", "baselines", "evaluated", "table", "retrieval", "pixels", "drawing"]
    code = "import sys\n" + "".join(f"import hfadapt.scoring.{m}\n" for m in modules)
    heavy = ["torch", "transformers", "sklearn", "scipy", "evaluate", "PIL", "matplotlib"]
    code += f"print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
