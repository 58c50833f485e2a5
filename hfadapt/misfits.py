"""What of a recipe fits its schema, and not its data, its method or its other settings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from hfadapt import settings
from hfadapt.data.loading import Loaded
from hfadapt.errors import Problem, did_you_mean
from hfadapt.methods.pretrain import Pretrain
from hfadapt.recipe import Recipe
from hfadapt.scoring.kinds import ZERO_SHOT, names_for

_ENDLESS = "How long to train must be said in steps: a stream's end is not known before it is reached."
_LENGTHS = "The lengths of a stream's rows are not known before they are read."
_COUNTS = "How many rows of each label a stream has is not known before they are read."
_PART = "A part of a stream's rows can't be drawn before they are read."


def misfits(recipe: Recipe, data: Loaded, settled: Mapping[str, Any], processes: int) -> list[Problem]:
    """What of a recipe fits the schema, and neither the data nor the method; settled: training arguments."""
    problems = []
    in_tokens = bool(settled.get(settings.MAX_TOKENS))
    if in_tokens and recipe.data.sampling == "balanced":
        says = f"Rows that are drawn anew do not make as many batches in each epoch; {settings.MAX_TOKENS} needs that."
        problems.append(Problem(says, "data.sampling", recipe.origin("data.sampling"), "Remove one of the two."))
    if not in_tokens and not settings.steps_per_epoch(settled, len(data.splits["train"]), processes):
        batch, field = settled["per_device_train_batch_size"], "train.dataloader_drop_last"
        says = f"The {len(data.splits['train']):,} training rows do not fill a batch of {batch:,}, so all are dropped."
        problems.append(Problem(says, field, recipe.origin(field), "Lower per_device_train_batch_size."))
    known = [*names_for(data.labels.kind, data.labels.names), *(["base_accuracy"] if data.new else []), "loss"]
    best, chosen = "train.metric_for_best_model", str(settled["metric_for_best_model"])
    if chosen not in known and not recipe.metrics:
        says = f"There is no metric '{chosen}' for this problem."
        problems.append(Problem(says, best, recipe.origin(best), did_you_mean(chosen, known)))
    if chosen in (*ZERO_SHOT, "base_accuracy") and (settled.get("fsdp") or settled.get("deepspeed")):
        says = "To tell classes by their names takes the whole model, and here it is divided while it trains."
        problems.append(Problem(says, best, recipe.origin(best), "Choose recall@1."))
    loss = getattr(recipe.task, "loss", None)
    weights = getattr(loss, "class_weights", None)
    for name in weights if isinstance(weights, dict) else ():
        if name not in data.labels.names:
            field = "task.loss.class_weights"
            says = f"There is no label '{name}'."
            problems.append(Problem(says, field, recipe.origin(field), did_you_mean(name, data.labels.names)))
    if getattr(recipe.task, "head", "new") != "new" and data.labels.kind != "label":
        says = "A head that starts from the names of the classes needs one label a row."
        problems.append(Problem(says, "task.head", recipe.origin("task.head")))
    if data.labels.kind == "pairs":
        ignored = {"train.label_smoothing_factor": settled.get("label_smoothing_factor"), "metrics": recipe.metrics}
        for field in (field for field, value in ignored.items() if value):
            says = "Pairs of pictures and texts are trained and judged without it."
            problems.append(Problem(says, field, recipe.origin(field), "Remove it."))
    if recipe.task.lazy and recipe.model.dtype != "float32":
        says = "Models of pictures are held in float32 here; their processors give nothing else."
        hint = "Compute in half precision with `train.bf16: true` instead."
        problems.append(Problem(says, "model.dtype", recipe.origin("model.dtype"), hint))
    if recipe.model.unpad == "on" and recipe.task.modality != "text":
        says = "Only the blocks of models that read texts, and nothing else, do without padding."
        problems.append(Problem(says, "model.unpad", recipe.origin("model.unpad"), "Remove it."))
    if recipe.cache.pictures == "on" and recipe.task.modality == "text":
        says = "The task reads no pictures that could be kept."
        problems.append(Problem(says, "cache.pictures", recipe.origin("cache.pictures"), "Remove it."))
    problems += _of_method(recipe, settled)
    if recipe.data.sampling == "balanced" and data.labels.kind != "label":
        says = "Balanced sampling needs one label a row."
        problems.append(Problem(says, "data.sampling", recipe.origin("data.sampling")))
    return problems


def of_stream(recipe: Recipe) -> list[Problem]:
    """What can't go with training rows that are streamed, told before any row is read."""
    data, task, train = recipe.data, recipe.task, recipe.train
    if not data.streaming:
        if data.shuffle_buffer is None:
            return []
        says = "Only rows that are streamed are drawn from a buffer; these are all shuffled."
        return [_problem(recipe, "data.shuffle_buffer", says, "Remove it, or set data.streaming.")]
    own = any(isinstance(method, Pretrain) and method.path is None for method in recipe.adapt.chain)
    by_length = train.get("train_sampling_strategy") == "group_by_length"
    wrong = (
        (train.get("max_steps", -1) < 1, "train.max_steps", _ENDLESS, "Set train.max_steps."),
        (by_length, "train.train_sampling_strategy", _LENGTHS, "Remove it."),
        ("per_device_train_max_tokens" in train, "train.per_device_train_max_tokens", _LENGTHS, "Remove it."),
        (data.sampling == "balanced", "data.sampling", _COUNTS, "Remove it."),
        (data.max_train_samples is not None, "data.max_train_samples", _PART, "Remove it; set train.max_steps."),
        (task.contrasts, "data.streaming", "Pairs of pictures and texts can't be streamed.", "Remove it."),
        (task.mixes, "task.augment", "A row of a stream can't be mixed with others.", "Leave out mixup and cutmix."),
        (own, "adapt.path", "Pretraining reads its rows again and again, and these are streamed.", "Name the rows."),
    )
    return [_problem(recipe, field, says, hint) for is_wrong, field, says, hint in wrong if is_wrong]


def _problem(recipe: Recipe, field: str, says: str, hint: str) -> Problem:
    return Problem(says, field, recipe.origin(field), hint)


def _of_method(recipe: Recipe, settled: Mapping[str, Any]) -> Iterator[Problem]:
    """Training arguments that do not go with the method."""
    for name, value in recipe.adapt.arguments.items():
        if recipe.train.get(name, value) != value:
            field = f"train.{name}"
            says = f"It follows from the method '{recipe.adapt.name}', which sets it to {value}."
            yield Problem(says, field, recipe.origin(field), "Remove it.")
    if settled["eval_strategy"] == "no" and any(method.evaluates for method in recipe.adapt.chain):
        says = f"The method '{recipe.adapt.name}' chooses by evaluations along the way, and there are none."
        yield Problem(says, "train.eval_strategy", recipe.origin("train.eval_strategy"), "Remove it.")
    for name in ("fsdp", "deepspeed"):
        if settled.get(name) and not all(method.divisible for method in recipe.adapt.chain):
            says = f"The method '{recipe.adapt.name}' needs the whole model on each process."
            yield Problem(says, f"train.{name}", recipe.origin(f"train.{name}"), "Leave it out.")
