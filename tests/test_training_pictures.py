"""Training on pictures: the same on two processes as on one, and after a kill bit for bit, augmentation included."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import hfadapt
from hfadapt.recipe import Recipe
from hfadapt.training import caching
from hfadapt.training.pictures import _MARK

TASKS = {
    "classification": {
        "type": "image-classification",
        "augment": {"crop": 0.6, "flip": "horizontal", "erasing": 0.5, "mixup": 0.4, "cutmix": 1.0},
    },
    "contrastive": {"type": "image-text-contrastive", "augment": {"rotate": 20, "colour": 0.3}},
}
KINDS = {"classification": "vit", "contrastive": "clip"}
COLUMNS = {"classification": {}, "contrastive": {"image": "file", "text": "text", "label": "label"}}


class Killed(Exception):
    pass


@pytest.fixture(scope="module")
def backbones(tmp_path_factory):
    """A ViT and a CLIP with small weights, so that rounding is not blown up; see test_processes."""
    from conftest import TEXTS

    from hfadapt import tiny
    from hfadapt.noise import quiet

    made = {}
    with quiet():
        for task, kind in KINDS.items():
            small = {"initializer_range": 0.02} if kind == "vit" else {}
            made[task] = tiny.checkpoint(tmp_path_factory.mktemp(kind), kind, TEXTS, **small)
    return made


def values(task: str, backbones, pictures: Path, **train) -> dict:
    tables = {split: str(pictures / split / "captions.csv") for split in ("train", "validation", "test")}
    paths = {"path": str(pictures)} if task == "classification" else tables | {"path": tables.pop("train")}
    return {
        "task": TASKS[task],
        "model": str(backbones[task]),
        "data": {**paths, **COLUMNS[task]},
        "adapt": {"method": "lp-ft", "probe": 0.4},
        "cache": {"pictures": "on"},
        "train": {
            "num_train_epochs": 3,
            "per_device_train_batch_size": 8,
            "learning_rate": 1e-3,
            # Some gradients are zero but for rounding (the bias of keys); with 1e-8 Adam would make steps of it.
            "adam_epsilon": 1e-4,
            "logging_steps": 1,
            "eval_strategy": "steps",
            "eval_steps": 2,
            "save_strategy": "steps",
            "save_steps": 2,
            **train,
        },
    }


def outcome(folder: Path) -> tuple[dict[str, torch.Tensor], dict, list[float]]:
    from safetensors.torch import load_file

    log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    scores = json.loads((folder / "scores.json").read_text())["scores"]
    return load_file(folder / "model/model.safetensors"), scores, [e["loss"] for e in log if e["event"] == "trained"]


@pytest.fixture(scope="module", params=KINDS)
def whole(request, backbones, pictures, tmp_path_factory):
    """A task, its recipe and the run of it that nothing disturbed."""
    task = request.param
    recipe = values(task, backbones, pictures)
    run = hfadapt.adapt(hfadapt.plan(Recipe(**recipe)), tmp_path_factory.mktemp(task) / "whole")
    return task, recipe, run


def test_the_best_checkpoint_is_what_is_left(whole):
    """transformers saves a ViT's blocks under older names, and its Trainer would not read them back."""
    task, _, run = whole
    name = {"classification": "f1_macro", "contrastive": "recall@1"}[task]
    log = [json.loads(line) for line in (run.path / "log.jsonl").read_text().splitlines()]
    seen = [e["scores"] for e in log if e["event"] == "evaluated" and e["stage"] == "tune"]
    best = max(seen, key=lambda scores: scores[name])
    assert len(seen) > 2
    left = run.scores["scores"]["validation"]
    assert all(left[metric]["value"] == best[metric] for metric in best if metric in left)


@pytest.mark.parametrize("step", [3, 8])
def test_a_run_that_was_killed_sees_the_same_pictures_again(whole, step, tmp_path):
    """Killed in the first stage, and in the middle of an epoch of the second."""
    _, recipe, run = whole

    def kill(event):
        if event["event"] == "step" and event["step"] == step:
            raise Killed

    made = hfadapt.plan(Recipe(**recipe))
    with pytest.raises(Killed):
        hfadapt.adapt(made, tmp_path / "cut", listener=kill)
    resumed = hfadapt.adapt(made, resume=tmp_path / "cut")
    (one, scores, _), (two, again, _) = outcome(run.path), outcome(resumed.path)
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert scores == again


def test_worker_processes_change_nothing(whole, backbones, pictures, tmp_path, monkeypatch):
    """They fill an album of their own."""
    monkeypatch.setenv("HFADAPT_CACHE", str(tmp_path / "caches"))
    task, _, run = whole
    recipe = values(task, backbones, pictures, dataloader_num_workers=2)
    other = hfadapt.adapt(hfadapt.plan(Recipe(**recipe)), tmp_path / "workers")
    (one, _, losses), (two, _, others) = outcome(run.path), outcome(other.path)
    assert losses == others
    assert all(torch.equal(one[name], two[name]) for name in one)
    albums = [np.fromfile(path, _MARK)["digest"] for path in caching.home().glob("pictures-*/marks")]
    assert sorted(len(digests) for digests in albums) == [8, 27]
    assert all(digests.all() for digests in albums)


@pytest.mark.slow
def test_two_processes_end_where_one_does(whole, backbones, pictures, pair, tmp_path):
    """27 pictures, which neither 2 processes nor batches of 8 divide."""
    task, _, run = whole
    shutil.rmtree(caching.home())
    pair.adapt(values(task, backbones, pictures, per_device_train_batch_size=4), tmp_path / "two")
    (one, scores, losses), (two, others, lost) = outcome(run.path), outcome(tmp_path / "two")
    assert len(losses) > 8 and losses == pytest.approx(lost, abs=1e-6)
    assert max(float((one[name] - two[name]).abs().max()) for name in one) < 1e-6
    for split, metrics in scores.items():
        for metric, score in metrics.items():
            assert score["value"] == pytest.approx(others[split][metric]["value"], abs=1e-6), (split, metric)
