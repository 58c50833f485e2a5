"""The contract check: sound runs of every task pass it; a folder in disorder is told in one sentence."""

from __future__ import annotations

import pytest

import hfadapt
from hfadapt import judging
from hfadapt.contract import check_all
from hfadapt.recipe import Recipe

TEXT, PICTURE = "text-classification", "image-classification"
RUNS = {
    "single": (TEXT, "bert", "full", {}),
    "pairs": (TEXT, "bert", "full", {}),
    "multi": (TEXT, "distilbert", "bitfit", {}),
    "regression": ({"type": TEXT, "problem_type": "regression"}, "roberta", "full", {}),
    "left padded": (TEXT, "gpt2", "full", {}),
    "no pooler": (TEXT, "bert", "lora", {}),
    "decomposed": (TEXT, "bert", {"method": "lora", "init_lora_weights": "pissa"}, {}),
    "prompts": (TEXT, "bert", "prompt-tuning", {}),
    "half": (TEXT, "bert", "lora", {"dtype": "bfloat16"}),
    "pictures": ({"type": PICTURE, "augment": {"crop": 0.6}}, "vit", "full", {}),
    "convolutions": (PICTURE, "resnet", "full", {}),
    "adapted pictures": (PICTURE, "vit", "lora", {}),
    "of a tower": (PICTURE, "clip", "lora", {}),
    "two towers": ("image-text-contrastive", "clip", "full", {}),
    "adapted towers": ("image-text-contrastive", "clip", "lora", {}),
    "learnt context": ({"type": "image-text-contrastive", "captions": "classes"}, "clip", "coop", {}),
    "sigmoid": ("image-text-contrastive", "siglip", "full", {}),
}
DATA = {
    "pairs": {"text": "text", "text_pair": "other", "label": "label"},
    "multi": {"text": "text", "label": "tags", "label_separator": "|"},
    "regression": {"text": "text", "label": "stars"},
}


@pytest.fixture(scope="module")
def runs(backbone, toy, pictures, tmp_path_factory):
    folder, made = tmp_path_factory.mktemp("sound"), {}
    tables = {split: str(pictures / split / "captions.csv") for split in ("validation", "test")}
    captioned = {
        "path": str(pictures / "train/captions.csv"),
        "image": "file",
        "text": "text",
        "label": "label",
        **tables,
    }
    with pytest.MonkeyPatch.context() as patch:
        # Charts, baselines and intervals take half of so small a run.
        patch.setattr(judging, "draw", lambda *_: None)
        patch.setattr(judging, "compare", lambda *_: {})
        for name, (task, kind, adapt, model) in RUNS.items():
            what = task if isinstance(task, str) else task["type"]
            data = {"path": str(toy), **DATA.get(name, {"text": "text", "label": "label"})}
            data = data if what == TEXT else {"path": str(pictures)} if what == PICTURE else captioned
            if name == "learnt context":
                data = {key: value for key, value in captioned.items() if key != "text"}
            base = backbone(kind, "AutoModelForMaskedLM") if name == "no pooler" else backbone(kind)
            recipe = Recipe(
                task=task,
                model={"name": str(base), **model},
                data=data,
                adapt=adapt,
                train={"max_steps": 3, "learning_rate": 1e-2, "warmup_steps": 0},
            )
            made[name] = hfadapt.adapt(hfadapt.plan(recipe), folder / name)
    return made


@pytest.fixture(scope="module")
def checked(runs):
    return dict(zip(runs, check_all(list(runs.values())), strict=True))


@pytest.mark.parametrize("name", RUNS)
def test_a_sound_run_passes(name, checked):
    found = checked[name]
    print(name, found.differences, found.line, *found.problems, sep="\n  ")
    assert found.problems == ()
