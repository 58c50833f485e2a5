"""What `data.path` means, and which rows train, validate and test."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import datasets
import pytest

from hfadapt.data import local, sources, splits
from hfadapt.errors import DataError
from hfadapt.recipe import Data


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def put(*names: str) -> None:
    for name in names:
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("text,label\na,b\n")


def found(path: str | list[str], **options) -> dict[str, list[str]]:
    source = sources.find(Data(path=path, **options))
    return {split: [table.shown for table in tables] for split, tables in source.splits.items()}


def chosen(path: str = "d", **options) -> tuple[dict[str, list[str]], dict[str, float]]:
    data = Data(path=path, **options)
    its = splits.choose(data, sources.find(data))
    return {split: [table.shown for table in tables] for split, tables in its.given.items()}, its.shares


def refused(path: str | list[str] = "d", **options) -> str:
    with pytest.raises(DataError) as caught:
        chosen(path, **options)
    return str(caught.value)


def test_one_file_trains_whatever_its_name():
    put("test.csv")
    assert found("test.csv") == {"train": ["test.csv"]}
    assert found(["test.csv"]) == {"train": ["test.csv"]}


def test_a_folder_with_a_file_per_split():
    put("d/train.csv", "d/dev.csv", "d/test.csv", "d/labels.json", "d/notes.txt", "d/trainer.csv", "d/.train.csv")
    assert found("d") == {"train": ["d/train.csv"], "validation": ["d/dev.csv"], "test": ["d/test.csv"]}
    assert found("d/") == found("d")


@pytest.mark.parametrize("name", ["training", "train", "Train-v2", "TRAIN_full", "train.en"])
@pytest.mark.parametrize("suffix", ["csv", "tsv", "json", "jsonl", "ndjson", "parquet", "CSV"])
def test_names_and_suffixes_of_a_split(name, suffix):
    put(f"d/{name}.{suffix}", f"d/other.{suffix}")
    assert found("d") == {"train": [f"d/{name}.{suffix}"]}


@pytest.mark.parametrize("name", ["validation", "valid", "val", "dev"])
def test_names_of_the_validation_split(name):
    put("d/train.csv", f"d/{name}.csv")
    assert chosen()[0]["validation"] == [f"d/{name}.csv"]
    assert chosen(validation=name)[0]["validation"] == [f"d/{name}.csv"]


def test_shards_come_in_order():
    names = [f"d/train-0000{i}-of-00003.parquet" for i in range(3)]
    put(*reversed(names), "d/test-00000-of-00001.parquet")
    assert found("d")["train"] == names


def test_sub_folders_are_splits():
    put("d/train/b.csv", "d/train/a.csv", "d/val/x.csv", "d/images/train.csv")
    assert found("d") == {"train": ["d/train/a.csv", "d/train/b.csv"], "validation": ["d/val/x.csv"]}


def test_a_folder_with_one_file_of_another_name():
    put("d/reviews.csv")
    assert found("d") == {"train": ["d/reviews.csv"]}


def test_a_folder_whose_files_say_no_split():
    put("d/reviews.csv", "d/more.csv")
    says = refused()
    assert says.startswith("d: ") and "'more.csv', 'reviews.csv'" in says


def test_an_empty_folder():
    Path("d").mkdir()
    assert "no data files" in refused()


def test_the_same_split_in_two_formats_is_not_read_twice():
    put("d/train.csv", "d/train.jsonl")
    assert "'.csv', '.jsonl'" in refused()


def test_a_glob_and_a_list():
    put("d/a.csv", "d/b.csv", "d/deep/c.csv")
    assert found("d/*.csv") == {"train": ["d/a.csv", "d/b.csv"]}
    assert found("d/**/*.csv") == {"train": ["d/a.csv", "d/b.csv", "d/deep/c.csv"]}
    assert found(["d/b.csv", "d/*.csv"]) == {"train": ["d/b.csv", "d/a.csv"]}


def test_a_glob_over_files_named_after_splits():
    put("d/train.csv", "d/test.csv")
    assert found("d/*.csv") == {"train": ["d/train.csv"], "test": ["d/test.csv"]}
    put("d/more.csv")
    assert "others are not: 'd/more.csv'" in refused("d/*.csv")


def test_a_name_with_brackets_is_a_name():
    put("d[1].csv")
    assert found("d[1].csv") == {"train": ["d[1].csv"]}


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("d/trian.csv", ["no file or folder 'd/trian.csv'", "Did you mean 'train.csv'?"]),
        ("./d/x", ["no file or folder './d/x'", "There are: 'test.csv', 'train.csv'."]),
        ("nowhere/train.csv", ["'nowhere/train.csv'", "nor a folder 'nowhere'"]),
        ("d/*.tsv", ["No file matches 'd/*.tsv'"]),
        ("a/b/c", ["'a/b/c'"]),
        (["d/train.csv", "d/tset.csv"], ["'d/tset.csv'", "Did you mean 'test.csv'?"]),
        (["d"], ["'d' is a folder"]),
    ],
)
def test_what_is_not_there_is_named_with_what_is_near(path, words):
    put("d/train.csv", "d/test.csv")
    says = refused(path)
    assert says.startswith("data.path: ") and all(word in says for word in words)


@pytest.mark.parametrize("path", ["./" + "x" * 300, "x" * 300 + ".csv", "*" + "x" * 300, "d/" + "x" * 300 + "/a.csv"])
def test_a_path_too_long_for_the_system_is_told_like_one_that_is_not_there(path):
    put("d/train.csv")
    assert refused(path).startswith("data.path: ") and path in refused([path])
    assert path[:60] in refused(train="train", test=path)


def test_a_home_folder(monkeypatch, here):
    monkeypatch.setenv("HOME", str(here))
    put("mine.csv")
    assert found("~/mine.csv") == {"train": ["~/mine.csv"]}
    assert "'~nobody-at-all/x.csv'" in refused("~nobody-at-all/x.csv")


def test_a_file_here_has_no_configuration():
    put("d/train.csv")
    assert refused(name="sst2", revision="main").count("Only a dataset on the Hub") == 2


def test_built_in_files():
    its = found("builtin/reviews")
    assert its == {split: [f"builtin/reviews/{split}.csv"] for split in ("train", "validation", "test")}
    assert "Did you mean 'reviews'?" in refused("builtin/review")


def test_built_in_rows_made_by_a_function(monkeypatch, here):
    (here / "two_words.py").write_text("")
    module = ModuleType("hfadapt.builtin.two_words")
    vars(module)["make"] = lambda: {"train": {"text": ["a", "b"], "label": [0, 1]}, "test": {"text": [], "label": []}}
    monkeypatch.setitem(sys.modules, "hfadapt.builtin.two_words", module)
    monkeypatch.setattr(sources, "BUILTIN", here)
    source = sources.find(Data(path="builtin/two-words"))
    assert list(source.splits) == ["train", "test"]
    (batch,) = source.splits["train"][0].batches(["label", "text"], [])
    assert batch == (range(1, 3), [[0, 1], ["a", "b"]])


def test_a_dataset_of_the_hub(monkeypatch):
    asked = []

    def load_dataset(path, name, revision):
        asked.append((path, name, revision))
        rows = datasets.Dataset.from_dict({"text": ["a", "b", "c"]})
        return datasets.DatasetDict({"train": rows, "validation_matched": rows.select([2, 0])})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    given, shares = chosen("nyu-mll/glue", name="mnli", revision="abc", validation="validation_matched")
    assert asked == [("nyu-mll/glue", "mnli", "abc")]
    assert given == {"train": ["nyu-mll/glue/mnli (train)"], "validation": ["nyu-mll/glue/mnli (validation_matched)"]}
    assert shares == {"test": 0.1}
    tables = sources.find(Data(path="nyu-mll/glue", name="mnli")).splits["validation_matched"]
    assert next(tables[0].batches(["text"], [])).values == [["c", "a"]]
    assert "Did you mean 'validation_matched'?" in refused("nyu-mll/glue", validation="validation_matchd")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ConnectionError("Couldn't reach 'a/b' on the Hub (X)"), ["Couldn't reach", "HF_HUB_OFFLINE"]),
        (datasets.exceptions.DatasetNotFoundError("Dataset 'a/b' doesn't exist."), ["doesn't exist", "revision"]),
        (datasets.exceptions.DatasetNotFoundError("Dataset 'a/b' is a gated dataset."), ["gated", "hf auth login"]),
        (RuntimeError("Dataset scripts are no longer supported, but found b.py"), ["scripts", "parquet"]),
        (ValueError("Config name is missing.\nPlease pick one: ['x']"), ["data.name", "['x']"]),
        (ValueError("Something\nelse"), ["Something else", "'./'"]),
    ],
)
def test_a_dataset_that_does_not_come_is_one_sentence(monkeypatch, error, words):
    def load_dataset(*args, **kwargs):
        raise error

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    says = refused("a/b")
    assert says.startswith("data.") and "\n" not in says and all(word in says for word in ["'a/b'", *words])
    with pytest.raises(DataError) as caught:
        found("a/b")
    assert caught.value.__cause__ is error


def test_the_cause_of_a_dataset_that_does_not_parse_is_told(monkeypatch):
    def load_dataset(*args, **kwargs):
        raise RuntimeError("An error occurred while generating the dataset") from ValueError("line 3, saw 4")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert "line 3, saw 4" in refused("a/b") and "generating" not in refused("a/b")


def test_no_network_is_one_sentence():
    # conftest sets HF_HUB_OFFLINE.
    assert "HF_HUB_OFFLINE" in refused("nobody/nothing")


def test_splits_that_the_source_has_are_used():
    put("d/train.csv", "d/validation.csv")
    given, shares = chosen()
    assert list(given) == ["train", "validation"] and shares == {"test": 0.1}


def test_shares_files_and_other_splits():
    put("d/train.csv", "d/validation.csv", "d/test.csv", "more/x.csv", "more/y.csv")
    assert chosen(validation=0.2)[1] == {"validation": 0.2}
    assert chosen(test="more/*.csv")[0]["test"] == ["more/x.csv", "more/y.csv"]
    assert chosen(test=["more/y.csv", "more/x.csv"])[0]["test"] == ["more/y.csv", "more/x.csv"]
    given, shares = chosen(train="validation", test="train")
    assert given == {"train": ["d/validation.csv"], "test": ["d/train.csv"]} and shares == {"validation": 0.1}


def test_a_split_that_validates_does_not_test_by_default():
    put("d/train.csv", "d/test.csv")
    given, shares = chosen(validation="test")
    assert given["validation"] == ["d/test.csv"] and shares == {"test": 0.1}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"train": "trian"}, ["data.train: ", "'trian'", "Did you mean 'train'?"]),
        ({"validation": "vlaidation"}, ["data.validation: ", "Did you mean 'validation'?"]),
        ({"validation": "valid.csv"}, ["data.validation: ", "no file or folder 'valid.csv'"]),
        ({"validation": "validation", "test": "dev"}, ["data.test: ", "`validation` uses already"]),
        ({"test": "train"}, ["data.test: ", "`train` uses already"]),
        ({"validation": 0.5, "test": 0.5}, ["0.5 for validation and 0.5 for test", "nothing to train on"]),
    ],
)
def test_splits_that_make_no_sense(options, words):
    put("d/train.csv", "d/validation.csv")
    says = refused(**options)
    assert all(word in says for word in words)


def test_all_wrong_splits_are_told_at_once():
    put("d/train.csv")
    assert refused(train="a", validation="b", test="c").count("has no split") == 3


def test_a_source_without_a_training_split():
    put("d/test.csv", "d/other.csv")
    assert "no split 'train'" in refused() and "There are: 'test'." in refused()


def test_what_looks_like_a_path():
    for path in ("./x", "/x", "~/x", "x.csv", "x/y/z", "x*", "x.JSONL"):
        assert local.looks_like_path(path), path
    for name in ("imdb", "nyu-mll/glue", "validation_matched"):
        assert not local.looks_like_path(name), name
