"""The whole way from a `data` section to datasets."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import datasets
import pytest

from hfadapt.data import bad_rows
from hfadapt.data.inputs import read_inputs
from hfadapt.data.loading import Loaded, load
from hfadapt.errors import DataError
from hfadapt.recipe import Data
from hfadapt.tasks.text_classification import TextClassification

TASK = TextClassification()
NUMBERS = TextClassification(problem_type="regression")


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def put(name: str, lines: list[str]) -> None:
    Path(name).parent.mkdir(exist_ok=True)
    Path(name).write_text("\n".join(lines) + "\n", encoding="utf-8")


def reviews(size: int, start: int = 0) -> list[str]:
    """Lines of a csv file, header first."""
    return ["text,label", *(f"text {i},{'yes' if i % 2 else 'no'}" for i in range(start, start + size))]


def loaded(path: str | list[str], task=TASK, *, seed: int = 42, known=None, **options) -> Loaded:
    return load(Data(path=path, **options), task.roles, task.kind, seed=seed, known_labels=known)


def refused(path: str | list[str], task=TASK, **options) -> list[str]:
    with pytest.raises(DataError) as caught:
        loaded(path, task, **options)
    return str(caught.value).splitlines()


def test_a_folder_with_all_splits():
    for split, start in (("train", 0), ("validation", 100), ("test", 200)):
        put(f"d/{split}.csv", reviews(20, start))
    its = loaded("d")
    assert {split: len(rows) for split, rows in its.splits.items()} == {"train": 20, "validation": 20, "test": 20}
    assert its.made == {"train": "given", "validation": "given", "test": "given"}
    assert its.files == ("d/train.csv", "d/validation.csv", "d/test.csv") and not its.findings and not its.skipped
    assert its.splits["test"][3] == {"text": "text 203", "label": 1, "_file": 2, "_line": 5}
    features = {name: feature.dtype for name, feature in its.splits["test"].features.items()}
    assert features == {"text": "string", "label": "int64", "_file": "int32", "_line": "int64"}
    assert list(features) == ["text", "label", "_file", "_line"]


def test_one_file_is_divided():
    put("a.csv", reviews(60))
    its = loaded("a.csv", validation=0.2)
    assert {split: len(rows) for split, rows in its.splits.items()} == {"train": 42, "validation": 12, "test": 6}
    assert its.made == {
        "train": "given, less validation and test",
        "validation": "20% of train, stratified, seed 42",
        "test": "10% of train, stratified, seed 42",
    }
    lines = [line for rows in its.splits.values() for line in rows["_line"]]
    assert sorted(lines) == list(range(2, 62))
    assert all(list(rows["_line"]) == sorted(rows["_line"]) for rows in its.splits.values())
    assert all(sum(rows["label"]) * 2 == len(rows) for rows in its.splits.values())
    assert loaded("a.csv", validation=0.2, seed=43).splits["test"]["_line"][:] != its.splits["test"]["_line"][:]


def test_texts_keep_to_their_labels():
    put("a.csv", reviews(60))
    for rows in loaded("a.csv").splits.values():
        assert all(row["label"] == int(row["text"].split()[1]) % 2 for row in rows)
        assert all(row["_line"] == int(row["text"].split()[1]) + 2 for row in rows)


def test_copies_but_for_case_are_not_torn_apart():
    put(
        "a.csv", ["text,label", *(f"{word} {i},{'xy'[i % 2]}" for i in range(30) for word in ("Text", "TEXT ", "text"))]
    )
    its = loaded("a.csv")
    numbers = {split: {text.split()[1] for text in rows["text"]} for split, rows in its.splits.items()}
    assert sum(len(its) for its in numbers.values()) == 30 and all(numbers.values())
    assert not [finding for finding in its.findings if "can be found" in finding.says]


def test_several_labels_are_lists_of_0_and_1():
    rows = [{"text": f"t{i}", "labels": ["c"] * (i % 2) + ["a", "b"][: i % 3]} for i in range(30)]
    put("a.jsonl", [json.dumps(row) for row in rows])
    its = loaded("a.jsonl")
    assert its.labels.kind == "labels" and its.labels.names == ("a", "b", "c") and len(its.labels) == 3
    assert its.splits["train"].features["label"] == datasets.List(datasets.Value("int8"))
    for split in its.splits.values():
        for row in split:
            wanted = rows[int(row["text"][1:])]["labels"]
            assert [name for name, on in zip("abc", row["label"], strict=True) if on] == sorted(wanted)


def test_numbers_of_pairs():
    lines = ["a,b,y", *(f"text {i},pair {i},{i / 2}" for i in range(20))]
    put("p.csv", lines)
    its = loaded("p.csv", NUMBERS, text="a", text_pair="b", label="y")
    assert its.labels.kind == "number" and len(its.labels) == 1 and its.made["test"] == "10% of train, seed 42"
    row = its.splits["validation"][0]
    assert row["label"] == row["_line"] / 2 - 1 and row["text_pair"] == f"pair {row['_line'] - 2}"
    assert its.splits["train"].features["label"].dtype == "float64"
    assert {role: column.origin for role, column in its.columns.items()} == dict.fromkeys(its.columns, "recipe")


def test_the_order_of_labels_can_be_given():
    put("a.csv", reviews(40))
    assert loaded("a.csv").labels.names == ("no", "yes")
    assert loaded("a.csv", labels=["yes", "no"]).labels.names == ("yes", "no")
    assert loaded("a.csv", known=["yes", "no"]).labels.names == ("yes", "no")


def test_labels_that_a_dataset_lists_keep_their_order(here):
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["z", "a"])})
    content = {"text": [f"t{i}" for i in range(40)], "label": [i % 2 for i in range(40)]}
    datasets.Dataset.from_dict(content, features=features).to_parquet(here / "a.parquet")
    its = loaded("a.parquet")
    assert its.labels.names == ("z", "a")
    assert its.splits["train"][0]["label"] == (its.splits["train"][0]["_line"] - 1) % 2


def test_a_split_without_labels_is_told_in_one_line(monkeypatch):
    # The test splits of GLUE: every label is -1.
    features = datasets.Features({"sentence": datasets.Value("string"), "label": datasets.ClassLabel(names=["n", "p"])})

    def rows(labels: list[int]) -> datasets.Dataset:
        texts = [f"{len(labels)} {i}" for i in range(len(labels))]
        return datasets.Dataset.from_dict({"sentence": texts, "label": labels}, features=features)

    given = datasets.DatasetDict({"train": rows([0, 1] * 20), "validation": rows([0, 1] * 5), "test": rows([-1] * 30)})
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **kwargs: given)
    (says,) = refused("nyu-mll/glue", name="sst2")
    assert says.startswith("data.test: In column 'label' no row of test has a value.") and "0.1" in says
    its = loaded("nyu-mll/glue", name="sst2", test=0.1)
    assert its.files == ("nyu-mll/glue/sst2 (train)", "nyu-mll/glue/sst2 (validation)") and len(its.splits["test"]) == 4


def test_bad_rows_stop_and_the_first_ten_are_listed():
    put("a.csv", [*reviews(40), *(f"more {i}," for i in range(14)), "ragged"])
    lines = refused("a.csv")
    assert lines[:10] == [f"a.csv:{42 + i}: The label is missing." for i in range(10)]
    assert lines[10] == "data: 5 other rows can't be used either. " + bad_rows.SKIP and len(lines) == 11


def test_one_bad_row_is_one():
    put("a.csv", [*reviews(40), "more,"])
    assert refused("a.csv")[1] == "data: 1 row can't be used. Mend it, or leave it out: `data.on_bad_row: skip`."


def test_bad_rows_of_all_sorts_come_in_the_order_of_the_files():
    put("d/train.csv", ["text,label", "a,x,1", "b,", *(f"t{i},{'xy'[i % 2]}" for i in range(20)), "only one"])
    put("d/test.csv", ["text,label", "a,x", "b,z"])
    lines = refused("d")
    assert [line.split(": ")[0] for line in lines] == [
        "d/train.csv:2",
        "d/train.csv:3",
        "d/train.csv:24",
        "d/test.csv:3",
        "data",
    ]
    its = loaded("d", on_bad_row="skip")
    assert [row.where for row in its.skipped] == [line.split(": ")[0] for line in lines[:-1]]
    assert [row.says for row in its.skipped] == [line.split(": ", 1)[1] for line in lines[:-1]]
    assert len(its.splits["test"]) == 1 and sum(len(rows) for rows in its.splits.values()) == 21


def test_bad_rows_of_several_files_of_a_split():
    put("a.csv", [*reviews(20), "late"])
    put("b.csv", ["text,label", "early", *reviews(20, 50)[1:], "x,"])
    assert [line.split(": ")[0] for line in refused(["b.csv", "a.csv"])] == ["b.csv:2", "b.csv:23", "a.csv:22", "data"]


def test_texts_that_are_no_texts_are_bad_rows():
    rows = [{"text": f"t{i}", "label": "xy"[i % 2]} for i in range(40)]
    odd = [None, 3, ["a"], {"a": 1}, "half \ud800"]
    put(
        "a.jsonl", [json.dumps(row) for row in [*rows, *({"text": text, "label": "x"} for text in odd), {"label": "y"}]]
    )
    lines = refused("a.jsonl")
    assert [line.split(": ", 1)[1] for line in lines[:-1]] == [
        "The text is missing.",
        "The text is a number.",
        "The text is a list.",
        "The text is an object.",
        "The text holds half of a character (a lone surrogate).",
        "The text is missing.",
    ]
    assert sum(len(split) for split in loaded("a.jsonl", on_bad_row="skip").splits.values()) == 40


def test_half_a_character_alone_is_a_bad_row():
    put("a.jsonl", [json.dumps({"text": f"é{i}" + "\ud800" * (i == 7), "label": "xy"[i % 2]}) for i in range(40)])
    assert refused("a.jsonl")[0] == "a.jsonl:8: The text holds half of a character (a lone surrogate)."


def test_too_many_bad_rows_are_not_left_out():
    put("d/train.csv", reviews(40))
    put("d/test.csv", ["text,label", "a,yes", "b,no", "c,", "d,", "e,"])
    lines = refused("d", on_bad_row="skip")
    assert lines[0].startswith("data.on_bad_row: 3 of 5 rows of test can't be used")
    assert lines[1:] == [f"d/test.csv:{i}: The label is missing." for i in (4, 5, 6)]
    put("d/test.csv", ["text,label", "a", "b"])
    assert "2 of 2 rows of test" in refused("d", on_bad_row="skip")[0]


def test_what_leaving_out_does_not_mend_comes_first():
    put("a.csv", [*reviews(40), "ragged", '"open,yes', "next,no"])
    lines = refused("a.csv")
    assert lines[0].startswith("a.csv:43: A quote opens") and lines[1].startswith("a.csv:42: The row has 1 fields")
    (line,) = refused("a.csv", on_bad_row="skip")
    assert line == lines[0]


def test_a_split_without_rows():
    put("d/train.csv", reviews(40))
    put("d/test.csv", ["text,label"])
    assert refused("d") == ["d/test.csv: There are no rows for test."]


def test_one_label_teaches_nothing():
    put("a.csv", ["text,label", *(f"t{i},yes" for i in range(40))])
    (line,) = refused("a.csv")
    assert line.startswith("data: Every usable row of train has the label 'yes': there is nothing to learn.")


def test_the_fingerprint_tells_what_was_learnt_from():
    put("a.csv", reviews(40))
    first = loaded("a.csv")
    same = [loaded("a.csv"), loaded("./a.csv")]
    put(
        "b.csv", ["label,other,text", *(",".join(["no" if i % 2 == 0 else "yes", "?", f"text {i}"]) for i in range(40))]
    )
    same.append(loaded("b.csv"))
    assert {its.fingerprint for its in same} == {first.fingerprint} and len(first.fingerprint) == 64
    put("c.csv", [*reviews(40)[:-1], "text 39 ,yes"])
    put("d.csv", [*reviews(40)[:-1], "text 39,no"])
    put("e.csv", [line.replace("yes", "oui") for line in reviews(40)])
    put("f.csv", [*reviews(40)[:-2], "text 38te,no", "xt 39,yes"])
    put("g.csv", [*reviews(40)[:-2], "text 38,no", "text 39,yes"])
    assert loaded("g.csv").fingerprint == first.fingerprint
    other = [
        loaded("c.csv"),
        loaded("f.csv", validation="a.csv", test="a.csv"),
        loaded("g.csv", validation="a.csv", test="a.csv"),
        loaded("d.csv"),
        loaded("e.csv"),
        loaded("a.csv", seed=1),
        loaded("a.csv", labels=["yes", "no"]),
    ]
    assert len({its.fingerprint for its in [first, *other]}) == 8


def test_another_process_makes_the_same(here):
    put("a.csv", reviews(40))
    its = loaded("a.csv")
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from hfadapt.data.loading import load; from hfadapt.recipe import Data\n"
        "from hfadapt.tasks.text_classification import TextClassification as Task\n"
        "its = load(Data(path='a.csv'), Task.roles, Task().kind, seed=42)\n"
        "print(its.fingerprint, list(its.splits['test']['_line']), {'torch', 'transformers'} & {*sys.modules})"
    )
    root = str(Path(__file__).parent.parent)
    done = subprocess.run([sys.executable, "-c", code, root], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"{its.fingerprint} {list(its.splits['test']['_line'])} set()"


def test_the_light_modules_import_nothing_heavy():
    code = (
        "import hfadapt.data.labels, hfadapt.data.text, sys\n"
        "print([m for m in ('numpy', 'pyarrow', 'datasets', 'xxhash', 'torch') if m in sys.modules])"
    )
    root = Path(__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert done.stdout.strip() == "[]"


def test_inputs_to_predict_from():
    put("p.csv", ["id,review", "1,first", '2,"se\ncond"', "3,"])
    found = read_inputs("p.csv", TASK.roles, Data(path="unused", text="review"))
    assert found.files == ("p.csv",) and found.rows == 3
    (rows,) = found.pieces(10)
    assert rows == {"text": ["first", "se\ncond", ""], "_file": [0, 0, 0], "_line": [2, 3, 5]}


def test_inputs_are_told_from_targets():
    put("p.csv", ["label,words", ",first", "whatever,second"])
    put("q.csv", ["words", "third"])
    found = read_inputs(["p.csv", "q.csv"], TASK.roles, Data(path="unused"))
    assert [(piece["text"], piece["_file"]) for piece in found.pieces(10)] == [
        (["first", "second"], [0, 0]),
        (["third"], [1]),
    ]
    assert found.files == ("p.csv", "q.csv") and found.rows == 3
    matched = read_inputs("[pq].csv", TASK.roles, Data(path="unused"))
    assert [text for piece in matched.pieces(10) for text in piece["text"]] == ["first", "second", "third"]


def test_inputs_come_in_pieces_from_any_place():
    """Over the borders of files and of what a table reads at a time."""
    put("p.csv", ["words", *(f"p{i}" for i in range(10_007))])
    put("q.csv", ["words", *(f"q{i}" for i in range(5))])
    found = read_inputs(["p.csv", "q.csv"], TASK.roles, Data(path="unused"))
    every = [f"p{i}" for i in range(10_007)] + [f"q{i}" for i in range(5)]
    for most, start in ((1000, 0), (1000, 999), (3, 10_006), (20_000, 0), (7, 10_011), (7, 10_012)):
        pieces = list(found.pieces(most, start))
        assert [text for piece in pieces for text in piece["text"]] == every[start:], (most, start)
        assert all(0 < len(piece["text"]) <= most for piece in pieces)
    before = found.stamp()
    assert read_inputs(["p.csv", "q.csv"], TASK.roles, Data(path="unused")).stamp() == before
    put("q.csv", ["words", *(f"q{i}" for i in range(4)), "Q4"])
    changed = read_inputs(["p.csv", "q.csv"], TASK.roles, Data(path="unused")).stamp()
    assert changed["bytes"] == before["bytes"] and changed != before


def test_inputs_that_can_not_be_read():
    data = Data(path="unused", text_pair="b", on_bad_row="skip")
    put("p.jsonl", ['{"text": "a", "b": "c"}', '{"text": "a"}', "{"])
    put("q.csv", ["text,b"])
    put("r.csv", ["text", "x"])
    for name, words in (
        ("p.jsonl", ["p.jsonl:2: The text_pair is missing.", "p.jsonl:3: ", "take them out of the file"]),
        ("q.csv", ["q.csv: There are no rows to predict from."]),
        ("r.csv", ["data.text_pair: There is no column 'b' in 'r.csv'."]),
        ("s.csv", ["There is no file or folder 's.csv'. Did you mean 'r.csv'?"]),
    ):
        with pytest.raises(DataError) as caught:
            read_inputs(name, TASK.roles, data)
        assert all(word in str(caught.value) for word in words), str(caught.value)


def test_a_hundred_thousand_rows_take_seconds(here):
    import time

    put("big.csv", reviews(100_000))
    start = time.process_time()
    assert len(loaded("big.csv").splits["train"]) == 80_000
    assert time.process_time() - start < 10
