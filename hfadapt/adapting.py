"""Plan → Run: the work."""

from __future__ import annotations

import gc
import json
import os
import resource
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from transformers import PreTrainedModel, set_seed

from hfadapt import judging, settings
from hfadapt.backbones._source import shown_name
from hfadapt.backbones.base import Anatomy, anatomy
from hfadapt.card.writing import write_card
from hfadapt.contract import writing as contract
from hfadapt.errors import HfadaptError
from hfadapt.folder import Run, clear, new_run, open_run, plain, readable, scores_json
from hfadapt.methods.base import Companion, Stage
from hfadapt.noise import quiet
from hfadapt.planning import Plan, last_layers, newly_initialised, surroundings
from hfadapt.pretraining import carry_out, take_over
from hfadapt.showing import draw_augmented, plan_yaml
from hfadapt.training.evaluating import Judged, evaluate
from hfadapt.training.rows import balanced
from hfadapt.training.stages import COMPANIONS, Training, rows_of_step, train
from hfadapt.training.streaming import StreamedRows
from hfadapt.training.trainer import ExactLoss
from hfadapt.training.vocabulary import used_by
from hfadapt.training.watching import Journal, Listener


def adapt(
    plan: Plan, out: str | Path | None = None, *, resume: str | Path | None = None, listener: Listener | None = None
) -> Run:
    """Carry out a plan; leaves a run folder whose `model/` plain transformers loads.

    out: a new folder, by default `runs/NAME`; resume: the folder of an interrupted run of this recipe,
    which goes on where it was; listener: receives each event as it happens.

    Raises:
        RunError: the folder is taken, or training cannot go on.
    """
    with quiet():
        run = open_run(resume) if resume else _begin(plan, out)
        journal = Journal(run.path / "log.jsonl", listener)
        journal("begin", run=str(run.path), resumed=bool(resume))
        training = prepare(plan, run)
        simple = judging.compare(plan) if journal.active else {}
        journal("baselines", scores={name: plain(splits) for name, splits in simple.items()})
        started = time.monotonic()
        with _tracked(run):
            carry_out(plan.pretraining, plan.processor, run.checkpoints, journal, resume=bool(resume), **_options(plan))
        set_seed(plan.settled["seed"])
        wrapped, stages, parts, began = build(plan, run)
        around = surroundings(plan.recipe, plan.source, plan.config, plan.processor, plan.data.labels)
        companions = plan.recipe.adapt.companions(wrapped, parts, around)
        with _tracked(run), _lasting():
            wrapped = train(
                wrapped,
                stages,
                training,
                journal,
                resume=bool(resume),
                rebuild=lambda: build(plan, run)[0],
                terms=plan.recipe.adapt.terms(wrapped, parts, around),
                companions=companions,
            )
        tried = refine(wrapped, companions, plan, training)
        seconds = time.monotonic() - started
        if journal.active:
            plan.recipe.adapt.keep(wrapped, run.path)
            kept = contract.sample(wrapped, plan)
        finished = plan.recipe.adapt.finish(wrapped)
        if journal.active:
            save(finished, plan, run)
            contract.write(finished, plan, run, began, kept)
        judged = {split: judge(finished, plan, split, training) for split in judging.JUDGED}
        scores = {split: its.scores for split, its in judged.items()}
        if journal.active:
            judging.draw(plan, judged["test"], run)
            cost = {"train_seconds": round(seconds, 1), "peak_memory_bytes": peak_memory(), "steps": plan.steps}
            write_card(plan, run, judged, simple, cost, tried)
            run.write("scores.json", scores_json(scores, simple, cost=cost, **({"tried": tried} if tried else {})))
            clear(run.checkpoints)
        journal("end", scores=plain(scores), seconds_training=round(seconds, 1))
        PartialState().wait_for_everyone()
    return run


@contextmanager
def _lasting() -> Iterator[None]:
    """While it lasts, the garbage collector passes over all that is there already.

    Trainer has it go through everything as each stage begins: a quarter of a second for what libraries consist of.
    Where somebody else has it pass over something, that is theirs to end.
    """
    ours = not gc.get_freeze_count()
    if ours:
        gc.collect()
        gc.freeze()
    try:
        yield
    finally:
        if ours:
            gc.unfreeze()


@contextmanager
def _tracked(run: Run) -> Iterator[None]:
    """Have TensorBoard's files lie in the run folder; upstream would put them among the checkpoints."""
    name = "TENSORBOARD_LOGGING_DIR"
    before = os.environ.get(name)
    os.environ.setdefault(name, str(run.path / "tensorboard"))
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]


def _begin(plan: Plan, out: str | Path | None) -> Run:
    """A new run folder, made by the first process and known to all."""
    from accelerate.utils import broadcast_object_list

    state = PartialState()
    made: list[Any] = [None]
    if state.is_main_process:
        try:
            run = new_run(plan.recipe, out)
            run.write("recipe.yaml", plan.recipe.text)
            run.write("plan.yaml", plan_yaml(plan))
            if plan.recipe.task.augments:
                draw_augmented(plan, run)
            if plan.data.skipped:
                skipped = [{"where": row.where, "says": row.says} for row in plan.data.skipped]
                run.write("bad_rows.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in skipped))
            made = [str(run.path)]
        except HfadaptError as error:
            made = [error]
    if state.num_processes > 1:
        broadcast_object_list(made)
    if isinstance(made[0], HfadaptError):
        raise made[0]
    return Run(Path(made[0]))


def prepare(plan: Plan, run: Run) -> Training:
    """Encode the rows, and gather what all stages share."""
    data, recipe = plan.data, plan.recipe
    validation = judging.encode(plan, "validation")
    train = streamed(plan) if data.stream else judging.encode(plan, "train")
    # Of a stream, those of its first rows.
    targets = np.asarray(data.splits["train"]["label"][:] if data.stream else train.table["labels"][:])
    weights = recipe.task.weights(targets, data.labels)
    loss = ExactLoss(recipe.task, data.labels, weights, float(plan.settled.get("label_smoothing_factor", 0.0)))
    processes = PartialState().num_processes
    return Training(
        settled=plan.settled,
        steps=settings.total_steps(plan.settled, len(train), processes),
        loss=loss,
        tally=judging.along(plan),
        train=train,
        validation=validation,
        collator=recipe.task.collator(plan.processor),
        folder=run.checkpoints,
        cache=recipe.cache,
        unpad=recipe.model.unpad,
        blocks=plan.anatomy.block_modules if recipe.task.modality == "text" else (),
        last=tuple(tower.block_modules[-1] for tower in plan.anatomy.towers),
        tokens=used_by(train.table, plan.processor.all_special_ids) if train.lengths is not None else None,
        chances=balanced(targets) if recipe.data.sampling == "balanced" else None,
    )


def streamed(plan: Plan) -> StreamedRows:
    """The training rows of a plan whose data are streamed, as many as its steps take."""
    stream, settled = plan.data.stream, plan.settled
    assert stream is not None
    return StreamedRows(
        stream,
        plan.recipe.task,
        plan.processor,
        seed=settled["seed"],
        shuffled=settled["train_sampling_strategy"] != "sequential",
        size=plan.steps * rows_of_step(settled, PartialState().num_processes),
    )


def load_model(plan: Plan) -> tuple[PreTrainedModel, Anatomy]:
    """The backbone with its new head, weights in the precision that the recipe says, and its anatomy.

    Raises:
        HfadaptError: the checkpoint is not what planning saw.
    """
    if plan.recipe.adapt.scratch:
        return plan.recipe.task.bare(plan.config, **_options(plan)), plan.anatomy
    model, found = plan.recipe.task.model(plan.source, plan.config, **_options(plan))
    new = newly_initialised(model, found, plan.same_labels)
    for name, layer in last_layers(model):
        if not plan.same_labels and f"{name}.weight" not in found["missing_keys"]:
            layer.reset_parameters()
    if getattr(plan.recipe.task, "head", "new") != "new":
        _start_head(model, plan)
    # What adapters and configurations remember; a local path would mean nothing elsewhere.
    model.config.name_or_path = shown_name(plan.source.name)
    parts = anatomy(model, new)
    if parts != plan.anatomy and plan.source.local:
        raise HfadaptError(f"'{plan.source.name}' changed since it was planned.")
    return model, parts


def _options(plan: Plan) -> dict[str, Any]:
    """How weights are held and attention is computed."""
    attention = plan.recipe.model.attn_implementation
    dtype = getattr(torch, plan.recipe.model.dtype)
    return {"dtype": dtype, **({"attn_implementation": attention} if attention else {})}


def _start_head(model: PreTrainedModel, plan: Plan) -> None:
    """Let the head begin with what the names of the classes answer, or Tip-Adapter."""
    (_, layer), *_ = last_layers(model)
    rows = judging.as_they_are(plan, "train")
    judging.asked(plan).start(model.to(judging.device()), layer, rows, plan.settled["seed"])  # type: ignore[arg-type]
    model.to("cpu")  # type: ignore[arg-type]


def build(plan: Plan, run: Run) -> tuple[torch.nn.Module, Sequence[Stage], Anatomy, contract.Began]:
    """The model that trains, changed as the adaptation wants it; its stages; its anatomy before the change; and what
    it began with.

    run: where the pretrained body lies, if there was pretraining.
    """
    model, parts = load_model(plan)
    began = contract.begin(model, plan)
    take_over(model, plan.pretraining, parts, run.checkpoints)
    wrapped = plan.recipe.adapt.wrap(model, parts)
    return wrapped, plan.recipe.adapt.stages(wrapped, parts), parts, began


def refine(
    model: torch.nn.Module, companions: Sequence[Companion], plan: Plan, training: Training
) -> list[dict[str, float]]:
    """Let companions choose weights by the validation rows; what they tried."""
    metric = str(plan.settled["metric_for_best_model"])

    def score() -> float:
        judged = evaluate(
            model,
            training.validation,
            loss=training.loss,
            tally=partial(training.tally, model),
            collator=training.collator,
            settled=plan.settled,
            folder=str(training.folder),
        )
        # Equal predictions for all rows have no correlation, say.
        value = judged.loss if metric == "loss" else judged.scores[metric].value if metric in judged.scores else 0.0
        return value if plan.settled["greater_is_better"] else -value

    return [row for companion in companions for row in companion.refine(model, score, training.folder / COMPANIONS)]


def judge(model: torch.nn.Module, plan: Plan, split: str, training: Training) -> Judged:
    """How a model does on a split, with intervals."""
    recipe, labels, seed = plan.recipe, plan.data.labels, plan.settled["seed"]
    return judging.judge(
        model,
        recipe.task,
        plan.processor,
        plan.data.splits[split],
        labels,
        loss=training.loss,
        metrics=recipe.metrics,
        seed=seed,
        settled=plan.settled,
        folder=str(training.folder),
    )


def save(model: torch.nn.Module, plan: Plan, run: Run) -> None:
    """Weights, configuration and processor into `model/`."""
    if hasattr(model.config, "use_cache"):  # type: ignore[arg-type]
        model.config.use_cache = True  # type: ignore[union-attr]
    model.save_pretrained(run.model)  # type: ignore[operator]
    plan.processor.save_pretrained(run.model)
    readable(run.model)


def peak_memory() -> int:
    """The most memory that this process has held, in bytes: of the accelerator where there is one."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used if sys.platform == "darwin" else used * 1024
