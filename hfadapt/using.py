"""Use what a run left, or what was exported of it: score it on other rows, predict."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from hfadapt.errors import HfadaptError, RunError
from hfadapt.exported.folder import Exported, open_exported
from hfadapt.folder import Run, open_run
from hfadapt.reading import read
from hfadapt.recipe import Recipe

if TYPE_CHECKING:
    from hfadapt.kind import Kind

_AT_ONCE, _PICTURES_AT_ONCE = 1_000, 256
"""Rows that are read, encoded and answered together."""
_BATCH = 32
"""Rows that a model computes together."""
_KINDS: dict[str, Kind] = {"regression": "number", "multi_label_classification": "labels"}

Given = Run | Exported | str | Path
"""A run, an export of one, or the folder of either."""


def opened(given: Given) -> Run | Exported:
    """The finished run or the export in a folder.

    Raises:
        RunError: there is neither, or the run is not finished.
    """
    found = given if isinstance(given, (Run, Exported)) else open_exported(given) or open_run(given)
    if isinstance(found, Run) and not found.done:
        raise RunError(f"The run {found.path} is not finished. Go on with it: hfadapt run --resume {found.path}.")
    return found


def _recipe(used: Run | Exported, overrides: Sequence[str] = ()) -> Recipe:
    return read(_recipe_file(used), overrides)


def _recipe_file(used: Run | Exported) -> Path:
    return used.recipe_file if isinstance(used, Exported) else used.path / "recipe.yaml"


def _model(used: Run | Exported, recipe: Recipe) -> tuple[Any, Any]:
    """The saved model on the device, or the exported one on the CPU, in eval mode; and its processor."""
    import torch
    from transformers import AutoConfig

    from hfadapt.backbones.base import Source

    folder = used.path if isinstance(used, Exported) else used.model
    source, config = Source(recipe.name, str(folder)), AutoConfig.from_pretrained(folder)
    if isinstance(used, Exported):
        from hfadapt.exported import graphs

        model: Any = graphs.run(used)
    else:
        model, _ = recipe.task.model(source, config)
        model = model.to(torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu"))
    return model.eval(), recipe.task.processor(source, config)


def classes(used: Run | Exported, recipe: Recipe) -> tuple[str, ...]:
    """The names of the classes that captions were made of; none where captions were given, or the task has none."""
    if not recipe.task.contrasts:
        return ()
    if isinstance(used, Exported):
        return tuple(used.about.get("classes", ()))
    import yaml

    planned = yaml.safe_load((used.path / "plan.yaml").read_text(encoding="utf-8"))
    return () if "text" in planned["data"]["columns"] else tuple(planned["data"]["labels"])


def kind_of(config: Any, recipe: Recipe) -> Kind:
    """What a row is answered with. config: of the model."""
    return "pairs" if recipe.task.contrasts else _KINDS.get(config.problem_type, "label")


def score(
    run: Given, overrides: Sequence[str] = (), splits: Sequence[str] = ("validation", "test")
) -> dict[str, dict[str, Any]]:
    """The scores of a run's model, or of an export of it, by split and metric, on the recipe's rows or on others.

    overrides: changes to the recipe, such as `data.test=other.csv`.

    Raises:
        HfadaptError: the run is not finished, or the rows do not fit it.
    """
    # Looked at before the imports below, which cost seconds.
    used = opened(run)
    recipe = _recipe(used, overrides)
    from hfadapt import judging, settings
    from hfadapt.data.loading import load
    from hfadapt.noise import quiet
    from hfadapt.training.trainer import ExactLoss

    task, seed = recipe.task, int(recipe.train.get("seed", 42))
    with quiet():
        model, processor = _model(used, recipe)
        names = [model.config.id2label[i] for i in sorted(model.config.id2label)]
        data = load(recipe.data, task.roles, task.kind, seed=seed, known_labels=names, prompts=task.prompts)
        task, labels = task.settled(data), data.labels
        machine = settings.of_machine(recipe.train, dtype=recipe.model.dtype)
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
                settled=settings.resolve(recipe.train, task.score(labels.kind), lambda _: True, machine),
                folder=str(used.path),
            ).scores
            for split in splits
        }


@dataclass(frozen=True)
class Asked:
    """A file put to a model."""

    rows: int
    stamp: dict[str, Any]
    """What changes when the model or the rows do."""
    pieces: Callable[[int], Iterator[list[dict[str, Any]]]]
    """The answers for the rows from a place on, piece by piece, in the file's order."""


def predict(run: Given, path: str | Path) -> Iterator[dict[str, Any]]:
    """The answers for the rows of a file, in the file's order, read and answered piece by piece.

    run: a run or an export of one; path: a table; of pictures also a folder, whose pictures come in the order of
    their names, or one picture. An answer then begins with `image`, the picture's path. Where captions were made of
    classes, pictures are answered with these, and need no texts.

    Raises:
        HfadaptError: the run is not finished, the file lacks a column, or one of its rows can't be read.
    """
    for piece in ask(run, path).pieces(0):
        yield from piece


def ask(run: Given, path: str | Path) -> Asked:
    """Look through a file and make ready to answer its rows; raises as `predict` does."""
    from hfadapt.data.inputs import read_inputs
    from hfadapt.noise import quiet

    used = opened(run)
    recipe = _recipe(used)
    names, task = classes(used, recipe), cast(Any, recipe.task)
    with quiet():
        inputs = read_inputs(str(path), task.shown if names else task.roles, recipe.data)

    def pieces(start: int) -> Iterator[list[dict[str, Any]]]:
        with quiet():
            model, processor = _model(used, recipe)
            answers = _of_classes(task, model, processor, names) if names else _of_rows(recipe, model, processor)
        for piece in inputs.pieces(_PICTURES_AT_ONCE if task.lazy else _AT_ONCE, start):
            files, lines = piece.pop("_file"), piece.pop("_line")
            with quiet():
                found = answers(piece)
            # Where the row is a file by itself, only its name tells which answer belongs to it.
            yield [
                answer if line else {"image": inputs.files[file], **answer}
                for answer, file, line in zip(found, files, lines, strict=True)
            ]

    return Asked(inputs.rows, {"model": _mark(used), **inputs.stamp()}, pieces)


def _mark(used: Run | Exported) -> str:
    """What tells a run or an export from any other: a digest of its recipe and of what it measured."""
    import xxhash

    told = used.path / ("export.json" if isinstance(used, Exported) else "scores.json")
    return xxhash.xxh3_128_hexdigest(told.read_bytes() + _recipe_file(used).read_bytes())


Answer = Callable[[Mapping[str, list[Any]]], list[dict[str, Any]]]
"""From rows, as a list for each role, to answers."""


def _of_rows(recipe: Recipe, model: Any, processor: Any) -> Answer:
    """Answers with what the task answers."""
    import numpy as np
    import torch

    from hfadapt.data.labels import Labels
    from hfadapt.training.rows import as_rows

    task, config = recipe.task, model.config
    kind = kind_of(config, recipe)
    labels = Labels(kind, () if kind == "pairs" else tuple(config.id2label[i] for i in sorted(config.id2label)))
    collate = task.collator(processor)

    def answers(piece: Mapping[str, list[Any]]) -> list[dict[str, Any]]:
        # Computed in order of length, so that little is padded; answered in the rows' order.
        lengths = task.lengths(piece, processor) if not task.lazy else None
        size = len(next(iter(piece.values())))
        order = np.argsort(-np.asarray(lengths), kind="stable") if lengths else np.arange(size)
        parts = []
        for start in range(0, size, _BATCH):
            places = order[start : start + _BATCH].tolist()
            encoded = task.encode({role: [column[i] for i in places] for role, column in piece.items()}, processor)
            inputs = collate(as_rows(encoded))
            with torch.inference_mode():
                outputs = model(**{name: tensor.to(model.device) for name, tensor in inputs.items()})
            parts.append([outputs[name].float().cpu().numpy() for name in task.reads])
        back = np.argsort(order)
        of_name = zip(task.reads, zip(*parts, strict=True), strict=True)
        return task.answers({name: np.concatenate(of)[back] for name, of in of_name}, labels)

    return answers


def _of_classes(task: Any, model: Any, processor: Any, names: Sequence[str]) -> Answer:
    """Answers pictures with the classes whose names they were trained with."""
    import torch

    from hfadapt.tasks._pictures import pixels
    from hfadapt.tasks.image_text_contrastive import told
    from hfadapt.zero_shot import ZeroShot

    asked = ZeroShot(model, processor.tokenizer, names, task.templates)

    def answers(piece: Mapping[str, list[Any]]) -> list[dict[str, Any]]:
        cells, found = piece["image"], []
        for start in range(0, len(cells), _BATCH):
            batch = torch.stack([torch.from_numpy(one) for one in pixels(cells[start : start + _BATCH], processor)])
            found.append(asked.logits(batch).softmax(-1).double().cpu())
        return told(torch.cat(found).numpy(), names)

    return answers
