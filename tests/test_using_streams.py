"""Predicting from large inputs: piece by piece, with progress, on from where a killed process was."""

from __future__ import annotations

import csv
import io
import json
import signal
import sys
import tracemalloc

import numpy as np
import pytest

import hfadapt
from hfadapt import using
from hfadapt.cli import main
from hfadapt.data.inputs import read_inputs
from hfadapt.errors import HfadaptError
from hfadapt.recipe import Data, Recipe
from hfadapt.verbs import predict as verb


@pytest.fixture(scope="module")
def run(backbone, toy, tmp_path_factory):
    data = {"path": str(toy), "text": "text", "label": "label"}
    recipe = Recipe(task="text-classification", model=str(backbone("bert")), data=data, train={"max_steps": 2})
    return hfadapt.adapt(hfadapt.plan(recipe), tmp_path_factory.mktemp("run") / "run")


def command(run, toy, out) -> tuple[int, list[int]]:
    """Exit status of predicting into a file, and how many rows each piece had."""
    seen: list[int] = []
    real = using._of_rows

    def watched(*arguments):
        answers = real(*arguments)
        return lambda piece: seen.append(len(piece["text"])) or answers(piece)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as ended:
        patch.setattr(using, "_AT_ONCE", 10)
        patch.setattr(using, "_of_rows", watched)
        main(["predict", str(run.path), str(toy), "--out", str(out)])
    return ended.value.code, seen


KILLED = """
import os, signal, sys
from hfadapt import drafting, using
from hfadapt.cli import main
using._AT_ONCE, add = 10, drafting.Draft.add
def killed(self, answers):
    if self.rows == 30:
        self.file.write("half an ans")
        self.file.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    add(self, answers)
drafting.Draft.add = killed
main(["predict", *sys.argv[1:]])
"""


@pytest.mark.parametrize("ending", ["jsonl", "csv"])
def test_a_killed_process_is_gone_on_from(nursery, ending, run, toy, tmp_path, capsys):
    whole, out = tmp_path / f"whole.{ending}", tmp_path / f"out.{ending}"
    assert command(run, toy, whole) == (0, [10, 10, 10, 10, 10, 10, 4])
    if ending == "jsonl":
        words = [str(run.path), str(toy), "--out", str(out)]
        done = nursery.run([sys.executable, "-c", KILLED, *words])
        assert done.returncode == -signal.SIGKILL, done.stderr
    else:  # All is answered, and the file not yet in its place.
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("hfadapt.drafting.Draft.finish", lambda self: self.file.close())
            assert command(run, toy, out)[0] == 0
    assert not out.exists()
    capsys.readouterr()
    code, seen = command(run, toy, out)
    # A piece begins where the last safe row was; of a finished draft only its place is missing.
    assert code == 0 and seen == ([10, 10, 10, 4] if ending == "jsonl" else [])
    told = capsys.readouterr()
    assert "64 rows answered" in told.out and f"going on after {30 if ending == 'jsonl' else 64} of 64 rows" in told.err
    assert out.read_bytes() == whole.read_bytes()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_another_file_or_model_is_answered_from_the_start(run, toy, tmp_path):
    out, other = tmp_path / "out.jsonl", tmp_path / "toy.csv"
    other.write_bytes(toy.read_bytes())
    stamps = [using.ask(run, other).stamp]
    other.write_bytes(toy.read_bytes().replace(b"wonderful", b"wonderfuk", 1))
    stamps.append(using.ask(run, other).stamp)
    scores = run.path / "scores.json"
    before = scores.read_text()
    scores.write_text(before + "\n")
    stamps.append(using.ask(run, other).stamp)
    scores.write_text(before)
    assert len({json.dumps(stamp) for stamp in stamps}) == 3
    assert stamps[0] == using.ask(run, toy).stamp, "where a file lies is no matter"
    assert command(run, toy, out) == (0, [10, 10, 10, 10, 10, 10, 4])


def test_a_bad_row_is_told_before_anything_is_answered(run, toy, tmp_path, capsys):
    bad, out = tmp_path / "bad.jsonl", tmp_path / "out.jsonl"
    bad.write_text("".join(json.dumps({"text": text}) + "\n" for text in [*"abc" * 20, None]))
    assert command(run, bad, out) == (2, [])
    assert "bad.jsonl:61: The text is missing." in capsys.readouterr().err
    assert not list(tmp_path.glob(".*"))


def test_a_file_that_changes_under_way_is_told(run, tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"text": "a"}\n')
    asked = using.ask(run, rows)
    rows.write_text('{"text": "a"}\n{\n')
    with pytest.raises(HfadaptError, match="sound when it was first read"):
        list(asked.pieces(0))


def test_memory_does_not_grow_with_the_rows(tmp_path, monkeypatch):
    from hfadapt.tasks.text_classification import TextClassification

    monkeypatch.setattr("hfadapt.data.delimited.BATCH", 500)
    peaks = []
    for rows in (2_000, 8_000):
        path = tmp_path / f"{rows}.csv"
        path.write_text("text\n" + "".join(f"row {i} of a rather long table of texts\n" for i in range(rows)))
        tracemalloc.start()
        found = read_inputs(str(path), TextClassification.roles, Data(path="unused"))
        assert sum(len(piece["text"]) for piece in found.pieces(100)) == rows == found.rows
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_moves_on_a_terminal_and_is_a_line_now_and_then_in_a_log(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(verb.time, "monotonic", lambda: now[0])
    for stream, wanted in ((Terminal(), 10), (io.StringIO(), 1)):
        now[0] = 0.0
        progress = verb.Progress(stream, 0, 1000)
        for done in range(100, 1001, 100):
            now[0] += 10.0
            progress(done)
        progress.end()
        told = stream.getvalue()
        assert told.count("rows/s") == wanted and "row 600/1,000  10 rows/s  0:40 left" in told
        assert ("\r" in told) == stream.isatty() and (told.endswith("\n") != stream.isatty())
    stream = io.StringIO()
    verb.Progress(stream, 250, 1000)
    assert stream.getvalue() == "going on after 250 of 1,000 rows\n"


# Classes by their names

NAMES = ("dark_blue", "green", "red", "teal")


@pytest.fixture(scope="module")
def named(backbone, pictures, tmp_path_factory):
    """A run whose captions are made of the classes, of which two are new."""
    folder = tmp_path_factory.mktemp("named")
    tables = {}
    for split in ("train", "validation", "test"):
        with (pictures / split / "captions.csv").open(encoding="utf-8") as file:
            rows = [[str(pictures / split / row["file"]), i % 4] for i, row in enumerate(csv.DictReader(file))]
        tables[split] = folder / f"{split}.csv"
        lines = [f"{path},{NAMES[i]}\n" for path, i in rows if split == "test" or i < 2]
        tables[split].write_text("image,label\n" + "".join(lines))
    recipe = Recipe(
        task={
            "type": "image-text-contrastive",
            "templates": ["a {} thing", "some {} shape"],
            "new_classes": ["red", "teal"],
        },
        model=str(backbone("clip")),
        data={
            "path": str(tables["train"]),
            "validation": str(tables["validation"]),
            "test": str(tables["test"]),
            "labels": list(NAMES),
        },
        train={"max_steps": 2},
    )
    return hfadapt.adapt(hfadapt.plan(recipe), folder / "run")


def test_pictures_alone_are_answered_with_the_classes_that_made_the_captions(named, pictures):
    """As zero-shot classification with all templates says; new classes are among them."""
    import torch
    from PIL import Image
    from torch.nn.functional import normalize
    from transformers import AutoProcessor, CLIPModel

    assert using.classes(named, named.recipe) == NAMES
    answers = list(hfadapt.predict(named, pictures / "test"))
    assert len(answers) == 8 and list(answers[0]) == ["image", "label", "probability", "probabilities"]
    model, processor = CLIPModel.from_pretrained(named.model).eval(), AutoProcessor.from_pretrained(named.model)
    names = ("dark blue", "green", "red", "teal")
    with torch.no_grad():
        texts = [[f"a {name} thing", f"some {name} shape"] for name in names]
        classes = torch.stack([normalize(self_text(model, processor, two), dim=-1).mean(0) for two in texts])
        shown = [Image.open(answer["image"]).convert("RGB") for answer in answers]
        images = model.get_image_features(**processor(images=shown, return_tensors="pt")).pooler_output
        logits = model.logit_scale.exp() * normalize(images, dim=-1) @ normalize(classes, dim=-1).T
    wanted = logits.softmax(-1).numpy()
    found = np.array([list(answer["probabilities"].values()) for answer in answers])
    assert np.allclose(found, wanted, atol=1e-4) and found.std() > 1e-3
    for answer, row in zip(answers, found, strict=True):
        assert answer["label"] == NAMES[row.argmax()] and answer["probability"] == row.max()


def self_text(model, processor, texts):
    return model.get_text_features(**processor(text=texts, padding=True, return_tensors="pt")).pooler_output


def test_a_table_of_pictures_needs_no_texts_either(named, pictures, tmp_path):
    table = tmp_path / "t.csv"
    table.write_text(f"image,other\n{pictures / 'test/round/0.png'},x\n")
    (answer,) = hfadapt.predict(named, table)
    (alone,) = hfadapt.predict(named, pictures / "test/round/0.png")
    assert alone == {"image": str(pictures / "test/round/0.png"), **answer}
