"""Runs of every kind of answer: reloaded by plain transformers, scored again, asked for answers."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import numpy as np
import pytest

import hfadapt
from hfadapt.errors import HfadaptError
from hfadapt.recipe import Recipe

DATA = {
    "single": {"text": "text", "label": "label"},
    "pairs": {"text": "text", "text_pair": "other", "label": "label"},
    "multi": {"text": "text", "label": "tags", "label_separator": "|"},
    "regression": {"text": "text", "label": "stars"},
}
NAMES = {"single": {"good", "bad"}, "pairs": {"good", "bad"}, "multi": {"up", "long"}, "regression": {"value"}}

RELOAD = """
import json, sys
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline
texts, found = json.load(open(sys.argv[1])), {}
for folder in sys.argv[2:]:
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    pairs = folder.split("/")[-2] == "pairs"
    given = ([t for t, _ in texts], [o for _, o in texts]) if pairs else ([t for t, _ in texts],)
    with torch.no_grad():
        logits = model(**tokenizer(*given, padding=True, truncation=True, return_tensors="pt")).logits
    rows = [{"text": t, "text_pair": o} for t, o in texts] if pairs else [t for t, _ in texts]
    answers = pipeline("text-classification", folder)(rows, top_k=None, truncation=True)
    found[folder.split("/")[-2]] = {"logits": logits.tolist(), "answers": answers}
assert "hfadapt" not in sys.modules
json.dump(found, sys.stdout)
"""


@pytest.fixture(scope="module")
def runs(backbone, toy, tmp_path_factory):
    folder = tmp_path_factory.mktemp("kinds")
    made = {}
    for kind, data in DATA.items():
        task = {"type": "text-classification"} | ({"problem_type": "regression"} if kind == "regression" else {})
        recipe = Recipe(
            task=task,
            model=str(backbone("bert")),
            data={"path": str(toy), **data},
            train={"max_steps": 12, "learning_rate": 3e-3},
        )
        made[kind] = hfadapt.adapt(hfadapt.plan(recipe), folder / kind)
    return made


@pytest.fixture(scope="module")
def rows(toy):
    with toy.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))[:10]


def test_plain_transformers_gives_the_same_answers_under_real_names(nursery, runs, rows, tmp_path):
    given = tmp_path / "rows.json"
    given.write_text(json.dumps([[r["text"], r["other"]] for r in rows]))
    folders = [str(run.model) for run in runs.values()]
    done = nursery.run([sys.executable, "-c", RELOAD, str(given), *folders])
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    asked = tmp_path / "rows.csv"
    with asked.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["text", "other"], extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    for kind, run in runs.items():
        logits = np.array(found[kind]["logits"])
        ours = list(hfadapt.predict(run, asked))
        named = {answer["label"] for answers in found[kind]["answers"] for answer in answers}
        assert named == NAMES[kind]
        if kind == "regression":
            assert np.allclose([a["value"] for a in ours], logits[:, 0], atol=1e-5)
        elif kind == "multi":
            sigmoid = 1 / (1 + np.exp(-logits))
            assert np.allclose([list(a["probabilities"].values()) for a in ours], sigmoid, atol=1e-5)
        else:
            softmax = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
            assert np.allclose([a["probability"] for a in ours], softmax.max(-1), atol=1e-5)


def test_scoring_again_gives_the_runs_own_scores(runs):
    for run in runs.values():
        again = {s: {m: v.as_dict() for m, v in metrics.items()} for s, metrics in hfadapt.score(run).items()}
        for split, metrics in run.scores["scores"].items():
            for metric, values in metrics.items():
                assert again[split][metric] == pytest.approx(values, abs=1e-3), metric


METRIC = """
import datasets
import evaluate


class Hits(evaluate.Metric):
    def _info(self):
        features = datasets.Features({"predictions": datasets.Value("int64"), "references": datasets.Value("int64")})
        return evaluate.MetricInfo(description="hits", citation="", inputs_description="", features=features)

    def _compute(self, predictions, references):
        return {"hits": float(sum(p == r for p, r in zip(predictions, references)))}
"""


def test_a_metric_of_the_evaluate_library(backbone, toy, tmp_path):
    """In a run, and when it is scored again, on both splits."""
    (tmp_path / "hits.py").write_text(METRIC)
    recipe = Recipe(
        task="text-classification",
        model=str(backbone("bert")),
        data={"path": str(toy), "text": "text", "label": "label"},
        train={"max_steps": 2},
        metrics=[str(tmp_path / "hits.py")],
    )
    run = hfadapt.adapt(hfadapt.plan(recipe), tmp_path / "run")
    again = hfadapt.score(run)
    for split, scores in run.scores["scores"].items():
        hits = scores["hits"]["value"]
        assert hits == again[split]["hits"].value == round(scores["accuracy"]["value"] * scores["accuracy"]["rows"])


def test_scoring_other_rows(runs, toy):
    found = hfadapt.score(runs["single"], [f"data.test={toy}"])
    assert found["test"]["accuracy"].rows == 64


def test_rows_with_other_labels_are_refused(runs, tmp_path):
    other = tmp_path / "other.csv"
    other.write_text("text,label\n" + "".join(f"text {i},{'yes' if i % 2 else 'no'}\n" for i in range(40)))
    with pytest.raises(HfadaptError, match="tells bad, good apart; the data hold no, yes"):
        hfadapt.score(runs["single"], [f"data.path={other}"])


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_the_command_line_writes_answers(ending, runs, toy, tmp_path, capsys):
    from hfadapt.cli import main

    out = tmp_path / f"answers.{ending}"
    with pytest.raises(SystemExit) as ended:
        main(["predict", str(runs["single"].path), str(toy), "--out", str(out)])
    assert ended.value.code == 0 and "64 rows answered" in capsys.readouterr().out
    with out.open(encoding="utf-8") as file:
        answers = list(csv.DictReader(file)) if ending == "csv" else [json.loads(line) for line in file]
    assert len(answers) == 64 and set(answers[0]) == {"label", "probability"}
    with pytest.raises(SystemExit) as ended:
        main(["score", str(runs["multi"].path), "--json"])
    assert ended.value.code == 0
    assert "map" in json.loads(capsys.readouterr().out)["scores"]["test"]


def test_labels_that_are_integers_come_back_as_given(backbone, tmp_path):
    data = tmp_path / "gaps.csv"
    data.write_text("text,label\n" + "".join(f"row {i} about topic {i % 3},{(0, 5, 11)[i % 3]}\n" for i in range(60)))
    recipe = Recipe(
        task="text-classification", model=str(backbone("bert")), data={"path": str(data)}, train={"max_steps": 2}
    )
    run = hfadapt.adapt(hfadapt.plan(recipe), tmp_path / "run")
    config = json.loads((run.model / "config.json").read_text())
    assert config["id2label"] == {"0": "0", "1": "5", "2": "11"}
    assert {a["label"] for a in hfadapt.predict(run, data)} <= {"0", "5", "11"}


def test_a_checkpoint_with_the_same_labels_keeps_its_head_and_their_order(runs, toy, tmp_path):
    """Adapted once more for a single tiny step, the model answers as before; with other labels it does not."""
    first = runs["single"]
    train = {"max_steps": 1, "learning_rate": 1e-12}
    base = {"task": "text-classification", "model": str(first.model), "train": train}
    same = hfadapt.plan(Recipe(data={"path": str(toy), "text": "text", "label": "label"}, **base))
    assert same.same_labels and same.data.labels.names == ("bad", "good")
    again = hfadapt.adapt(same, tmp_path / "again")
    one, two = list(hfadapt.predict(first, toy)), list(hfadapt.predict(again, toy))
    assert [a["probability"] for a in one] == pytest.approx([a["probability"] for a in two], abs=1e-5)
    renamed = tmp_path / "renamed.csv"
    renamed.write_text(toy.read_text().replace(",good,", ",up,").replace(",bad,", ",down,"))
    other = hfadapt.plan(Recipe(data={"path": str(renamed), "text": "text", "label": "label"}, **base))
    assert not other.same_labels and "classifier.weight" in other.anatomy.head
    fresh = hfadapt.adapt(other, tmp_path / "fresh")
    from safetensors.torch import load_file

    old, new = (load_file(r.model / "model.safetensors")["classifier.weight"] for r in (first, fresh))
    assert (old - new).abs().max() > 1e-3


def test_a_run_that_is_not_there_or_not_finished(tmp_path, runs):
    with pytest.raises(HfadaptError, match="There is no run in"):
        list(hfadapt.predict(tmp_path / "nothing", "rows.csv"))
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / "recipe.yaml").write_text(runs["single"].recipe.text)
    with pytest.raises(HfadaptError, match="is not finished"):
        hfadapt.score(tmp_path / "cut")


def test_trackers_write_into_the_run_folder(backbone, toy, tmp_path):
    pytest.importorskip("tensorboard")
    recipe = Recipe(
        task="text-classification",
        model=str(backbone("bert")),
        data={"path": str(toy), "text": "text", "label": "label"},
        train={"max_steps": 2, "report_to": "tensorboard"},
    )
    run = hfadapt.adapt(hfadapt.plan(recipe), tmp_path / "run")
    assert list(run.path.rglob("events.out.tfevents*"))


def test_skipped_rows_are_listed(backbone, tmp_path):
    data = tmp_path / "bad.csv"
    lines = [f"row {i} is {'fine' if i % 2 else 'poor'},{'good' if i % 2 else 'bad'}\n" for i in range(40)]
    data.write_text("text,label\n" + "".join(lines) + "no label here,\n")
    recipe = Recipe(
        task="text-classification",
        model=str(backbone("bert")),
        data={"path": str(data), "on_bad_row": "skip"},
        train={"max_steps": 1},
    )
    run = hfadapt.adapt(hfadapt.plan(recipe), tmp_path / "run")
    (row,) = map(json.loads, (run.path / "bad_rows.jsonl").read_text().splitlines())
    assert row["where"].endswith("bad.csv:42") and "label" in row["says"]


def test_nothing_that_is_left_tells_of_this_machine(runs):
    """No absolute path of the backbone or the data in the model, its card, or the adapter."""
    for run in runs.values():
        for path in [run.path / "README.md", *Path(run.model).glob("*.json")]:
            assert "/tmp/" not in path.read_text(encoding="utf-8").replace(str(run.recipe.data.path), ""), path
