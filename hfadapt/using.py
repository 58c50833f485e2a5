"""Use what a run left: score it on other rows, predict."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hfadapt.errors import HfadaptError, RunError
from hfadapt.folder import Run, open_run
from hfadapt.reading import read
from hfadapt.recipe import Recipe

if TYPE_CHECKING:
    from hfadapt.tasks.base import Task

_AT_ONCE = 1_000
"""Rows that are read, encoded and answered together."""


def _recipe(run: Run, overrides: Sequence[str]) -> Recipe:
    if not run.done:
        raise RunError(f"The run {run.path} is not finished. Go on with it: hfadapt run --resume {run.path}.")
    return read(run.path / "recipe.yaml", overrides)


def _model(run: Run, recipe: Recipe) -> tuple[Any, Any]:
    """The saved model on the device, in eval mode, and its processor."""
    import torch
    from transformers import AutoConfig

    from hfadapt.backbones.base import Source

    source = Source(recipe.name, str(run.model))
    config = AutoConfig.from_pretrained(run.model)
    model, _ = recipe.task.model(source, config)
    device = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    return model.to(device).eval(), recipe.task.processor(source, config)  # type: ignore[arg-type]


def score(run: Run | str | Path, overrides: Sequence[str] = ()) -> dict[str, dict[str, Any]]:
    """The scores of a run's model by split and metric, on the recipe's rows or on others.

    overrides: changes to the recipe, such as `data.test=other.csv`.

    Raises:
        HfadaptError: the run is not finished, or the rows do not fit it.
    """
    # Looked at before the imports below, which cost seconds.
    run = run if isinstance(run, Run) else open_run(run)
    recipe = _recipe(run, overrides)
    from hfadapt import judging, settings
    from hfadapt.data.loading import load
    from hfadapt.noise import quiet
    from hfadapt.training.trainer import ExactLoss

    task, seed = recipe.task, int(recipe.train.get("seed", 42))
    with quiet():
        model, processor = _model(run, recipe)
        names = [model.config.id2label[i] for i in sorted(model.config.id2label)]
        data = load(recipe.data, task.roles, task.kind, seed=seed, known_labels=names, prompts=task.prompts)
        task, labels = task.settled(data), data.labels
        if labels.kind in ("label", "labels") and list(labels.names) != names:
            raise HfadaptError(f"The model tells {', '.join(names)} apart; the data hold {', '.join(labels.names)}.")
        return {
            split: judging.judge(
                model,
                task,
                processor,
                data.splits[split],
                labels,
                loss=ExactLoss(task, labels),
                metrics=recipe.metrics,
                seed=seed,
                settled=settings.resolve(recipe.train, task.score(labels.kind), lambda _: True),
                folder=str(run.path),
            ).scores
            for split in judging.JUDGED
        }


def predict(run: Run | str | Path, path: str | Path) -> Iterator[dict[str, Any]]:
    """The answers for the rows of a file, in the file's order, read and answered piece by piece.

    path: a table; of pictures also a folder, whose pictures come in the order of their names, or one picture.
    An answer then begins with `image`, the picture's path.

    Raises:
        HfadaptError: the run is not finished, or the file lacks a column.
    """
    from hfadapt.data.inputs import read_inputs
    from hfadapt.data.labels import Labels
    from hfadapt.noise import quiet

    run = run if isinstance(run, Run) else open_run(run)
    recipe = _recipe(run, ())
    with quiet():
        rows, files = read_inputs(str(path), recipe.task.roles, recipe.data)
        model, processor = _model(run, recipe)
        config = model.config
        kinds: Mapping[str, Any] = {"regression": "number", "multi_label_classification": "labels"}
        kind: Any = "pairs" if recipe.task.contrasts else kinds.get(config.problem_type, "label")
        labels = Labels(kind, () if kind == "pairs" else tuple(config.id2label[i] for i in sorted(config.id2label)))
        for start in range(0, len(rows), _AT_ONCE):
            piece = rows.select(range(start, min(start + _AT_ONCE, len(rows))))
            answers = recipe.task.answers(_found(recipe.task, model, processor, piece), labels)
            for answer, file, line in zip(answers, piece["_file"], piece["_line"], strict=True):
                # Where the row is a file by itself, only its name tells which answer belongs to it.
                yield answer if line else {"image": files[file], **answer}


def _found(task: Task, model: Any, processor: Any, piece: Any, batch: int = 32) -> dict[str, Any]:
    """What the task reads of each row: computed in order of length, returned in the rows' order."""
    import numpy as np
    import torch

    from hfadapt.training.rows import as_rows

    lengths = task.lengths(piece[:], processor) if not task.lazy else None
    order = np.argsort(-np.asarray(lengths), kind="stable") if lengths else np.arange(len(piece))
    collate, parts = task.collator(processor), []
    with torch.inference_mode():
        for start in range(0, len(order), batch):
            encoded = task.encode(piece[order[start : start + batch].tolist()], processor)
            inputs = collate(as_rows(encoded))
            outputs = model(**{name: tensor.to(model.device) for name, tensor in inputs.items()})
            parts.append([outputs[name].float().cpu().numpy() for name in task.reads])
    back = np.argsort(order)
    return {name: np.concatenate(of)[back] for name, of in zip(task.reads, zip(*parts, strict=True), strict=True)}
