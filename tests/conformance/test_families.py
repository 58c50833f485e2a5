"""Promises × families that read: adapts, learns, leaves alone what is frozen, and reloads anywhere."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

import hfadapt

from . import promises

TASK = promises.TEXTS
CASES = [(kind, TASK) for kind in sorted(f.model_types[0] for f in promises.FAMILIES if f.modality == "text")]
TRAIN = {"full": (20, 4e-3), "linear-probe": (80, 1e-2), "lora": (30, 2e-2), "adapter": (12, 2e-2)}
"""Steps and learning rate by method; see `promises.settings_of`."""
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


@pytest.fixture(scope="module", params=promises.cells(CASES), ids=promises.cell_id)
def done(request, backbone, few, tmp_path_factory):
    """A finished run of a method on a family."""

    def plan(case: promises.Case, method: str):
        kind, task = case
        data = {"path": str(few), "text": "text", "label": "label"}
        checkpoint = backbone(kind, auto_class(kind))
        return promises.planned(task, checkpoint, data, method, TRAIN, tmp_path_factory.mktemp(method))

    made = promises.accepted(CASES, request.param, plan)
    return promises.adapt(made, tmp_path_factory.mktemp(request.param[1]) / "run")


@pytest.fixture(scope="module")
def plain(done, rows, plainly):
    """What plain transformers makes of all rows."""
    return plainly(TASK, folder=str(done.run.model), texts=[row["text"] for row in rows[1]])


def test_there_is_something_to_test():
    assert len(CASES) >= 9
    assert {"full", "linear-probe", "partial", "lora"} <= set(promises.METHODS)


def test_learns(done, plain, rows):
    """The rows that it was trained on surprise it less than a coin's tosses would, by more than rounding."""
    labels = [LABELS.index(row["label"]) for row in rows[1][:16]]
    if not done.plan.stages:
        pytest.skip("nothing trains")
    assert promises.surprise(plain["logits"][:16], labels) < promises.goal(done, np.log(2)) - 1e-3


def test_what_trains_changes_and_nothing_else(done):
    """Bit for bit."""
    promises.check_what_moves(done)


def test_plain_transformers_reloads_the_same_model(done, plain):
    """In a fresh process: every tensor found, logits as before saving."""
    assert plain["wrong"] == []
    assert np.allclose(plain["logits"], done.end.logits, atol=1e-5)


def test_predict_says_what_the_pipeline_says(done, plain, rows):
    """Real names of labels, and probabilities within 1e-5."""
    ours, told = list(hfadapt.predict(done.run, rows[0])), plain["answers"]
    assert [a["label"] for a in ours] == [a["label"] for a in told]
    assert {a["label"] for a in ours} <= set(LABELS)
    assert np.allclose([a["probability"] for a in ours], [a["score"] for a in told], atol=1e-5)


def test_what_was_tried_is_told(done):
    promises.check_refined(done)


def test_an_adapter_reloads_through_peft_with_the_same_logits(done):
    promises.check_adapter(done)


def test_few_are_refused():
    promises.check_refusals(CASES)
