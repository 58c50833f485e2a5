"""Training rows that are read while training: which, in which order, and that nothing else changes."""

from __future__ import annotations

import csv
import itertools
import json
import pickle
from pathlib import Path

import datasets
import pytest

import hfadapt
from hfadapt import tiny
from hfadapt.data import hub, streaming
from hfadapt.data.loading import Loaded, load
from hfadapt.errors import DataError
from hfadapt.folder import Run
from hfadapt.noise import quiet
from hfadapt.planning import plan
from hfadapt.recipe import Data, Recipe
from hfadapt.tasks.image_classification import ImageClassification
from hfadapt.tasks.text_classification import TextClassification
from hfadapt.training.streaming import StreamedRows
from hfadapt.training.watching import Watch

TASK = TextClassification()


def put(path: Path, first: int, rows: int, labels=("no", "yes")) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        made = ((f"text {i} {labels[i % len(labels)]}", labels[i % len(labels)]) for i in range(first, first + rows))
        csv.writer(file).writerows([("text", "label"), *made])


@pytest.fixture
def folder(tmp_path: Path, monkeypatch) -> Path:
    """Three files to train on, of 20 rows each, and 8 rows in each other split; the first 30 rows are looked at."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(streaming, "LOOKED_AT", 30)
    for number in range(3):
        put(tmp_path / f"train-{number}.csv", 20 * number, 20)
    put(tmp_path / "validation.csv", 100, 8)
    put(tmp_path / "test.csv", 200, 8)
    return tmp_path


def loaded(path="*.csv", task=TASK, **options) -> Loaded:
    return load(Data(path=path, streaming=True, **options), task.roles, task.kind, seed=42)


def refused(path="*.csv", **options) -> str:
    with pytest.raises(DataError) as caught:
        loaded(path, **options)
    return str(caught.value)


def numbers(data: Loaded, many: int, *, seed: int = 1, shuffled: bool = True) -> list[int]:
    """The numbers in the texts of the first rows of a stream."""
    order = data.stream.order(seed, shuffled=shuffled)
    return [int(row.values["text"].split()[1]) for row in itertools.islice(order, many)]


def test_the_first_rows_stand_for_the_stream(folder):
    data = loaded()
    assert {split: len(rows) for split, rows in data.splits.items()} == {"train": 30, "validation": 8, "test": 8}
    assert data.splits["train"]["text"][:] == [f"text {i} {('no', 'yes')[i % 2]}" for i in range(30)]
    assert data.made["train"] == "the first rows of a stream"
    assert "of its first 30" in data.findings[0].says


def test_each_reading_visits_every_row_once_in_an_order_of_its_own(folder):
    data = loaded(shuffle_buffer=7)
    first, second, third = (numbers(data, 180)[i : i + 60] for i in (0, 60, 120))
    assert sorted(first) == sorted(second) == sorted(third) == list(range(60))
    assert first != second and second != third and first != list(range(60))
    assert numbers(data, 180) == [*first, *second, *third]
    assert numbers(data, 60, seed=2) != first
    assert numbers(data, 100, shuffled=False) == [*range(60), *range(40)]
    row = next(data.stream.order(1, shuffled=False))
    assert row.where == "train-0.csv:2" and (row.values, row.target) == ({"text": "text 0 no"}, 0)


def test_no_more_is_read_ahead_than_the_buffer_holds(folder, monkeypatch):
    from hfadapt.data import delimited

    monkeypatch.setattr(delimited, "BATCH", 5)
    data, read = loaded("*.csv", shuffle_buffer=10), []
    within = streaming.targets.within
    monkeypatch.setattr(streaming.targets, "within", lambda rows, *rest: read.append(len(rows)) or within(rows, *rest))
    order = data.stream.order(0, shuffled=True)
    for taken, _ in enumerate(itertools.islice(order, 45), 1):
        assert sum(read) <= taken + 10 + 5


def test_labels_are_those_of_validation_or_of_the_recipe(folder):
    put(folder / "train-2.csv", 40, 20, labels=("no", "maybe"))
    data = loaded()
    assert data.labels.names == ("no", "yes")
    with pytest.raises(DataError, match=r"train-2\.csv:3: The label 'maybe' is not among those of validation"):
        numbers(data, 60, shuffled=False)
    data = loaded(on_bad_row="skip")
    assert numbers(data, 100, shuffled=False) == 2 * [*range(40), *range(40, 60, 2)]
    assert data.stream.skipped.rows == 10 and len(data.stream.skipped.first) == 10
    assert data.stream.skipped.first[0].where == "train-2.csv:3"
    assert loaded(labels=["yes", "no", "maybe"]).labels.names == ("yes", "no", "maybe")


def test_bad_rows_of_any_kind(folder):
    (folder / "train-1.csv").write_text("text,label\nok,yes\ntoo,many,fields\n,\nfine,no\n")
    assert "train-1.csv:3" in refused()
    data = loaded(on_bad_row="skip")
    assert len(data.splits["train"]) == 29  # One of the first 30 has no label.
    list(itertools.islice(data.stream.order(0, shuffled=False), 42))
    rows = list(itertools.islice(data.stream.order(0, shuffled=False), 42))
    assert [row.number for row in rows] == [*range(42)] and data.stream.skipped.rows == 2
    assert {row.values["text"] for row in rows[20:22]} == {"ok", "fine"}


def test_a_file_that_breaks_off_stops_the_stream_whatever_is_skipped(folder):
    with (folder / "train-2.csv").open("a") as file:
        file.write('"open,yes\n')
    with pytest.raises(DataError, match=r"train-2\.csv:22.*quote"):
        numbers(loaded(on_bad_row="skip"), 61, shuffled=False)


def test_a_stream_is_not_divided(folder):
    (folder / "validation.csv").unlink()
    says = refused("train-*.csv")
    assert "data.validation: Training rows that are streamed can't be divided" in says and "data.test" in says
    assert "can't be divided: validation" in refused("train-*.csv", validation=0.2, test="test.csv")


def test_what_can_be_no_stream(folder, pictures):
    (folder / "train.json").write_text(json.dumps([{"text": "a", "label": "no"}]))
    assert "is read whole" in refused("train.json", validation="validation.csv", test="test.csv")
    with pytest.raises(DataError, match="one class after the other"):
        loaded(str(pictures), task=ImageClassification())
    put(folder / "train-0.csv", 0, 40, labels=("no",))
    assert "The first 30 rows of the stream are all alike" in refused()


def test_parquet_brings_its_labels_and_lines(folder):
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["b", "a", "c"])}
    )
    for split, size in (("train", 50), ("validation", 6), ("test", 6)):
        rows = {"text": [f"text {i}" for i in range(size)], "label": [i % 2 for i in range(size)]}
        datasets.Dataset.from_dict(rows, features=features).to_parquet(folder / f"{split}.parquet")
    data = loaded("*.parquet")
    assert data.labels.names == ("b", "a", "c")
    row = list(itertools.islice(data.stream.order(0, shuffled=False), 42))[-1]
    assert (row.target, row.where) == (1, "train.parquet:42")


def test_a_dataset_of_the_hub_is_fetched_as_it_is_read(folder, monkeypatch):
    files = {"train": [f"train-{i}.csv" for i in range(3)], "validation": "validation.csv", "test": "test.csv"}
    load_dataset, asked = datasets.load_dataset, []

    def local(path, name, *, revision, streaming):
        asked.append((path, streaming))
        return load_dataset("csv", data_files=files, streaming=streaming)

    monkeypatch.setattr(datasets, "load_dataset", local)
    data = loaded("someone/rows")
    assert asked == [("someone/rows", True)] and isinstance(data.stream.tables[0], hub.StreamedTable)
    assert numbers(data, 70, shuffled=False) == [*range(60), *range(10)]
    (folder / "train-2.csv").unlink()
    with pytest.raises(DataError, match="can't be fetched"):
        numbers(data, 60, shuffled=False)


def streamed_rows(data: Loaded, task=TASK, size: int = 90) -> StreamedRows:
    class Words:
        """Counts what it encodes."""

        seen = 0

        def __call__(self, texts, pairs, **options):
            Words.seen += len(texts)
            return {"input_ids": [[int(text.split()[1])] for text in texts]}

    return StreamedRows(data.stream, task, Words(), seed=3, shuffled=True, size=size)


def test_places_left_out_are_read_and_not_encoded(folder):
    data = loaded(shuffle_buffer=9)
    whole = streamed_rows(data)
    every = [row["input_ids"] for row in whole.__getitems__(range(90))]
    assert len(every) == len(whole) == 90 and every[:10] != [[i] for i in range(10)]
    part = streamed_rows(data)
    part.processor.__class__.seen = 0
    assert [row["input_ids"] for row in part.__getitems__([70, 71, 80])] == [every[i] for i in (70, 71, 80)]
    assert part.processor.seen == 3
    # A lower place, as in a worker process that begins: from the start.
    assert [row["input_ids"] for row in part.__getitems__([4, 6])] == [every[4], every[6]]


def test_spawned_workers_read_for_themselves(folder):
    rows = streamed_rows(loaded())
    rows.processor = None
    assert rows._at(5).values == pickle.loads(pickle.dumps(rows))._at(5).values


def recipe(
    folder: Path, model: Path, *, streaming: bool = True, task="text-classification", path=None, **train
) -> Recipe:
    given = {"per_device_train_batch_size": 4, "max_steps": 8, "eval_steps": 4, "logging_steps": 1, **train}
    data = {"path": path or str(folder / "*.csv"), "streaming": streaming}
    return Recipe.model_validate({"task": task, "model": str(model), "data": data, "train": given, "cache": "off"})


def losses(run) -> list[float]:
    events = [json.loads(line) for line in (run.path / "log.jsonl").read_text().splitlines()]
    return [event["loss"] for event in events if event["event"] == "trained"]


def test_a_stream_trains_as_rows_in_memory_do(folder, backbone, tmp_path):
    sequential = {"train_sampling_strategy": "sequential", "eval_strategy": "steps"}
    both = [
        hfadapt.adapt(
            plan(recipe(folder, backbone("bert"), streaming=streams, **sequential)), tmp_path / f"run-{streams}"
        )
        for streams in (True, False)
    ]
    assert losses(both[0]) == losses(both[1]) and len(losses(both[0])) == 8
    assert both[0].scores["scores"] == both[1].scores["scores"]
    card = (both[0].path / "README.md").read_text()
    assert "the first rows of a stream" in card and "Fingerprint of the data, of those streamed the first rows" in card


class Killed(Exception):
    pass


def test_a_run_goes_on_bit_for_bit(folder, backbone, tmp_path, monkeypatch):
    settings = {"save_steps": 4, "gradient_accumulation_steps": 2, "max_steps": 12}
    made = plan(recipe(folder, backbone("bert"), **settings))
    straight = losses(hfadapt.adapt(made, tmp_path / "straight"))
    save = Watch.on_save

    def kill(self, args, state, control, **rest):
        save(self, args, state, control, **rest)
        if state.global_step == 4:
            raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Watch, "on_save", kill)
        hfadapt.adapt(made, tmp_path / "cut")
    again = losses(hfadapt.adapt(plan(recipe(folder, backbone("bert"), **settings)), resume=tmp_path / "cut"))
    assert again == straight and len(straight) == 12
    assert len(set(straight)) == 12


def test_a_second_stage_goes_on_in_the_stream(folder, backbone, tmp_path, monkeypatch):
    asked = []
    at = StreamedRows._at
    monkeypatch.setattr(StreamedRows, "_at", lambda self, place: asked.append(place) or at(self, place))
    made = Recipe.model_validate(recipe(folder, backbone("bert")).model_dump(exclude_unset=True) | {"adapt": "lp-ft"})
    hfadapt.adapt(plan(made), tmp_path / "run")
    assert asked == [*range(32)]


def test_pictures_of_a_parquet_file(pictures, backbone, tmp_path, monkeypatch):
    monkeypatch.setattr(streaming, "LOOKED_AT", 12)
    for split in ("train", "validation", "test"):
        files = sorted((pictures / split).rglob("*.png"))[:: -1 if split == "test" else 1]
        files = [file for both in itertools.zip_longest(files[::2], files[1::2]) for file in both if file]
        names = [file.parent.name for file in files]
        order = sorted(range(len(files)), key=lambda i: files[i].stem)
        rows = {"image": [str(files[i]) for i in order], "label": [names[i] for i in order]}
        features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("string")})
        datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / f"{split}.parquet")
    task = {"type": "image-classification", "augment": {"flip": "horizontal"}}
    made = recipe(tmp_path, backbone("vit"), task=task, path=str(tmp_path / "*.parquet"), max_steps=10)
    run = hfadapt.adapt(plan(made), tmp_path / "run")
    assert len(losses(run)) == 10 and len(set(losses(run))) == 10


@pytest.mark.slow
def test_two_processes_train_as_one(folder, pair, tmp_path):
    import torch
    from conftest import TEXTS

    still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "initializer_range": 0.02}
    with quiet():
        tiny.checkpoint(tmp_path / "model", "bert", TEXTS, **still)
    one, two = (recipe(folder, tmp_path / "model", per_device_train_batch_size=size, max_steps=6) for size in (4, 2))
    alone = losses(hfadapt.adapt(plan(one), tmp_path / "one"))
    together = losses(Run(pair.adapt(two.model_dump(exclude_unset=True), tmp_path / "two")))
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)
