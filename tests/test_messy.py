"""Inputs broken on purpose, and real data sets: what each of them must come to."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from hfadapt.data.inputs import read_inputs
from hfadapt.data.loading import Loaded, load
from hfadapt.errors import DataError
from hfadapt.recipe import Data
from hfadapt.tasks.image_classification import ImageClassification
from hfadapt.tasks.image_text_contrastive import ImageTextContrastive
from hfadapt.tasks.text_classification import TextClassification

TASK = TextClassification()
NUMBERS = TextClassification(problem_type="regression")
PICTURES = ImageClassification()
PAIRS = ImageTextContrastive()


@pytest.fixture(autouse=True)
def here(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run inside the folder of shared data, so that messages show short paths."""
    monkeypatch.chdir(shared)


def loaded(path: str, task=TASK, **options) -> Loaded:
    return load(Data(path=path, **options), task.roles, task.kind, seed=42)


def refused(path: str, task=TASK, **options) -> list[str]:
    with pytest.raises(DataError) as caught:
        loaded(path, task, **options)
    return str(caught.value).replace("messy/text/", "").splitlines()


def sizes(its: Loaded) -> list[int]:
    return [len(rows) for rows in its.splits.values()]


def texts(its: Loaded) -> dict[int, str]:
    """Line → text, of all splits of one file."""
    return {row["_line"]: row["text"] for rows in its.splits.values() for row in rows}


def findings(its: Loaded, word: str) -> list[tuple[str, int]]:
    return [(its.says, its.rows) for its in its.findings if word in its.says]


def test_missing_labels():
    lines = refused("messy/text/missing_labels.csv")
    assert lines[:10] == [f"missing_labels.csv:{n}: The label is missing." for n in range(2, 62, 6)]
    assert lines[10:] == ["data: 10 rows can't be used. Mend them, or leave them out: `data.on_bad_row: skip`."]
    its = loaded("messy/text/missing_labels.csv", on_bad_row="skip")
    assert sum(sizes(its)) == 50 and len(its.skipped) == 10 and its.labels.names == ("negative", "positive")


def test_wrong_column():
    lines = refused("messy/text/wrong_column")
    assert len(lines) == 2
    for role, line in zip(("label", "text"), sorted(lines), strict=True):
        assert line.startswith(f"wrong_column/test.csv: data.{role}: There is no column '{role}'.")
        assert "Columns found: 'sentence', 'category'." in line


def test_unseen_label():
    says = "The label 'neutral' is not among those of train: 'negative', 'positive'."
    lines = refused("messy/text/unseen_label")
    assert lines[:2] == [f"unseen_label/test.csv:{n}: {says}" for n in (5, 13)] and len(lines) == 3
    its = loaded("messy/text/unseen_label", on_bad_row="skip")
    assert len(its.splits["test"]) == 18 and [row.says for row in its.skipped] == [says, says]


def test_empty_text():
    its = loaded("messy/text/empty_text.csv")
    found = texts(its)
    assert len(found) == 30 and "nan" in found.values() and "NULL" in found.values() and "" in found.values()
    ((says, rows),) = findings(its, "blank")
    assert rows == 4 and "first at messy/text/empty_text.csv:" in says


def test_one_class():
    first, *others = refused("messy/text/one_class")
    assert "label 'positive'" in first and "nothing to learn" in first
    assert all("'negative' is not among those of train" in line for line in others[:-1])


def test_leakage():
    its = loaded("messy/text/leakage")
    ((says, rows),) = findings(its, "of test")
    assert rows == 16 and "Of 36 rows of test, 16 " in says and "8 exactly, 8 but for case" in says
    ((says, rows),) = findings(its, "repeated")
    assert rows == 5 and "5 rows of train" in says


def test_conflict():
    ((says, rows),) = findings(loaded("messy/text/conflict"), "different labels")
    assert rows == 12 and "6 texts" in says


@pytest.mark.parametrize(("name", "encoding"), [("non_utf8_cp1252.csv", "cp1252"), ("utf16.csv", "utf-16")])
def test_encodings(name, encoding):
    (line,) = refused(f"messy/text/{name}")
    assert line.startswith(f"{name}:") and "isn't utf-8" in line and f"`data.encoding: {encoding}`" in line
    its = loaded(f"messy/text/{name}", encoding=encoding)
    assert sum(sizes(its)) == 18
    assert {"Le café était déjà fermé – dommage!", "naïve façade, 5€ too much"} <= set(texts(its).values())


def test_bom():
    its = loaded("messy/text/bom.csv")
    assert its.columns["text"].name == "text" and sum(sizes(its)) == 20


def test_semicolon():
    (line,) = refused("messy/text/semicolon.csv")
    assert line.startswith("semicolon.csv:1: ") and "'text;label'" in line and "`data.separator: ';'`" in line
    assert sum(sizes(loaded("messy/text/semicolon.csv", separator=";"))) == 19


@pytest.mark.parametrize("on_bad_row", ["stop", "skip"])
def test_ragged(on_bad_row):
    lines = refused("messy/text/ragged.csv", on_bad_row=on_bad_row)
    assert lines[0].startswith("ragged.csv:8: A quote in this row is not closed") and "on line 9" in lines[0]
    if on_bad_row == "stop":
        assert lines[1] == "ragged.csv:5: The row has 4 fields; the header has 2."
    assert len(lines) == (3 if on_bad_row == "stop" else 1)


def test_no_rows():
    assert refused("messy/text/header_only.csv") == ["header_only.csv: There are no rows for train."]
    assert refused("messy/text/zero_byte.csv")[0].startswith("zero_byte.csv:1: The file is empty.")


def test_broken_line():
    lines = refused("messy/text/broken_line.jsonl")
    assert [line.split(": ")[0] for line in lines] == ["broken_line.jsonl:7", "broken_line.jsonl:13", "data"]
    assert "not JSON" in lines[0] and "found a list" in lines[1]
    its = loaded("messy/text/broken_line.jsonl", on_bad_row="skip")
    assert sorted(texts(its)) == [1, 2, 3, 4, 5, 6, 8, 9, 11, 12, 14, 15]


def test_mixed_types():
    assert refused("messy/text/mixed_types.jsonl")[:3] == [
        "mixed_types.jsonl:5: The label is a number, 1; in most rows it is a text.",
        "mixed_types.jsonl:8: The label is missing.",
        "mixed_types.jsonl:9: The text is a list.",
    ]
    its = loaded("messy/text/mixed_types.jsonl", on_bad_row="skip", validation=0.2, test=0.2)
    assert sorted(texts(its)) == [1, 2, 3, 4, 6, 7, 10]


def test_label_gaps():
    its = loaded("messy/text/label_gaps.csv")
    assert its.labels.names == ("0", "2", "5", "9")
    with open("messy/text/label_gaps.csv", encoding="utf-8", newline="") as file:
        written = {row["text"]: row["label"] for row in csv.DictReader(file)}
    for rows in its.splits.values():
        assert all(its.labels.names[row["label"]] == written[row["text"]] for row in rows)


def test_float_labels():
    assert refused("messy/text/float_labels.csv")[0] == "float_labels.csv:6: The label is missing."
    its = loaded("messy/text/float_labels.csv", on_bad_row="skip")
    assert its.labels.kind == "label" and its.labels.names == ("0.0", "1.0")


def test_label_variants():
    its = loaded("messy/text/label_variants.csv")
    found = findings(its, "look like one")
    assert len(found) == 2 and all("' positive'" in says or "' negative'" in says for says, _ in found)
    assert len(its.labels) == 10


def test_singleton_class():
    its = loaded("messy/text/singleton_class.csv")
    assert sizes(its) == [33, 4, 4] and list(its.splits["train"]["label"]).count(1) == 1
    assert findings(its, "fewer than 5 rows") and findings(its, "no row in test")


def test_tiny():
    lines = refused("messy/text/tiny.csv")
    assert [line.split(": ")[0] for line in lines] == ["data.validation", "data.test"]
    assert "3 rows" in lines[0] and "a larger share" in lines[0]


def test_long_text():
    its = loaded("messy/text/long_text.csv")
    found = [text for _, text in sorted(texts(its).items())]
    assert len(found) == 20 and len(found[1]) == 50_000 and found[1].isalpha() and len(found[2]) == 30_000


def test_unicode():
    with open("messy/text/unicode.csv", encoding="utf-8", newline="") as file:
        written = [row["text"] for row in csv.DictReader(file)]
    found = texts(loaded("messy/text/unicode.csv"))
    assert [found[line] for line in sorted(found)] == written and len(written) == 20


def test_imbalance():
    ((says, _),) = findings(loaded("messy/text/imbalance.csv"), "accuracy says little")
    assert "'negative'" in says and "f1_macro" in says


def test_regression_bad():
    columns = {"text": "sentence1", "text_pair": "sentence2", "label": "score"}
    path = "messy/pairs/regression_bad.csv"
    lines = refused(path, NUMBERS, **columns)
    assert [line.removeprefix(path) for line in lines[:5]] == [
        ":5: 'nan' is not a finite number.",
        ":6: 'inf' is not a finite number.",
        ":7: '3,5' is not a number; write a point for the comma.",
        ":8: 'high' is not a number.",
        ":11: The number is missing.",
    ]
    its = loaded(path, NUMBERS, **columns, on_bad_row="skip", validation=0.2, test=0.2)
    rows = {row["_line"]: row for split in its.splits.values() for row in split}
    assert sorted(rows) == [2, 3, 4, 9, 10] and rows[10]["label"] == -2.0
    assert rows[3]["text_pair"] == "" and rows[4]["text"] == ""
    assert [(its.rows, its.says.split(" is ")[0]) for its in its.findings] == [(1, "The text"), (1, "The text_pair")]


def test_bad_labels(tmp_path):
    path = "messy/multilabel/bad_labels.jsonl"
    lines = refused(path)
    assert [line.removeprefix(path) for line in lines[:3]] == [
        ":4: The labels are a text, 'joy'; expected a list of labels.",
        ":5: The labels are a text, 'joy|anger'; expected a list of labels.",
        ":6: The labels are missing; an empty list says that there are none.",
    ]
    other = tmp_path / "other.jsonl"
    other.write_text('{"text": "other", "labels": ["joy"]}\n')
    options = {"on_bad_row": "skip", "validation": str(other), "test": str(other)}
    its = loaded(path, **options)
    assert its.labels.names == ("amusement", "hmm", "joy")
    assert list(its.splits["train"]["label"]) == [[1, 0, 1], [0, 0, 0], [0, 0, 1], [0, 1, 0]]
    assert findings(its, "more than once") == [("A label is named more than once in 1 row; it counts once.", 1)]
    unknown = refused(path, labels=["joy", "amusement", "anger"])[3]
    assert unknown.startswith(f"{path}:7: The label 'hmm' is not among those of data.labels: 'joy', ")


@pytest.mark.parametrize(
    ("name", "task", "columns", "rows", "labels"),
    [
        ("uci_sentences", TASK, {}, [2079, 298, 595], 2),
        ("banking77", TASK, {}, [8954, 993, 3076], 77),
        ("goemotions", TASK, {}, [9000, 1000, 1500], 28),
        ("stsb", NUMBERS, {"text_pair": "sentence2"}, [5734, 1498, 1379], 1),
        ("snli_small", TASK, {"text_pair": "hypothesis"}, [8858, 984, 3000], 3),
    ],
)
def test_sound_data_sets(name, task, columns, rows, labels):
    its = loaded(name, task, **columns)
    assert sizes(its) == rows and len(its.labels) == labels and not its.skipped
    assert set(its.made.values()) == {"given"}
    assert not [its.says for its in its.findings if "repeated" not in its.says and "'relief'" not in its.says]


def test_labels_listed_in_parquet():
    assert loaded("snli_small", text_pair="hypothesis").labels.names == ("entailment", "neutral", "contradiction")


def test_scores_are_no_labels():
    (line,) = refused("stsb", text_pair="sentence2")
    assert "problem_type: regression" in line


@pytest.fixture
def index(shared: Path, tmp_path: Path) -> Path:
    """The list of messy pictures with paths in full, and what it says of each."""
    with (shared / "messy/images_index.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    path = tmp_path / "index.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "readable", "label"])
        writer.writerows(
            [(shared / "messy/images").resolve() / row["file"], row["readable"], row["label"]] for row in rows
        )
    return path


def test_messy_pictures(index):
    with index.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    bad = {f"{index}:{i}": row["file"] for i, row in enumerate(rows, 2) if row["readable"] == "no"}
    assert len(rows) == 29 and len(bad) == 7
    lines = refused(str(index), PICTURES)
    assert [tuple(line.split(": ")[:2]) for line in lines[:-1]] == list(bad.items())
    says = {Path(line.split(": ")[1]).name: line.split(": ", 2)[2] for line in lines[:-1]}
    assert says["zero_byte.jpg"] == "The file is empty." and "cut off" in says["truncated.jpg"]
    assert "3,600 million pixels" in says["bomb_header.png"] and "SVG" in says["vector.svg"]
    its = loaded(str(index), PICTURES, on_bad_row="skip")
    assert sum(sizes(its)) == 22 and [row.where for row in its.skipped] == list(bad)


def test_messy_pictures_are_predicted_from_but_for_those_that_break(index, tmp_path):
    with pytest.raises(DataError) as caught:
        read_inputs("messy/images", PICTURES.roles, Data(path="unused"))
    lines = str(caught.value).splitlines()
    # A vector drawing is not named like a picture, so the folder has six that break.
    assert len(lines) == 7 and lines[0].startswith("messy/images/bad_crc.png: The picture is damaged")
    for path in ("UPPER.JPG", "ünïcode 图 name.png", "png_named.jpg"):
        assert read_inputs(f"messy/images/{path}", PICTURES.roles, Data(path="unused")).files == (
            f"messy/images/{path}",
        )


def test_messy_class_folders(tmp_path):
    path = "messy/imagefolder"
    lines = refused(path, PICTURES)
    assert [line.removeprefix(path) for line in lines] == [
        "/train/paper/broken.jpg: The picture is cut off: its data end too early.",
        "/test/metal/0.jpg: The label 'metal' is not among those of train: 'Paper', 'glass', 'paper'.",
        "/test/metal/1.jpg: The label 'metal' is not among those of train: 'Paper', 'glass', 'paper'.",
        "data: 3 rows can't be used. Mend them, or leave them out: `data.on_bad_row: skip`.",
    ]
    its = loaded(path, PICTURES, on_bad_row="skip", validation=f"{path}/test")
    assert sizes(its) == [9, 2, 2] and its.labels.names == ("Paper", "glass", "paper") and len(its.skipped) == 5
    found = [its.says for its in its.findings]
    assert "1 picture of train lies outside the class folders and is left out: loose.jpg." in found
    assert "The class folder 'empty_class' of train holds no pictures." in found
    assert any("2 labels look like one: 'Paper', 'paper'" in says for says in found)


def test_messy_captions():
    path = "messy/captions"
    assert refused(path, PAIRS)[0] == f"{path}/metadata.csv:7: There is no picture '{path}/missing.jpg'."
    its = loaded(path, PAIRS, on_bad_row="skip", validation=0.3, test=0.3)
    rows = {row["_line"]: row | {"split": split} for split, part in its.splits.items() for row in part}
    assert sorted(rows) == [2, 3, 4, 5, 6, 8, 9, 10] and rows[4]["text"] == "" and len(rows[5]["text"].split()) == 400
    assert rows[10]["image"]["path"] == f"{path}/6.jpg" and rows[6]["text"] == "🗑️ déchets نفايات"
    assert rows[8]["_image"] == rows[9]["_image"] and rows[8]["split"] == rows[9]["split"]
    assert rows[2]["_text"] == rows[3]["_text"] and rows[2]["_image"] != rows[3]["_image"]
    assert {its.says.split(",")[0] for its in its.findings} == {
        f"1 picture of train is not in {path}/metadata.csv and is left out: 7.jpg.",
        "The text is empty or blank in 1 row",
        "1 caption of train stands under more than one picture; the loss does not count them as negatives.",
    }


@pytest.mark.parametrize(
    ("name", "rows", "labels"),
    [
        ("sign_digits", [1441, 207, 411], 10),
        ("mnist_folder", [400, 100, 200], 10),
        ("trashnet", [1767, 252, 505], 6),
        ("emoji_twemoji", [1305, 182, 393], 9),
    ],
)
def test_sound_pictures(name, rows, labels):
    its = loaded(name, PICTURES)
    assert sizes(its) == rows and len(its.labels) == labels and not its.skipped
    assert set(its.made.values()) == {"given"} and its.columns["image"].name == "image"
    assert not [its.says for its in its.findings if "can be found in" not in its.says and "repeated" not in its.says]


def test_sound_pairs():
    its = loaded("emoji_twemoji", PAIRS, label="label")
    assert sizes(its) == [1305, 182, 393] and its.labels.kind == "pairs" and len(its.labels) == 9
    assert its.columns["text"].name == "caption" and its.splits["test"][0]["text"] == "fork and knife with plate"
    every = [(row["_image"], row["_text"]) for part in its.splits.values() for row in part.remove_columns("image")]
    assert len(every) == len(set(every)) == 1880
