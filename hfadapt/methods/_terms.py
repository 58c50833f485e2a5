"""Terms of the loss that keep a model near its start, and what catches the features of its blocks."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from hfadapt.backbones._source import load_config
from hfadapt.backbones.base import Anatomy, Tower
from hfadapt.errors import RunError
from hfadapt.methods.base import Surroundings


def started_at_random(model: nn.Module, anatomy: Anatomy, around: Surroundings) -> set[str]:
    """The parameters of the wrapped model that began with no knowledge: those of a head that is new.

    The head is not new where two towers meet in it, where the task begins it with the names of the classes,
    and where the checkpoint was trained by such a head to tell the same labels apart.
    """
    own = load_config(around.source)
    names = [own.id2label[i] for i in sorted(own.id2label)]
    kind = around.task.auto_class.removeprefix("AutoModel")
    same = names == list(around.labels.names) and any(kind in name for name in own.architectures or ())
    if same or len(anatomy.towers) > 1 or getattr(around.task, "head", "new") != "new":
        return set()
    return {name for name, _ in model.named_parameters() if anatomy.part_of(name) == "head"}


class Pull:
    """L2-SP: half the squared distance of what moves to its start, and of what is new to zero."""

    def __init__(self, model: nn.Module, moving: Collection[str], new: Collection[str], alpha: float, beta: float):
        """moving: parameters that a stage moves; new: those that began at random."""
        self.model, self.alpha, self.beta = model, alpha, beta
        self.new = set(new) & set(moving)
        named = dict(model.named_parameters())
        self.start = {name: named[name].detach().clone() for name in moving if name not in self.new}

    def __call__(self, inputs: Mapping[str, Tensor], outputs: Any) -> Tensor:
        """The penalty of the parameters that move now, ()."""
        parts = []
        for name, parameter in self.model.named_parameters():
            if not parameter.requires_grad:
                continue
            if name in self.new:
                parts.append(self.beta / 2 * parameter.float().square().sum())
            elif name in self.start:
                self.start[name] = self.start[name].to(parameter.device)
                parts.append(self.alpha / 2 * (parameter.float() - self.start[name].float()).square().sum())
        return torch.stack(parts).sum()


class Caught:
    """A forward hook that remembers what its module answered last."""

    def __init__(self, module: nn.Module):
        self.module = module
        self.answer: Any = None
        module.register_forward_hook(self)

    def __call__(self, module: nn.Module, inputs: Any, answer: Any) -> None:
        """Called by the module."""
        self.answer = answer

    def __deepcopy__(self, memo: Any) -> Any:
        # A copy of the model is listened to by nobody.
        return _nobody

    def take(self) -> Tensor:
        """The answer, which is then forgotten.

        Raises:
            RunError: it was computed where no gradient can follow.
        """
        answer, self.answer = self.answer, None
        found: Tensor = answer[0] if isinstance(answer, tuple | list) else answer
        moves = any(parameter.requires_grad for parameter in self.module.parameters())
        if found is None or (moves and not found.requires_grad):
            raise RunError(
                "The features of a block could not be caught with their gradient. "
                "Leave use_reentrant out of train.activation_checkpointing_kwargs."
            )
        return found


def _nobody(module: nn.Module, inputs: Any, answer: Any) -> None:
    return None


def blocks_of(model: nn.Module, tower: Tower) -> list[nn.Module]:
    """The blocks of a tower, in a model that an adapter may have wrapped."""
    modules = {name.removeprefix("base_model.model."): module for name, module in model.named_modules()}
    return [modules[name] for name in tower.block_modules]


def mask_of(tower: Tower, inputs: Mapping[str, Tensor], features: Tensor) -> Tensor | None:
    """Which tokens of a tower's features, (rows, tokens, width), are no padding: (rows, tokens)."""
    mask = None if tower.name == "vision" else inputs.get("attention_mask")
    return mask if mask is not None and mask.shape == features.shape[:2] else None


def pooled(features: Tensor, mask: Tensor | None) -> Tensor:
    """The mean over tokens or places, (rows, width).

    features: (rows, tokens, width), of which mask, (rows, tokens), says what is no padding, or
    (rows, width, height, breadth).
    """
    features = features.float()
    if features.ndim == 4:
        return features.flatten(2).mean(-1)
    if mask is None:
        return features.mean(1)
    weights = mask.float()[..., None]
    return (features * weights).sum(1) / weights.sum(1).clamp(min=1)


class Anchored:
    """How far the pooled features of the last blocks are from those that the model began with."""

    def __init__(self, model: nn.Module, anatomy: Anatomy, weight: float):
        self.weight = weight
        self.base = copy.deepcopy(model).eval().requires_grad_(False)
        self.towers = [
            (tower, Caught(blocks_of(model, tower)[-1]), Caught(blocks_of(self.base, tower)[-1]))
            for tower in anatomy.towers
        ]

    def __call__(self, inputs: Mapping[str, Tensor], outputs: Any) -> Tensor:
        """The squared distance in units of the start's mean square, the mean over the towers, (rows,)."""
        answer(self.base, inputs)
        distances = []
        for tower, caught, start in self.towers:
            now, then = caught.take(), start.take()
            mask = mask_of(tower, inputs, now)
            now, then = pooled(now, mask), pooled(then, mask)
            distances.append((now - then).square().mean(-1) / then.square().mean(-1).clamp(min=1e-12))
        return self.weight * torch.stack(distances).mean(0)


@torch.no_grad()
def answer(model: nn.Module, inputs: Mapping[str, Tensor]) -> Any:
    """What a frozen model answers, where the inputs are."""
    device = next(iter(inputs.values())).device
    if next(model.parameters()).device != device:
        model.to(device)
    return model(**inputs)
