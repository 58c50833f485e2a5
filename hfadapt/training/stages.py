"""Stage after stage: each its own Trainer over the same model."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from torch import nn
from transformers import EarlyStoppingCallback, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from hfadapt.errors import HfadaptError
from hfadapt.methods.base import Companion, Stage, Term
from hfadapt.recipe import Cache as Options
from hfadapt.settings import BATCHES, MAX_TOKENS, NOT_THEIRS, steps_per_epoch
from hfadapt.training import checkpoints, painting, pictures, unpadding, vocabulary
from hfadapt.training.accompanying import Company
from hfadapt.training.caching import STREAMED, Cache, open_cache, refusal, remembered, samples
from hfadapt.training.freezing import only
from hfadapt.training.leading import leading, named_modules
from hfadapt.training.rows import Collate, Rows
from hfadapt.training.streaming import StreamedRows
from hfadapt.training.trainer import ExactLoss, StageTrainer, StreamedScores
from hfadapt.training.watching import Journal, Watch

_OUTCOME = "outcome.pt"
_SAMPLING = "train_sampling_strategy"
_DROPPING = "dataloader_drop_last"
COMPANIONS = "companions"
"""The folder, among the checkpoints, where companions keep files."""


@dataclass(frozen=True)
class Training:
    """What all stages of a run share."""

    settled: Mapping[str, Any]
    """Arguments of TrainingArguments and of early stopping; see `settings.resolve`."""
    steps: int
    """The optimizer steps of all stages together."""
    loss: ExactLoss
    tally: Callable[[nn.Module], Any]
    """Makes an empty tally without intervals, for the scores of a model along the way."""
    train: Rows
    validation: Rows
    collator: Any
    folder: Path
    """Where checkpoints go."""
    cache: Options = field(default_factory=Options)
    """Whether what lies below all that moves is kept."""
    unpad: str = "auto"
    """Whether blocks compute tokens only; see `recipe.Model`."""
    blocks: tuple[str, ...] = ()
    """The modules of a text model's blocks, before an adapter wrapped it."""
    last: tuple[str, ...] = ()
    """Of each tower the module of its last block, before an adapter wrapped it."""
    tokens: np.ndarray | None = None
    """The ids that training rows, padded, may hold, ascending; None where any may come."""
    chances: np.ndarray | None = None
    """How likely each training row is drawn, (rows,); None draws each once an epoch."""


def steps_of(stages: Sequence[Stage], total: int) -> list[int]:
    """How many of the steps each stage takes; together all of them, each at least one.

    Raises:
        HfadaptError: the shares do not sum to 1, or there are fewer steps than stages.
    """
    if not stages:
        return []
    shares = sum(stage.share for stage in stages)
    if abs(shares - 1) > 1e-6:
        raise HfadaptError(f"The shares of the stages sum to {shares:g}, not to 1.")
    if total < len(stages):
        raise HfadaptError(f"{total} steps are too few for {len(stages)} stages.")
    ends = [round(total * part) for part in accumulate(stage.share for stage in stages)]
    for i in range(len(ends)):
        ends[i] = min(max(ends[i], i + 1), total - (len(ends) - 1 - i))
    return [end - start for start, end in zip([0, *ends], ends, strict=False)]


def train(
    model: nn.Module,
    stages: Sequence[Stage],
    training: Training,
    journal: Journal,
    *,
    resume: bool,
    rebuild: Callable[[], nn.Module],
    terms: Sequence[Term] = (),
    companions: Sequence[Companion] = (),
) -> nn.Module:
    """The model after all stages; `resume` goes on from the newest whole checkpoint.

    rebuild: makes the model anew, as it was before training. FSDP and DeepSpeed divide a model's
    parameters for good; the next stage starts from a whole one that is given the stage's outcome.
    terms, companions: of the method, made on this model.
    """
    steps = steps_of(stages, training.steps)
    folders = [training.folder / f"{i}-{stage.name}" for i, stage in enumerate(stages)]
    ended = [folder / _OUTCOME for folder in folders if resume and (folder / _OUTCOME).exists()]
    moments: dict[str, dict[str, Any]] = {}
    for i, outcome in enumerate(ended):
        for companion in companions:
            companion.began(model, stages[i], steps[i])
        moments = _restore(model, outcome, companions)
    for i in range(len(ended), len(stages)):
        arguments = _arguments(training, stages[i], folders[i], steps[i], seed=training.settled["seed"] + i)
        journal("stage", **_told(model, stages[i], arguments), number=i + 1, of=len(stages), steps=steps[i])
        now = _Now(stages[i], arguments, sum(steps[:i]), checkpoints.newest(folders[i]) if resume else None)
        watched = bool(terms or companions)
        with only(model, stages[i].speeds), _used(model, now, training, journal, watched=watched):
            trainer = _run(model, now, training, journal, moments, terms, companions)
            moments = {} if _is_divided(trainer) else trainer.moments_by_name()
        journal("stage done", stage=stages[i].name, best=trainer.state.best_metric)
        _keep(trainer, moments, companions, folders[i])
        if _is_divided(trainer):
            PartialState().wait_for_everyone()
            model = rebuild()
            _restore(model, folders[i] / _OUTCOME)
    return model


@dataclass(frozen=True)
class _Now:
    """The stage that runs."""

    stage: Stage
    arguments: TrainingArguments
    earlier: int
    """Steps of earlier stages."""
    checkpoint: Path | None
    """Where it goes on from."""

    def note(self, name: str) -> Callable[[Callable[[], list[Any]]], list[Any]]:
        """Finds what depends on the device once, for all processes and for a run that goes on."""
        return partial(remembered, Path(str(self.arguments.output_dir)) / f"{name}.json", self.checkpoint is not None)


def _run(
    model: nn.Module,
    now: _Now,
    training: Training,
    journal: Journal,
    moments: Mapping[str, dict[str, Any]],
    terms: Sequence[Term],
    companions: Sequence[Companion],
) -> StageTrainer:
    """Carry out a stage; the model's other parameters are frozen already."""
    company = Company(companions, model, now.stage, training.folder / COMPANIONS, training.settled)
    company.begin(now.arguments.max_steps, now.checkpoint)
    streamed = training.train if isinstance(training.train, StreamedRows) else None
    if streamed:
        each = rows_of_step(training.settled, PartialState().num_processes)
        streamed.places = range(now.earlier * each, (now.earlier + now.arguments.max_steps) * each)
    cache = _cache(model, now, training, journal, terms)
    watch = Watch(journal, now.stage.name, now.earlier, training.steps, training.loss.task.constrain)
    callbacks = [company, *([cache] if cache else []), watch]
    trainer = _trainer(model, now, training, callbacks, moments, terms)
    trainer.cache = cache
    pictures.keep(_decoded(now, training, cache), training.cache, journal, now.stage.name)
    with (
        _leading(model, now, training, terms) as cut,
        _unpadding(model, now, training, cut, trainer.accelerator.autocast) as (serves, says),
        painting.painting(
            training.train, now.arguments.device, now.arguments.dataloader_num_workers, now.note("painting")
        ) as (painter, why),
    ):
        if cut:
            journal("first token", stage=now.stage.name, blocks=cut)
        if says:
            journal("unpad", stage=now.stage.name, serves=serves, says=says)
        if why:
            journal("painting", stage=now.stage.name, serves=painter is not None, says=why)
        trainer.painter = painter
        trainer.train(resume_from_checkpoint=str(now.checkpoint) if now.checkpoint else None)
    company.end()
    training.loss.task.constrain(model)
    if cache:
        cache.close()
    training.train.kept = training.validation.kept = None
    if streamed and streamed.stream.skipped.rows:
        skipped = streamed.stream.skipped
        first = [{"where": row.where, "says": row.says} for row in skipped.first]
        journal("rows skipped", stage=now.stage.name, rows=skipped.rows, first=first)
    return trainer


def rows_of_step(settled: Mapping[str, Any], processes: int) -> int:
    """The rows of an optimizer step, all processes together."""
    each = settled["per_device_train_batch_size"] * settled.get("gradient_accumulation_steps", 1)
    return int(each * processes)


def _cache(model: nn.Module, now: _Now, training: Training, journal: Journal, terms: Sequence[Term]) -> Cache | None:
    """The cache of what lies below all that moves, where there is one; the log says why."""
    settled, options = training.settled, training.cache
    visits = now.arguments.max_steps / steps_per_epoch(settled, len(training.train), PartialState().num_processes)
    rows = training.train
    drawn = training.chances is not None
    says = refusal(options, settled, visits, drawn=drawn, varies=rows.varies, elusive=rows.elusive)
    if isinstance(rows, StreamedRows):
        says = STREAMED
    cache = None
    if terms:
        says = "what is added to the loss looks at all of the model"
    if not says:
        cache, says = open_cache(
            model.to(now.arguments.device),
            (training.train, training.validation),
            training.collator,
            reads=training.loss.task.reads,
            options=options,
            visits=visits,
            run=training.folder,
            checkpoint=now.checkpoint,
        )
    journal("cache", stage=now.stage.name, serves=bool(cache), says=says)
    return cache


def _decoded(now: _Now, training: Training, cache: Cache | None) -> list[tuple[str, Rows, float]]:
    """Of both splits the name, the rows, and how often each picture is to be decoded in this stage and later ones."""
    settled, left = training.settled, training.steps - now.earlier
    epochs = left / steps_per_epoch(settled, len(training.train), PartialState().num_processes)
    times = {"no": 0.0, "steps": left / now.arguments.eval_steps if now.arguments.eval_steps else epochs}
    evaluations = times.get(str(settled["eval_strategy"]), epochs)
    if cache:
        views = training.cache.views if training.train.varies and training.cache.views else 1
        epochs, evaluations = (0, 0) if cache.store.whole else (min(views, epochs), min(1, evaluations))
    return [("train", training.train, epochs), ("validation", training.validation, evaluations)]


def _leading(
    model: nn.Module, now: _Now, training: Training, terms: Sequence[Term]
) -> AbstractContextManager[Sequence[str]]:
    """While it lasts, last blocks compute their first position only, where no other is read; gives which do."""
    if terms or not training.last or unpadding.refusal("auto", training.settled):
        return nullcontext(())
    moving = [
        name
        for name in named_modules(model, training.last)
        if any(p.requires_grad for p in model.get_submodule(name).parameters())
    ]
    if not moving:
        return nullcontext(())
    device = now.arguments.device
    batch, _ = samples(training.validation, training.collator, device)
    return leading(model.to(device), moving, batch[0], training.loss.task.reads)


def _unpadding(
    model: nn.Module, now: _Now, training: Training, cut: Sequence[str], autocast: Any
) -> AbstractContextManager[tuple[bool, str]]:
    """While it lasts, the blocks of a text model compute tokens only, where that changes nothing; cut: those that
    compute a position only; autocast: the precision of the training."""
    rows = training.validation
    if not training.blocks or rows.lengths is None:
        return nullcontext((False, ""))
    if says := unpadding.refusal(training.unpad, training.settled):
        return nullcontext((False, says))
    return unpadding.unpadded(
        model.to(now.arguments.device),
        [name for name in training.blocks if not any(other.endswith(name) for other in cut)],
        rows,
        training.collator,
        reads=training.loss.task.reads,
        use=training.unpad,
        size=now.arguments.per_device_train_batch_size,
        autocast=autocast,
        note=now.note("unpad"),
    )


@contextmanager
def _used(model: nn.Module, now: _Now, training: Training, journal: Journal, *, watched: bool) -> Iterator[None]:
    """While it lasts, embeddings of tokens that no training row holds are no parameters; watched: see `vocabulary`."""
    if training.tokens is None:
        yield
        return
    says = vocabulary.refusal(training.settled, watched=watched)
    tokens = training.tokens[:0] if says else training.tokens
    with vocabulary.only_used(model.to(now.arguments.device), tokens) as (train, of):
        says = says or (f"{train:,} of {of:,} occur in training rows" if of else "none moves, or nearly all occur")
        journal("vocabulary", stage=now.stage.name, serves=of > 0, says=says)
        yield


def _told(model: nn.Module, stage: Stage, arguments: TrainingArguments) -> dict[str, Any]:
    """What the log says of a stage that begins."""
    moving = sum(p.numel() for name, p in model.named_parameters() if name in stage.speeds)
    rates = sorted({arguments.learning_rate * speed for speed in stage.speeds.values()})
    return {"stage": stage.name, "trainable": moving, "learning_rates": rates}


def _is_divided(trainer: StageTrainer) -> bool:
    return bool(trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled)


def _keep(
    trainer: StageTrainer, moments: Mapping[str, dict[str, Any]], companions: Sequence[Companion], folder: Path
) -> None:
    """Save what a stage ended with; its checkpoints have done their service.

    A Trainer that resumes at the last step, or where it stopped early, would train on.
    """
    # Every process takes part: where the model is divided, this gathers it.
    weights = trainer.accelerator.get_state_dict(trainer.model_wrapped)
    if PartialState().is_main_process:
        folder.mkdir(parents=True, exist_ok=True)
        draft = folder / f"{_OUTCOME}.draft"
        states = [dict(companion.state()) for companion in companions]
        torch.save({"model": weights, "moments": moments, "companions": states}, draft)
        draft.rename(folder / _OUTCOME)
        checkpoints.remove(folder)


def _restore(model: nn.Module, outcome: Path, companions: Sequence[Companion] = ()) -> dict[str, dict[str, Any]]:
    """Put the model where a stage ended; returns the optimizer's moments by parameter name."""
    saved = torch.load(outcome, weights_only=True, map_location="cpu")
    model.load_state_dict(saved["model"])
    for companion, state in zip(companions, saved["companions"], strict=bool(companions)):
        companion.restore(state)
    return dict(saved["moments"])


def _arguments(training: Training, stage: Stage, folder: Path, steps: int, seed: int) -> TrainingArguments:
    settled = {k: v for k, v in training.settled.items() if k not in {*NOT_THEIRS, _SAMPLING, _DROPPING}}
    if stage.learning_rate is not None:
        settled["learning_rate"] = stage.learning_rate
    return TrainingArguments(
        **settled
        | {
            "output_dir": str(folder),
            "max_steps": steps,
            "seed": seed,
            "data_seed": seed,
            "use_cpu": not torch.accelerator.is_available(),
            "dataloader_pin_memory": settled.get("dataloader_pin_memory", torch.accelerator.is_available()),
            "batch_eval_metrics": True,
            "remove_unused_columns": False,
            "label_names": ["labels"],
            "disable_tqdm": True,
            "report_to": settled.get("report_to", "none"),
            "run_name": settled.get("run_name", f"{training.folder.parent.name}/{folder.name}"),
        }
    )


def _trainer(
    model: nn.Module,
    now: _Now,
    training: Training,
    callbacks: Sequence[TrainerCallback],
    moments: Mapping[str, dict[str, Any]],
    terms: Sequence[Term],
) -> StageTrainer:
    processes = PartialState().num_processes
    trainer = StageTrainer(
        model=model,
        args=now.arguments,
        loss=training.loss,
        speeds=now.stage.speeds,
        strategy=training.settled[_SAMPLING],
        seed=now.arguments.seed,
        earlier=math.ceil(now.earlier / steps_per_epoch(training.settled, len(training.train), processes)),
        chances=training.chances,
        moments=moments,
        drop_last=training.settled.get(_DROPPING, False),
        tokens=training.settled.get(MAX_TOKENS) or 0,
        batches=training.settled.get(BATCHES, 0),
        terms=terms,
        train_dataset=training.train,
        eval_dataset=training.validation,
        data_collator=Collate(training.collator),
        compute_metrics=StreamedScores(
            training.loss.on(model), partial(training.tally, model), str(training.settled["metric_for_best_model"])
        ),
    )
    for upstream in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(upstream)
    for callback in callbacks:
        trainer.add_callback(callback)
    if patience := training.settled.get("early_stopping_patience"):
        threshold = training.settled.get("early_stopping_threshold", 0.0)
        trainer.add_callback(EarlyStoppingCallback(patience, threshold))
    return trainer
