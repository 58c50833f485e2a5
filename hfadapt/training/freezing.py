"""Frozen means still: no gradients, and eval mode whatever the trainer says."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from types import MethodType

from torch import nn


@contextmanager
def only(model: nn.Module, moving: Collection[str]) -> Iterator[None]:
    """Let just the named parameters of `model` train; afterwards all may again.

    A module none of whose parameters moves is held in eval mode: no dropout, batch-norm statistics
    fixed; so is one without parameters, a dropout say, that lies between such modules. What is below
    the lowest moving module is then a pure function of the input.

    Raises:
        KeyError: a name is not a parameter of the model.
    """
    parameters = dict(model.named_parameters())
    if unknown := sorted(set(moving) - parameters.keys()):
        raise KeyError(f"no parameter is named {unknown[0]!r}")
    before = {name: p.requires_grad for name, p in parameters.items()}
    for name, parameter in parameters.items():
        parameter.requires_grad_(name in moving)
    still = [*_still(model), *_between(model)]
    for module in still:
        module.eval()
        # The trainer calls model.train() before every step; the call reaches each child.
        module.train = MethodType(_stay, module)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for module in still:
            del module.train
        for name, parameter in parameters.items():
            parameter.requires_grad_(before[name])


def _stay(module: nn.Module, mode: bool = True) -> nn.Module:
    return module


def _still(module: nn.Module) -> list[nn.Module]:
    """The outermost modules that have parameters, none of which moves."""
    parameters = list(module.parameters())
    if parameters and not any(p.requires_grad for p in parameters):
        return [module]
    return [found for child in module.children() for found in _still(child)]


def _between(model: nn.Module) -> list[nn.Module]:
    """The modules without parameters outside of these whose next module with any is frozen, as all before it are.

    Modules are registered in the order of the data: GPT-2 has a dropout between its embeddings and its blocks.
    """
    found: list[nn.Module] = []
    waiting: list[nn.Module] = []
    for module in model.modules():
        own = list(module.parameters(recurse=False))
        if any(p.requires_grad for p in own):
            break
        if own:
            found, waiting = found + waiting, []
        elif next(module.parameters(), None) is None:
            waiting.append(module)
    return found
