"""What is exported answers as the run does, wherever it is run, and says what was measured.

With `HFADAPT_CONFORMANCE=all` in the environment every kind of answer is exported to every format; else texts with
several labels and with numbers, which differ in their head alone, only through torch.export, and what sees only to
ONNX.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

import hfadapt
from hfadapt import exporting
from hfadapt.cli import main
from hfadapt.errors import HfadaptError
from hfadapt.exported import graphs, tracing
from hfadapt.exported.folder import FORMATS, Exported, need, open_exported
from hfadapt.exporting import TOLERANCE, export
from hfadapt.recipe import Recipe

BACKBONES = {"single": "bert", "multi": "bert", "regression": "bert", "pictures": "vit", "captions": "clip"}
WHOLE = os.environ.get("HFADAPT_CONFORMANCE") == "all"
SELDOM = {(kind, to) for kind in ("multi", "regression") for to in ("onnx", "onnx-int8")}
SELDOM |= {("pictures", "onnx-int8"), ("pictures", "torch-export"), ("captions", "torch-export")}
CELLS = [(kind, to) for kind in BACKBONES for to in FORMATS if WHOLE or (kind, to) not in SELDOM]
READS = {"captions": ["image_embeds", "text_embeds"]}


def shallow(folder: Path, made: Path) -> Path:
    """The same backbone with one block in each tower: tracing takes seconds for each."""
    import transformers

    shutil.copytree(folder, made)
    config = transformers.AutoConfig.from_pretrained(folder)
    for its in (config, getattr(config, "text_config", None), getattr(config, "vision_config", None)):
        if its is not None and hasattr(its, "num_hidden_layers"):
            its.num_hidden_layers = 1
    transformers.AutoModel.from_pretrained(folder, config=config).save_pretrained(made)
    return made


@pytest.fixture(scope="module", autouse=True)
def _quickly():
    """Few rounds are timed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exporting, "_ROUNDS", (3, 3))
        yield


@pytest.fixture(scope="module")
def sections(toy, pictures):
    """Kind → its `data` section."""
    captions = {split: str(pictures / split / "captions.csv") for split in ("train", "validation", "test")}
    return {
        "single": {"path": str(toy), "text": "text", "label": "label"},
        "multi": {"path": str(toy), "text": "text", "text_pair": "other", "label": "tags", "label_separator": "|"},
        "regression": {"path": str(toy), "text": "text", "label": "stars"},
        "pictures": {"path": str(pictures)},
        "captions": {"image": "file", "text": "text", "path": captions.pop("train"), **captions},
    }


@pytest.fixture(scope="module")
def runs(backbone, sections, tmp_path_factory):
    folder, made = tmp_path_factory.mktemp("exported"), {}
    shallows = {kind: shallow(backbone(kind), folder / kind) for kind in set(BACKBONES.values())}
    tasks = {"pictures": "image-classification", "captions": "image-text-contrastive"}
    for kind, base in BACKBONES.items():
        task = {"type": tasks.get(kind, "text-classification")}
        task |= {"problem_type": "regression"} if kind == "regression" else {}
        recipe = Recipe(task=task, model=str(shallows[base]), data=sections[kind], train={"max_steps": 2})
        made[kind] = hfadapt.adapt(hfadapt.plan(recipe), folder / f"run-{kind}")
    return made


@pytest.fixture(scope="module")
def exports(runs):
    """Makes each export once: `exports("single", "onnx")`."""
    made: dict[tuple[str, str], Exported] = {}

    def make(kind: str, to: str) -> Exported:
        if (kind, to) not in made:
            made[kind, to] = export(runs[kind], to)
        return made[kind, to]

    return make


@pytest.fixture(scope="module")
def asked(toy, pictures):
    """Kind → a file to answer."""
    tables = {"pictures": pictures / "test", "captions": pictures / "test" / "captions.csv"}
    return {kind: tables.get(kind, toy) for kind in BACKBONES}


def numbers(answers: list[dict]) -> np.ndarray:
    """All numbers in answers."""
    flat = [{**answer, **answer.get("probabilities", {})} for answer in answers]
    return np.array([[value for value in answer.values() if isinstance(value, float)] for answer in flat])


@pytest.mark.parametrize(("kind", "to"), CELLS)
def test_it_answers_and_scores_as_the_run_does(kind, to, runs, exports, asked):
    """Outputs within 1e-4 on several shapes; of 8 bits the difference and what it costs are told."""
    made, run = exports(kind, to), runs[kind]
    about, checked = made.about, made.about["checked"]
    assert made.path == run.path / to and about["format"] == to and checked["outputs"] == READS.get(kind, ["logits"])
    shapes = [tuple(map(tuple, its.values())) for its in checked["shapes"]]
    assert len(set(shapes)) == 3 and {its[0][0] for its in shapes} == {1, 3, 5}
    assert {its.name for its in made.path.iterdir()} >= {"config.json", "export.json"}
    speed = about["speed"]
    assert set(speed["rows_per_second"]) == {to, "pytorch"} and min(speed["rows_per_second"].values()) > 0
    ours, theirs = list(hfadapt.predict(run, asked[kind])), list(hfadapt.predict(made.path, asked[kind]))
    assert [list(answer) for answer in ours] == [list(answer) for answer in theirs] and len(ours) >= 8
    assert np.std(numbers(ours)) > 1e-4, "answers that are all alike would prove nothing"
    if to != "onnx-int8":
        assert checked["max_difference"] <= checked["tolerance"] == TOLERANCE
        assert np.allclose(numbers(ours), numbers(theirs), atol=1e-4)
        return
    assert "tolerance" not in checked and checked["max_difference"] > 0
    assert np.abs(numbers(ours) - numbers(theirs)).max() < (2 if kind == "regression" else 0.9)
    told = about["score"]
    found = hfadapt.score(made)["test"][told["metric"]]
    assert told["onnx-int8"] == pytest.approx(found.value, abs=1e-6) and told["rows"] == found.rows
    assert told["pytorch"] == run.scores["scores"]["test"][told["metric"]]["value"]
    assert told["drop"] == pytest.approx(told["pytorch"] - told["onnx-int8"])


def test_scoring_an_export_gives_the_runs_own_scores(runs, exports):
    for kind in ("single", "captions"):
        again = hfadapt.score(exports(kind, "onnx").path)
        assert set(again) == {"validation", "test"}
        for split, metrics in runs[kind].scores["scores"].items():
            for metric, values in metrics.items():
                assert again[split][metric].as_dict() == pytest.approx(values, abs=1e-3), metric


PLAINLY = """
import json, sys
import onnxruntime, torch
from PIL import Image
from transformers import AutoConfig, AutoProcessor, AutoTokenizer, AutoImageProcessor
found = {}
texts = ["a wonderful table", "dreadful, long, and cloudy as the river was"]
pictures = [Image.open(sys.argv[1]).convert("RGB")] * 2
for folder in sys.argv[2:]:
    told = json.load(open(folder + "/export.json"))
    if (kind := folder.split("/")[-2].removeprefix("run-")) == "pictures":
        inputs = AutoImageProcessor.from_pretrained(folder)(pictures, return_tensors="pt")
    elif kind == "captions":
        inputs = AutoProcessor.from_pretrained(folder)(text=texts, images=pictures, padding=True, return_tensors="pt")
    else:
        inputs = AutoTokenizer.from_pretrained(folder)(texts, padding=True, return_tensors="pt")
    outputs = {}
    for part, one in told["components"].items():
        if one["file"].endswith(".pt2"):
            takes = one["metadata"]["kwargs"]
            outputs |= torch.export.load(folder + "/" + one["file"]).module()(**{n: inputs[n] for n in takes})
        else:
            session = onnxruntime.InferenceSession(folder + "/" + one["file"])
            for its in session.get_inputs():
                assert its.shape[0] == "batch" and (its.name == "pixel_values" or its.shape[1] == "sequence"), its.shape
            takes = [its.name for its in session.get_inputs()]
            names = [its.name for its in session.get_outputs()]
            outputs |= dict(zip(names, session.run(names, {name: inputs[name].numpy() for name in takes})))
    if kind == "captions":
        scale, bias = told["hfadapt"]["scale"], told["hfadapt"]["bias"]
        image, text = (torch.as_tensor(outputs[name]).detach() for name in ("image_embeds", "text_embeds"))
        outputs = {"logits": scale * image @ text.T + bias}
    assert AutoConfig.from_pretrained(folder).model_type
    found[folder] = torch.as_tensor(outputs["logits"]).detach().tolist()
assert "hfadapt" not in sys.modules
json.dump(found, sys.stdout)
"""


def test_runtimes_alone_give_pytorchs_logits(nursery, runs, exports, pictures):
    """A fresh process with onnxruntime, or torch.export.load, and the processor that lies beside the graphs."""
    import transformers

    folders = {str(exports(kind, to).path): kind for kind, to in CELLS if to != "onnx-int8"}
    picture = pictures / "test/round/0.png"
    done = nursery.run([sys.executable, "-c", PLAINLY, str(picture), *folders])
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    assert len(found) == (10 if WHOLE else 6)
    from PIL import Image

    texts = ["a wonderful table", "dreadful, long, and cloudy as the river was"]
    for folder, kind in folders.items():
        run, shown = runs[kind], [Image.open(picture).convert("RGB")] * 2
        model = run.recipe.task.model(hfadapt.backbones.base.Source("", str(run.model)), None)[0].eval()
        if kind == "pictures":
            inputs = transformers.AutoImageProcessor.from_pretrained(run.model)(shown, return_tensors="pt")
            logits = model(**inputs).logits
        elif kind == "captions":
            processor = transformers.AutoProcessor.from_pretrained(run.model)
            logits = model(**processor(text=texts, images=shown, padding=True, return_tensors="pt")).logits_per_image
        else:
            tokenizer = transformers.AutoTokenizer.from_pretrained(run.model)
            logits = model(**tokenizer(texts, padding=True, return_tensors="pt")).logits
        assert np.allclose(found[folder], logits.detach().numpy(), atol=1e-4), folder


def test_transformers_own_loader_takes_the_folder(exports):
    import torch
    from transformers.exporters.base import ExportedModel

    made = ExportedModel.from_pretrained(exports("single", "onnx").path)
    found = made(input_ids=torch.tensor([[0, 9, 8, 2]]), attention_mask=torch.ones(1, 4, dtype=torch.long))
    assert found["logits"].shape == (1, 2)


def test_nothing_that_is_exported_tells_of_this_machine(exports, runs):
    root = str(Path(hfadapt.__file__).parent.parent).encode()
    seen = 0
    for kind in ("single", "captions"):
        for to in FORMATS:
            for path in exports(kind, to).path.iterdir():
                content = path.read_bytes()
                seen += 1
                assert root not in content and b"site-packages" not in content and b"/tmp/" not in content, path
    assert seen > 20


def test_int8_is_made_of_the_runs_own_onnx_as_long_as_that_is_its_model(runs, exports, tmp_path, monkeypatch):
    exports("single", "onnx")
    copied = hfadapt.open_run(shutil.copytree(runs["single"].path, tmp_path / "run"))
    shutil.rmtree(copied.path / "onnx-int8", ignore_errors=True)

    def stop(*_):
        raise HfadaptError("traced anew")

    monkeypatch.setattr(tracing, "traced", stop)
    assert export(copied, "onnx-int8").about["score"]["metric"] == "f1_macro"
    weights = copied.model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\1")
    with pytest.raises(HfadaptError, match="traced anew"):
        export(copied, "onnx-int8")


def test_graphs_that_answer_otherwise_are_not_kept(runs, exports, monkeypatch):
    before = exports("pictures", "torch-export").path / "export.json"
    content = before.read_bytes()

    def forward(self, **inputs):
        return {"logits": self.model(**inputs).logits * 1.01}

    monkeypatch.setattr(graphs.Logits, "forward", forward)
    with pytest.raises(HfadaptError, match=r"its outputs differ by .*, and 0\.0001 is allowed\. It was not kept"):
        export(runs["pictures"], "torch-export")
    assert before.read_bytes() == content
    assert not [path for path in runs["pictures"].path.iterdir() if path.name.startswith(".")]


def test_a_model_that_can_not_be_traced_is_told_in_one_sentence(runs, monkeypatch, tmp_path):
    from transformers.exporters import DynamoExporter

    def fail(*_, **__):
        raise ValueError("the first line\nof a long story " * 40)

    monkeypatch.setattr(DynamoExporter, "export", fail)
    with pytest.raises(HfadaptError) as caught:
        export(runs["single"], "torch-export", tmp_path / "x")
    (problem,) = caught.value.problems
    assert problem.says.startswith("A model of the kind 'bert' can't be exported to torch-export with these versions")
    assert len(problem.says) < 320 and "\n" not in problem.says and not list(tmp_path.iterdir())


def test_what_is_refused_before_any_work(runs, tmp_path, monkeypatch):
    with pytest.raises(HfadaptError, match=r"There is no format 'onx'\. Did you mean 'onnx'\?"):
        export(runs["single"], "onx")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.tex").write_text("x")
    with pytest.raises(HfadaptError, match="holds something else than an export"):
        export(runs["single"], "onnx", tmp_path / "mine")
    with pytest.raises(HfadaptError, match="is a file"):
        export(runs["single"], "onnx", tmp_path / "mine/thesis.tex")
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut/recipe.yaml").write_text(runs["single"].recipe.text)
    with pytest.raises(HfadaptError, match="is not finished"):
        export(tmp_path / "cut", "onnx")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name.startswith("onnx") else object())
    says = r"onnx and onnxscript and onnxruntime are missing\. .*pip install 'hfadapt\[onnx\]'"
    with pytest.raises(HfadaptError, match=says):
        export(runs["single"], "onnx")
    need("torch-export")


def test_an_export_elsewhere_takes_its_recipe_along(runs, tmp_path, pictures, capsys):
    """And replaces the export that was there."""
    from hfadapt.verbs.export import _lines

    out = tmp_path / "there"
    out.mkdir()
    (out / "export.json").write_text("{}")
    (out / "old.txt").write_text("x")
    with pytest.raises(SystemExit) as ended:
        main(["export", str(runs["pictures"].path), "--to", "torch-export", "--out", str(out), "--json"])
    printed = capsys.readouterr().out
    assert ended.value.code == 0, printed
    told = json.loads(printed)
    assert told["folder"] == str(out) and told["checked"]["max_difference"] <= TOLERANCE and len(told["model"]) == 64
    shown = "\n".join(_lines(Exported(out)))
    for word in ("model.pt2", "from PyTorch's outputs in 3 batches", "rows/s", f"hfadapt predict {out} FILE"):
        assert word in shown
    assert not (out / "old.txt").exists()
    moved = out.rename(tmp_path / "moved")
    assert len(list(hfadapt.predict(moved, pictures / "test"))) == 8
    with pytest.raises(SystemExit):
        main(["score", str(moved), "--json"])
    assert "accuracy" in json.loads(capsys.readouterr().out)["scores"]["test"]
    (moved / "recipe.yaml").unlink()
    with pytest.raises(HfadaptError, match=r"has lost its recipe\. Copy"):
        list(hfadapt.predict(moved, pictures / "test"))
    (moved / "export.json").write_text('{"components": {}}')
    with pytest.raises(HfadaptError, match="was not written by hfadapt"):
        open_exported(moved)
    assert open_exported(tmp_path) is None


def test_what_is_lost_is_more_of_an_error_and_less_of_a_score(runs, exports, tmp_path, toy):
    """With rows of one's own; of an rmse more is worse."""
    from hfadapt.reading import read

    made, run = exports("regression", "torch-export"), runs["regression"]
    other = tmp_path / "other.csv"
    with toy.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    with other.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows[:20])
    changes = [f"data.test={other}", "train.metric_for_best_model=rmse"]
    told = exporting._drop(run, made, read(run.path / "recipe.yaml", changes), "number", changes)
    assert told["metric"] == "rmse" and told["rows"] == 20
    assert told["drop"] == told["torch-export"] - told["pytorch"] and told["drop"] == pytest.approx(0, abs=1e-4)
