"""Captions made of the names of classes, and classes that are held out of training, as the rows are read."""

from __future__ import annotations

import json

import pytest
from test_data_pictures import lines, put, three_splits

from hfadapt.data.loading import Loaded, load
from hfadapt.errors import DataError
from hfadapt.recipe import Recipe

NOTE = "No column is named like captions, so each is 'a photo of a {}.' around the name of a class."
NAME_IT = "If a column holds captions, name it: `data.text: COLUMN`."


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def loaded(data: dict, seed: int = 42, **task) -> Loaded:
    recipe = Recipe(task={"type": "image-text-contrastive", **task}, model="m", data=data)
    its = recipe.task
    return load(recipe.data, its.roles, its.kind, seed=seed, prompts=its.prompts)


def refused(data: dict, **task) -> list[str]:
    with pytest.raises(DataError) as caught:
        loaded(data, **task)
    return str(caught.value).splitlines()


def table(name: str, classes: list[str], size: int = 5, **columns: str) -> None:
    """`size` pictures of each class; columns: name → a template around the number of the row."""
    rows = []
    for i in range(len(classes) * size):
        row = {"file": put(f"{name}/{i}.png", sum(map(ord, name)) + i), "label": classes[i % len(classes)]}
        rows.append(row | {column: template.format(i) for column, template in columns.items()})
    lines(f"{name}.jsonl", *map(json.dumps, rows))


FOUR = ["ant", "bee", "cat_fish", "dog"]


# Captions


def test_class_folders_are_captioned_with_their_names():
    three_splits()
    its = loaded({"path": "d"})
    assert its.prompted and its.labels.kind == "pairs" and its.labels.names == ("cat", "dog")
    assert {role: column.name for role, column in its.columns.items()} == {"image": "image", "label": "label"}
    ids: dict[str, set[int]] = {}
    for rows in its.splits.values():
        assert rows.column_names == ["image", "text", "label", "_file", "_line", "_image", "_text"]
        for row in rows:
            name = row["image"]["path"].split("/")[-2]
            assert row["text"] == f"a photo of a {name}." and its.labels.names[row["label"]] == name
            ids.setdefault(name, set()).add(row["_text"])
    assert [len(found) for found in ids.values()] == [1, 1] and ids["cat"] != ids["dog"]
    said = [finding.says for finding in its.findings]
    assert said[0] == f"{NOTE} {NAME_IT}" and not any("stand" in says for says in said)


def test_the_note_tells_of_drawn_templates_and_what_the_recipe_says_needs_none():
    three_splits()
    its = loaded({"path": "d"}, templates=["a {}", "the {}"])
    assert "one of 2 templates is drawn" in its.findings[0].says
    assert its.splits["train"][0]["text"] == "a cat", "rows stand under the first"
    assert not any("captions" in its.says for its in loaded({"path": "d"}, captions="classes").findings)


def test_a_name_is_written_as_it_is_asked_for():
    table("t", FOUR)
    its = loaded({"path": "t.jsonl"})
    assert {row["text"] for row in its.splits["train"]} == {
        f"a photo of a {n}." for n in ("ant", "bee", "cat fish", "dog")
    }


@pytest.mark.parametrize(
    ("columns", "named", "captions", "prompted"),
    [
        ({}, {}, None, True),
        ({"note": "n{}"}, {}, None, True),
        ({"note": "n{}"}, {"text": "note"}, None, False),
        ({"caption": "c{}"}, {}, None, False),
        ({"caption": "c{}"}, {"label": "label"}, None, False),
        ({"caption": "c{}"}, {}, "classes", True),
        ({"note": "n{}"}, {"text": "note"}, "given", False),
    ],
)
def test_when_captions_are_made(columns, named, captions, prompted):
    table("t", FOUR, **columns)
    its = loaded({"path": "t.jsonl", **named}, captions=captions)
    assert its.prompted == prompted
    assert its.splits["train"][0]["text"].startswith("a photo of" if prompted else ("c", "n"))


def test_texts_and_made_captions_do_not_go_together():
    table("t", FOUR, caption="c{}")
    assert refused({"path": "t.jsonl", "text": "caption"}, captions="classes") == [
        "data.text: The captions are made of the classes, so no column of texts is read. "
        "Remove it, or `captions: classes`."
    ]


def test_a_row_without_a_class_has_no_caption():
    table("t", FOUR)
    path = put("lost.png", 999)
    with open("t.jsonl", "a") as file:
        file.write(json.dumps({"file": path, "label": None}) + "\n")
    assert refused({"path": "t.jsonl"})[0] == "t.jsonl:21: The label is missing."
    skipped = loaded({"path": "t.jsonl", "on_bad_row": "skip"})
    assert len(skipped.skipped) == 1 and all(row["label"] >= 0 for rows in skipped.splits.values() for row in rows)


def test_one_class_gives_nothing_to_contrast():
    table("t", ["ant"], size=20)
    assert "Every usable row of train has the label 'ant'" in refused({"path": "t.jsonl"})[0]


def test_no_column_of_classes_is_told():
    lines("t.csv", "file", *(put(f"{i}.png", i) for i in range(12)))
    assert "No column is clearly the text" in refused({"path": "t.csv"})[0]
    assert "No column is clearly the label" in refused({"path": "t.csv"}, captions="classes")[0]


def test_the_captions_count_for_the_fingerprint():
    three_splits()
    one, same, other = (loaded({"path": "d"}, templates=[t]) for t in ("a {}", "a {}", "the {}"))
    assert one.fingerprint == same.fingerprint != other.fingerprint


# New classes


def counted(its: Loaded) -> dict[str, set[str]]:
    return {split: {its.labels.names[i] for i in rows["label"]} for split, rows in its.splits.items()}


@pytest.mark.parametrize(
    ("new", "held"),
    [(0.5, ["cat_fish", "dog"]), (["dog", "ant"], ["ant", "dog"]), (0.6, ["cat_fish", "dog"])],
)
def test_new_classes_are_tested_only(new, held):
    table("t", FOUR, size=20)
    its = loaded({"path": "t.jsonl"}, new_classes=new)
    base = set(FOUR) - set(held)
    assert its.new == tuple(held) and its.labels.names == tuple(FOUR)
    assert counted(its) == {"train": base, "validation": base, "test": set(FOUR)}
    assert its.made["train"] == "given, less validation and test, base classes only"
    assert its.made["test"] == "10% of train, stratified, seed 42"
    assert [len(rows) for rows in its.splits.values()] == [32, 4, 8]


def test_the_base_classes_are_the_first_half_rounded_up():
    names = [f"c{i:02}" for i in range(7)]
    table("t", names, size=10)
    assert loaded({"path": "t.jsonl"}, new_classes=0.5).new == ("c04", "c05", "c06")


def test_pairs_with_captions_may_hold_classes_out_too():
    """Rows without a class could be of a new one."""
    table("t", [*FOUR, None], size=20, caption="c{}")
    its = loaded({"path": "t.jsonl", "label": "label"}, new_classes=0.5)
    assert not its.prompted and -1 not in its.splits["train"]["label"]
    assert -1 in its.splits["test"]["label"]


@pytest.mark.parametrize(
    ("new", "says"),
    [
        (["dog", "owl", "bea"], "task.new_classes: There is no class 'owl'."),
        (
            0.3,
            "task.new_classes: Of 4 classes 1 would be new and 3 base. Leave at least 2 on either side.",
        ),
        (["ant", "bee", "dog"], "task.new_classes: Of 4 classes 3 would be new and 1 base. "),
    ],
)
def test_new_classes_that_are_refused(new, says):
    table("t", FOUR)
    found = refused({"path": "t.jsonl"}, new_classes=new)
    assert found[0].startswith(says)
    if "bea" in str(new):
        assert found[1] == "task.new_classes: There is no class 'bea'. Did you mean 'bee'?"


def test_new_classes_need_labels_and_rows():
    lines("p.csv", "file,caption", *(f"{put(f'{i}.png', i)},c{i}" for i in range(20)))
    assert "No column is clearly the label" in refused({"path": "p.csv"}, new_classes=0.5)[0]
    table("t", FOUR)
    table("u", FOUR[:2])
    assert refused({"path": "t.jsonl", "test": "u.jsonl"}, new_classes=0.5) == [
        "task.new_classes: With these new classes test has no row of a new class."
    ]
    assert refused({"path": "t.jsonl", "validation": 0.4, "test": "u.jsonl"}, new_classes=["ant", "bee"]) == [
        "task.new_classes: With these new classes test has no row of a base class."
    ]
