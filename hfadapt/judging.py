"""What a model, and what simple methods, score on the rows of a plan."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pyarrow.compute as pc
import torch

from hfadapt import zero_shot
from hfadapt.data.labels import Labels
from hfadapt.folder import Run
from hfadapt.planning import Plan, knows_texts
from hfadapt.scoring import baselines, drawing, evaluated, pixels, retrieval
from hfadapt.scoring.base_to_new import BaseToNew
from hfadapt.scoring.kinds import BASE_TO_NEW, ZERO_SHOT
from hfadapt.scoring.slices import Remembered
from hfadapt.scoring.tally import Score, Tally
from hfadapt.tasks._pictures import opened
from hfadapt.tasks.base import Task
from hfadapt.training.encoding import encode_all
from hfadapt.training.evaluating import Judged, evaluate
from hfadapt.training.rows import Rows, Visits
from hfadapt.training.trainer import ExactLoss

REPLICATES = 1000
"""Bootstrap replicates behind an interval."""
Scores = Mapping[str, Mapping[str, Score]]
"""Split → metric → score."""
JUDGED = ("validation", "test")
"""The splits that scores are reported of."""


def encode(plan: Plan, split: str) -> Rows:
    """The rows of a split as model inputs, with `labels`; every process asks for them."""
    seed = plan.settled["seed"]
    rows = plan.data.splits[split]
    task, trains = plan.recipe.task, split == "train"
    return encode_rows(task, plan.processor, rows, plan.data.labels, seed=seed, trains=trains, together=True)


def encode_rows(
    task: Task,
    processor: Any,
    rows: Any,
    labels: Labels,
    *,
    seed: int = 0,
    trains: bool = False,
    together: bool = False,
) -> Rows:
    """Rows encoded now, or when they are visited where the task is lazy.

    trains: whether they may be varied and mixed, depending on the seed; together: whether every process asks for the
    same rows now.
    """
    from datasets import List, Value

    kinds = {
        "label": Value("int64"),
        "labels": List(Value("float32")),
        "number": Value("float32"),
        "pairs": List(Value("int64")),
    }
    if labels.kind == "pairs":
        targets = np.column_stack([rows["_image"][:], rows["_text"][:]]).tolist()
    else:
        targets = rows["label"][:]
    if task.lazy:
        inputs = [role for role, its in task.roles.items() if its.holds != "target" and role in rows.column_names]
        # A cast of the column would copy every picture into memory.
        table = rows.select_columns(inputs).add_column("labels", targets, feature=kinds[labels.kind])
        return Rows(table, visit=Visits(task, processor, table, labels, seed, trains))
    encoded = encode_all(rows, lambda batch: task.encode(batch, processor), together=together)
    # Not by way of Python lists, which take many times the room.
    lengths = pc.list_value_length(encoded.data.column("input_ids")).to_numpy().astype(np.int64)
    return Rows(encoded.add_column("labels", targets, feature=kinds[labels.kind]), lengths)


def tally(task: Task, labels: Labels, metrics: Any, *, seed: int, replicates: int) -> Any:
    """An empty tally; metrics: of the `evaluate` library, by name."""
    if labels.kind == "pairs":
        return retrieval.Retrieval(replicates=replicates, seed=seed)
    extra = [evaluated.load(name, labels.kind) for name in metrics]
    return Tally(labels.kind, labels.names, replicates=replicates, seed=seed, extra=extra)


def along(plan: Plan) -> Callable[[torch.nn.Module], Any]:
    """Makes an empty tally for the scores of a model on the validation rows while it trains, without intervals.

    How pictures are told by the names of their classes is counted where the recipe is about that, since it needs
    the texts of all classes each time; and nowhere where the model is divided, since it needs all of it.
    """
    task, labels, seed = plan.recipe.task, plan.data.labels, plan.settled["seed"]
    fresh = partial(tally, task, labels, plan.recipe.metrics, seed=seed, replicates=0)
    wanted = plan.data.prompted or str(plan.settled["metric_for_best_model"]) in (*ZERO_SHOT, *BASE_TO_NEW)
    divided = plan.settled.get("fsdp") or plan.settled.get("deepspeed")
    if divided or not (wanted and labels.kind == "pairs" and labels.names):
        return lambda model: fresh()
    return _with_classes(task, plan.processor, plan.data.splits["validation"], labels, fresh, seed, 0)


def judge(
    model: torch.nn.Module,
    task: Task,
    processor: Any,
    rows: Any,
    labels: Labels,
    *,
    loss: ExactLoss,
    metrics: Sequence[str],
    seed: int,
    settled: Mapping[str, Any],
    folder: str,
) -> Judged:
    """How a model does on rows, with intervals; every process asks for them.

    metrics: of the `evaluate` library; settled: training arguments.
    """
    fresh: Callable[[], Any] = partial(tally, task, labels, metrics, seed=seed, replicates=REPLICATES)
    if labels.kind == "pairs" and labels.names:
        fresh = partial(_with_classes(task, processor, rows, labels, fresh, seed, REPLICATES), model)
    encoded = encode_rows(task, processor, rows, labels, together=True)
    return evaluate(
        model,
        encoded,
        loss=loss,
        tally=lambda: Remembered(fresh(), labels.kind),
        collator=task.collator(processor),
        settled=settled,
        folder=folder,
    )


def _with_classes(
    task: Any, processor: Any, rows: Any, labels: Labels, fresh: Callable[[], Any], seed: int, replicates: int
) -> Callable[[Any], Any]:
    """Makes of a model an empty tally of pairs that tells their classes too.

    fresh: makes one of the pairs alone.
    """
    class_of = {i: label for i, label in zip(rows["_image"], rows["label"], strict=True) if label >= 0}
    new = [labels.id_of[name] for name in task.new]

    def both(model: Any) -> zero_shot.WithZeroShot:
        return zero_shot.WithZeroShot(
            fresh(),
            partial(zero_shot.ZeroShot, model, processor.tokenizer, labels.names, task.templates),
            class_of,
            Tally("label", labels.names, replicates=replicates, seed=seed),
            BaseToNew(new, len(labels), replicates=replicates, seed=seed) if new else None,
        )

    return both


def compare(plan: Plan) -> dict[str, Scores]:
    """What simple methods reach on the same rows, by the name of the method."""
    return {"text": _texts, "image": _pictures, "image-text": _pairs}[plan.recipe.task.modality](plan)


def _texts(plan: Plan) -> dict[str, Scores]:
    data, pair = plan.data, "text_pair" in plan.recipe.task.roles
    texts = {
        split: baselines.Texts(
            rows["text"][:],
            rows["text_pair"][:] if pair and "text_pair" in rows.column_names else None,
            np.asarray(rows["label"][:]),
        )
        for split, rows in data.splits.items()
    }
    judged = {split: texts[split] for split in JUDGED}
    return dict(
        baselines.text_baselines(
            data.labels.kind,
            data.labels.names,
            texts["train"],
            judged,
            seed=plan.settled["seed"],
            replicates=REPLICATES,
        )
    )


def _pictures(plan: Plan) -> dict[str, Scores]:
    data, task, seed = plan.data, plan.recipe.task, plan.settled["seed"]
    labels = data.labels
    pictures = {
        split: pixels.Pictures(rows["image"], np.asarray(rows["label"][:])) for split, rows in data.splits.items()
    }
    judged = {split: pictures[split] for split in JUDGED}
    found: dict[str, Scores] = dict(
        pixels.picture_baselines(labels.kind, labels.names, pictures["train"], judged, seed=seed, replicates=REPLICATES)
    )
    if labels.kind == "label" and knows_texts(plan.config):
        ways = {"zero-shot": zero_shot.ZeroShot.of(plan.source, labels.names, task.templates, device())}  # type: ignore[attr-defined]
        if task.head == "tip-adapter":  # type: ignore[attr-defined]
            ways["tip-adapter"] = asked(plan)
        found |= {
            name: {
                split: way.scores(encode(plan, split), Tally("label", labels.names, replicates=REPLICATES, seed=seed))
                for split in JUDGED
            }
            for name, way in ways.items()
        }
    return found


def asked(plan: Plan) -> zero_shot.ZeroShot:
    """What a classifier's head starts from: the names of the classes, or these and a memory of training pictures."""
    task: Any = plan.recipe.task
    if task.head != "tip-adapter":
        return zero_shot.ZeroShot.of(plan.source, plan.data.labels.names, task.templates, device())
    tip = zero_shot.TipAdapter.of(plan.source, plan.data.labels.names, task.templates, device())
    tip.remember(as_they_are(plan, "train"), task.shots, plan.settled["seed"])
    tip.choose(as_they_are(plan, "validation"))
    return tip


def as_they_are(plan: Plan, split: str) -> Rows:
    """The rows of a split, not varied even where they train."""
    return encode_rows(plan.recipe.task, plan.processor, plan.data.splits[split], plan.data.labels)


def _pairs(plan: Plan) -> dict[str, Scores]:
    """Chance, and the backbone as it came."""
    task, labels, seed = plan.recipe.task, plan.data.labels, plan.settled["seed"]
    model: Any = task.model(plan.source, plan.config, dtype=torch.float32)[0].to(device()).eval()
    # That of the plan may hold tokens that only the adapted model knows.
    processor = task.processor(plan.source, plan.config)
    found: dict[str, dict[str, Mapping[str, Score]]] = {"chance": {}, "zero-shot": {}}
    for split in JUDGED:
        rows = plan.data.splits[split]
        fresh = partial(tally, task, labels, (), seed=seed, replicates=REPLICATES)
        streamed = fresh()
        if labels.names:
            streamed = _with_classes(task, processor, rows, labels, fresh, seed, REPLICATES)(model)
        for batch, targets in zero_shot.batches(encode_rows(task, processor, rows, labels), task.collator(processor)):
            with torch.no_grad():
                outputs = model(**{name: tensor.to(model.device) for name, tensor in batch.items()})
            streamed.add({name: outputs[name].float().cpu().numpy() for name in task.reads}, targets)
        found["zero-shot"][split] = streamed.scores()
        found["chance"][split] = retrieval.chance(np.column_stack([rows["_image"][:], rows["_text"][:]]))
    return dict(found)


def draw(plan: Plan, judged: Judged, run: Run) -> None:
    """Pictures of what went wrong on the test split: `confusion.png`, and `mistakes.png` where rows are pictures."""
    names = plan.data.labels.names
    if judged.confusion is not None:
        drawing.confusion(run.path / "confusion.png", judged.confusion, names)
    if judged.worst and plan.recipe.task.modality == "image":
        rows = plan.data.splits["test"].select([miss.row for miss in judged.worst])
        told = [f"{names[m.true]} → {names[m.answered]} ({m.probability:.2f})" for m in judged.worst]
        drawing.worst(run.path / "mistakes.png", [opened(cell) for cell in rows["image"]], told)


def device() -> torch.device:
    """The accelerator, where this machine has one; torch alone tells what it was built for."""
    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
