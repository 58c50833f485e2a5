"""Pretraining on unlabelled rows before the task: what it will do, the work, and its body handed over."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hfadapt import settings
from hfadapt.backbones.base import Anatomy, Source, anatomy
from hfadapt.data.labels import Labels
from hfadapt.data.loading import Finding, Loaded
from hfadapt.data.text import is_blank
from hfadapt.data.unlabelled import Unlabelled, read_unlabelled
from hfadapt.errors import DataError, HfadaptError, Problem, count
from hfadapt.folder import clear
from hfadapt.methods.base import Adaptation, Stage
from hfadapt.methods.pretrain import Pretrain
from hfadapt.recipe import Data, Recipe
from hfadapt.tasks.base import Task

if TYPE_CHECKING:
    import datasets
    from torch import nn
    from transformers import PreTrainedConfig, PreTrainedModel

    from hfadapt.tasks._pretraining import MaskedPictures, MaskedText
    from hfadapt.training.stages import Training
    from hfadapt.training.watching import Journal

_RATE = 5e-5
_SHARES = {"text": 0.15, "image": 0.6}
_MODELS = {"text": ("masked language model", "BERT"), "image": ("masked-image model", "ViT")}
_OF_THE_TASK = (
    *("learning_rate", "num_train_epochs", "max_steps", "per_device_", "gradient_accumulation_", "warmup_"),
    *("lr_scheduler_", "label_smoothing_", "eval_", "early_stopping_", "load_best_", "metric_for_", "greater_is_"),
)
"""Beginnings of the training arguments that say nothing of the pretraining."""
_LOOKED_AT = 1000
"""How many rows planning looks at for something to mask."""
_DONE = "pretrained"
"""The folder, among the checkpoints, with the pretrained model: a plain checkpoint."""


@dataclass(frozen=True)
class Pretraining:
    """What a run does before the stages of its method."""

    task: MaskedText | MaskedPictures
    source: Source
    config: PreTrainedConfig = field(repr=False)
    rows: datasets.Dataset = field(repr=False)
    """Texts or pictures, under the roles of the recipe's task."""
    shown: str
    """Where they come from."""
    settled: Mapping[str, Any] = field(repr=False)
    """The training's arguments; see `settings.resolve`."""
    steps: int
    trainable: int
    """Parameters that move: those of the body and of the head."""
    new: int
    """Those of the head that start at random."""
    scratch: bool = False

    @property
    def told(self) -> str:
        """A line for a person."""
        what, part = ("text", "tokens") if self.task.modality == "text" else ("picture", "area")
        epochs = self.settled["num_train_epochs"]
        new = f", {self.new:,} of them new" if self.new else ""
        rate = f"{self.settled['learning_rate']:g}".replace("e-0", "e-")
        return (
            f"{count(len(self.rows), what)} of {self.shown}, {self.task.share:.0%} of the {part} masked; "
            f"{epochs:g} {'epoch' if epochs == 1 else 'epochs'}, {count(self.steps, 'step')} "
            f"of {self.settled['per_device_train_batch_size']} rows a process at {rate}; "
            f"{self.trainable:,} parameters move{new}"
        )

    def as_dict(self) -> dict[str, Any]:
        """For `plan.yaml`."""
        return {
            "rows": len(self.rows),
            "from": self.shown,
            "masked": self.task.share,
            "epochs": self.settled["num_train_epochs"],
            "steps": self.steps,
            "learning_rate": self.settled["learning_rate"],
            "batch_size": self.settled["per_device_train_batch_size"],
            "trainable": self.trainable,
            "new": self.new,
        }

    def model(self, **options: Any) -> tuple[PreTrainedModel, Mapping[str, Any]]:
        """The masked model, and transformers' account of what loading found."""
        if self.scratch:
            return self.task.bare(self.config, **options), {}
        return self.task.model(self.source, self.config, **options)


def ask(
    recipe: Recipe,
    source: Source,
    config: PreTrainedConfig,
    data: Loaded,
    processor: Any,
    processes: int,
) -> tuple[Pretraining | None, tuple[Finding, ...]]:
    """The pretraining that a recipe asks for, if it does, and what to say of its rows.

    Raises:
        HfadaptError: the backbone, the processor or the rows can't be pretrained with.
    """
    asked = _asked(recipe.adapt)
    if not asked:
        return None, ()
    method = asked[0]
    if len(asked) > 1:
        raise HfadaptError(Problem("One method pretrains already.", "adapt.inner", hint="Remove the other one."))
    task = _masked(method, recipe, source, config, processor)
    rows, shown, findings = _rows(method, recipe, data)
    _refuse_few(rows, shown, task, processor)
    kept = {name: value for name, value in recipe.train.items() if not name.startswith(_OF_THE_TASK)}
    if kept.get("save_strategy") == "best":
        del kept["save_strategy"]
    ours = {
        "learning_rate": method.learning_rate or _RATE,
        "num_train_epochs": method.epochs,
        "per_device_train_batch_size": method.batch_size,
        "eval_strategy": "no",
    }
    machine = settings.of_machine(kept, dtype=recipe.model.dtype)
    settled = settings.resolve(kept | ours, "loss", lambda _: False, machine)
    steps = settings.total_steps(settled, len(rows), processes)
    config = _for_masking(config, task)
    made = Pretraining(task, source, config, rows, shown, settled, steps, 0, 0, recipe.adapt.scratch)
    return _measured(made, recipe.task), findings


def _asked(method: Any) -> list[Pretrain]:
    """Every method that pretrains, from the outermost to the innermost."""
    inner = getattr(method, "inner", None)
    deeper = _asked(inner) if isinstance(inner, Adaptation) else []
    return [method, *deeper] if isinstance(method, Pretrain) else deeper


def _masked(
    method: Pretrain, recipe: Recipe, source: Source, config: PreTrainedConfig, processor: Any
) -> MaskedText | MaskedPictures:
    """The masked modelling of what the recipe's task reads.

    Raises:
        HfadaptError: transformers has none for such a backbone, or the processor does not suit it.
    """
    import transformers

    from hfadapt.tasks._pretraining import MaskedPictures, MaskedText, masked

    modality = recipe.task.modality
    if modality == "image-text":
        says = "A backbone for pictures and texts together has no masked model."
        raise HfadaptError(Problem(says, "adapt.method", hint="Adapt it without."))
    for other in {"text", "image"} - {modality}:
        if getattr(method, other) is not None:
            says = f"The task reads no {other}."
            raise HfadaptError(Problem(says, f"adapt.{other}", hint=f"Name the column as `{modality}`."))
    kind: type[Task] = MaskedText if modality == "text" else MaskedPictures
    if type(config) not in getattr(transformers, kind.auto_class)._model_mapping:
        what, such = _MODELS[modality]
        says = f"'{config.model_type}' has no {what} in transformers."
        raise HfadaptError(Problem(says, "adapt.method", hint=f"Use a backbone that has one, such as {such}."))
    if modality == "text" and processor.mask_token_id is None:
        raise HfadaptError(Problem(f"The tokenizer of '{source.name}' has no mask token.", "adapt.method"))
    if modality == "image":
        _refuse_sizes(source, config, processor)
    return masked(recipe.task, modality, config, method.mask or _SHARES[modality])


def _refuse_sizes(source: Source, config: Any, processor: Any) -> None:
    """Stop where the pictures are not the squares, in whole patches, that transformers' masked models rebuild."""
    from hfadapt.tasks._pictures import picture_size

    side, patch = config.image_size, config.patch_size
    if not (isinstance(side, int) and isinstance(patch, int) and side % patch == 0):
        says = f"Pictures of {side} pixels in patches of {patch} can't be masked; squares of whole patches can."
        raise HfadaptError(Problem(says, "adapt.method"))
    if (size := picture_size(processor)) != (side, side):
        says = f"The image processor of '{source.name}' makes pictures of {size[0]} x {size[1]} pixels"
        raise HfadaptError(Problem(f"{says}, and its masked model rebuilds {side} x {side}.", "adapt.method"))


def _for_masking(config: Any, task: MaskedText | MaskedPictures) -> PreTrainedConfig:
    """The configuration of the masked model; the head on pictures must give back as many pixels as came in."""
    config = copy.deepcopy(config)
    if task.modality == "image":
        config.encoder_stride = config.patch_size * 2 ** (len(getattr(config, "depths", [0])) - 1)
    return config  # type: ignore[no-any-return]


def _measured(made: Pretraining, task: Task) -> Pretraining:
    """With the numbers of parameters; task: the recipe's, the body of whose model must be in the masked one."""
    import torch

    if made.source.local and not made.scratch:
        model, found = made.model(device_map="meta")
        new = set(found["missing_keys"])
    else:
        with torch.device("meta"):
            model = made.task.bare(made.config)
        new = set(anatomy(model).everything if made.scratch else anatomy(model).head)
    sizes = {name: p.numel() for name, p in model.named_parameters()}
    with torch.device("meta"):
        parts = anatomy(task.bare(made.config))
    if lost := [name for name in _body(parts) if name not in sizes]:
        says = f"The masked model of '{made.config.model_type}' lacks {count(len(lost), 'tensor')} of the body"
        raise HfadaptError(Problem(f"{says}, '{lost[0]}' first.", "adapt.method"))
    trainable = sum(sizes[name] for name in anatomy(model).everything)
    return replace(made, trainable=trainable, new=sum(size for name, size in sizes.items() if name in new))


def _body(parts: Anatomy) -> list[str]:
    """The parameters that pretraining must have moved."""
    return [name for part in (parts.embeddings, *parts.blocks) for name in part.parameters]


def _rows(method: Pretrain, recipe: Recipe, data: Loaded) -> tuple[datasets.Dataset, str, tuple[Finding, ...]]:
    """The unlabelled rows, what they are called, and what is to be said of them."""
    roles = recipe.task.roles
    if method.path is None:
        rows = data.splits["train"]
        rows = rows.select_columns([r for r, its in roles.items() if its.holds != "target" and r in rows.column_names])
        if "text" in rows.column_names:
            rows = rows.select([i for i, text in enumerate(rows["text"]) if not is_blank(text)])
        return rows, "train", ()
    named = {role: column for role in ("text", "image") if (column := getattr(method, role))}
    given = {name: getattr(recipe.data, name) for name in ("encoding", "separator", "on_bad_row")}
    section = Data.model_validate({"path": method.path, **given, **named})
    try:
        found = read_unlabelled(section, roles, {name: data.splits[name] for name in ("validation", "test")})
    except DataError as error:
        raise DataError(*map(_of_the_method, error.problems)) from error
    shown = method.path if isinstance(method.path, str) else ", ".join(method.path)
    return found.rows, shown, tuple(_findings(found))


def _of_the_method(problem: Problem) -> Problem:
    """A problem of a `data` section as one of the method's."""
    if not problem.field.startswith("data.") or problem.field == "data.on_bad_row":
        return problem
    hint = problem.hint.replace("`data.", "`adapt.")
    return replace(problem, field=problem.field.replace("data.", "adapt.", 1), hint=hint)


def _findings(found: Unlabelled) -> Iterator[Finding]:
    rows = len(found.rows)
    if found.blank:
        yield Finding(f"{count(found.blank, 'unlabelled text')} left out, for nothing is in it.", found.blank)
    if found.skipped:
        says = f"{count(len(found.skipped), 'unlabelled row')} skipped, {found.skipped[0].where} first:"
        yield Finding(f"{says} {found.skipped[0].says}", len(found.skipped))
    for split, seen in found.seen.items():
        if seen:
            says = f"Of {count(rows, 'unlabelled row')}, {seen:,} can be found in {split} too, without their labels."
            yield Finding(f"{says} The score on {split} may be a little too good.", seen)


def _refuse_few(rows: datasets.Dataset, shown: str, task: MaskedText | MaskedPictures, processor: Any) -> None:
    if len(rows) < 2:
        says = (
            f"There {'is 1 row' if len(rows) == 1 else 'are no rows'} to pretrain on in '{shown}'; two are the least."
        )
        raise DataError(Problem(says, "adapt.path"))
    if task.modality == "text":
        first = rows.select(range(min(len(rows), _LOOKED_AT)))
        if not len(_encoded(first, task, processor)):
            says = f"The tokenizer knows no word of the first {count(len(first), 'text')} in '{shown}'."
            raise DataError(Problem(says, "adapt.path"))


def _encoded(rows: datasets.Dataset, task: MaskedText | MaskedPictures, processor: Any) -> datasets.Dataset:
    """Texts as tokens, those left out of which nothing can be masked; pictures as they are."""
    if task.modality == "image":
        return rows.select_columns([name for name in rows.column_names if not name.startswith("_")])
    encoded = rows.map(
        lambda batch: task.task.encode(batch, processor),
        batched=True,
        remove_columns=rows.column_names,
        load_from_cache_file=False,
    )
    return encoded.select([i for i, ids in enumerate(encoded["input_ids"]) if task.fits({"input_ids": ids}, processor)])


def carry_out(
    asked: Pretraining | None,
    processor: Any,
    folder: Path,
    journal: Journal,
    *,
    resume: bool,
    **options: Any,
) -> None:
    """Pretrain, and leave the model in a folder of checkpoints; nothing where that is there, or nobody asked.

    options: of `from_pretrained`, such as dtype.
    """
    if asked is None:
        return
    from accelerate import PartialState
    from transformers import set_seed

    from hfadapt.training import checkpoints
    from hfadapt.training.stages import train

    if resume and checkpoints.is_whole(folder / _DONE):
        return
    set_seed(asked.settled["seed"])
    model, _ = asked.model(**options)
    stage = Stage("pretrain", dict.fromkeys(anatomy(model).everything, 1.0))
    training = _training(asked, processor, folder / "pretraining")
    trained = train(model, [stage], training, journal, resume=resume, rebuild=lambda: asked.model(**options)[0])
    if journal.active:
        clear(folder / _DONE)
        trained.save_pretrained(folder / _DONE)  # type: ignore[operator]
        processor.save_pretrained(folder / _DONE)
        checkpoints.seal(folder / _DONE)
        clear(training.folder)
    PartialState().wait_for_everyone()


def _training(asked: Pretraining, processor: Any, folder: Path) -> Training:
    """What the engine needs to train the masked model."""
    import numpy as np

    from hfadapt.scoring.tally import Tally
    from hfadapt.training.rows import Rows, Visits
    from hfadapt.training.stages import Training
    from hfadapt.training.trainer import ExactLoss

    labels = Labels("number")
    table = _encoded(asked.rows, asked.task, processor)
    lengths = np.asarray([len(ids) for ids in table["input_ids"]]) if asked.task.modality == "text" else None
    rows = Rows(table, lengths, Visits(asked.task, processor, table, labels, asked.settled["seed"], trains=True))
    return Training(
        settled=asked.settled,
        steps=asked.steps,
        loss=ExactLoss(asked.task, labels),
        tally=lambda *_: Tally("number", (), replicates=0, seed=0),
        train=rows,
        validation=rows,  # Never looked at: pretraining has no evaluations.
        collator=asked.task.collator(processor),
        folder=folder,
    )


def take_over(model: nn.Module, asked: Pretraining | None, parts: Anatomy, folder: Path) -> None:
    """Put the pretrained body, and whatever else the masked model shares by name and shape, into the task's model.

    What only the task's model has stays: BERT's pooler as the checkpoint had it, the new head as it was drawn.

    Raises:
        HfadaptError: part of the body is not there.
    """
    if asked is None:
        return
    done = Source(asked.source.name, str(folder / _DONE))
    theirs = asked.task.model(done, asked.config, dtype=next(model.parameters()).dtype)[0].state_dict()
    own = model.state_dict()
    shared = {name: theirs[name] for name, its in own.items() if name in theirs and theirs[name].shape == its.shape}
    if lost := [name for name in _body(parts) if name not in shared]:
        raise HfadaptError(f"The pretrained model lacks {count(len(lost), 'tensor')} of the body, '{lost[0]}' first.")
    model.load_state_dict(shared, strict=False)
