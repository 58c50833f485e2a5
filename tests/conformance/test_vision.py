"""Promises × families that see × methods: adapts, learns, leaves alone what is frozen, and reloads anywhere."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import hfadapt
from hfadapt import tiny

from . import promises

CLASSIFY, PAIR = promises.PICTURES, promises.PAIRS
TASKS = {"image": (CLASSIFY,), "image-text": (CLASSIFY, PAIR)}
CASES = [(f.model_types[0], task) for f in promises.FAMILIES for task in TASKS.get(f.modality, ())]
TRAIN = {
    CLASSIFY: {
        "full": (12, 2e-3),
        "linear-probe": (25, 3e-2),
        "lora": (12, 1e-2),
        "adapter": (8, 5e-3),
    },
    PAIR: {
        "full": (60, 1e-3),
        "linear-probe": (40, 8e-3),
        "lp-ft": (40, 5e-4),
        "lora": (30, 1e-2),
        "adapter": (15, 1e-2),
        "coop": (25, 1e-2),
        "clip-adapter": (25, 1e-2),
    },
}
"""Steps and learning rate by task and method; see `promises.settings_of`."""
LABELS = ["angular", "round"]
TEMPLATE = "a photo of a {}."


@pytest.fixture(scope="module")
def rows(pictures: Path, tmp_path_factory):
    """A folder of 16 rows to train on, 8 to validate and 8 to test; some pictures are JPEGs, some are grey.

    `all.csv` holds the train and then the test rows.
    """
    folder = tmp_path_factory.mktemp("rows")
    written = {}
    for split, number in (("train", 16), ("validation", 8), ("test", 8)):
        with (pictures / split / "captions.csv").open(encoding="utf-8") as file:
            written[split] = list(csv.DictReader(file))[:number]
        for i, row in enumerate(written[split]):
            picture = Image.open(pictures / split / row.pop("file")).resize((40 + i, 36 + i % 5))
            row["image"] = str(folder / f"{split}-{i}.{('png', 'jpg', 'png')[i % 3]}")
            (picture.convert("L") if i % 5 == 4 else picture).save(row["image"])
    written["all"] = written["train"] + written["test"]
    for name, those in written.items():
        with (folder / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(those[0]))
            writer.writeheader()
            writer.writerows(those)
    return folder, written["all"]


@pytest.fixture(scope="module", params=promises.cells(CASES), ids=promises.cell_id)
def done(request, backbone, rows, tmp_path_factory):
    """A finished run of a method on a family, for one task."""

    def plan(case: promises.Case, method: str):
        kind, task = case
        data, out = columns(rows[0], task), tmp_path_factory.mktemp(method)
        return promises.planned(task, backbone(kind), data, method, TRAIN[task], out)

    made = promises.accepted(CASES, request.param, plan)
    return promises.adapt(made, tmp_path_factory.mktemp(request.param[1]) / "run")


def columns(folder: Path, task: str) -> dict[str, str]:
    """The `data` section."""
    data = {split: str(folder / f"{split}.csv") for split in ("train", "validation", "test")}
    data = data | {"path": data.pop("train"), "image": "image", "label": "label"}
    return data | {"text": "text"} if task == PAIR else data


@pytest.fixture(scope="module")
def plain(done, rows, plainly):
    """What plain transformers makes of all rows."""
    task, (_, every) = done.plan.recipe.task, rows
    question = {"folder": str(done.run.model), "pictures": [row["image"] for row in every]}
    if task.contrasts:
        question |= {"texts": [row["text"] for row in every], "asked": LABELS, "template": TEMPLATE}
    return plainly(task.name, **question)


def test_there_is_something_to_test():
    named = "vit deit dinov2 beit swin convnext resnet efficientnet mobilenet_v2 clip siglip"
    assert {(kind, CLASSIFY) for kind in named.split()} <= set(CASES)
    assert {("clip", PAIR), ("siglip", PAIR)} <= set(CASES)
    assert {"full", "linear-probe", "partial", "lp-ft", "lora"} <= set(promises.METHODS)


def test_learns(done, plain, rows):
    """The rows that it was trained on surprise it less than chance would, by more than rounding."""
    logits = np.array(plain["logits"])[:16, :16]
    if not done.plan.stages:
        pytest.skip("nothing trains")
    if done.plan.recipe.task.contrasts:
        found = (promises.surprise(logits, range(16)) + promises.surprise(logits.T, range(16))) / 2
        assert found < promises.goal(done, np.log(16)) - 1e-2
    else:
        found = promises.surprise(logits, [LABELS.index(row["label"]) for row in rows[1][:16]])
        assert found < promises.goal(done, np.log(2)) - 1e-3


def test_what_trains_changes_and_nothing_else(done):
    """Bit for bit, statistics of batch norms included."""
    promises.check_what_moves(done)


def test_plain_transformers_reloads_the_same_model(done, plain):
    """In a fresh process: every tensor found, pixels and tokens as in training, logits as before saving."""
    ours = done.end.logits_per_image if done.plan.recipe.task.contrasts else done.end.logits
    assert plain["wrong"] == []
    for name in plain.keys() & done.batch.keys():
        assert np.array_equal(np.asarray(plain[name], done.batch[name].numpy().dtype), done.batch[name]), name
    assert "pixel_values" in plain
    assert np.allclose(plain["logits"], ours, atol=1e-5)
    assert np.ptp(ours.numpy(), axis=0).min() > 1e-3, "all are answered alike"


def test_predict_says_what_the_pipeline_says(done, plain, rows):
    """Real names of labels, and probabilities or similarities within 1e-5; of pairs, the zero-shot scores too."""
    folder, every = rows
    ours, told = list(hfadapt.predict(done.run, folder / "all.csv")), [a["label"] for a in plain["answers"]]
    if done.plan.recipe.task.contrasts:
        assert np.allclose([a["similarity"] for a in ours], plain["similarity"], atol=1e-5)
        right = [label == row["label"] for label, row in zip(told, every, strict=True)]
        scores = done.run.scores["scores"]["test"]
        assert scores["zero_shot_accuracy"]["value"] == pytest.approx(np.mean(right[16:]))
    else:
        assert [a["label"] for a in ours] == told
        assert set(told) <= set(LABELS)
        assert np.allclose([a["probability"] for a in ours], [a["score"] for a in plain["answers"]], atol=1e-5)


def test_what_was_tried_is_told(done):
    promises.check_refined(done)


def test_an_adapter_reloads_through_peft_with_the_same_logits(done):
    promises.check_adapter(done)


def test_few_are_refused():
    promises.check_refusals(CASES)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "side", "arguments"),
    [("resnet18", 32, {"channels": [8, 8, 16, 16]}), ("vgg11", 32, {}), ("inception_v3", 80, {})],
)
def test_models_of_timm(name, side, arguments, rows, plainly, tmp_path):
    try:
        import timm  # noqa: F401
    except Exception as error:  # torchvision, which timm imports, may be of another build than torch
        pytest.skip(f"timm cannot be imported: {error}")
    import torch
    from transformers import TimmWrapperConfig, TimmWrapperForImageClassification

    torch.manual_seed(0)
    looks = {"input_size": [3, side, side], "interpolation": "bilinear", "crop_pct": 1.0}
    looks |= {"mean": [0.5] * 3, "std": [0.25] * 3}
    options = {"architecture": name, "model_args": arguments, "pretrained_cfg": looks, "num_labels": 5}
    made = TimmWrapperForImageClassification(TimmWrapperConfig(**options, initializer_range=0.04))
    tiny.settle(made, side)
    made.save_pretrained(tmp_path / "checkpoint")
    folder, every = rows
    table, data = {"full": (4, 1e-3)}, columns(folder, CLASSIFY)
    made = promises.planned(CLASSIFY, tmp_path / "checkpoint", data, "partial", table, tmp_path)
    done = promises.adapt(made, tmp_path / "run")
    plain = plainly(CLASSIFY, folder=str(done.run.model), pictures=[row["image"] for row in every])
    test_what_trains_changes_and_nothing_else(done)
    test_plain_transformers_reloads_the_same_model(done, plain)
    test_predict_says_what_the_pipeline_says(done, plain, rows)
