"""Planted mistakes: what `hfadapt plan` says of each, word for word, all of it at once.

A file of `tests/mistakes` begins with `#> ` lines, one for each problem in the order in which they come.
`#$ ` lines are arguments of the command line. `#! ` says what is still wrong with hfadapt there: the
lines above it are what it should say, and the test has to fail until it does.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hfadapt import cli

FOLDER = Path(__file__).parent / "mistakes"
FILES = sorted(path.stem for path in FOLDER.glob("*.yaml"))


@pytest.fixture(scope="module")
def place(tmp_path_factory, backbone) -> Path:
    """A copy of the mistakes, the small backbones `tiny…`, broken models, pictures, files that git would mangle."""
    place = tmp_path_factory.mktemp("mistakes") / "here"
    shutil.copytree(FOLDER, place)
    tiny = backbone("bert")
    (place / "tiny").symlink_to(tiny)
    for kind in ("vit", "clip"):
        (place / f"tiny-{kind}").symlink_to(backbone(kind))
    draw_pictures(place / "data")
    for name, left_out in (
        ("weightless", "*.safetensors"),
        ("wordless", "tokenizer*"),
        ("broken", ""),
        ("damaged", ""),
    ):
        shutil.copytree(tiny, place / "models" / name, ignore=shutil.ignore_patterns(left_out))
    shutil.copytree(backbone("vit"), place / "models/sightless", ignore=shutil.ignore_patterns("preprocessor*"))
    (place / "models/broken/config.json").write_text('{"model_type": "bert"')
    (place / "models/damaged/model.safetensors").write_bytes((tiny / "model.safetensors").read_bytes()[:-8])
    for name, config in (
        ("unknown", {"model_type": "brainwave"}),
        ("coded", {"model_type": "brainwave", "auto_map": {"AutoConfig": "code.Config"}}),
    ):
        (place / "models" / name).mkdir()
        (place / "models" / name / "config.json").write_text(json.dumps(config))
    rows = "text,label\nCafé froid.,bad\nVery good.,good\n" * 6
    (place / "data/latin1.csv").write_bytes(rows.encode("latin-1"))
    (place / "data/utf16.csv").write_bytes(rows.encode("utf-16"))
    (place / "data/broken.parquet").write_bytes(b"PAR1 and then nothing PAR1")
    write_parquet(place / "data/one_class.parquet", {"text": [f"Text {i}." for i in range(12)], "label": ["good"] * 12})
    return place


def draw_pictures(data: Path) -> None:
    """Class folders with 12 pictures to train on and 4 in each other split, a broken one among good ones, captions."""
    import numpy as np
    from PIL import Image

    draw = np.random.default_rng(0)

    def put(path: str) -> None:
        (data / path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(data / path)

    for split, number in (("train", 6), ("validation", 2), ("test", 2)):
        for path in [f"{split}/{name}/{i}.png" for name in ("round", "angular") for i in range(number)]:
            put(f"shapes/{path}")
    shutil.copytree(data / "shapes", data / "broken_shapes")
    broken = data / "broken_shapes/train/round/3.png"
    broken.write_bytes(broken.read_bytes()[:120])
    for path in ("flat/0.png", "flat/1.png", "odd_shapes/round/0.png", "odd_shapes/triangular/0.png"):
        put(path)
    (data / "no_pictures").mkdir()
    (data / "no_pictures/notes.txt").write_text("The pictures are on the other machine.")
    rows = [f"shapes/train/{name}/{i}.png,picture {i} of {name}" for name in ("round", "angular") for i in range(6)]
    (data / "captions_good.csv").write_text("\n".join(["file,caption", *rows]) + "\n")
    (data / "shapes_listed.csv").write_text("\n".join(["file", *(row.partition(",")[0] for row in rows)]) + "\n")
    rows[3] = "shapes/train/round/33.png,picture 33"
    (data / "captions.csv").write_text("\n".join(["file,caption", *rows]) + "\n")
    tags = [f"{row.partition(',')[0]},{'a|b' if i % 2 else 'a'}" for i, row in enumerate(rows) if i != 3]
    (data / "tags.csv").write_text("\n".join(["file,tags", *tags]) + "\n")


def write_parquet(path: Path, columns: dict[str, list[str]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table(columns), path)


@pytest.fixture
def say(place, monkeypatch, capsys):
    """Runs a verb of the command line where the mistakes are: its exit status, its output, its complaints.

    What a plan costs is not measured.
    """
    monkeypatch.chdir(place)
    monkeypatch.setattr("hfadapt.estimating.estimate", lambda *_: None, raising=False)

    def run(*argv: str) -> tuple[int, str, list[str]]:
        with pytest.raises(SystemExit) as end:
            cli.main(argv)
        out, err = capsys.readouterr()
        return end.value.code, out, err.splitlines()

    return run


def marked(name: str, mark: str) -> list[str]:
    lines = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    return [line.removeprefix(mark) for line in lines if line.startswith(mark)]


def case(name: str):
    wrong = " ".join(marked(name, "#! "))
    return pytest.param(name, marks=pytest.mark.xfail(reason=wrong, strict=True) if wrong else ())


def test_there_are_many():
    assert len(FILES) >= 100
    assert all(marked(name, "#> ") for name in FILES)


@pytest.mark.parametrize("name", [case(name) for name in FILES])
def test_mistake(name, say):
    status, out, complaints = say("plan", f"{name}.yaml", *marked(name, "#$ "))
    assert complaints == marked(name, "#> ")
    assert (status, out) == (2, "")


BYTES = {
    "not_utf8": (b"# caf\xc3\xa9\ntask: caf\xe9\n", ":2: The recipe is not UTF-8 text. Save it as UTF-8."),
    "utf16": ("task: a\n".encode("utf-16"), ":1: The recipe is not UTF-8 text. Save it as UTF-8."),
    "zero_bytes": (b"", ": The recipe is empty. The shortest has 'task', 'model' and 'data'."),
    "only_a_mark": (b"\xef\xbb\xbf", ": The recipe is empty. The shortest has 'task', 'model' and 'data'."),
    "nul": (b"task: a\0b\n", ": This is not YAML: unacceptable character #x0000: special characters are not allowed."),
    "too_large": (b"# " + b"x" * 1_000_000, ": The file has 1,000,002 bytes; a recipe has a few hundred."),
    "cut_off": (b"a: [[[[", ":1: This is not YAML: the text ends where a value should stand."),
    "bottomless": (b"a: " + b"[" * 800 + b"]" * 800, ": This is not YAML: it is nested too deeply."),
}


@pytest.mark.parametrize("name", BYTES)
def test_bytes_that_are_no_recipe(name, say, place):
    content, complaint = BYTES[name]
    (place / f"{name}.yaml").write_bytes(content)
    assert say("plan", f"{name}.yaml") == (2, "", [f"{name}.yaml{complaint}"])


def test_a_byte_order_mark_is_no_mistake(say, place):
    (place / "mark.yaml").write_bytes(b"\xef\xbb\xbf" + (place / "tags_missing.yaml").read_bytes())
    _, _, complaints = say("plan", "mark.yaml")
    assert complaints == [line.replace("tags_missing", "mark") for line in marked("tags_missing", "#> ")]


@pytest.mark.parametrize(
    ("path", "complaint"),
    [
        ("yaml_tabs.yaml", "yaml_tabs.yaml: There is no such file. Did you mean 'yaml_tab.yaml'?"),
        ("no/such.yaml", "no/such.yaml: There is no such file. `hfadapt list` names recipes."),
        ("data", "data: This is a folder, not a recipe."),
        ("~no-such-user/my.yaml", "~no-such-user/my.yaml: There is no such file. `hfadapt list` names recipes."),
    ],
)
def test_recipe_that_is_not_there(path, complaint, say):
    assert say("plan", path) == (2, "", [complaint])


def test_json_has_the_parts_of_every_problem(say):
    status, out, complaints = say("plan", "lora_options.yaml", "--json")
    assert status == 2
    errors = json.loads(out)["errors"]
    assert [set(error) for error in errors] == [{"where", "field", "says", "hint"}] * len(complaints)
    assert [f"{e['where']}: {e['field']}: {e['says']} {e['hint']}".strip() for e in errors] == complaints
    assert complaints == marked("lora_options", "#> ")


@pytest.mark.parametrize("verb", ["plan", "run"])
def test_every_verb_complains_alike(verb, say, place):
    assert say(verb, "train_out_of_range.yaml") == (2, "", marked("train_out_of_range", "#> "))
    assert not (place / "runs").exists()


GOOD = ["task: text-classification", "model: tiny", "data: {path: data/good.csv, text: text, label: label}"]


def test_what_the_mistakes_spoil_is_good(say, place):
    (place / "good.yaml").write_text("\n".join(GOOD))
    status, out, complaints = say("plan", "good.yaml")
    assert (status, complaints) == (0, [])
    assert "bad 10" in out


IMPOSSIBLE = [
    ["train.seed=99999999999999999999"],
    ["train.dataloader_num_workers=-1"],
    ["train.adam_beta1=2"],
]
"""What no run can do, though each value is of the right type."""
LATE = [
    ["train.bf16=true", "train.fp16=true"],
    ["train.load_best_model_at_end=true", "train.eval_strategy=no"],
    ["train.save_strategy=steps", "train.load_best_model_at_end=true"],
    ["train.report_to=tensorbord"],
    ["train.lr_scheduler_type=cosine_with_min_lr"],
    ["train.lr_scheduler_kwargs={speed: 1}"],
    ["train.dataloader_prefetch_factor=2"],
    ["train.optim_args=fast"],
    ["train.accelerator_config={speed: 1}"],
    ["train.early_stopping_patience=1", "train.eval_strategy=no"],
    ["train.max_steps=1", "adapt=lp-ft"],
    ["metrics=[no-such-metric]"],
]
"""What upstream would refuse only once training starts."""


@pytest.mark.parametrize("changes", [*IMPOSSIBLE, *LATE], ids=" ".join)
def test_the_plan_refuses_what_a_run_cannot_do(changes, say, place):
    (place / "good.yaml").write_text("\n".join(GOOD))
    status, _, complaints = say("plan", "good.yaml", *changes)
    assert status == 2
    assert complaints[0].startswith("command line: ")


def test_from_outside(place):
    """The whole program: what it says, its exit status, and the way to a traceback."""
    command = [sys.executable, "-m", "hfadapt", "plan", "key_twice.yaml"]
    done = subprocess.run(command, cwd=place, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines() == marked("key_twice", "#> ")
    debugged = subprocess.run(
        command, cwd=place, capture_output=True, text=True, env={**os.environ, "HFADAPT_DEBUG": "1"}
    )
    assert debugged.returncode == 1
    assert "Traceback" in debugged.stderr
