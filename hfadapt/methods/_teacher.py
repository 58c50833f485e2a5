"""A teacher: whether it fits the run, and what its answers add to the loss."""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from hfadapt.backbones._source import load_config, locate
from hfadapt.backbones.base import Anatomy, Source, anatomy
from hfadapt.errors import HfadaptError, Problem, RecipeError, RunError
from hfadapt.methods._terms import Caught, answer, blocks_of, mask_of
from hfadapt.methods.base import Surroundings

_FIELD = "adapt.teacher"


def find(name: str, around: Surroundings) -> tuple[Source, Any]:
    """A teacher's files and configuration. name: a run folder, or a checkpoint here or on the Hub.

    Raises:
        RecipeError: there is none to be had.
    """
    inside = os.path.join(os.path.expanduser(name), "model")
    is_run = os.path.isfile(os.path.join(inside, "config.json"))
    try:
        source = locate(inside if is_run else name, trust_remote_code=around.trust_remote_code)
        return source, load_config(source)
    except HfadaptError as error:
        raise RecipeError(*(replace(problem, field=_FIELD) for problem in error.problems)) from error


def check(name: str, around: Surroundings, *, hidden: bool) -> None:
    """Refuse a teacher that answers something else, or reads something else.

    hidden: whether its blocks teach too.

    Raises:
        RecipeError: in one sentence why.
    """
    if "logits" not in around.task.reads:
        says = "A teacher is asked for logits, and this task has none."
        raise RecipeError(Problem(says, "adapt.method", hint="Use it to classify, or for a number."))
    source, config = find(name, around)
    for says in _misfits(source, config, around, hidden):
        raise RecipeError(Problem(f"The teacher '{name}' {says}.", _FIELD))


def _misfits(source: Source, config: Any, around: Surroundings, hidden: bool) -> Iterator[str]:
    kind = around.task.auto_class.removeprefix("AutoModel")
    if not any(kind in name for name in config.architectures or ()):
        yield f"has no such head: it is a {' or '.join(config.architectures or ()) or config.model_type}, not a …{kind}"
        return
    asked = around.config.problem_type
    told = config.problem_type or ("regression" if config.num_labels == 1 else asked)
    if told != asked:
        yield f"was trained for {told.replace('_', ' ')}, and this is {asked.replace('_', ' ')}"
    elif around.labels.kind != "number":
        yield from _other_labels([config.id2label[i] for i in sorted(config.id2label)], around.labels.names)
    yield from _other_inputs(source, config, around)
    if hidden and None not in (widths := [_width(around.config), _width(config)]) and widths[0] != widths[1]:
        yield f"has blocks of width {widths[1]} and the student of {widths[0]}, so 'hidden' cannot compare them"


def _other_labels(theirs: Sequence[str], ours: Sequence[str]) -> Iterator[str]:
    for says, names in (
        ("does not know the label", [name for name in ours if name not in theirs]),
        ("knows a label that the data do not have:", [name for name in theirs if name not in ours]),
    ):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            yield f"{says} '{names[0][:60]}'{more}"
            return


def _other_inputs(source: Source, config: Any, around: Surroundings) -> Iterator[str]:
    """Whether the same rows become other inputs; asked of rows that every task can encode."""
    from PIL import Image

    task = around.task
    try:
        processor = task.processor(source, config)
    except HfadaptError as error:
        yield f"cannot read the same inputs: {str(error).partition(': ')[2].rstrip('.')}"
        return
    if task.modality == "text":
        if processor.get_vocab() != around.processor.get_vocab():
            yield "reads other tokens: its vocabulary is not the student's"
            return
        if task.limit(processor) < task.limit(around.processor):
            limits = task.limit(processor), task.limit(around.processor)
            yield f"reads {limits[0]} tokens at most, and the student {limits[1]}: set task.max_length"
        rows, name = {"text": [row["text"] for row in task.examples]}, "input_ids"
    else:
        shades = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
        rows, name = {"image": [Image.fromarray(shades)]}, "pixel_values"
    theirs, ours = (list(task.encode(rows, its)[name]) for its in (processor, around.processor))
    for one, other in zip(theirs, ours, strict=True):
        if np.shape(one) != np.shape(other) and name == "pixel_values":
            sizes = [f"{height} x {width}" for _, height, width in (np.shape(one), np.shape(other))]
            yield f"sees pictures of {sizes[0]} pixels, and the student of {sizes[1]}"
        elif not np.array_equal(one, other):
            yield f"reads the same {'text' if name == 'input_ids' else 'picture'} as other {name.replace('_', ' ')}"
        else:
            continue
        return


def _width(config: Any) -> Any:
    inner = getattr(config, "vision_config", config)
    return getattr(inner, "hidden_sizes", None) or getattr(inner, "hidden_size", None)


def load(name: str, around: Surroundings) -> nn.Module:
    """The teacher, frozen.

    Raises:
        HfadaptError: some of its weights are missing.
    """
    source, config = find(name, around)
    model, found = around.task.model(source, config)
    if missing := sorted(map(str, found["missing_keys"])):
        raise HfadaptError(Problem(f"The teacher '{name}' lacks '{missing[0]}'.", _FIELD))
    frozen: nn.Module = model.eval().requires_grad_(False)
    return frozen


class Lesson:
    """What a teacher adds to the loss of a row."""

    def __init__(
        self,
        model: nn.Module,
        parts: Anatomy,
        around: Surroundings,
        teacher: nn.Module,
        *,
        temperature: float,
        weight: float,
        hidden: float,
    ):
        """model: the student; parts: its anatomy; weight, hidden: the factors on answers and on blocks."""
        self.teacher, self.kind = teacher, around.labels.kind
        self.temperature, self.weight, self.hidden = temperature, weight, hidden
        config: Any = teacher.config
        theirs = {label: i for i, label in config.id2label.items()}
        self.order = [theirs[label] for label in around.labels.names] if self.kind != "number" else [0]
        self.reads = set(inspect.signature(teacher.forward).parameters)
        towers = zip(parts.towers, anatomy(teacher).towers, strict=True) if hidden else ()
        self.pairs = [
            (tower, Caught(one), Caught(other))
            for tower, its in towers
            for one, other in matched(blocks_of(model, tower), blocks_of(teacher, its))
        ]

    def __call__(self, inputs: Mapping[str, Tensor], outputs: Any) -> Tensor:
        """weight · T² · KL and hidden · the distance of the blocks, (rows,)."""
        known = answer(self.teacher, {name: tensor for name, tensor in inputs.items() if name in self.reads})
        apart = divergence(outputs["logits"], known["logits"][:, self.order], self.kind, self.temperature)
        value = self.weight * apart
        if self.hidden:
            found = [(tower, one.take(), other.take()) for tower, one, other in self.pairs]
            states = [between(one, other, mask_of(tower, inputs, one)) for tower, one, other in found]
            value = value + self.hidden * torch.stack(states).mean(0)
        return value


def divergence(student: Tensor, teacher: Tensor, kind: str, temperature: float) -> Tensor:
    """How far the student's answers are from the teacher's, (rows,); both logits: (rows, labels).

    T² · KL(teacher, student) at temperature T, the squared one so that its gradient does not fade with T (Hinton
    et al. 2015, section 2); the mean over the labels of that of each where a row has several; the squared
    difference of a number.
    """
    student, teacher = student.float(), teacher.float()
    if kind == "number":
        return (student - teacher).square().mean(-1)
    student, teacher = student / temperature, teacher / temperature
    if kind == "label":
        each = functional.kl_div(student.log_softmax(-1), teacher.log_softmax(-1), reduction="none", log_target=True)
        return temperature**2 * each.sum(-1)
    chance = teacher.sigmoid()
    present = chance * (functional.logsigmoid(teacher) - functional.logsigmoid(student))
    absent = (1 - chance) * (functional.logsigmoid(-teacher) - functional.logsigmoid(-student))
    return temperature**2 * (present + absent).mean(-1)


def matched(student: Sequence[Any], teacher: Sequence[Any]) -> list[tuple[Any, Any]]:
    """Block k of n with block round((k + 1) · N / n) - 1 of the teacher's N: the last with the last."""
    n, many = len(student), len(teacher)
    return [(block, teacher[max(round((k + 1) * many / n), 1) - 1]) for k, block in enumerate(student)]


def between(student: Tensor, teacher: Tensor, mask: Tensor | None) -> Tensor:
    """The squared distance of normalised states, the mean over what mask says is no padding, (rows,).

    Both: (rows, tokens, width) or (rows, width, height, breadth); mask: (rows, tokens). After Patient Knowledge
    Distillation (Sun et al. 2019, section 3.2), which compares first tokens only.

    Raises:
        RunError: they are of different shapes.
    """
    if student.shape != teacher.shape:
        ours, theirs = (" x ".join(map(str, tensor.shape[1:])) for tensor in (student, teacher))
        raise RunError(f"A block of the student answers {ours} numbers, its teacher's {theirs}: set adapt.hidden to 0.")
    one, other = (
        functional.normalize(tensor.float(), dim=1 if tensor.ndim == 4 else -1) for tensor in (student, teacher)
    )
    apart = (one - other).square().sum(1 if one.ndim == 4 else -1).flatten(1)
    weights = torch.ones_like(apart) if mask is None else mask.float()
    return (apart * weights).sum(1) / weights.sum(1).clamp(min=1)
