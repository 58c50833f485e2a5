"""The harness that compares speeds counts rightly, tells what it found, and measures a training on its sides."""

from __future__ import annotations

import csv
import json
import sys
import textwrap
from pathlib import Path

import pytest

HERE = Path(__file__).parent.parent / "benchmarks" / "speed"
NAMES = ("measure", "ours", "peers", "questions", "report", "sides", "stock")


@pytest.fixture(scope="module")
def harness():
    """The modules of the harness, which are scripts beside each other; other benchmarks have some of the same names."""
    from transformers.utils import logging

    verbosity, others = logging.get_verbosity(), {name: sys.modules.pop(name, None) for name in NAMES}
    sys.path.insert(0, str(HERE))
    yield {name: __import__(name) for name in NAMES}
    sys.path.remove(str(HERE))
    for name, module in others.items():
        sys.modules.pop(name)
        if module:
            sys.modules[name] = module
    logging.set_verbosity(verbosity)


@pytest.fixture(scope="module")
def rows(toy, tmp_path_factory):
    """A folder with a table for each split, of texts and labels alone."""
    with toy.open(newline="", encoding="utf-8") as file:
        every = [(row["text"], row["label"]) for row in csv.DictReader(file)]
    folder = tmp_path_factory.mktemp("rows")
    for split, part in {"train": every[:20], "validation": every[20:36], "test": every[36:]}.items():
        with (folder / f"{split}.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("text", "label"), *part])
    return folder


@pytest.fixture
def bench(harness, tmp_path, monkeypatch):
    """A bench that measures in this process."""
    monkeypatch.setenv("HFADAPT_CACHE", str(tmp_path / "caches"))
    results = harness["measure"].Results(tmp_path / "results.json")
    about = {"commit": "abc", "versions": {"python": "3"}, "hardware": "a machine"}
    return harness["measure"].Bench(tmp_path / "work", results, about, launch=harness["sides"].work)


@pytest.fixture
def training(harness, backbone, rows):
    """Makes a tiny training."""

    def make(**values):
        given = {"name": "tiny", "model": str(backbone("bert")), "rows": 20, "batch": 8, "epochs": 3}
        return harness["questions"].Setup(**given | {"data": str(rows), "rate": 1e-3, "longest": 32} | values)

    return make


def test_what_a_cache_saves_by_arithmetic(harness):
    questions = harness["questions"]
    assert [round(questions.arithmetic(12, top), 2) for top in (1, 3, 6, 12)] == [4.67, 2.0, 1.33, 1.0]
    assert questions.arithmetic(12, 1, 1) == 1
    assert questions.arithmetic(12, 1, 5) == pytest.approx(5 * 14 / (14 + 4 * 3))
    assert questions.arithmetic(12, 3, 10**6) == pytest.approx(2, abs=1e-4)
    # Two blocks: head, one, both, all; two epochs each.
    assert questions.arithmetic_gradual(2, 2) == pytest.approx(2 * (2 + 4 + 6 + 6) / (2 + (4 + 3) + (6 + 6) + (6 + 6)))


def test_a_rate_is_that_of_the_epochs_after_the_first(harness, training, tmp_path):
    sides = harness["sides"]
    order = sides.Order(training(rows=20, batch=8), "hfadapt", tmp_path, tmp_path, tmp_path, 0)
    # Three steps an epoch: the first takes 10 seconds each, those after it 2.
    stamps = [10.0, 20.0, 30.0, 32.0, 34.0, 36.0, 38.0, 40.0, 42.0]
    meter = sides.Meter(begun=1.0, ended=43.0, set_up=5.0, held=10, peak=25, stamps=stamps)
    assert meter.values(order) == {
        "seconds": 42.0, "filled_seconds": 37.0, "set_up": 5.0, "peak": 15, "rate": 3.333, "steps": 9, "rows": 20,
    }  # fmt: skip
    assert "rate" not in sides.Meter(stamps=stamps[:3]).values(order)
    assert sides.Order.from_json(order.as_json()) == order


def test_every_question_is_of_a_training_and_its_sides(harness):
    questions = harness["questions"]
    setups = {setup.name: setup for setup in questions.SETUPS}
    assert len(setups) == len(questions.SETUPS) and {q.setup for q in questions.QUESTIONS} == set(setups)
    for question in questions.QUESTIONS:
        told = {side for side, _ in filter(None, (question.over, question.under))}
        assert told <= set(setups[question.setup].sides)
    assert [setup.name for setup in questions.chosen(["bert", "full"])] == ["full", "bert-1", "bert-3", "bert-6"]
    with pytest.raises(SystemExit, match="no 'ful'"):
        questions.chosen(["ful"])


def test_a_ratio_is_of_medians_and_its_spread_of_single_repeats(harness):
    report, questions = harness["report"], harness["questions"]
    question = questions.Question("?", "s", ("a", "rate"), ("b", "rate"), 2.0)
    sides = {"a": {i: {"rate": rate} for i, rate in enumerate((10, 30, 20))}, "b": {0: {"rate": 10}, 1: {"rate": 5}}}
    # The third repeat has one side only.
    assert report.answer(question, sides) == report.Answer(20 / 7.5, 1.0, 6.0, 2)
    assert report.answer(question, {"a": {0: {"rate": 1}}, "b": {}}) is None
    assert question.reached(2.0) and not question.reached(1.9)
    most = questions.Question("?", "s", ("a", "rate"), None, 20.0, at_most=True)
    assert report.answer(most, sides) == report.Answer(20, 10, 30, 3) and most.reached(20) and not most.reached(21)


def test_the_page_tells_what_was_measured(harness, tmp_path):
    questions, report, measure = harness["questions"], harness["report"], harness["measure"]
    (setup,) = questions.chosen(["full"])
    results = measure.Results(tmp_path / "results.json")

    def add(side: str, rate: float, repeat: int = 0, **more):
        run = {"key": f"{side} {repeat}", "setup": "full", "digest": setup.digest, "side": side, "repeat": repeat}
        run |= {"rate": rate, "trainable": 7, "date": "2026-01-02", "commit": "abc", "versions": {}, "hardware": "h"}
        results.add({k: v for k, v in (run | more).items() if v is not None})

    for repeat, rate in enumerate((50.0, 70.0, 60.0)):
        add("hfadapt", rate, repeat)
        add("careful", 50.0, repeat)
    add("example", 20.0)
    add("hfadapt", 1.0, repeat=9, digest="of other settings")
    add("products", 90.0, failed="Trace\nMemoryError: none left")
    table = report.write(tmp_path)
    page = (tmp_path / "README.md").read_text()
    assert table in page and "8 measurements" in page
    lines = {line.split(" | ")[0]: line for line in table.splitlines()}
    assert "| 1.20 × ✗ | ≥ 1.25 × | 1.00–1.40 | 3 |" in lines["| The same against the careful Trainer"]
    assert "| 2.50 × ✗ | ≥ 4.5 × | 2.50–2.50 | 1 |" in table
    assert "failed: full, products: MemoryError: none left" in page and table.count("not measured") > 5
    assert len(json.loads((tmp_path / "results.json").read_text())["runs"]) == 9
    add("careful", 40.0, 0, trainable=8)
    assert "the sides moved different parameters" in report.write(tmp_path)


def test_a_training_is_measured_on_its_sides_once(harness, bench, training, tmp_path):
    questions = harness["questions"]
    sides = (questions.OURS, questions.CAREFUL, questions.EXAMPLE, "products", "embeddings")
    setup = training(
        adapt={"method": "partial", "top": 1}, moves="top 1", sides=sides, fewer={questions.EXAMPLE: 16}, repeats=1
    )
    told: list[str] = []
    for _ in range(2):
        bench.run([setup], 5, told.append)
    runs = {run["side"]: run for run in harness["measure"].Results.read(tmp_path / "results.json").runs}
    assert len(told) == 5 and not any("failed" in run for run in runs.values()), told
    ours, careful, example = (runs[side] for side in sides[:3])
    assert ours["trainable"] == careful["trainable"] < example["trainable"]
    assert ours["steps"] == careful["steps"] == 9 and example["steps"] == 6
    assert (ours["rows"], careful["rows"], example["rows"]) == (20, 20, 16)
    for run in (ours, careful):
        # The epochs after the first are a part of the training.
        assert 0 < 40 / run["rate"] < run["filled_seconds"] <= run["seconds"]
        assert run["peak"] >= 0
    assert runs["products"]["rate"] > ours["rate"] and runs["embeddings"]["forward_seconds"] > 0
    assert not (bench.work / "now" / "run" / "scores.json").exists()


def test_what_fails_is_told_and_tried_again(bench, training):
    told: list[str] = []
    setup = training(sides=("careful",), model="nowhere")
    for _ in range(2):
        bench.run([setup], 1, told.append)
    assert len(told) == 2 and "failed" in told[0] and len(bench.results.runs) == 1


def test_an_example_script_of_the_user_is_timed(harness, bench, training, tmp_path, monkeypatch):
    from transformers import trainer

    script = tmp_path / "run_own.py"
    script.write_text(
        textwrap.dedent("""
        import sys
        sys.argv = sys.argv[:]
        given = dict(zip(sys.argv[1::1], sys.argv[2::1]))
        import csv, evaluate, torch
        from transformers import AutoModelForSequenceClassification, AutoTokenizer, Trainer, TrainingArguments
        evaluate.load("accuracy")
        tokenizer = AutoTokenizer.from_pretrained(given["--model_name_or_path"])
        texts = [row["text"] for row in csv.DictReader(open(given["--train_file"]))][:int(given["--max_train_samples"])]
        encoded = tokenizer(texts, padding="max_length", max_length=24, truncation=True)
        rows = [{name: its[i] for name, its in encoded.items()} | {"labels": i % 2} for i in range(len(texts))]
        model = AutoModelForSequenceClassification.from_pretrained(given["--model_name_or_path"], num_labels=2)
        arguments = TrainingArguments(
            given["--output_dir"], num_train_epochs=float(given["--num_train_epochs"]), use_cpu=True, disable_tqdm=True,
            per_device_train_batch_size=int(given["--per_device_train_batch_size"]), save_strategy="no",
        )
        Trainer(model, arguments, train_dataset=rows).train()
        raise SystemExit("what comes after the training is left out")
        """)
    )
    monkeypatch.setattr(trainer, "DEFAULT_CALLBACKS", list(trainer.DEFAULT_CALLBACKS))
    monkeypatch.setattr(sys, "argv", list(sys.argv))
    monkeypatch.setattr("evaluate.load", None)
    bench.script = str(script)
    found = bench.measure(training(sides=("example",), fewer={"example": 16}), "example", 0)
    assert found["peer"] == "run_own.py" and found["steps"] == 6 and found["rate"] > 0, found
