"""Recipe → Plan: all that can be found out, and refused, before a byte of weights is read."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from hfadapt import settings
from hfadapt.backbones._source import load_config, locate
from hfadapt.backbones.base import Anatomy, Source, anatomy, family_of
from hfadapt.data.labels import Labels
from hfadapt.data.loading import Finding, Loaded, load
from hfadapt.errors import HfadaptError, Problem, RecipeError, count, one_line
from hfadapt.methods.base import Adaptation, Stage, Surroundings
from hfadapt.misfits import misfits, of_stream
from hfadapt.noise import quiet
from hfadapt.pretraining import Pretraining, ask
from hfadapt.push import hub
from hfadapt.recipe import Recipe
from hfadapt.scoring.kinds import best_first

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

    from hfadapt.estimating import Estimate

_LOOKED_AT = 5_000
"""How many training rows are measured for their lengths."""
_STREAMED = {"train_sampling_strategy": "random", "eval_strategy": "steps", "eval_steps": 0.1}
"""Training arguments where the training rows are streamed: they have no lengths before they are read, and no epochs."""


@dataclass(frozen=True)
class Lengths:
    """How long the inputs are, from a sample of the training rows."""

    looked_at: int
    median: int
    longest: int
    limit: int
    """Longer inputs are cut to this."""
    cut: int
    """How many of those looked at are cut."""
    sample: tuple[int, ...] = field(repr=False, default=())
    """Their lengths after cutting."""


@dataclass(frozen=True)
class Plan:
    """What a run will do. Every value is settled; `adapt` only carries it out."""

    recipe: Recipe
    source: Source
    data: Loaded
    config: PreTrainedConfig = field(repr=False)
    processor: Any = field(repr=False)
    anatomy: Anatomy = field(repr=False)
    """Of the model before the adaptation changed modules."""
    stages: tuple[Stage, ...] = field(repr=False)
    sizes: Mapping[str, int] = field(repr=False)
    """The number of elements of every parameter of the wrapped model, but for the head as it was, which peft
    keeps beside the one that trains."""
    settled: Mapping[str, Any] = field(repr=False)
    """The training's arguments; see `settings.resolve`."""
    same_labels: bool = False
    """Whether the checkpoint was trained to tell the same labels apart, so that its last layer stays."""
    steps: int = 0
    lengths: Lengths | None = None
    findings: tuple[Finding, ...] = ()
    pretraining: Pretraining | None = None
    """What comes before the stages."""
    estimate: Estimate | None = None
    """What it will cost on this machine, where somebody measured it; see `estimating.estimate`."""

    @property
    def parameters(self) -> int:
        """The number of parameters, adapters included."""
        return sum(self.sizes.values())

    def trainable(self, stage: Stage) -> int:
        """The number of parameters that move in a stage."""
        return sum(self.sizes[name] for name in stage.speeds)


@quiet()
def plan(recipe: Recipe, *, processes: int = 1) -> Plan:
    """Find out what a run of the recipe will do.

    processes: how many will train together.

    Raises:
        HfadaptError: everything that stands in the way; `RecipeError` and `DataError` among them.
    """
    task, problems = recipe.task, of_stream(recipe)
    own: list[str] | None = None
    with _gathering(problems, recipe):
        source = locate(recipe.model.name, recipe.model.revision, recipe.model.trust_remote_code)
        config = _config(source)
        own = own_labels(config)
        _refuse_lone_tower(recipe, source, config)
        _refuse_headless(recipe, source, config)
    with _gathering(problems, recipe):
        seed = int(recipe.train.get("seed", 42))
        data = load(recipe.data, task.roles, task.kind, seed=seed, known_labels=own, prompts=task.prompts)
    with _gathering(problems, recipe):
        _check_push(recipe)
    if problems:
        raise HfadaptError(*problems)
    recipe = recipe.model_copy(update={"task": (task := task.settled(data))})
    task.configure(config, data.labels)
    # Nothing of a model that tells pairs apart depends on the labels.
    same_labels = data.labels.kind == "pairs" or own == list(data.labels.names)
    settled = _settled(recipe, data, processes)
    with _gathering(problems, recipe):
        processor = task.processor(source, config)
        recipe.adapt.prepare(surroundings(recipe, source, config, processor, data.labels))
        lengths = _lengths(recipe, data, processor, whole=settings.MAX_TOKENS in settled)
        settled |= settings.in_tokens(settled, lengths.sample if lengths and not task.lazy else None)
        first, notes = ask(recipe, source, config, data, processor, processes)
    with _gathering(problems, recipe):
        model, new = skeleton(recipe, source, config, same_labels)
        parts = anatomy(model, new)
        wrapped = recipe.adapt.wrap(model, parts)
        stages = tuple(recipe.adapt.stages(wrapped, parts))
    if problems := [*problems, *misfits(recipe, data, settled, processes)]:
        raise RecipeError(*problems)
    steps = settings.total_steps(settled, len(data.splits["train"]), processes)
    if late := [*_rehearsed(recipe, data, settled, stages, steps, processes)]:
        raise RecipeError(*(replace(p, where=recipe.origin(p.field)) for p in late))
    return Plan(
        recipe=recipe,
        source=source,
        data=data,
        config=config,
        processor=processor,
        anatomy=parts,
        stages=stages,
        sizes={name: p.numel() for name, p in wrapped.named_parameters() if ".original_module." not in name},
        settled=settled,
        same_labels=same_labels,
        steps=steps,
        lengths=lengths,
        findings=(*data.findings, *_cut(lengths), *_contrasts(recipe, settled, processes), *notes),
        pretraining=first,
    )


def _settled(recipe: Recipe, data: Loaded, processes: int) -> dict[str, Any]:
    """The training's arguments."""
    import torch

    given = {**(_STREAMED if data.stream else {}), **recipe.train, **recipe.adapt.arguments}
    ahead = recipe.task.lazy and not data.stream and torch.accelerator.is_available()
    workers = settings.workers(processes) if ahead else 0
    defaults = settings.of_machine(given, dtype=recipe.model.dtype, workers=workers)
    if rate := _rate(recipe):
        defaults["learning_rate"] = rate
    return settings.resolve(given, recipe.task.score(data.labels.kind), _direction, defaults)


def _rate(recipe: Recipe) -> float | None:
    """The learning rate that the method brings.

    Where pictures and texts are joined no head is new: what inserts nothing moves what was pretrained.
    """
    its = next((its for its in recipe.adapt.chain if its.rate), None)
    inserts = its is not None and (its.scratch or type(its).wrap is not Adaptation.wrap)
    return its.rate if its and (inserts or not recipe.task.contrasts) else None


def _config(source: Source) -> PreTrainedConfig:
    """The checkpoint's configuration, without keeping what only the next token would need."""
    config = load_config(source)
    if hasattr(config, "use_cache"):
        config.use_cache = False
    return config


def _check_push(recipe: Recipe) -> None:
    """Ask the Hub whether what the recipe will push may be written; each process plans, the first asks."""
    if recipe.push and os.environ.get("RANK", "0") == "0":
        hub.check(recipe.push)


def surroundings(recipe: Recipe, source: Source, config: Any, processor: Any, labels: Labels) -> Surroundings:
    """What a method may know of the run around it."""
    return Surroundings(recipe.task, source, config, processor, labels, recipe.model.trust_remote_code)


def knows_texts(config: PreTrainedConfig) -> bool:
    """Whether a checkpoint has two towers that meet in one space, as CLIP's and SigLIP's do."""
    family = family_of(config.model_type)
    alike = hasattr(config, "logit_scale_init_value") or bool(family and family.modality == "image-text")
    # A classifier made of such a checkpoint keeps its configuration and not its texts.
    return alike and not any("Classification" in name for name in config.architectures or ())


def _refuse_lone_tower(recipe: Recipe, source: Source, config: PreTrainedConfig) -> None:
    """Stop where a task needs a backbone that knows pictures and texts, and this one does not."""
    asked = getattr(recipe.task, "head", "new") != "new"
    if (recipe.task.contrasts or asked) and not knows_texts(config):
        says = f"'{source.name}' knows no pictures and texts together: its kind is '{config.model_type}'."
        raise HfadaptError(Problem(says, "task.head" if asked else "model", hint="Use a CLIP or SigLIP checkpoint."))


def _refuse_headless(recipe: Recipe, source: Source, config: PreTrainedConfig) -> None:
    """Stop where transformers has no such head for a checkpoint of this kind: a text model asked for pictures, say."""
    import transformers

    task = recipe.task
    classes: Any = getattr(transformers, task.auto_class)
    if type(config) in classes._model_mapping or hasattr(config, "auto_map"):
        return
    known = {"text": "texts, such as BERT", "image": "pictures, such as ViT or CLIP", "image-text": "both"}
    says = f"'{source.name}' is of the kind '{config.model_type}', for which there is no {task.auto_class}."
    raise HfadaptError(Problem(says, "model", hint=f"Use a backbone for {known[task.modality]}."))


@contextmanager
def _gathering(problems: list[Problem], recipe: Recipe) -> Iterator[None]:
    """Add what goes wrong inside to the problems, with its place in the recipe where it names a field."""
    try:
        yield
    except HfadaptError as error:
        if os.environ.get("HFADAPT_DEBUG"):
            raise
        for p in error.problems:
            problems.append(p if p.where or not p.field else replace(p, where=recipe.origin(p.field)))


def own_labels(config: PreTrainedConfig) -> list[str] | None:
    """The label names of a checkpoint that was trained to tell labels apart, in the order of their ids."""
    names = [config.id2label[i] for i in sorted(config.id2label)]
    return None if all(str(name).startswith("LABEL_") for name in names) else names


def skeleton(
    recipe: Recipe, source: Source, config: PreTrainedConfig, same_labels: bool
) -> tuple[PreTrainedModel, set[str]]:
    """The model without weights, and the names of the parameters that will start at random.

    Raises:
        HfadaptError: the task's Auto class does not load such a checkpoint.
    """
    import torch
    from safetensors import SafetensorError

    try:
        if source.local:
            model, found = recipe.task.model(source, config, device_map="meta")
        else:
            with torch.device("meta"):
                model, found = recipe.task.bare(config), None
    except (ValueError, OSError, SafetensorError) as error:
        damaged = isinstance(error, SafetensorError)
        reason = "it has no safetensors weights" if "safetensors" in str(error) else "its kind has no such head"
        reason = "its weights are damaged" if damaged else reason
        says = f"'{source.name}' does not load through {recipe.task.auto_class}: {reason}."
        raise HfadaptError(Problem(says, "model")) from error
    _refuse_attention(recipe, model)
    if found is None:
        return model, set() if recipe.task.contrasts else set(anatomy(model).head)
    return model, newly_initialised(model, found, same_labels)


def _refuse_attention(recipe: Recipe, model: PreTrainedModel) -> None:
    """Stop where the model cannot have the attention kernel that the recipe names, as loading it would."""
    if asked := recipe.model.attn_implementation:
        hint = "Leave it out, and transformers chooses."
        # Loading allows it; the first step would not.
        for name in ("attention_probs_dropout_prob", "attention_dropout") if asked == "flex_attention" else ():
            if rate := getattr(model.config, name, 0):
                says = f"{asked} trains without dropout only, and the checkpoint's {name} is {rate}."
                raise HfadaptError(Problem(says, "model.attn_implementation", hint=hint))
        try:
            model.get_correct_attn_implementation(asked, is_init_check=True)
        except (ValueError, ImportError) as error:
            text = one_line(str(error)).partition(" Please ")[0].rstrip(".")
            says = f"transformers refuses this: {text}."
            raise HfadaptError(Problem(says, "model.attn_implementation", hint=hint)) from error


def newly_initialised(model: PreTrainedModel, found: Mapping[str, Any], same_labels: bool) -> set[str]:
    """The parameters that start at random, from transformers' account of a loading.

    A last layer that was trained to tell other labels apart counts too.

    Raises:
        HfadaptError: part of a block is missing: the checkpoint is of another architecture.
    """
    mismatched = {key[0] if isinstance(key, tuple) else key for key in found["mismatched_keys"]}
    new = {n for n, _ in model.named_parameters() if n in mismatched | set(found["missing_keys"])}
    parts = anatomy(model)
    lost = [name for block in parts.blocks for name in block.parameters if name in new]
    lost += [name for name in parts.embeddings.parameters if name in new]
    # Towers that were never brought together have projections at random, and nothing in common.
    lost += [name for name in parts.head if name in new and len(parts.towers) > 1]
    if lost:
        says = f"The checkpoint lacks {count(len(lost), 'tensor')} of the body, '{lost[0]}' first."
        raise HfadaptError(Problem(says, "model", hint="It is not of the architecture that its config.json names."))
    if not same_labels:
        new |= {f"{name}.{p}" for name, layer in last_layers(model) for p, _ in layer.named_parameters()}
    return new


def last_layers(model: PreTrainedModel) -> list[tuple[str, Any]]:
    """The head's linear layers that end in one output a label."""
    from torch import nn

    head = anatomy(model).head
    owners = {name.rpartition(".")[0] for name in head}
    modules = {name: model.get_submodule(name) for name in sorted(owners)}
    labels = model.config.num_labels
    return [(n, m) for n, m in modules.items() if isinstance(m, nn.Linear) and m.out_features == labels]


def _rehearsed(
    recipe: Recipe, data: Loaded, settled: Mapping[str, Any], stages: Sequence[Stage], steps: int, processes: int
) -> Iterator[Problem]:
    """What would be refused only when training starts."""
    from hfadapt.scoring import evaluated
    from hfadapt.training.rehearsing import rehearse

    yield from rehearse(settled, stages, steps, processes, recipe.adapt.chain)
    for name in recipe.metrics:
        try:
            evaluated.load(name, data.labels.kind)
        except HfadaptError as error:
            yield from (replace(p, field="metrics") for p in error.problems)


def _lengths(recipe: Recipe, data: Loaded, processor: Any, *, whole: bool) -> Lengths | None:
    """whole: whether all training rows are measured, and not the first ones only."""
    train, texts = data.splits["train"], [r for r, its in recipe.task.roles.items() if its.holds == "text"]
    rows = train.select_columns([role for role in texts if role in train.column_names])
    measured: list[int] = []
    for start in range(0, len(train) if whole else 1, _LOOKED_AT):
        part = recipe.task.lengths(rows[start : start + _LOOKED_AT], processor)
        if part is None:
            return None
        measured += part
    found, limit = sorted(measured), recipe.task.limit(processor)
    kept = tuple(min(length, limit) for length in found)
    return Lengths(len(found), found[len(found) // 2], found[-1], limit, sum(n > limit for n in found), kept)


def _contrasts(recipe: Recipe, settled: Mapping[str, Any], processes: int) -> Iterator[Finding]:
    batches = settled.get("gradient_accumulation_steps", 1)
    if recipe.task.contrasts and batches > 1:
        rows = settled["per_device_train_batch_size"] * processes
        says = f"Each of the {batches} accumulated batches contrasts its own {rows} rows only."
        yield Finding(f"{says} A larger per_device_train_batch_size gives more negatives.", 0)


def _cut(lengths: Lengths | None) -> Sequence[Finding]:
    if not lengths or not lengths.cut:
        return ()
    share = lengths.cut / lengths.looked_at
    says = (
        f"{count(lengths.cut, 'text')} of {lengths.looked_at:,} looked at ({share:.1%}) are longer than "
        f"{lengths.limit} tokens and are cut; the longest has {lengths.longest:,}. See task.max_length."
    )
    return (Finding(says, lengths.cut),)


def _direction(metric: str) -> bool:
    try:
        return best_first(metric.partition("[")[0])
    except HfadaptError:
        return metric != "loss"


def label_counts(data: Loaded, split: str) -> Counter[str]:
    """How many rows of a split have each label; empty where rows have none."""
    labels = data.labels
    if labels.kind == "number" or "label" not in data.splits[split].column_names:
        return Counter()
    values = data.splits[split]["label"][:]
    if labels.kind in ("label", "pairs"):
        return Counter(labels.names[i] for i in values if i >= 0)
    return Counter({name: sum(row[i] for row in values) for i, name in enumerate(labels.names)})
