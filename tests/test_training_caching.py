"""The cache of what lies below all that trains: the same losses, on fewer computations."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from test_training import Killed, distance, weights

import hfadapt
from hfadapt import judging
from hfadapt.recipe import Recipe
from hfadapt.training import caching


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """Caches of a test are its own."""
    monkeypatch.setenv("HFADAPT_CACHE", str(tmp_path / "home"))
    # Charts and baselines take half of so small a run; other tests look at them.
    monkeypatch.setattr(judging, "draw", lambda *_: None)
    monkeypatch.setattr(judging, "compare", lambda _: {})
    return tmp_path / "home" / "prefixes"


def train(**more):
    rates = {"learning_rate": 1e-2, "warmup_steps": 0, "logging_steps": 1}
    return {"num_train_epochs": 4, "per_device_train_batch_size": 8, **rates, **more}


def texts(backbone, toy, adapt, use="on", kind="bert", **more) -> Recipe:
    data = {"path": str(toy), "text": "text", "label": "label"}
    return Recipe(
        task="text-classification", model=str(backbone(kind)), data=data, adapt=adapt, cache=use, train=train(**more)
    )


def looks(backbone, pictures, adapt, use="on", kind="vit", task="image-classification", **more) -> Recipe:
    data = {"path": str(pictures)}
    if task == "image-text-contrastive":
        data = {"path": [str(pictures / "train" / "captions.csv")], "image": "file", "text": "text"}
    return Recipe(task=task, model=str(backbone(kind)), data=data, adapt=adapt, cache=use, train=train(**more))


def carry_out(recipe, folder, **options):
    return hfadapt.adapt(hfadapt.plan(recipe), folder, **options)


def events(run, kind):
    lines = map(json.loads, (run.path / "log.jsonl").read_text().splitlines())
    return [event for event in lines if event["event"] == kind]


def losses(run):
    return np.array([event["loss"] for event in events(run, "trained")])


METHODS = {
    "linear-probe": "linear-probe",
    "partial": {"method": "partial", "top": 1},
    "lp-ft": {"method": "lp-ft", "probe": 0.5, "probe_speed": 1.0},
    "lora": {"method": "lora", "r": 2, "layers": "-1:"},
}


def same(make, tmp_path, serves):
    with_it, without = carry_out(make("on"), tmp_path / "on"), carry_out(make("off"), tmp_path / "off")
    assert [event["serves"] for event in events(with_it, "cache")] == serves
    assert len(losses(with_it)) == len(losses(without)) > 8
    assert np.abs(losses(with_it) - losses(without)).max() < 1e-5
    one, other = (run.scores["scores"]["validation"]["accuracy"]["value"] for run in (with_it, without))
    assert one == other
    return with_it


@pytest.mark.parametrize("method", METHODS)
def test_losses_of_texts_are_those_without_it(method, backbone, toy, tmp_path):
    serves = [True, False] if method == "lp-ft" else [True]
    same(lambda use: texts(backbone, toy, METHODS[method], use), tmp_path, serves)


@pytest.mark.parametrize(
    ("kind", "method"),
    [
        ("vit", "partial"),
        ("resnet", "partial"),
        ("swin", "partial"),
        ("beit", "partial"),
        ("mobilenet_v2", "linear-probe"),
    ],
)
def test_losses_of_pictures_are_those_without_it(kind, method, backbone, pictures, tmp_path):
    same(lambda use: looks(backbone, pictures, METHODS[method], use, kind), tmp_path, [True])


@pytest.mark.parametrize("method", ["linear-probe", "partial"])
def test_losses_of_two_towers_are_those_without_it(method, backbone, pictures, tmp_path):
    task = "image-text-contrastive"
    make = lambda use: looks(backbone, pictures, METHODS[method], use, "clip", task)  # noqa: E731
    with_it, without = carry_out(make("on"), tmp_path / "on"), carry_out(make("off"), tmp_path / "off")
    assert [event["serves"] for event in events(with_it, "cache")] == [True]
    assert np.abs(losses(with_it) - losses(without)).max() < 1e-5


def test_a_prefix_runs_once_for_a_row(backbone, toy, tmp_path, monkeypatch):
    """In four epochs; and not at all when a second run begins where the first began."""
    computed = []
    monkeypatch.setattr(caching.Cache, "around", _counted(caching.Cache.around, computed))
    carry_out(texts(backbone, toy, "linear-probe"), tmp_path / "one")
    first = len(computed), sum(computed)
    assert 0 < first[1] < first[0] / 3
    computed.clear()
    carry_out(texts(backbone, toy, "linear-probe"), tmp_path / "two")
    assert len(computed) == first[0]
    assert sum(computed) == 0
    computed.clear()
    carry_out(texts(backbone, toy, "linear-probe", kind="distilbert"), tmp_path / "three")
    assert sum(computed) == first[1]


def _counted(around, computed):
    def counted(self, inputs):
        computed.append(int(not all(inputs["_served"])))
        return around(self, inputs)

    return counted


@pytest.mark.parametrize("step", [2, 9])
def test_a_run_that_was_killed_goes_on_bit_for_bit(step, backbone, toy, tmp_path, home):
    """While the cache fills and after; with the cache of no other run at hand."""
    import shutil

    often = {"save_strategy": "steps", "save_steps": 1, "eval_strategy": "steps", "eval_steps": 1}
    it = texts(backbone, toy, {"method": "partial", "top": 1}, **often)
    whole = carry_out(it, tmp_path / "whole")
    shutil.rmtree(home)

    def kill(event):
        if event["event"] == "step" and event["step"] == step:
            raise Killed

    with pytest.raises(Killed):
        carry_out(it, tmp_path / "cut", listener=kill)
    resumed = carry_out(it, None, resume=tmp_path / "cut")
    assert distance(weights(whole), weights(resumed)) == 0.0


def test_a_crash_while_it_fills_leaves_none_that_looks_whole(backbone, toy, tmp_path, home):
    def kill(event):
        if event["event"] == "step" and event["step"] == 3:
            raise Killed

    it = texts(backbone, toy, "linear-probe")
    with pytest.raises(Killed):
        carry_out(it, tmp_path / "cut", listener=kill)
    assert not list(home.glob("*/whole.json"))
    carry_out(it, tmp_path / "again")
    assert len(list(home.glob("*/whole.json"))) == 1


def test_augmented_pictures_are_kept_as_views_or_not_at_all(backbone, pictures, tmp_path):
    task = {"type": "image-classification", "augment": {"flip": "horizontal", "colour": 0.3}}
    refused = carry_out(looks(backbone, pictures, "linear-probe", task=task), tmp_path / "none")
    (told,) = events(refused, "cache")
    assert not told["serves"]
    assert "cache.views" in told["says"]
    views = {"use": "on", "views": 2}
    kept = carry_out(looks(backbone, pictures, "linear-probe", views, task=task), tmp_path / "views")
    assert events(kept, "cache")[0]["serves"]
    # The first two epochs see what they would without it.
    count = len(losses(kept)) // 2
    assert np.abs(losses(kept)[:count] - losses(refused)[:count]).max() < 1e-5
    assert np.abs(losses(kept)[count:] - losses(refused)[count:]).max() > 1e-4


def test_it_stands_aside_where_it_would_take_too_much_room(backbone, toy, tmp_path):
    run = carry_out(texts(backbone, toy, "linear-probe", {"use": "on", "most": 1e-9}), tmp_path / "run")
    (told,) = events(run, "cache")
    assert not told["serves"]
    assert "cache.most" in told["says"]


def test_bfloat16_takes_half_the_room(backbone, toy, tmp_path, home):
    full = carry_out(texts(backbone, toy, "linear-probe"), tmp_path / "full")
    half = carry_out(texts(backbone, toy, "linear-probe", {"use": "on", "dtype": "bfloat16"}), tmp_path / "half")
    sizes = sorted((store / "0").stat().st_size for store in home.glob("*"))
    assert sizes[1] == 2 * sizes[0]
    assert 0 < np.abs(losses(full) - losses(half)).max() < 0.05


def test_a_row_that_is_seen_once_is_not_kept(backbone, toy, tmp_path, home):
    run = carry_out(texts(backbone, toy, "linear-probe", "auto", num_train_epochs=1), tmp_path / "run")
    assert [event["says"] for event in events(run, "cache")] == ["a row is seen once"]
    assert not home.exists()


def test_stores_that_were_used_longest_ago_make_room(tmp_path):
    import os

    from hfadapt.training.store import Store, make_room

    for age, name in ((3, "old"), (2, "older"), (1, "new")):
        store = Store(tmp_path / f"{name}.draft", [(256,)], 16, torch.float32)
        store.write(np.arange(16), [torch.ones(16, 256)], [None])
        store.seal(tmp_path / name, {})
        os.utime(tmp_path / name / "whole.json", (1000 - age, 1000 - age))
    make_room(tmp_path, 16 * 1024, 3 * 16 * 1024 + 100_000)
    assert {path.name for path in tmp_path.iterdir()} >= {"new"}
    make_room(tmp_path, 16 * 1024, 17 * 1024)
    assert not list(tmp_path.iterdir())
