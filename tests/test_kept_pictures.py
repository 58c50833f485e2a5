"""Pictures that are decoded once: the same losses bit for bit, on fewer decodings."""

from __future__ import annotations

import json
import pickle
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import hfadapt
from hfadapt import judging
from hfadapt.recipe import Cache, Recipe
from hfadapt.tasks import _pictures
from hfadapt.tasks.image_classification import ImageClassification
from hfadapt.training import pictures as kept
from hfadapt.training.store import WHOLE, make_room

AUGMENT = {"crop": 0.3, "flip": "horizontal", "colour": 0.2, "mixup": 0.4}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Class folders of 15 JPEGs of 200 x 150 pixels to train on, three of which lie on their sides, and 6 in each
    other split."""
    draw, folder = np.random.default_rng(0), tmp_path_factory.mktemp("photos")
    for split, number in (("train", 15), ("validation", 6), ("test", 6)):
        for i in range(number):
            coarse = draw.integers(0, 256, (15, 20, 3), dtype=np.uint8)
            coarse[..., i % 2] //= 4
            picture = Image.fromarray(coarse).resize((200, 150), Image.Resampling.BICUBIC)
            exif = picture.getexif()
            exif[0x0112] = 6 if i % 5 == 4 else 1
            path = folder / split / ("warm" if i % 2 else "cold") / f"{i}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            picture.save(path, exif=exif)
    return folder


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HFADAPT_CACHE", str(tmp_path / "home"))
    monkeypatch.setattr(judging, "draw", lambda *_: None)
    monkeypatch.setattr(judging, "compare", lambda _: {})
    return tmp_path / "home" / "prefixes"


def recipe(backbone, photos, cache, task="image-classification", adapt="full", **train) -> Recipe:
    rates = {"learning_rate": 1e-3, "warmup_steps": 0, "logging_steps": 1}
    return Recipe(
        task=task,
        model=str(backbone("vit")),
        data={"path": str(photos)},
        adapt=adapt,
        cache=cache,
        train={"num_train_epochs": 3, "per_device_train_batch_size": 4, **rates, **train},
    )


def carry_out(made, folder):
    run = hfadapt.adapt(hfadapt.plan(made), folder)
    return run, list(map(json.loads, (run.path / "log.jsonl").read_text().splitlines()))


def told(log):
    return [(event["split"], event["keeps"]) for event in log if event["event"] == "pictures"]


def numbers(run, log):
    losses = [event["loss"] for event in log if event["event"] == "trained"]
    assert len(losses) == 12
    seen = [event["scores"] for event in log if event["event"] == "evaluated"]
    timed = ("runtime", "samples_per_second", "steps_per_second")
    return losses, [{k: v for k, v in scores.items() if k not in timed} for scores in seen], run.scores["scores"]


@pytest.fixture
def writes(monkeypatch):
    """The rows that were put into albums."""
    found = []
    write = kept.Album.write
    monkeypatch.setattr(kept.Album, "write", lambda self, row, pixels: found.append(row) or write(self, row, pixels))
    return found


@pytest.mark.parametrize("augment", [{}, AUGMENT], ids=["plain", "augmented"])
def test_losses_are_those_without_it_and_the_next_run_decodes_nothing(augment, backbone, photos, tmp_path, writes):
    task = {"type": "image-classification", "augment": augment}
    without = numbers(*carry_out(recipe(backbone, photos, {"use": "off"}, task), tmp_path / "off"))
    assert not writes
    run, log = carry_out(recipe(backbone, photos, {"use": "off", "pictures": "on"}, task), tmp_path / "on")
    assert told(log) == [("train", True), ("validation", True)]
    assert numbers(run, log) == without
    assert sorted(writes) == sorted([*range(15), *range(6)])
    writes.clear()
    again = carry_out(recipe(backbone, photos, {"use": "off", "pictures": "auto"}, task), tmp_path / "again")
    assert numbers(*again) == without
    assert not writes


def test_a_file_that_changed_is_decoded_anew(backbone, photos, tmp_path, writes):
    import os

    made = recipe(backbone, photos, {"pictures": "on"})
    carry_out(made, tmp_path / "one")
    writes.clear()
    picture = next((photos / "train" / "warm").glob("*.jpg"))
    picture.touch()
    os.utime(picture, ns=(1, 1))
    carry_out(made, tmp_path / "two")
    assert len(writes) == 15


def test_what_the_prefix_cache_serves_is_not_kept_as_pictures_too(backbone, photos, tmp_path, writes):
    _, log = carry_out(recipe(backbone, photos, {"use": "on"}, adapt="linear-probe"), tmp_path / "run")
    assert [event["serves"] for event in log if event["event"] == "cache"] == [True]
    assert told(log) == [("train", False), ("validation", False)]
    assert not writes


def test_pairs_of_pictures_and_texts(backbone, pictures, tmp_path, writes):
    def made(cache):
        values = recipe(backbone, pictures, cache, "image-text-contrastive", num_train_epochs=2)
        data = {"path": [str(pictures / "train" / "captions.csv")], "image": "file", "text": "text"}
        train = {**values.train, "max_steps": 12}
        return Recipe(**{**values.model_dump(), "model": str(backbone("clip")), "data": data, "train": train})

    without = numbers(*carry_out(made({"use": "off"}), tmp_path / "off"))
    assert numbers(*carry_out(made({"use": "off", "pictures": "on"}), tmp_path / "on")) == without
    assert writes


def test_it_says_why_not(backbone, photos, tmp_path, home):
    plan = hfadapt.plan(recipe(backbone, photos, "auto"))
    rows = judging.encode(plan, "train")

    def says(options, visits=3.0, visit=rows.visit):
        pictures, why = kept._opened(visit, Cache.model_validate(options), visits)
        assert pictures is None
        return why

    assert says("off") == says({"pictures": "off"}) == "the recipe wants none"
    assert says("auto", visits=1.0) == "each is decoded once at the most"
    assert "`cache.most` is 1e-06" in says({"pictures": "on", "most": 1e-6})
    assert not home.exists()
    processor = SimpleNamespace(do_resize=True)
    assert "can't be taken apart" in says("auto", visit=SimpleNamespace(**{**vars(rows.visit), "processor": processor}))


def test_a_processor_that_does_more_than_scale_is_left_alone(backbone, photos, monkeypatch):
    visit = judging.encode(hfadapt.plan(recipe(backbone, photos, "auto")), "train").visit
    normalise = type(visit.processor).normalize
    monkeypatch.setattr(
        type(visit.processor),
        "normalize",
        lambda self, image, *rest, **more: normalise(self, image, *rest, **more) - image.mean(),
    )
    found, why = kept._opened(visit, Cache(pictures="on"), 3.0)
    assert found is None
    assert "not the same for each pixel" in why


def test_what_was_half_written_does_not_count(tmp_path):
    album = kept.bind(tmp_path / "album", 4, 300, 1200)
    one, other = np.full((10, 10, 3), 7, np.uint8), np.arange(150, dtype=np.uint8).reshape(5, 10, 3)
    album.write(0, one)
    album.write(1, other)
    album.write(2, np.zeros((11, 10, 3), np.uint8))
    for reader in (album, kept.bind(tmp_path / "album", 4, 300, 1200), pickle.loads(pickle.dumps(album))):
        assert np.array_equal(reader.read(0), one)
        assert np.array_equal(reader.read(1), other)
        assert reader.read(2) is reader.read(3) is None
    with (tmp_path / "album" / "pixels").open("r+b") as file:
        file.seek(299)
        file.write(b"\0")
    album.marks[3] = album.marks[1]
    assert album.read(0) is None
    assert album.read(3) is None
    assert np.array_equal(album.read(1), other)


def test_a_full_disk_ends_the_filling_and_nothing_else(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    cells = [{"bytes": None, "path": str(tmp_path / f"{i}.png")} for i in range(3)]
    for i, cell in enumerate(cells):
        Image.new("RGB", (9, 7), (i, i, i)).save(cell["path"])
    album = kept.bind(tmp_path / "album", 3, 300, 900)
    decoded = kept.Decoded(None, 8, np.empty((3, 0), np.float32))
    shown = kept.Pictures(album, decoded.make, decoded.show)
    monkeypatch.setattr(kept.os, "pwrite", full)
    table = type("Table", (), {"__getitem__": lambda self, rows: {"image": [cells[i] for i in rows]}})()
    for _ in range(2):
        assert [picture.getpixel((0, 0)) for picture in shown(table, [2, 0])] == [(2, 2, 2), (0, 0, 0)]
    assert not album.fills
    assert not album.marks["digest"].any()


def test_albums_count_what_they_will_take(tmp_path):
    for name in ("one", "two"):
        kept.bind(tmp_path / name, 10, 100, 1_000_000)
    make_room(tmp_path, 500_000, 3_000_000)
    assert len(list(tmp_path.glob(f"*/{WHOLE}"))) == 2
    make_room(tmp_path, 500_000, 1_600_000)
    assert [path.parent.name for path in tmp_path.glob(f"*/{WHOLE}")] == ["two"]


@pytest.mark.parametrize(("augment", "side"), [({}, None), ({"mixup": 0.2}, None), ({"flip": "both"}, 64)])
def test_pictures_are_opened_small_only_to_be_augmented(augment, side, backbone):
    from transformers import AutoImageProcessor

    processor = AutoImageProcessor.from_pretrained(backbone("vit"))
    assert ImageClassification(augment=augment).working_side(processor) == side


@pytest.mark.parametrize(("least", "side"), [(1.0, 259), (0.5, 366), (0.08, 448), (None, 448)])
def test_the_least_part_that_a_crop_keeps_has_the_size_of_the_model(least, side):
    assert _pictures._working_side(least, (224, 192)) == side
    if side < 448:
        assert side * (least * 3 / 4) ** 0.5 >= 224


def test_workers_decode_where_an_accelerator_computes(backbone, photos, toy, monkeypatch):
    import os

    import torch

    from hfadapt import settings
    from hfadapt.showing import settings_with_origin

    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)), raising=False)
    assert [settings.workers(processes) for processes in (1, 2, 3, 6, 8)] == [5, 2, 1, 0, 0]
    made = recipe(backbone, photos, "auto")
    assert "dataloader_num_workers" not in hfadapt.plan(made).settled
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    planned = hfadapt.plan(made, processes=2)
    value, origin = settings_with_origin(planned)["dataloader_num_workers"]
    assert (value, "decode pictures" in origin) == (2, True)
    assert (
        hfadapt.plan(recipe(backbone, photos, "auto", dataloader_num_workers=0)).settled["dataloader_num_workers"] == 0
    )
    texts = Recipe(
        task="text-classification",
        model=str(backbone("bert")),
        data={"path": str(toy), "text": "text", "label": "label"},
    )
    assert "dataloader_num_workers" not in hfadapt.plan(texts).settled


def test_the_estimate_counts_what_is_decoded_once(backbone, photos, monkeypatch):
    from hfadapt import estimating

    monkeypatch.setattr(
        estimating, "_quickest", lambda measure: [min(values) for values in zip(measure(), strict=True)]
    )
    monkeypatch.setattr(estimating, "reading", lambda _: 10.0)
    seconds = {}
    for cache in ("auto", "off"):
        seconds[cache] = estimating.estimate(hfadapt.plan(recipe(backbone, photos, cache))).seconds
    # 15 rows to train on and 6 to validate by, of whose three visits two are saved.
    assert 400 < seconds["off"] - seconds["auto"] < 440


def test_the_plan_tells(backbone, photos):
    from hfadapt.showing import plan_dict, plan_lines

    plan = hfadapt.plan(recipe(backbone, photos, "auto", {"type": "image-classification", "augment": AUGMENT}))
    (line,) = [line for line in plan_lines(plan) if line.startswith("images")]
    assert line == "images  opened at 64 pixels a side to be varied; each is decoded once where that is faster"
    assert plan_dict(plan)["pictures"] == {"side": 64, "refused": "", "visits": 3.0}
    off = [line for line in plan_lines(hfadapt.plan(recipe(backbone, photos, "off"))) if line.startswith("images")]
    assert off == ["images  none is kept decoded: the recipe wants none"]
