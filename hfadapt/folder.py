"""A run on disk. Any later process rebuilds it from there."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hfadapt.errors import RunError, did_you_mean

if TYPE_CHECKING:
    from hfadapt.recipe import Recipe

DONE = "scores.json"
"""The last file of a run to be written."""
SHEET = "augmented.png"
"""Training pictures, varied; all that planning leaves in the folder of a run to come."""


@dataclass(frozen=True)
class Run:
    """A run folder.

    `recipe.yaml` (as written), `plan.yaml`, `log.jsonl`, `checkpoints/` (while it trains), `model/` (plain
    transformers), `adapter/` (where one was trained), `scores.json`, `README.md` (the model card) with
    `training.png` and `.eval_results/` (the scores as the Hub reads them); where rows have one label
    `confusion.png`; of pictures `mistakes.png` and, where they are varied, `augmented.png`; `contract.json` and
    `contract.safetensors` (some validation rows with what the trained model made of them; not for others' eyes).
    On demand `onnx/`, `onnx-int8/` and `torch-export/`, and `published.json` (what is on the Hub).
    """

    path: Path

    @property
    def model(self) -> Path:
        """What `AutoModelFor….from_pretrained` and `pipeline` load."""
        return self.path / "model"

    @property
    def checkpoints(self) -> Path:
        """Where an interrupted run goes on from."""
        return self.path / "checkpoints"

    @property
    def done(self) -> bool:
        """Whether the run came to its end."""
        return (self.path / DONE).exists()

    @property
    def scores(self) -> dict[str, Any]:
        """What `scores.json` holds: `scores` and `baselines` by split and metric.

        Raises:
            RunError: the run is not finished.
        """
        if not self.done:
            raise RunError(f"The run {self.path} is not finished: it has no {DONE}.")
        return dict(json.loads((self.path / DONE).read_text(encoding="utf-8")))

    @property
    def recipe(self) -> Recipe:
        """The recipe that it carried out, overrides included."""
        from hfadapt.reading import read

        return read(self.path / "recipe.yaml")

    def write(self, name: str, content: str) -> None:
        """Write a text file whole or not at all."""
        draft = self.path / f".{name}.draft"
        draft.write_text(content, encoding="utf-8")
        draft.replace(self.path / name)


def open_run(path: str | Path) -> Run:
    """The run in a folder.

    Raises:
        RunError: there is none.
    """
    path = Path(path)
    if not (path / "recipe.yaml").exists():
        siblings = [str(p.parent) for p in path.parent.glob("*/recipe.yaml")] if path.parent.is_dir() else []
        raise RunError(f"There is no run in '{path}'. {did_you_mean(str(path), siblings)}".strip())
    return Run(path)


def new_run(recipe: Recipe, out: str | Path | None) -> Run:
    """A folder for a run, taken by it alone: `out`, or the first of `runs/NAME`, `runs/NAME-2`, … that is free.

    Raises:
        RunError: `out` exists and is not empty, or cannot be made.
    """
    try:
        if out is not None:
            path = Path(out)
            held = _held(path)
            free = not path.exists() if held is None else held <= {SHEET}
            if free:
                path.mkdir(parents=True, exist_ok=True)
            if not free or not _take(path):
                says = f"'{path}' exists already. Choose another --out, or go on with it: --resume {path}."
                raise RunError(says)
            return Run(path)
        for path in _candidates(recipe):
            if (_made(path) or _held(path) == {SHEET}) and _take(path):
                return Run(path)
    except OSError as error:
        raise RunError(f"The run folder cannot be made: {error.strerror}: '{error.filename}'.") from None
    raise RunError("runs/ is full.")


def planned_run(recipe: Recipe) -> Run:
    """A folder for what planning draws: the one that a run of the recipe would take next.

    Raises:
        RunError: it cannot be made.
    """
    try:
        for path in _candidates(recipe):
            # One that is empty may be that of a run which began this very moment.
            if _made(path) or _held(path) == {SHEET}:
                return Run(path)
    except OSError as error:
        raise RunError(f"The run folder cannot be made: {error.strerror}: '{error.filename}'.") from None
    raise RunError("runs/ is full.")


def _candidates(recipe: Recipe) -> Iterator[Path]:
    for number in range(1, 10_000):
        yield Path("runs") / (recipe.name if number == 1 else f"{recipe.name}-{number}")


def _made(path: Path) -> bool:
    """Make a folder; False where it is there already."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        path.mkdir()
    except FileExistsError:
        return False
    return True


def _held(path: Path) -> set[str] | None:
    """The names in a folder; None for what is no folder."""
    return {entry.name for entry in path.iterdir()} if path.is_dir() else None


def _take(path: Path) -> bool:
    """Take a folder in which there is nothing but what planning drew; of several processes one succeeds."""
    try:
        (path / "recipe.yaml").touch(exist_ok=False)
    except FileExistsError:
        return False
    (path / SHEET).unlink(missing_ok=True)
    return True


def readable(folder: Path) -> None:
    """Give files the permissions that the user's umask asks for; safetensors makes them private."""
    mask = os.umask(0)
    os.umask(mask)
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(0o666 & ~mask)


def clear(folder: Path) -> None:
    """Remove a folder of ours; one that is not there is no fault."""
    shutil.rmtree(folder, ignore_errors=True)


def scores_json(scores: Mapping[str, Any], baselines: Mapping[str, Any], **more: Any) -> str:
    """The text of `scores.json`."""
    simple = {name: plain(splits) for name, splits in baselines.items()}
    return json.dumps({"scores": plain(scores), "baselines": simple, **more}, indent=2, ensure_ascii=False) + "\n"


def plain(scores: Mapping[str, Any]) -> dict[str, Any]:
    """Scores by split and metric as values for JSON."""
    return {split: {metric: score.as_dict() for metric, score in its.items()} for split, its in scores.items()}
