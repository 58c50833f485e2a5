"""What lies below everything that trains: computed once for a row, kept, and given back.

A module none of whose parameters moves runs in eval mode (see `freezing`), so that its output for a row is the same in
every epoch. Which outputs those are, and which of them the rest of the model reads, is found out on a few rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

Key = tuple[str, int, int]
"""A module's name, which of its calls in a forward pass, which tensor of its output."""
Inputs = Mapping[str, Tensor]
_CLOSE = 1e-4
"""How far, relative to the greatest output, an answer from kept tensors may lie from the model's own."""


@dataclass(frozen=True)
class Leaf:
    """A tensor of a module's output: (rows, …), perhaps (rows, length, …)."""

    shape: tuple[int, ...]
    """Of one row; the length is that of the batch it was seen in."""
    dtype: torch.dtype
    along: bool
    """Whether the first dimension of a row is the batch's length."""
    first: bool = False
    """Whether no more than the first position is read."""

    def of(self, rows: int, length: int, *, kept: bool = False) -> tuple[int, ...]:
        """The shape for a batch; kept: of what is kept of it."""
        if kept and self.first:
            return (rows, 1, *self.shape[1:])
        return (rows, length, *self.shape[1:]) if self.along else (rows, *self.shape)


@dataclass
class _Call:
    name: str
    leaves: list[Any] = field(default_factory=list)
    spec: TreeSpec | None = None
    pure: bool = False
    children: list[_Call] = field(default_factory=list)


class Prefix:
    """The calls of modules whose output no moving parameter has a part in, and what of it the rest reads."""

    def __init__(self, model: nn.Module, specs: Mapping[tuple[str, int], TreeSpec], parts: Mapping[Key, Any]):
        """specs: the form of each call's output; parts: of these, a `Leaf` for a tensor, others as they are."""
        self.model, self.specs, self.parts = model, specs, dict(parts)
        self.kept: dict[Key, Leaf] = {key: part for key, part in parts.items() if isinstance(part, Leaf)}
        """The tensors that the rest of the model reads."""
        self.modules = {name: model.get_submodule(name) for name, _ in specs}

    @contextmanager
    def capturing(self) -> Iterator[dict[Key, Tensor]]:
        """Collects what is kept while the model runs on a batch."""
        found: dict[Key, Tensor] = {}
        counts: dict[str, int] = {}

        def hook(name: str) -> Callable[..., None]:
            def after(module: nn.Module, inputs: Any, output: Any) -> None:
                number = counts[name] = counts.get(name, -1) + 1
                for i, leaf in enumerate(tree_flatten(output)[0]):
                    if kept := self.kept.get((name, number, i)):
                        # A copy: MobileNetV2's dropout writes into what it is given.
                        found[name, number, i] = (leaf[:, :1] if kept.first else leaf).detach().clone()

            return after

        handles = [module.register_forward_hook(hook(name)) for name, module in self.modules.items()]
        try:
            yield found
        finally:
            for handle in handles:
                handle.remove()

    @contextmanager
    def replaying(self, values: Mapping[Key, Tensor], rows: int, length: int) -> Iterator[None]:
        """The calls answer with these values instead of computing; what is not read is zero, and takes no memory."""
        counts: dict[str, int] = {}

        def stub(name: str) -> Callable[..., Any]:
            def forward(*_: Any, **__: Any) -> Any:
                number = counts[name] = counts.get(name, -1) + 1
                spec = self.specs[name, number]
                leaves = [self._value((name, number, i), values, rows, length) for i in range(spec.num_leaves)]
                return tree_unflatten(leaves, spec)

            return forward

        for name, module in self.modules.items():
            module.forward = stub(name)  # type: ignore[method-assign]
        try:
            yield
        finally:
            for module in self.modules.values():
                del module.forward

    def _value(self, key: Key, values: Mapping[Key, Tensor], rows: int, length: int) -> Any:
        if not isinstance(leaf := self.parts[key], Leaf):
            return leaf
        shape = leaf.of(rows, length)
        if key in values and leaf.first:
            whole = values[key].new_zeros(shape)
            whole[:, :1] = values[key]
            return whole
        if key in values:
            return values[key]
        device = next(iter(values.values())).device if values else next(self.model.parameters()).device
        return torch.zeros((), dtype=leaf.dtype, device=device).expand(shape)


def find(model: nn.Module, batches: Sequence[Inputs], reads: Sequence[str]) -> Prefix | str:
    """What of a model may be kept while the parameters that require a gradient train, or why nothing may.

    batches: two: some rows; fewer rows, shorter ones where rows have lengths. reads: the outputs that the task reads.
    """
    was = model.training
    model.eval()
    try:
        return _find(model, batches, reads)
    finally:
        model.train(was)


def _find(model: nn.Module, batches: Sequence[Inputs], reads: Sequence[str]) -> Prefix | str:
    seen = [_pure(model, batch) for batch in batches]
    if [c.name for c in seen[0]] != [c.name for c in seen[1]]:
        return "it takes another way for other rows"
    prefix = Prefix(model, *_described(seen, [(_rows(batch), _length(batch)) for batch in batches]))
    if not prefix.kept:
        return "nothing lies below what trains"
    _narrow(prefix, batches[0], reads)
    if not prefix.kept:
        return "nothing of what lies below is read"
    return prefix


def _narrow(prefix: Prefix, batch: Inputs, reads: Sequence[str]) -> None:
    """Keep no more than the rest of the model reads: what may be no number without harm is not read."""
    rows, length = _rows(batch), _length(batch)
    with torch.no_grad(), prefix.capturing() as values:
        goal = _answers(prefix.model, batch, reads)

    def harmless(changed: Mapping[Key, Tensor]) -> bool:
        with torch.no_grad(), prefix.replaying({**values, **changed}, rows, length):
            return all(torch.equal(a, b) for a, b in zip(goal, _answers(prefix.model, batch, reads), strict=True))

    for key, leaf in list(prefix.kept.items()):
        spoilt = torch.full_like(values[key], torch.nan)
        if not leaf.dtype.is_floating_point:
            continue
        if harmless({key: spoilt}):
            del prefix.kept[key]
        elif len(leaf.shape) > 1:
            spoilt[:, :1] = values[key][:, :1]
            if harmless({key: spoilt}):
                prefix.kept[key] = prefix.parts[key] = Leaf(leaf.shape, leaf.dtype, leaf.along, first=True)
                values[key] = values[key][:, :1]


def differs(prefix: Prefix, batch: Inputs, again: Inputs, rows: Sequence[int], reads: Sequence[str]) -> bool:
    """Whether the model answers otherwise from kept tensors, for rows in another order and padded anew.

    again: the rows of the batch at `rows`, collated by themselves.
    """
    was = prefix.model.training
    prefix.model.eval()
    length = _length(again)
    with torch.no_grad():
        with prefix.capturing() as values:
            _answers(prefix.model, batch, reads)
        goal = _answers(prefix.model, again, reads)
        given = {key: values[key][list(rows)] for key in prefix.kept}
        for key, leaf in prefix.kept.items():
            if leaf.along and not leaf.first:
                given[key] = given[key][:, :length]
        with prefix.replaying(given, len(rows), length):
            answers = _answers(prefix.model, again, reads)
    prefix.model.train(was)
    return any(
        not torch.allclose(a, b, rtol=0, atol=_CLOSE * max(1e-3, float(b.abs().max())))
        for a, b in zip(answers, goal, strict=True)
    )


def _pure(model: nn.Module, batch: Inputs) -> list[_Call]:
    """The outermost calls of modules with parameters whose output requires no gradient."""
    root = _Call("")
    stack = [root]
    times: Counter[str] = Counter()

    def before(name: str) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            times[name] += 1
            stack.append(_Call(name))

        return hook

    def after(module: nn.Module, inputs: Any, output: Any) -> None:
        call = stack.pop()
        # Taken apart at once: CLIP writes the projected features into the output of a tower.
        call.leaves, call.spec = tree_flatten(output)
        tensors = [leaf for leaf in call.leaves if isinstance(leaf, Tensor)]
        call.pure = bool(tensors) and not any(t.requires_grad for t in tensors)
        call.pure &= next(module.parameters(), None) is not None
        stack[-1].children.append(call)

    handles: list[Any] = []
    for name, module in model.named_modules():
        handles += [module.register_forward_pre_hook(before(name)), module.register_forward_hook(after)]
    try:
        with torch.enable_grad():
            model(**batch)
    finally:
        for handle in handles:
            handle.remove()
    found = list(_outermost(root))
    # ALBERT calls its one block again and again: of an adapted layer only the first call is pure.
    pure = Counter(call.name for call in found)
    return [call for call in found if pure[call.name] == times[call.name]]


def _outermost(call: _Call) -> Iterator[_Call]:
    for child in call.children:
        if child.pure:
            yield child
        else:
            yield from _outermost(child)


def _described(
    seen: Sequence[Sequence[_Call]], sizes: Sequence[tuple[int, int]]
) -> tuple[dict[tuple[str, int], TreeSpec], dict[Key, Any]]:
    """The form of each call's output, from two batches of other sizes; calls whose output is not one a row are left
    out, and so compute as ever."""
    specs: dict[tuple[str, int], TreeSpec] = {}
    parts: dict[Key, Any] = {}
    counts: dict[str, int] = {}
    left = set()
    for one, other in zip(*seen, strict=True):
        number = counts[one.name] = counts.get(one.name, -1) + 1
        flat = one.leaves
        found = [_leaf(a, b, sizes) for a, b in zip(flat, other.leaves, strict=True)]
        assert one.spec is not None
        if any(leaf is None and isinstance(a, Tensor) for leaf, a in zip(found, flat, strict=True)):
            left.add(one.name)
        specs[one.name, number] = one.spec
        parts |= {(one.name, number, i): leaf or a for i, (leaf, a) in enumerate(zip(found, flat, strict=True))}
    specs = {key: spec for key, spec in specs.items() if key[0] not in left}
    return specs, {key: part for key, part in parts.items() if key[0] not in left}


def _leaf(one: Any, other: Any, sizes: Sequence[tuple[int, int]]) -> Leaf | None:
    if not isinstance(one, Tensor) or one.ndim < 2:
        return None
    (rows, length), (fewer, shorter) = sizes
    if (one.shape[0], other.shape[0]) != (rows, fewer):
        return None
    along = length != shorter and (one.shape[1], other.shape[1]) == (length, shorter)
    if one.shape[2:] != other.shape[2:] or (not along and one.shape[1] != other.shape[1]):
        return None
    return Leaf(tuple(one.shape[1:]), one.dtype, along)


def _answers(model: nn.Module, batch: Inputs, reads: Sequence[str]) -> list[Tensor]:
    outputs = model(**batch)
    return [outputs[name] for name in reads]


def _rows(batch: Inputs) -> int:
    return len(next(iter(batch.values())))


def _length(batch: Inputs) -> int:
    """The length that texts are padded to; 0 where there are none."""
    return batch["input_ids"].shape[1] if "input_ids" in batch else 0
