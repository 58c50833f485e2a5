"""Augmentation on the device: the very pictures that reading processes make, and only where they come sooner."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from elsewhere import DEVICE, Elsewhere
from PIL import Image
from test_data_augmenting import augmenter, scene
from test_training_pictures import COLUMNS, outcome

import hfadapt
from hfadapt.data.labels import Labels
from hfadapt.recipe import Recipe
from hfadapt.tasks.image_classification import ImageClassification
from hfadapt.training import painting
from hfadapt.training.caching import remembered
from hfadapt.training.rows import LENGTHS, SEED, Collate, Rows, Visits

AUGMENT = {"crop": 0.5, "flip": "horizontal", "colour": 0.4, "trivial_augment": True, "erasing": 0.3}
PAINTS = [{"colour": 0.4}, {"rand_augment": 9}, {"trivial_augment": True}, {"erasing": 1.0}, {**AUGMENT, "crop": None}]


def made(backbone, **augment) -> Rows:
    """Training rows with small pictures, which vary."""
    import datasets
    from transformers import AutoImageProcessor

    table = datasets.Dataset.from_dict(
        {"image": [scene(40 + i, 60 - i) for i in range(6)], "labels": [0, 1] * 3},
        features=datasets.Features({"image": datasets.Image(decode=False), "labels": datasets.Value("int64")}),
    )
    processor = AutoImageProcessor.from_pretrained(backbone("vit"))
    labels = Labels("label", ("a", "b"))
    visit = Visits(ImageClassification(augment=augment), processor, table, labels, seed=3, trains=True)
    return Rows(table, visit=visit)


@pytest.fixture
def sooner(monkeypatch):
    """How long it takes a process that reads, and the device."""
    took = {"reads": 4.0, "device": 1.0}
    order = iter(["reads", "device"] * 9)
    monkeypatch.setattr(painting, "_least", lambda run, threads: took[next(order)])
    return took


@pytest.mark.parametrize("options", PAINTS, ids=lambda options: "+".join(options))
def test_each_operation_takes_what_lies_on_the_device_and_makes_the_same_of_it(options):
    """No tensor of another device meets the pictures; which operations are drawn depends on the seeds alone."""
    change, seeds = augmenter(options), list(range(60))
    pixels = [torch.from_numpy(np.array(scene(32, 24))).permute(2, 0, 1) for _ in seeds]
    goal = change.painted(pixels, seeds)
    with Elsewhere():
        there = change.painted([one.to(DEVICE) for one in pixels], seeds, 1 << 26)
        assert {one.device for one in there} == {DEVICE}
        found = [one.cpu() for one in there]
    assert all(torch.equal(a, b) for a, b in zip(found, goal, strict=True))
    assert sum(not torch.equal(a, b) for a, b in zip(goal, pixels, strict=True)) > 30
    shown = [np.asarray(one) for one in change._through_kornia([scene(32, 24)] * len(seeds), seeds)]
    assert all(np.array_equal(a, b.permute(1, 2, 0)) for a, b in zip(shown, goal, strict=True))


def test_a_pretended_device_refuses_what_lies_elsewhere():
    with Elsewhere():
        there = torch.ones(3).to(DEVICE)
        assert (there * 2 + torch.tensor(1)).cpu().tolist() == [3.0] * 3
        with pytest.raises(RuntimeError, match="two devices"):
            there + torch.ones(3)


def test_rows_that_are_finished_on_the_device_are_those_that_were_made_without(backbone, sooner):
    rows = made(backbone, **AUGMENT)
    places = [(epoch, row) for epoch in range(4) for row in range(6)]
    goal = np.stack([row["pixel_values"] for row in rows.visit(places)])
    collate = Collate(rows.visit.task.collator(rows.visit.processor))
    with Elsewhere(), painting.painting(rows, DEVICE, workers=2) as (painter, says):
        assert painter, says
        assert says == "166.67 ms a picture after the crop, for which 2 processes that read take 333.33"
        batch = collate(rows.visit(places))
        assert batch["pixel_values"].dtype == torch.uint8 and len(set(batch[SEED])) == len(places)
        inputs = {**batch, "pixel_values": batch["pixel_values"].to(DEVICE)}
        painter(inputs)
        assert inputs.keys() == {"pixel_values", "labels", LENGTHS} and inputs["pixel_values"].device == DEVICE
        assert np.array_equal(inputs["pixel_values"].cpu().numpy(), goal)
        untouched = {"pixel_values": torch.zeros(1)}
        painter(untouched)
        assert untouched["pixel_values"].tolist() == [0.0]
    again = np.stack([row["pixel_values"] for row in rows.visit(places)])
    assert np.array_equal(again, goal), "and afterwards as before"


@pytest.mark.parametrize(("workers", "serves"), [(0, True), (3, True), (4, False), (16, False)])
def test_it_serves_where_those_who_read_take_longer(workers, serves, backbone, sooner):
    with Elsewhere(), painting.painting(made(backbone, **AUGMENT), DEVICE, workers) as (painter, says):
        assert (painter is not None) == serves and "ms a picture" in says


def test_other_pictures_are_noticed(backbone, sooner, monkeypatch):
    monkeypatch.setattr(painting.Painter, "painted", lambda self, pixels, seeds: pixels)
    with Elsewhere(), painting.painting(made(backbone, **AUGMENT), DEVICE, 0) as (painter, says):
        assert painter is None and says == "on the device pictures come out as others"


def test_a_device_that_cannot_do_it_is_no_reason_to_stop(backbone, sooner, monkeypatch):
    def fails(self, pixels, seeds):
        raise NotImplementedError("no kernel\nfor this")

    monkeypatch.setattr(painting.Painter, "painted", fails)
    rows = made(backbone, **AUGMENT)
    with Elsewhere(), painting.painting(rows, DEVICE, 0) as (painter, says):
        assert painter is None and says == "it does not go on the device: no kernel for this"
        assert not rows.visit.begins


@pytest.mark.parametrize(
    ("augment", "device", "says"),
    [
        (AUGMENT, "cpu", None),
        ({"crop": 0.5, "flip": "both"}, "cuda", None),
        ({}, "cuda", None),
        ({**AUGMENT, "mixup": 0.2}, "cuda", "pictures are mixed when they are done"),
        ({"colour": 0.2}, "cuda", "pictures have sizes of their own where they are not cropped"),
        (AUGMENT, "cuda", ""),
    ],
)
def test_when_there_is_no_question(augment, device, says, backbone):
    visit = made(backbone, **augment).visit
    assert painting.refusal(visit, torch.device(device)) == says
    assert painting.refusal(replace(visit, trains=False), torch.device(device)) is None
    assert painting.refusal(None, torch.device(device)) is None


def test_a_run_that_goes_on_does_it_where_it_was_done(backbone, monkeypatch, tmp_path):
    took = iter([4.0, 1.0])
    monkeypatch.setattr(painting, "_least", lambda run, threads: next(took))
    for again in (False, True):
        note = partial(remembered, tmp_path / "painting.json", again)
        with Elsewhere(), painting.painting(made(backbone, **AUGMENT), DEVICE, 0, note) as (painter, says):
            assert painter and "ms a picture" in says


def test_what_has_to_be_the_same_each_time_is_not_timed(backbone, monkeypatch):
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: True)
    says = painting.refusal(made(backbone, **AUGMENT).visit, torch.device("cuda"))
    assert says == "only what is the same each time is done, and timings are not"


RUNS = {
    "plain": ("image-classification", {"dataloader_num_workers": 2}, {}),
    "kept": ("image-classification", {}, {"use": "on", "views": 2}),
    "contrastive": ("image-text-contrastive", {}, {}),
}


@pytest.mark.parametrize("name", RUNS)
def test_a_run_moves_what_it_moves_without(name, backbone, pictures, tmp_path, monkeypatch, sooner):
    """On the CPU, which is asked here as if it were another device."""
    kind, train, cache = RUNS[name]
    tables = {split: str(pictures / split / "captions.csv") for split in ("train", "validation", "test")}
    contrastive = kind != "image-classification"
    paths = tables | {"path": tables.pop("train")} | COLUMNS["contrastive"] if contrastive else {"path": str(pictures)}
    recipe = {
        "task": {"type": kind, "augment": AUGMENT},
        "model": str(backbone("clip" if contrastive else "vit")),
        "data": paths,
        "adapt": {"method": "partial", "blocks": "-1:"},
        "cache": cache,
        "train": {"num_train_epochs": 2, "per_device_train_batch_size": 8, "logging_steps": 1, **train},
    }
    one = hfadapt.adapt(hfadapt.plan(Recipe(**recipe)), tmp_path / "one").path
    monkeypatch.setenv("HFADAPT_CACHE", str(tmp_path / "caches"))
    refusal = painting.refusal
    monkeypatch.setattr(painting, "refusal", lambda visit, device: refusal(visit, SimpleNamespace(type="cuda")))
    two = hfadapt.adapt(hfadapt.plan(Recipe(**recipe)), tmp_path / "two").path
    told = [json.loads(line) for line in (two / "log.jsonl").read_text().splitlines()]
    assert [its["serves"] for its in told if its["event"] == "painting"] == [True]
    assert [its["serves"] for its in told if its["event"] == "cache"] == [bool(cache)]
    assert "painting" not in (one / "log.jsonl").read_text()
    (weights, scores, losses), (others, again, later) = outcome(one), outcome(two)
    assert losses == later and scores == again
    assert all(torch.equal(weights[name], others[name]) for name in weights)


def test_a_picture_that_nobody_looks_at_is_no_bytes(backbone):
    rows = made(backbone, **AUGMENT)
    visit = replace(rows.visit, begins=True)
    assert visit.black.dtype == np.float32 and Image.fromarray(visit([(0, 0)])[0]["pixel_values"][0]).mode == "L"
