"""Runs on pictures: what they leave, scored again, asked for answers by folder, picture and table."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import hfadapt
from hfadapt.cli import main
from hfadapt.errors import HfadaptError
from hfadapt.recipe import Recipe

DRAWS = True
"""Its charts are drawn."""

KINDS = ("single", "multi", "pairs")


@pytest.fixture(scope="module")
def tagged(pictures, tmp_path_factory):
    """A csv of the training pictures with one or two tags each."""
    path = tmp_path_factory.mktemp("tags") / "tags.csv"
    with (pictures / "train/captions.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    lines = [f"{pictures / 'train' / row['file']},{row['label']}|{row['text'].split()[1]}" for row in rows[2:]]
    path.write_text("\n".join(["image,tags", *lines]) + "\n")
    return path


@pytest.fixture(scope="module")
def runs(backbone, pictures, tagged, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    tables = {split: str(pictures / split / "captions.csv") for split in ("train", "validation", "test")}
    data = {
        "single": {"path": str(pictures)},
        "multi": {"path": str(tagged), "label": "tags", "label_separator": "|", "validation": 0.2, "test": 0.2},
        "pairs": {"image": "file", "text": "text", "label": "label", **tables, "path": tables["train"]},
    }
    data["pairs"].pop("train")
    augment = {"flip": "horizontal", "rotate": 10}
    made = {}
    for kind in KINDS:
        task = {"type": "image-text-contrastive" if kind == "pairs" else "image-classification", "augment": augment}
        recipe = Recipe(
            task=task,
            model=str(backbone("clip" if kind == "pairs" else "vit")),
            data=data[kind],
            train={"max_steps": 4, "learning_rate": 1e-3},
        )
        made[kind] = hfadapt.adapt(hfadapt.plan(recipe), folder / kind)
    return made


@pytest.fixture(scope="module")
def paths(pictures):
    return sorted(str(path) for path in (pictures / "test").rglob("*.png"))


# Answers


@pytest.mark.parametrize("kind", ["single", "multi"])
def test_answers_are_those_of_transformers_pipeline(kind, runs, paths, pictures):
    from transformers import pipeline

    ours = list(hfadapt.predict(runs[kind], pictures / "test"))
    theirs = pipeline("image-classification", str(runs[kind].model), use_fast=False)(paths, top_k=None)
    assert [answer["image"] for answer in ours] == paths and next(iter(ours[0])) == "image"
    for answer, each in zip(ours, theirs, strict=True):
        wanted = {one["label"]: one["score"] for one in each}
        if kind == "single":
            assert answer["probability"] == pytest.approx(max(wanted.values()), abs=1e-5)
            assert wanted[answer["label"]] == max(wanted.values())
        else:
            assert answer["probabilities"] == pytest.approx(wanted, abs=1e-5)
            assert answer["labels"] == [name for name in answer["probabilities"] if wanted[name] >= 0.5]
    chances = [next(iter(one["score"] for one in each if one["label"] == theirs[0][0]["label"])) for each in theirs]
    assert np.std(chances) > 1e-5, "pictures that all look alike would prove nothing"


def test_a_picture_is_answered_alike_wherever_it_is_named(runs, paths, tmp_path):
    """In a folder, alone, in a table of paths, of bytes; a table's answers stand in its order and need no names."""
    run, by_folder = runs["single"], {}
    for part in {path.rpartition("/")[0] for path in paths}:
        by_folder |= {answer.pop("image"): answer for answer in hfadapt.predict(run, part)}
    assert sorted(by_folder) == paths
    for path in paths[:2]:
        assert list(hfadapt.predict(run, path)) == [{"image": path, **approximately(by_folder[path])}]
    turned = paths[::-1]
    (tmp_path / "t.csv").write_text("\n".join(["file,label", *(f"{path}," for path in turned)]) + "\n")
    cells = [{"bytes": Path(path).read_bytes(), "path": None} for path in turned]
    pq.write_table(pa.table({"image": cells}), tmp_path / "t.parquet")
    pq.write_table(pa.table({"image": [cell["bytes"] for cell in cells]}), tmp_path / "u.parquet")
    wanted = [approximately(by_folder[path]) for path in turned]
    for name in ("t.csv", "t.parquet", "u.parquet"):
        assert list(hfadapt.predict(run, tmp_path / name)) == wanted, name


def approximately(answer: dict) -> dict:
    return answer | {"probability": pytest.approx(answer["probability"], abs=1e-6)}


def test_how_alike_pictures_and_texts_are(runs, pictures, tmp_path):
    """As the two towers say, for each row by itself: the order of the rows is no matter."""
    import torch
    from transformers import AutoProcessor, CLIPModel

    run, table = runs["pairs"], pictures / "test/captions.csv"
    with table.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    found = [answer["similarity"] for answer in hfadapt.predict(run, table)]
    model, processor = CLIPModel.from_pretrained(run.model).eval(), AutoProcessor.from_pretrained(run.model)
    for row, similarity in zip(rows, found, strict=True):
        picture = Image.open(pictures / "test" / row["file"])
        inputs = processor(text=[row["text"]], images=[picture], return_tensors="pt")
        with torch.no_grad():
            outputs = model(**inputs)
        cosine = (outputs.image_embeds * outputs.text_embeds).sum()
        assert similarity == pytest.approx(cosine.item(), abs=1e-4)
    assert np.std(found) > 1e-4
    for given in (pictures / "test", pictures / "test/round/0.png"):
        with pytest.raises(
            HfadaptError, match=r"needs a text beside each picture.*Give a table with the columns 'file'"
        ):
            list(hfadapt.predict(run, given))


def test_a_broken_picture_is_told_and_nothing_is_answered(runs, tmp_path, paths):
    (tmp_path / "d").mkdir()
    (tmp_path / "d/a.png").write_bytes(Path(paths[0]).read_bytes())
    (tmp_path / "d/b.png").write_bytes(Path(paths[0]).read_bytes()[:60])
    with pytest.raises(HfadaptError, match=r"d/b\.png: The picture is"):
        list(hfadapt.predict(runs["single"], tmp_path / "d"))


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_a_person_can_tell_which_answer_belongs_to_which_picture(ending, runs, pictures, paths, tmp_path, capsys):
    out = tmp_path / f"answers.{ending}"
    with pytest.raises(SystemExit) as ended:
        main(["predict", str(runs["single"].path), str(pictures / "test"), "--out", str(out)])
    assert ended.value.code == 0 and "8 rows answered" in capsys.readouterr().out
    with out.open(encoding="utf-8") as file:
        answers = list(csv.DictReader(file)) if ending == "csv" else [json.loads(line) for line in file]
    assert [list(answer) for answer in answers] == [["image", "label", "probability"]] * 8
    assert [answer["image"] for answer in answers] == paths


def test_several_labels_in_a_csv(runs, pictures, tmp_path):
    out = tmp_path / "answers.csv"
    with pytest.raises(SystemExit):
        main(["predict", str(runs["multi"].path), str(pictures / "test"), "--out", str(out)])
    with out.open(encoding="utf-8") as file:
        (head, *rows) = list(csv.reader(file))
    assert head == ["image", "labels", "angular", "blue", "green", "red", "round"] and len(rows) == 8


# Scores


@pytest.mark.parametrize("kind", KINDS)
def test_scoring_again_gives_the_runs_own_scores(kind, runs):
    again = {s: {m: v.as_dict() for m, v in metrics.items()} for s, metrics in hfadapt.score(runs[kind]).items()}
    assert set(again) == {"validation", "test"}
    for split, metrics in runs[kind].scores["scores"].items():
        assert len(metrics) > 4
        for metric, values in metrics.items():
            assert again[split][metric] == pytest.approx(values, abs=1e-3), metric


def test_scoring_another_folder(runs, pictures, paths, tmp_path):
    """Some of its pictures are those of the test split, under their own labels; others are refused with their names."""
    other = tmp_path / "other"
    for path in paths[:5]:
        place = other / path.split("/")[-2]
        place.mkdir(parents=True, exist_ok=True)
        (place / path.rpartition("/")[2]).write_bytes(Path(path).read_bytes())
    found = hfadapt.score(runs["single"], [f"data.test={other}"])["test"]["accuracy"]
    wanted = [a["label"] == a["image"].split("/")[-2] for a in hfadapt.predict(runs["single"], other)]
    assert found.rows == 5 and found.value == pytest.approx(np.mean(wanted))
    (other / "triangular").mkdir()
    Image.new("RGB", (20, 20), (1, 2, 3)).save(other / "triangular/x.png")
    with pytest.raises(HfadaptError, match=r"triangular/x\.png: The label 'triangular' is not among"):
        hfadapt.score(runs["single"], [f"data.test={other}"])


# What a run leaves


def test_the_pictures_of_a_run(runs):
    """They open, are of a size that a person can look at, and are not of one colour."""
    kept = {"single": {"confusion", "mistakes", "augmented"}, "multi": {"augmented"}, "pairs": {"augmented"}}
    for kind, names in kept.items():
        found = {path.stem for path in runs[kind].path.glob("*.png")} - {"training"}
        wrong = runs[kind].scores["scores"]["test"].get("accuracy", {}).get("value", 0) < 1
        assert found == names - (set() if wrong else {"mistakes"}), kind
        for name in found:
            picture = Image.open(runs[kind].path / f"{name}.png").convert("RGB")
            assert picture.format is None or picture.format == "PNG"
            assert 300 <= picture.width <= 4000 and 200 <= picture.height <= 4000, (kind, name, picture.size)
            assert np.asarray(picture).std() > 5


def test_nothing_that_is_left_tells_of_this_machine(runs):
    for run in runs.values():
        for path in [run.path / "README.md", *run.model.glob("*.json")]:
            assert "/tmp/" not in path.read_text(encoding="utf-8").replace(str(run.recipe.data.path), ""), path
