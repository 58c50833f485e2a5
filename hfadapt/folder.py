"""A run on disk. Any later process rebuilds it from there."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
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
    transformers), `adapter/` (where one was trained), `scores.json`, `README.md` (the model card); where rows
    have one label `confusion.png`; of pictures `mistakes.png` and, where they are varied, `augmented.png`.
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
    """An empty folder for a run: `out`, or the first of `runs/NAME`, `runs/NAME-2`, … that is free.

    Raises:
        RunError: `out` exists and is not empty, or cannot be made.
    """
    try:
        if out is not None:
            path = Path(out)
            if path.exists() and (not path.is_dir() or (any(path.iterdir()) and not _claim(path))):
                raise RunError(f"'{path}' exists already. Choose another --out, or go on with it: --resume {path}.")
            path.mkdir(parents=True, exist_ok=True)
            return Run(path)
        for number in range(1, 10_000):
            path = Path("runs") / (recipe.name if number == 1 else f"{recipe.name}-{number}")
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                path.mkdir()
                return Run(path)
            except FileExistsError:
                if _claim(path):
                    return Run(path)
    except OSError as error:
        raise RunError(f"The run folder cannot be made: {error.strerror}: '{error.filename}'.") from None
    raise RunError("runs/ is full.")


def planned_run(recipe: Recipe) -> Run:
    """A folder for what planning draws: the one that a run of the recipe would take next."""
    for number in range(1, 10_000):
        path = Path("runs") / (recipe.name if number == 1 else f"{recipe.name}-{number}")
        if not path.exists() or _only_planned(path):
            path.mkdir(parents=True, exist_ok=True)
            return Run(path)
    raise RunError("runs/ is full.")


def _only_planned(path: Path) -> bool:
    return path.is_dir() and {entry.name for entry in path.iterdir()} <= {SHEET}


def _claim(path: Path) -> bool:
    """Take a folder in which there is nothing but what planning drew; of several processes one succeeds."""
    if not _only_planned(path):
        return False
    try:
        (path / SHEET).unlink()
    except OSError:
        return False
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
    plain = {split: {m: s.as_dict() for m, s in metrics.items()} for split, metrics in scores.items()}
    simple = {
        name: {split: {m: s.as_dict() for m, s in metrics.items()} for split, metrics in splits.items()}
        for name, splits in baselines.items()
    }
    return json.dumps({"scores": plain, "baselines": simple, **more}, indent=2, ensure_ascii=False) + "\n"
