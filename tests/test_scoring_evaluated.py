"""Metrics of the evaluate library: streamed, apart from each other, and their failures told in sentences."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import numpy as np
import pytest

from hfadapt.errors import HfadaptError
from hfadapt.scoring import evaluated
from hfadapt.scoring.tally import Tally

MODULE = """
import datasets
import evaluate
import numpy


class {name}(evaluate.Metric):
    def _info(self):
        {before}
        one = datasets.Value("{type}")
        {after}
        return evaluate.MetricInfo(
            description="-", citation="-", inputs_description="-",
            features=datasets.Features({{"{first}": one, "references": one}}),
        )

    def _compute(self, {first}, references):
        predictions = {first}
        {compute}
"""
AGREE = """
        same = [p == r for p, r in zip(predictions, references)]
        return {"agree": numpy.float32(sum(same) / len(same)), "rows": len(same), "array": numpy.array(2.5),
                "list": [1], "word": "x", "flag": True, "none": None, "nan": float("nan")}
"""


def write(folder: Path, name: str, **parts: str) -> str:
    """A metric module NAME.py; returns its path."""
    told = {"before": "", "after": "", "type": "float64", "first": "predictions", "compute": AGREE.strip()} | parts
    path = folder / f"{name}.py"
    path.write_text(MODULE.format(name=name.title(), **told), encoding="utf-8")
    return str(path)


def test_streams_and_keeps_numbers_only(tmp_path, capfd):
    metric = evaluated.load(write(tmp_path, "agreement", type="int64"), "label")
    assert metric.name == "agreement"
    for start in (0, 2, 5):
        metric.add(np.arange(start, start + 2), np.array([start, 99]))
    found = metric.compute()
    assert found == {"agree": 0.5, "rows": 6.0, "array": 2.5}
    assert all(type(value) is float for value in found.values())
    metric.add(np.array([1]), np.array([1]))
    assert metric.compute()["rows"] == 1.0
    assert capfd.readouterr() == ("", "")


def test_instances_do_not_disturb_each_other(tmp_path):
    path = write(tmp_path, "apart")
    first, second = evaluated.load(path, "number"), evaluated.load(path, "number")
    first.add(np.array([1.0, 2.0]), np.array([1.0, 2.0]))
    second.add(np.array([1.0]), np.array([2.0]))
    first.add(np.array([3.0]), np.array([3.0]))
    assert second.compute() == {"agree": 0.0, "rows": 1.0, "array": 2.5}
    assert first.compute() == {"agree": 1.0, "rows": 3.0, "array": 2.5}


def test_files_go_with_the_metric(tmp_path):
    metric = evaluated.load(write(tmp_path, "tidy"), "number")
    folder = metric._folder.name
    metric.add(np.array([1.0]), np.array([2.0]))
    assert list(Path(folder).rglob("*.arrow"))
    del metric
    gc.collect()
    assert not os.path.exists(folder)


def test_folder_with_a_module_of_its_name(tmp_path):
    (tmp_path / "foldered").mkdir()
    write(tmp_path / "foldered", "foldered")
    assert evaluated.load(str(tmp_path / "foldered"), "number").name == "foldered"


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("knows", {"after": 'one = datasets.Sequence(one) if self.config_name == "multilabel" else one'}),
        (
            "strict",
            {
                "before": 'if self.config_name != "default": raise KeyError("no such configuration")',
                "after": "one = datasets.Sequence(one)",
            },
        ),
    ],
)
def test_several_labels(tmp_path, name, parts):
    counted = Tally(
        "labels", ["a", "b"], extra=[evaluated.load(write(tmp_path, name, type="int32", **parts), "labels")]
    )
    counted.add(np.array([[0.9, 0.1], [0.8, 0.7]]), np.array([[1, 0], [0, 1]]))
    found = counted.scores()
    assert (found["agree"].value, found["agree"].low, found["agree"].rows) == (0.5, None, 2)
    assert found["exact_match"].value == 0.5


def test_other_inputs_are_refused(tmp_path):
    path = write(tmp_path, "scored", first="prediction_scores")
    with pytest.raises(HfadaptError, match="takes prediction_scores and references, but can only be given predictions"):
        evaluated.load(path, "label")


def test_wrong_types_are_told(tmp_path):
    metric = evaluated.load(write(tmp_path, "wordy", type="string"), "label")
    with pytest.raises(HfadaptError, match="'wordy' does not take what this task predicts: Predictions and/or"):
        metric.add(np.array([1, 2]), np.array([1, 2]))


def test_failing_code_is_told(tmp_path):
    metric = evaluated.load(write(tmp_path, "failing", compute="raise ZeroDivisionError('of all things')"), "number")
    metric.add(np.array([1.0]), np.array([1.0]))
    with pytest.raises(HfadaptError, match=r"'failing' could not be computed: of all things. Where it needs options"):
        metric.compute()


def test_module_that_cannot_be_imported(tmp_path):
    path = write(tmp_path, "oneline")
    text = (
        Path(path).read_text(encoding="utf-8").replace("import datasets\nimport evaluate", "import datasets, evaluate")
    )
    Path(path).write_text(text, encoding="utf-8")
    with pytest.raises(HfadaptError, match="each import on a line of its own"):
        evaluated.load(path, "number")
    Path(path).write_text("import datasets\nraise RuntimeError('broken module')\n", encoding="utf-8")
    with pytest.raises(HfadaptError, match=r"can't be loaded: RuntimeError: broken module. Mend the module"):
        evaluated.load(path, "number")


@pytest.mark.parametrize("name", ["acuracy", "user/metric", "metrics/mine.py", "a/b/c"])
def test_missing_metric_without_network(name):
    with pytest.raises(HfadaptError, match=f"There is no metric '{name}': neither .* nor, as far as can be reached"):
        evaluated.load(name, "label")


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (ConnectionError("Couldn't reach the Hub"), "can't be fetched from the Hub: Couldn't reach the Hub. Check"),
        (ModuleNotFoundError("No module named 'rouge_score'"), "needs a package .* 'rouge_score'. Install it"),
        (TypeError(), "can't be loaded: TypeError: TypeError. Mend"),
    ],
)
def test_what_loading_raises(monkeypatch, error, says):
    import evaluate

    def load(*_, **__):
        raise error

    monkeypatch.setattr(evaluate, "load", load)
    before = evaluate.utils.logging.get_verbosity(), evaluate.utils.logging.is_progress_bar_enabled()
    with pytest.raises(HfadaptError, match=says):
        evaluated.load("rouge", "label")
    assert before == (evaluate.utils.logging.get_verbosity(), evaluate.utils.logging.is_progress_bar_enabled())
