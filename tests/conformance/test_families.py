"""Promises × families that read: adapts, learns, leaves alone what is frozen, and reloads anywhere."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

import hfadapt

from . import promises

TASK = "text-classification"
KINDS = sorted(f.model_types[0] for f in promises.FAMILIES if f.modality == "text")
TRAIN = {"full": (20, 4e-3), "linear-probe": (80, 1e-2), "lora": (30, 2e-2)}
"""Steps and learning rate by method; those of `full` for others."""
LABELS = ["bad", "good"]


def auto_class(kind: str) -> str:
    """Checkpoints as they are published: without a pooler where the pretraining has none."""
    return "AutoModelForCausalLM" if kind in {"gpt2", "llama"} else "AutoModelForMaskedLM"


@pytest.fixture(scope="module")
def rows(few: Path, tmp_path_factory):
    """The file of the train and then the test rows, and these rows."""
    every = []
    for split in ("train", "test"):
        with (few / f"{split}.csv").open(encoding="utf-8") as file:
            every += list(csv.DictReader(file))
    path = tmp_path_factory.mktemp("rows") / "all.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(every[0]))
        writer.writeheader()
        writer.writerows(every)
    return path, every


@pytest.fixture(scope="module", params=KINDS)
def runs(request, backbone, few, tmp_path_factory):
    """A finished run of every method on one family."""
    out, made = tmp_path_factory.mktemp(request.param), {}
    checkpoint = backbone(request.param, auto_class(request.param))
    data = {"path": str(few), "text": "text", "label": "label"}
    for method in promises.METHODS:
        steps, rate = TRAIN.get(method, TRAIN["full"])
        train = {"max_steps": steps, "learning_rate": rate}
        made[method] = promises.adapt(TASK, checkpoint, data, method, out / method, **train)
    return made


@pytest.fixture(scope="module")
def answers(runs, rows, plainly):
    """What plain transformers makes of all rows by each of the models."""
    _, every = rows
    texts = [row["text"] for row in every]
    return {method: plainly(TASK, folder=str(done.run.model), texts=texts) for method, done in runs.items()}


def test_there_is_something_to_test():
    assert len(KINDS) >= 9
    assert {"full", "linear-probe", "partial", "lora"} <= set(promises.METHODS)


def test_learns(runs, answers, rows):
    """The rows that it was trained on surprise it less than a coin's tosses would, by more than rounding."""
    labels = [LABELS.index(row["label"]) for row in rows[1][:16]]
    for method in runs:
        assert promises.surprise(answers[method]["logits"][:16], labels) < np.log(2) - 1e-3, method


def test_what_trains_changes_and_nothing_else(runs):
    """Bit for bit."""
    plan = runs["full"].plan
    came = promises.state(promises.loaded(plan, plan.source.path))
    for done in runs.values():
        promises.check_what_moves(done, came)


def test_plain_transformers_reloads_the_same_model(runs, answers):
    """In a fresh process: every tensor found, logits as before saving."""
    for method, done in runs.items():
        assert answers[method]["wrong"] == [], method
        assert np.allclose(answers[method]["logits"], done.end.logits, atol=1e-5), method


def test_predict_says_what_the_pipeline_says(runs, answers, rows):
    """Real names of labels, and probabilities within 1e-5."""
    for method, done in runs.items():
        ours, plain = list(hfadapt.predict(done.run, rows[0])), answers[method]["answers"]
        assert [a["label"] for a in ours] == [a["label"] for a in plain], method
        assert {a["label"] for a in ours} <= set(LABELS), method
        assert np.allclose([a["probability"] for a in ours], [a["score"] for a in plain], atol=1e-5), method


def test_an_adapter_reloads_through_peft_with_the_same_logits(runs):
    promises.check_adapter(runs["lora"])
