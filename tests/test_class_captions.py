"""Contrastive fine-tuning on captions made of class names, judged along the way and by base and new classes."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch

import hfadapt
from hfadapt import judging
from hfadapt.data.prompts import prompt
from hfadapt.errors import HfadaptError
from hfadapt.recipe import Recipe

TEMPLATES = ["a {} thing", "the {}"]
COLOURS = ("red", "green", "blue")


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    """A CLIP whose classes are told apart by more than the last decimals: its scale is not yet trained."""
    from conftest import TEXTS

    from hfadapt import tiny
    from hfadapt.noise import quiet

    names = [f"{colour} {kind}" for colour in COLOURS for kind in ("round", "angular")]
    with quiet():
        folder = tmp_path_factory.mktemp("clip")
        return tiny.checkpoint(folder, "clip", [*TEXTS, *names, *TEMPLATES], logit_scale_init_value=3.0)


@pytest.fixture(scope="module")
def tables(pictures, tmp_path_factory) -> dict[str, str]:
    """The pictures under six classes, colour and shape, without captions."""
    folder, made = tmp_path_factory.mktemp("classes"), {}
    for split in ("train", "validation", "test"):
        with (pictures / split / "captions.csv").open(encoding="utf-8") as file:
            rows = [(pictures / split / row["file"], row["label"]) for row in csv.DictReader(file)]
        lines = [f"{path},{COLOURS[int(path.stem) % 3]}_{kind}" for path, kind in rows]
        made[split] = str(folder / f"{split}.csv")
        Path(made[split]).write_text("\n".join(["file,label", *lines]) + "\n", encoding="utf-8")
    return {"path": made.pop("train"), **made}


def recipe(model, data, adapt="full", **task) -> Recipe:
    return Recipe(
        task={"type": "image-text-contrastive", "templates": TEMPLATES, **task},
        model=str(model),
        data=data,
        adapt=adapt,
        train={
            **{"max_steps": 4, "learning_rate": 3e-3, "per_device_train_batch_size": 8},
            **{"eval_strategy": "steps", "eval_steps": 2, "save_strategy": "steps", "save_steps": 2},
            "load_best_model_at_end": False,
        },
    )


@pytest.fixture(scope="module")
def planned(clip, tables):
    return hfadapt.plan(recipe(clip, tables, new_classes=0.5))


@pytest.fixture(scope="module")
def run(planned, tmp_path_factory):
    return hfadapt.adapt(planned, tmp_path_factory.mktemp("run") / "flyp")


def value(scores, metric: str, split: str = "test") -> float:
    return scores[split][metric]["value"]


# What is trained


def test_the_plan_settles_what_was_left_to_the_data(clip, tables, planned):
    assert planned.recipe.task.prompted
    assert planned.recipe.task.new == planned.data.new == ("green_round", "red_angular", "red_round")
    assert planned.settled["metric_for_best_model"] == "base_accuracy"
    plain = hfadapt.plan(recipe(clip, tables))
    assert plain.settled["metric_for_best_model"] == "zero_shot_accuracy" and plain.recipe.task.new == ()
    assert "new_classes: 0.5" in planned.recipe.text and "captions" not in planned.recipe.text, "as it was written"


def test_a_template_is_drawn_on_each_visit_and_the_first_stands_in_evaluation(planned):
    rows = judging.encode(planned, "train")
    size, tokenizer = len(rows), planned.processor.tokenizer
    names = [planned.data.labels.names[i] for i in planned.data.splits["train"]["label"]]
    ids = [[tokenizer(prompt(t, name)).input_ids for t in TEMPLATES] for name in names]
    seen = np.array(
        [[ids[row].index(list(rows[2 * size * epoch + row]["input_ids"])) for row in range(size)] for epoch in range(3)]
    )
    assert 0.25 < seen.mean() < 0.75 and (seen[0] != seen[1]).any()
    again = judging.encode(planned, "train")
    assert list(again[2 * size + 5]["input_ids"]) == list(rows[2 * size + 5]["input_ids"])
    for split in judging.JUDGED:
        labels = planned.data.splits[split]["label"]
        for row, label in zip(judging.encode(planned, split), labels, strict=True):
            first = prompt(TEMPLATES[0], planned.data.labels.names[label])
            assert list(row["input_ids"]) == tokenizer(first).input_ids
    assert rows.varies and not planned.recipe.task.augments, "no sheet of changed pictures is drawn"


def test_rows_of_one_class_are_no_negatives_whatever_their_templates(planned):
    """They share the id of their text, so the loss leaves them out."""
    rows = judging.encode(planned, "train")
    labels = planned.data.splits["train"]["label"]
    texts = [row["labels"][1] for row in rows]
    assert len(set(zip(texts, labels, strict=True))) == len(set(texts)) == len(set(labels)) == 3


def test_given_captions_stay_as_they_are(clip, pictures):
    made = hfadapt.plan(recipe(clip, {"path": str(pictures / "train/captions.csv")}, captions="given"))
    task = made.recipe.task
    assert not task.prompted and not task.varies and task.score("pairs") == "recall@1"
    assert made.settled["metric_for_best_model"] == "recall@1"


# Scores along the way


def test_classes_are_told_by_the_weights_of_the_moment(planned):
    """The tally is made long before it is filled: at the end of the evaluation before."""
    model, _ = planned.recipe.task.model(planned.source, planned.config)
    streamed = judging.along(planned)(model)
    with torch.no_grad():
        model.text_projection.weight.copy_(torch.randn_like(model.text_projection.weight))
    found = {
        name: np.random.default_rng(0).normal(size=(1, 16)).astype(np.float32) for name in planned.recipe.task.reads
    }
    row = planned.data.splits["validation"][0]
    streamed.add(found, np.array([[row["_image"], row["_text"]]]))
    now = judging.along(planned)(model)
    now.add(found, np.array([[row["_image"], row["_text"]]]))
    assert torch.equal(streamed.asked.classes, now.asked.classes)
    before, _ = planned.recipe.task.model(planned.source, planned.config)
    assert not torch.allclose(now.ask.func(before, *now.ask.args[1:]).classes, now.asked.classes, atol=1e-2)


def test_the_last_scores_of_training_are_those_of_the_model(run):
    log = [json.loads(line) for line in (run.path / "log.jsonl").read_text().splitlines()]
    seen = [event["scores"] for event in log if event["event"] == "evaluated"]
    assert len(seen) == 2
    for metric in ("zero_shot_accuracy", "zero_shot_f1_macro", "base_accuracy", "recall@1"):
        assert seen[-1][metric] == pytest.approx(value(run.scores["scores"], metric, "validation")), metric
    assert "new_accuracy" not in seen[-1] and "harmonic_mean" not in run.scores["scores"]["validation"]


def test_pairs_with_captions_are_told_by_class_only_where_that_is_asked_for(clip, pictures):
    captions = {split: str(pictures / split / "captions.csv") for split in ("train", "validation", "test")}
    data = {"path": captions.pop("train"), **captions, "label": "label"}
    named = recipe(clip, data)
    for metric, counted in (("recall@1", False), ("zero_shot_accuracy", True)):
        named.train["metric_for_best_model"] = metric
        made = hfadapt.plan(named)
        assert hasattr(judging.along(made)(None), "class_of") == counted


@pytest.mark.parametrize("metric", ["base_accuracy", "harmonic_mean"])
def test_a_score_that_validation_does_not_have_is_no_choice(metric, clip, tables):
    asked = recipe(clip, tables)
    asked.train["metric_for_best_model"] = metric
    with pytest.raises(HfadaptError, match=f"There is no metric '{metric}'"):
        hfadapt.plan(asked)


def test_a_divided_model_is_not_asked_for_classes(clip, tables):
    asked = recipe(clip, tables)
    asked.train["fsdp"] = True
    with pytest.raises(HfadaptError, match=r"takes the whole model, and here it is divided.*Choose recall@1"):
        hfadapt.plan(asked)


# What comes out


def test_what_is_left_answers_in_transformers_pipeline_as_it_was_scored(clip, tables, tmp_path):
    from transformers import CLIPModel, pipeline

    made = hfadapt.plan(recipe(clip, tables, templates=TEMPLATES[:1]))
    run = hfadapt.adapt(made, tmp_path / "run")
    assert type(CLIPModel.from_pretrained(run.model)) is CLIPModel
    ask, names = pipeline("zero-shot-image-classification", str(run.model), use_fast=False), made.data.labels.names
    spoken = {name.replace("_", " "): name for name in names}
    right = []
    for row in made.data.splits["test"]:
        answers = ask(row["image"]["path"], candidate_labels=list(spoken), hypothesis_template=TEMPLATES[0])
        right.append(spoken[answers[0]["label"]] == names[row["label"]])
    assert value(run.scores["scores"], "zero_shot_accuracy") == pytest.approx(np.mean(right))


def test_base_and_new_classes_are_judged_for_the_model_and_as_it_came(run, planned):
    """By the towers themselves, base pictures among base classes and new among new."""
    from transformers import CLIPModel

    new = [planned.data.labels.id_of[name] for name in planned.data.new]
    labels = np.array(planned.data.splits["test"]["label"])
    assert set(labels) == set(range(6)) and set(planned.data.splits["train"]["label"]) == set(range(6)) - set(new)
    for scores, folder in (
        (run.scores["scores"], run.model),
        (run.scores["baselines"]["zero-shot"], planned.source.path),
    ):
        asked = judging.zero_shot.ZeroShot(
            CLIPModel.from_pretrained(folder), planned.processor.tokenizer, planned.data.labels.names, TEMPLATES
        )
        pixels = torch.from_numpy(np.stack([row["pixel_values"] for row in judging.encode(planned, "test")]))
        logits, right = asked.logits(pixels).numpy(), []
        for found, label in zip(logits, labels, strict=True):
            rivals = new if label in new else [i for i in range(6) if i not in new]
            right.append(rivals[int(found[rivals].argmax())] == label)
        sides = [
            np.mean([r for r, i in zip(right, labels, strict=True) if (i in new) == side]) for side in (False, True)
        ]
        assert value(scores, "base_accuracy") == pytest.approx(sides[0])
        assert value(scores, "new_accuracy") == pytest.approx(sides[1])
        if all(sides):
            assert value(scores, "harmonic_mean") == pytest.approx(2 / (1 / sides[0] + 1 / sides[1]))
        assert scores["test"]["base_accuracy"]["low"] < scores["test"]["base_accuracy"]["high"]


def test_scoring_again_gives_the_runs_own_scores(run):
    again = {s: {m: v.as_dict() for m, v in metrics.items()} for s, metrics in hfadapt.score(run).items()}
    for split, metrics in run.scores["scores"].items():
        for metric, values in metrics.items():
            assert again[split][metric] == pytest.approx(values, abs=1e-6), metric


def test_adapters_are_told_by_class_along_the_way(clip, tables, tmp_path):
    adapted = hfadapt.adapt(hfadapt.plan(recipe(clip, tables, adapt="lora")), tmp_path / "run")
    assert "zero_shot_accuracy" in (adapted.path / "log.jsonl").read_text()
