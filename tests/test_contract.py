"""The contract check: sound runs of every task pass it; a folder in disorder is told in one sentence.

With `HFADAPT_CONFORMANCE=all` in the environment it sees more ways to train.
"""

from __future__ import annotations

import ast
import gc
import io
import json
import os
import shutil
from pathlib import Path

import pytest
from PIL import Image
from safetensors.numpy import load_file

import hfadapt
from hfadapt import adapting, cli, contract, judging
from hfadapt.contract import Checked, check, check_all, loaded_alone, writing
from hfadapt.errors import HfadaptError, Problem
from hfadapt.recipe import Recipe

FRESH = True
"""Each check here starts its process anew; see `_checked_at_once`."""
TEXT, PICTURE, BOTH = "text-classification", "image-classification", "image-text-contrastive"
ALWAYS = {
    "pairs": (TEXT, "bert", "full", {}),
    "multi": (TEXT, "distilbert", "bitfit", {}),
    "regression": ({"type": TEXT, "problem_type": "regression"}, "roberta", "full", {}),
    "no padding of its own": (TEXT, "gpt2", "linear-probe", {}),
    "buffers": (PICTURE, "resnet", "full", {}),
    "built in": ({"type": PICTURE, "augment": {"crop": 0.6}}, "builtin/vit-nano", "lora", {}),
    "two towers": (BOTH, "clip", "lora", {}),
    "sigmoid": (BOTH, "siglip", "full", {}),
    "learnt context": ({"type": BOTH, "captions": "classes"}, "clip", "coop", {}),
}
MORE = {
    "single": (TEXT, "bert", "full", {}),
    "prompts": (TEXT, "bert", "prompt-tuning", {}),
    "decomposed": (TEXT, "bert", {"method": "lora", "init_lora_weights": "pissa"}, {}),
    "half": (TEXT, "bert", "lora", {"dtype": "bfloat16"}),
    "transposed": (TEXT, "gpt2", "lora", {}),
    "averaged": (TEXT, "bert", {"method": "wise-ft", "inner": {"method": "lora"}}, {}),
    "from scratch": (TEXT, "bert", "from-scratch", {}),
    "untrained": (TEXT, "bert", "none", {}),
    "of a tower": (PICTURE, "clip", "lora", {}),
    "two towers whole": (BOTH, "clip", "full", {}),
}
RUNS = ALWAYS | (MORE if os.environ.get("HFADAPT_CONFORMANCE") == "all" else {})
DATA = {
    "pairs": {"text": "text", "text_pair": "other", "label": "label"},
    "multi": {"text": "text", "label": "tags", "label_separator": "|"},
    "regression": {"text": "text", "label": "stars"},
}


@pytest.fixture(scope="module")
def plain():
    """Charts and baselines take half of so small a run."""
    gc.freeze()  # The Trainer collects garbage; all that was imported need not be searched each time.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(judging, "draw", lambda *_: None)
        patch.setattr(judging, "compare", lambda *_: {})
        patch.setattr(adapting, "write_card", lambda *_: None)
        yield


@pytest.fixture(scope="module")
def runs(plain, backbone, toy, pictures, tmp_path_factory):
    folder, made = tmp_path_factory.mktemp("sound"), {}
    tables = {split: str(pictures / split / "captions.csv") for split in ("validation", "test")}
    captioned = {"path": str(pictures / "train/captions.csv"), "image": "file", "label": "label", **tables}
    for name, (task, kind, adapt, model) in RUNS.items():
        what = task if isinstance(task, str) else task["type"]
        data = {"path": str(toy), **DATA.get(name, {"text": "text", "label": "label"})}
        if what != TEXT:
            data = {"path": str(pictures)} if what == PICTURE else captioned
        if what == BOTH and isinstance(task, str):
            data = data | {"text": "text"}
        recipe = Recipe(
            task=task,
            model={"name": kind if "/" in kind else str(backbone(kind)), **model},
            data=data,
            adapt=adapt,
            train={"max_steps": 3, "learning_rate": 1e-2, "warmup_steps": 0},
        )
        made[name] = hfadapt.adapt(hfadapt.plan(recipe), folder / name)
    return made


@pytest.fixture(scope="module")
def checked(runs):
    return dict(zip(runs, check_all(list(runs.values())), strict=True))


@pytest.mark.parametrize("name", RUNS)
def test_a_sound_run_passes(name, runs, checked):
    """What loads is what was saved, to the last bit of the weights; merging an adapter rounds."""
    found = checked[name]
    adapts, half = (runs[name].path / "adapter").exists(), name == "half"
    assert found.problems == ()
    assert found.differences.keys() == {"model", "merging", *(["adapter"] if adapts else [])}
    assert found.differences["model"] == 0
    assert found.differences.get("adapter", 0) <= (1e-6 if name == "decomposed" else 0)
    assert found.differences["merging"] <= (1e-1 if half else 1e-5 if adapts else 0)
    assert found.rows == min(8, len(json.loads((runs[name].path / "contract.json").read_text())["rows"]))
    assert found.line.startswith("model/ and adapter/ load" if adapts else "model/ loads")


def test_the_rows_have_different_lengths_and_their_padding_shows(runs):
    for name in ("pairs", "no padding of its own"):
        kept = load_file(runs[name].path / "contract.safetensors")
        masks = [its for key, its in kept.items() if key.endswith("attention_mask")]
        assert len(masks) == 2
        assert all(len(set(mask.sum(1).tolist())) > 1 for mask in masks)


def test_a_picture_is_kept_as_its_file_unless_transformers_would_open_it_otherwise():
    stream, clear = io.BytesIO(), io.BytesIO()
    turned = Image.Exif()
    turned[0x0112] = 6
    picture = Image.radial_gradient("L").resize((20, 10)).convert("RGB")
    picture.save(stream, "JPEG", exif=turned)
    assert writing._content({"bytes": stream.getvalue(), "path": None}) == stream.getvalue()
    Image.new("RGBA", (4, 4), (200, 0, 0, 0)).save(clear, "PNG")
    kept = writing._content({"bytes": clear.getvalue(), "path": None})
    assert kept != clear.getvalue()
    assert Image.open(io.BytesIO(kept)).getpixel((0, 0)) == (255, 255, 255)


def test_a_contract_tells_nothing_of_this_machine(runs, backbone):
    for run in runs.values():
        said = (run.path / "contract.json").read_text(encoding="utf-8")
        assert str(run.path) not in said and "/tmp/" not in said and str(Path.home()) not in said
        assert str(run.recipe.model.name) not in said
    # Nor does an adapter of the folder in which a model of another name was found.
    config = json.loads((runs["built in"].path / "adapter/adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "builtin/vit-nano"


def test_the_fresh_process_needs_nothing_of_hfadapt():
    tree = ast.parse(Path(loaded_alone.__file__).read_text(encoding="utf-8"))
    names = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    names |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    used = {name.partition(".")[0] for name in names}
    assert used >= {"torch", "transformers", "peft", "safetensors"}
    assert used <= {
        *("__future__", "collections", "io", "json", "pathlib", "sys", "typing", "zlib"),
        *("torch", "transformers", "peft", "safetensors", "PIL"),
    }


# Folders in disorder


@pytest.fixture
def copied(runs, tmp_path):
    """A copy of a run."""

    def copy(name: str) -> Path:
        return Path(shutil.copytree(runs[name].path, tmp_path / "copy"))

    return copy


@pytest.fixture
def alone(monkeypatch):
    """No process is started."""

    def refuse() -> None:
        raise AssertionError("a process is started")

    monkeypatch.setattr("hfadapt.contract.checking.Fresh", refuse)


def test_a_run_without_its_model(copied, alone):
    folder = copied("pairs")
    shutil.rmtree(folder / "model")
    assert list(map(str, check(folder).problems)) == ["model/: There is no model: config.json is missing."]


@pytest.mark.parametrize("file", ["contract.json", "contract.safetensors"])
def test_a_run_that_is_older_than_contracts(file, copied, alone):
    folder = copied("pairs")
    (folder / file).unlink()
    with pytest.raises(HfadaptError, match=r"^The run .* has no contract to check it by\. An older hfadapt made it:"):
        check(folder)
    (folder / "scores.json").unlink()
    with pytest.raises(HfadaptError, match=r"Go on with it: hfadapt run --resume"):
        check(folder)


@pytest.mark.parametrize("file", ["contract.json", "contract.safetensors"])
def test_a_damaged_contract(file, copied, alone):
    folder = copied("pairs")
    (folder / file).write_bytes((folder / file).read_bytes()[:100])
    with pytest.raises(HfadaptError, match=r"^The contract of the run .* is damaged: .*\.$"):
        check(folder)


def test_no_run(tmp_path):
    with pytest.raises(HfadaptError, match="There is no run in"):
        check(tmp_path / "nothing")


def test_a_process_that_dies_is_a_finding(runs, monkeypatch, tmp_path):
    script = tmp_path / "dies.py"
    script.write_text("import sys\nprint('of thirst.', file=sys.stderr)\nsys.exit(3)\n")
    monkeypatch.setattr("hfadapt.contract.checking.SCRIPT", script)
    (problem,) = check(runs["pairs"]).problems
    assert str(problem) == "model/: The process that was to load it ended with status 3: of thirst."


def test_a_base_that_is_gone_leaves_the_adapter_unchecked(copied, monkeypatch):
    folder, asked = copied("two towers"), []
    text = (folder / "recipe.yaml").read_text()
    base = next(line for line in text.splitlines() if line.startswith("model: "))
    (folder / "recipe.yaml").write_text(text.replace(base, "model: /nowhere/at/all"))
    monkeypatch.setattr("hfadapt.contract.Fresh.look", lambda _, request: asked.append(request) or "It died.")
    assert check(folder).unchecked == "adapter/ not checked, for its base '/nowhere/at/all' is not on this machine"
    assert "base" not in asked[0]["runs"]["0"]


# The verbs


def finding(run, *_) -> Checked:
    return Checked(run, 8, (Problem("The labels are 'b', 'a'.", where="model/config.json"),), {"model": 0.5})


def ended(*argv: str) -> int:
    with pytest.raises(SystemExit) as end:
        cli.main(list(argv))
    return end.value.code


def test_check_tells_and_its_status_says(runs, checked, monkeypatch, capsys):
    run = runs["pairs"]
    monkeypatch.setattr("hfadapt.contract.check", lambda _: checked["pairs"])
    assert ended("check", str(run.path)) == 0
    assert capsys.readouterr() == (checked["pairs"].line + "\n", "")
    monkeypatch.setattr("hfadapt.contract.check", lambda _: finding(run))
    assert ended("check", str(run.path), "--json") == 1
    out, err = capsys.readouterr()
    assert err == "model/config.json: The labels are 'b', 'a'.\n"
    told = json.loads(out)
    assert (told["sound"], told["rows"], told["differences"]) == (False, 8, {"model": 0.5})
    assert told["problems"] == [{"where": "model/config.json", "says": "The labels are 'b', 'a'.", "hint": ""}]


def test_the_process_is_started_while_the_model_is_judged_and_never_left(plain, runs, monkeypatch, tmp_path):
    recipe, started, judge = tmp_path / "toy.yaml", [], adapting.judge
    recipe.write_text(runs["pairs"].recipe.text)

    class Seen(contract.Fresh):
        def __init__(self):
            super().__init__()
            started.append(self)

    def judged(*given):
        assert len(started) == 1 and started[0]._process.poll() is None
        return judge(*given)

    def failing(*_):
        raise HfadaptError("The disk is full.")

    monkeypatch.setattr("hfadapt.contract.Fresh", Seen)
    monkeypatch.setattr("hfadapt.adapting.judge", judged)
    assert ended("run", str(recipe), "--out", str(tmp_path / "run")) == 0
    assert len(started) == 1, "the one that was started is the one that is asked"
    monkeypatch.setattr("hfadapt.adapting.judge", failing)
    assert ended("run", str(recipe), "--out", str(tmp_path / "other")) == 2
    for fresh in started:
        assert fresh._process.poll() is not None and not fresh.folder.exists()
    assert len(started) == 2


def test_a_run_whose_check_fails_says_so_and_keeps_everything(plain, runs, monkeypatch, capsys, tmp_path):
    recipe = tmp_path / "toy.yaml"
    recipe.write_text(runs["no padding of its own"].recipe.text)
    monkeypatch.setattr("hfadapt.contract.check", finding)
    assert ended("run", str(recipe), "--out", str(tmp_path / "run")) == 1
    out, err = capsys.readouterr()
    assert "\nchecked     1 finding: what loads is not what was trained\n" in out
    assert "Not sound: 1 finding" in err and "  model/config.json: The labels are 'b', 'a'." in err
    assert f"hfadapt check {tmp_path / 'run'}" in err
    kept = {path.name for path in (tmp_path / "run").iterdir()}
    assert kept >= {"model", "scores.json", "contract.json", "contract.safetensors"}
    last = json.loads((tmp_path / "run/log.jsonl").read_text().splitlines()[-1])
    assert last["event"] == "checked" and last["sound"] is False
