"""Run folders: whose they are, and what planning leaves in them."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hfadapt import cli
from hfadapt.errors import RunError
from hfadapt.folder import SHEET, new_run, planned_run
from hfadapt.recipe import Recipe

RECIPE = Recipe(task="image-classification", model="m", data={"path": "p"})


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def hfadapt(here, monkeypatch, capsys):
    """Runs a verb in an empty folder: its exit status and what it wrote. What a plan costs is not measured."""
    monkeypatch.setattr("hfadapt.estimating.estimate", lambda *_: None)

    def run(*argv: object) -> tuple[int, str]:
        with pytest.raises(SystemExit) as end:
            cli.main([str(word) for word in argv])
        out, err = capsys.readouterr()
        assert end.value.code == 0, err
        return end.value.code, out

    return run


def write(place: Path, backbone, pictures: Path, augment: str = "") -> None:
    (place / "my.yaml").write_text(
        f"task: {{type: image-classification, augment: {{{augment}}}}}\nmodel: {backbone('vit')}\n"
        f"data: {{path: {pictures}}}\ntrain: {{max_steps: 1}}\n"
    )


def names(place: Path) -> set[str]:
    return {path.relative_to(place).as_posix() for path in place.rglob("*") if path.is_file()}


def test_a_plan_draws_what_training_will_see(hfadapt, here, backbone, pictures):
    """And the run that follows takes the same folder."""
    write(here, backbone, pictures, "flip: horizontal, rotate: 45")
    _, out = hfadapt("plan", "my.yaml")
    (line,) = [line for line in out.splitlines() if line.startswith("sample ")]
    assert line.split()[1] == "runs/my/augmented.png"
    assert names(here) == {"my.yaml", "runs/my/augmented.png"}
    with Image.open("runs/my/augmented.png") as sheet:
        assert sheet.format == "PNG" and sheet.width > 300
        first = np.asarray(sheet.convert("RGB"))
    assert json.loads(hfadapt("plan", "my.yaml", "--json")[1])["augmented"] == "runs/my/augmented.png"
    _, out = hfadapt("run", "my.yaml", "--processes", "1")
    assert [path.name for path in (here / "runs").iterdir()] == ["my"]
    assert {"runs/my/scores.json", "runs/my/augmented.png", "runs/my/recipe.yaml"} <= names(here)
    assert "runs/my/augmented.png" in out
    with Image.open("runs/my/augmented.png") as sheet:
        assert (np.asarray(sheet.convert("RGB")) == first).all(), "the run draws what the plan had drawn"
    done = (here / "runs/my/scores.json").read_bytes()
    _, out = hfadapt("plan", "my.yaml")
    assert "runs/my-2/augmented.png" in out and (here / "runs/my/scores.json").read_bytes() == done


def test_the_sheet_shows_what_training_sees(here, backbone, pictures, monkeypatch):
    """The very pictures of the first epochs: the draws are those of the rows that training visits."""
    import hfadapt
    from hfadapt import judging, showing
    from hfadapt.data import augmenting

    shown = []
    monkeypatch.setattr(augmenting, "sheet", lambda path, rows, titles: shown.append((rows, titles)))
    task = {"type": "image-classification", "augment": {"flip": "horizontal", "rotate": 45}}
    made = hfadapt.plan(Recipe(task=task, model=str(backbone("vit")), data={"path": str(pictures)}))
    showing.draw_augmented(made, planned_run(made.recipe))
    ((rows, titles),) = shown
    assert len(rows) == len(titles) == 8 and all(len(row) == 8 for row in rows)
    train, size = judging.encode(made, "train"), len(made.data.splits["train"])
    for row, title in zip(rows[:3], titles[:3], strict=True):
        number = int("".join(c for c in title.partition(":")[0] if c.isdigit()))
        for epoch, picture in enumerate(row[1:]):
            seen = train[2 * size * epoch + number]["pixel_values"]
            assert np.allclose(made.recipe.task.encode({"image": [picture]}, made.processor)["pixel_values"][0], seen)


@pytest.mark.parametrize("augment", ["", "mixup: 0.4"], ids=["none", "mixup"])
def test_a_plan_that_varies_no_picture_leaves_nothing(augment, hfadapt, here, backbone, pictures):
    write(here, backbone, pictures, augment)
    _, out = hfadapt("plan", "my.yaml")
    assert "sample " not in out and names(here) == {"my.yaml"} and not (here / "runs").exists()


def test_two_runs_never_share_a_folder(here):
    """However plans come in between."""
    taken = [new_run(RECIPE, None)]
    planned = planned_run(RECIPE).path
    assert planned != taken[0].path, "the run has not written anything yet"
    (planned / SHEET).write_bytes(b"")
    assert planned_run(RECIPE).path == planned, "a later plan draws over it"
    taken += [new_run(RECIPE, None), new_run(RECIPE, None)]
    assert taken[1].path == planned and not (planned / SHEET).exists()
    assert len({run.path for run in taken}) == 3


def test_a_folder_that_another_run_has_just_taken(here, monkeypatch):
    """As it looks to a process that saw nothing but a plan's sheet in it a moment ago."""
    taken = new_run(RECIPE, None)
    monkeypatch.setattr("hfadapt.folder._held", lambda path: {SHEET})
    assert new_run(RECIPE, None).path != taken.path
    with pytest.raises(RunError, match="exists already"):
        new_run(RECIPE, taken.path)


def test_many_at_once(here):
    def take(number: int) -> Path | None:
        if number % 2:
            (planned_run(RECIPE).path / SHEET).write_bytes(b"")
            return None
        return new_run(RECIPE, None).path

    with ThreadPoolExecutor(16) as pool:
        taken = [path for path in pool.map(take, range(200)) if path]
    assert len(taken) == len(set(taken)) == 100


def test_a_folder_of_ones_own(here):
    """A new one, an empty one, one with nothing but a plan's sheet; none with anything else, and none twice."""
    for name in ("new", "empty", "planned"):
        if name != "new":
            Path(name).mkdir()
        if name == "planned":
            Path(name, SHEET).write_bytes(b"")
        assert new_run(RECIPE, name).path == Path(name)
        with pytest.raises(RunError, match=f"'{name}' exists already"):
            new_run(RECIPE, name)
    Path("full").mkdir()
    Path("full/notes.txt").write_text("mine")
    Path("file").write_text("mine")
    for name in ("full", "file"):
        with pytest.raises(RunError, match=f"'{name}' exists already"):
            new_run(RECIPE, name)
    assert names(Path("full")) == {"notes.txt"}
    with pytest.raises(RunError, match="cannot be made: Not a directory: 'file/below'"):
        new_run(RECIPE, "file/below")


@pytest.mark.parametrize("take", [lambda: new_run(RECIPE, None), lambda: planned_run(RECIPE)], ids=["run", "plan"])
def test_runs_is_a_file(take, here):
    Path("runs").write_text("")
    with pytest.raises(RunError, match="The run folder cannot be made"):
        take()
