"""Blocks that compute tokens only: padding is taken out before the first of them, and put back after the last.

Heads, pooling, companions and the cache see rows of one length as ever; of the attention, see `packing`.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from hfadapt.errors import one_line
from hfadapt.settings import remade
from hfadapt.training.caching import seconds
from hfadapt.training.packing import Packed, attend, mask_of, now
from hfadapt.training.rows import Rows, as_rows
from hfadapt.training.vocabulary import UsedRows

NAME = "hfadapt_unpadded"
"""Of our attention, as transformers knows it while blocks are unpadded."""
_WITHIN = ("sdpa", "hfadapt_first")
"""The attentions that it may call: transformers' own for torch's kernels, and that of `leading`, made of it."""
FULLEST = {"auto": 0.9, "on": 1.0}
"""Batches of which tokens fill this part, or more, stay padded. MiniLM on a CPU, training on 16 texts of 40 tokens at
most, takes 0.51, 0.68, 0.78, 0.88 and 0.95 of the time where they are 0.47, 0.63, 0.73, 0.82 and 0.91 full."""
_TOLD = ("output_hidden_states", "output_attentions")
"""What transformers collects inside of blocks, and must not find packed."""
_CLOSE, _CLOSE_HALF = 1e-4, 5e-2
"""How far, relative to the greatest, features and answers may lie from those with padding; in half precision."""
_LOOKED_AT = 256
"""Rows among which some are sought to try it on."""
KERNELS = ("cuda",)
"""Devices that torch has kernels for, and on which it is timed whether they pay. On a CPU that is known: see above."""


class _Hooks:
    """Takes padding out before blocks, and puts it back after the last and wherever somebody looks."""

    def __init__(self, model: nn.Module, blocks: Sequence[nn.Module], fullest: float):
        self.last, self.fullest, self.at_once = blocks[-1], fullest, False
        self.handles = [
            model.register_forward_pre_hook(self.begin, with_kwargs=True),
            model.register_forward_hook(self.end, always_call=True),
        ]
        for block in blocks:
            self.handles.append(block.register_forward_pre_hook(self.before, with_kwargs=True))
            # What others hook on a block shall see it padded.
            self.handles.append(block.register_forward_hook(self.after, prepend=True))

    def __deepcopy__(self, memo: Any) -> _Hooks:
        # Of a copy of the model, which a companion may make, no batch is unpadded.
        hooks = copy.copy(self)
        hooks.handles, hooks.fullest = [], 0.0
        return hooks

    def begin(self, model: nn.Module, args: Any, kwargs: Mapping[str, Any]) -> None:
        """The model is called with a batch."""
        told = any(kwargs.get(name) or getattr(model.config, name, False) for name in _TOLD)
        packed = None if told else Packed.of(kwargs.get("attention_mask"), self.fullest)
        if packed:
            packed.at_once = self.at_once
        now.set(packed)

    def end(self, model: nn.Module, args: Any, output: Any) -> None:
        """The model has answered."""
        now.set(None)

    def before(self, block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A block is called: with padded rows if it is the first, or after somebody looked."""
        packed = now.get()
        if packed is None:
            return None
        hidden = args[0] if args else kwargs.get("hidden_states")
        if isinstance(hidden, Tensor) and hidden.shape[:2] == (packed.rows, packed.length):
            if args:
                args = (packed.pack(hidden), *args[1:])
            else:
                kwargs = {**kwargs, "hidden_states": packed.pack(hidden)}
        if angles := kwargs.get("position_embeddings"):
            turned = tuple(packed.once(its, 0, partial(packed.pack, its)) for its in angles)
            kwargs = {**kwargs, "position_embeddings": turned}
        return args, kwargs

    def after(self, block: nn.Module, args: Any, output: Any) -> Any:
        """A block has answered."""
        packed = now.get()
        if packed is None or not (block is self.last or len(block._forward_hooks) > 1):
            return None
        first, *rest = output if isinstance(output, tuple) else (output,)
        if not isinstance(first, Tensor) or first.shape[:2] != (1, len(packed.places)):
            return None
        padded = packed.unpack(first)
        return (padded, *rest) if isinstance(output, tuple) else padded

    def remove(self) -> None:
        """The model pads as ever."""
        now.set(None)
        for handle in self.handles:
            handle.remove()


def refusal(use: str, settled: Mapping[str, Any]) -> str:
    """Why padding is not taken out of blocks, as far as the plan tells; empty where it may be.

    use: the recipe's `model.unpad`; settled: training arguments.
    """
    if use == "off":
        return "the recipe says so"
    if says := remade(settled):
        return says
    if settled.get("activation_checkpointing"):
        return "activations are computed again for the gradient"
    return ""


@contextmanager
def unpadded(
    model: nn.Module,
    names: Sequence[str],
    rows: Rows,
    collate: Callable[[list[dict[str, Any]]], dict[str, Any]],
    *,
    reads: Sequence[str],
    use: str,
    size: int = 16,
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
    note: Callable[[Callable[[], list[Any]]], list[Any]] = lambda find: find(),
) -> Iterator[tuple[bool, str]]:
    """While it lasts, the model's blocks compute tokens only, if that changes no answer; gives whether, and why.

    names: of the blocks' modules, before an adapter wrapped the model; rows: some to try it on; reads: the outputs
    that the task reads; use: `auto` or `on`; size: the rows of a batch that is timed; autocast: the precision of the
    training; note: finds what depends on the device, for all processes and for a run that goes on.
    """
    blocks = _blocks(model, names)
    found: list[Any] = [getattr(module, "config", None) for module in model.modules()]
    configs = {id(config): config for config in found if hasattr(config, "model_type")}
    before = {its._attn_implementation for its in configs.values()}
    (within,) = before if len(before) == 1 else ("",)
    if (
        says := "no block computes all of itself"
        if not blocks
        else ""
        if within in _WITHIN
        else "the attention is not SDPA"
    ):
        yield False, says
        return
    device = next(model.parameters()).device
    batch = _uneven(rows, collate, device, 3)
    if batch is None:
        yield False, "all texts are of one length"
        return
    trial = _Trial(model, blocks[-1], batch, reads, autocast)
    with _hooked(model, blocks, list(configs.values()), within) as hooks:
        # Nor are all of these kernels the same each time, or any timing.
        if device.type in KERNELS and not torch.are_deterministic_algorithms_enabled():
            timed = (_uneven(rows, collate, device, size) or batch) if use == "auto" else None
            hooks.at_once, hooks.fullest, wrong = note(partial(_on_device, hooks, trial, timed))
        else:
            hooks.fullest, wrong = FULLEST[use], trial.differs()
        if not wrong:
            yield True, f"batches of which tokens fill less than {hooks.fullest:.0%} are computed without padding"
            return
    yield False, wrong


@contextmanager
def _hooked(model: nn.Module, blocks: Sequence[nn.Module], configs: Sequence[Any], within: str) -> Iterator[_Hooks]:
    """While it lasts, the blocks compute tokens only; configs: of the model's parts; within: their attention."""
    AttentionInterface.register(NAME, partial(attend, within=ALL_ATTENTION_FUNCTIONS[within]))
    AttentionMaskInterface.register(NAME, mask_of)
    hooks = _Hooks(model, blocks, FULLEST["on"])
    try:
        for config in configs:
            config._attn_implementation = NAME
        yield hooks
    finally:
        hooks.remove()
        for config in configs:
            config._attn_implementation = within


def _blocks(model: nn.Module, names: Sequence[str]) -> list[nn.Module]:
    """The blocks of which the cache keeps no part, for what is kept of a part has rows of one length.

    They begin with the lowest that moves if all of it does, else after it. Whether there is a cache must not matter:
    dropout would draw other masks.
    """
    modules = {name.removeprefix("base_model.model."): its for name, its in model.named_modules()}
    found = [modules[name] for name in names if name in modules]
    moves = [[p.requires_grad for p in block.parameters()] for block in found]
    lowest = next((i for i, its in enumerate(moves) if any(its)), len(found))
    return found[lowest + (lowest < len(found) and not all(moves[lowest])) :]


def _uneven(rows: Rows, collate: Any, device: torch.device, number: int) -> dict[str, Tensor] | None:
    """The longest, the shortest and middling ones of some rows; None where they are of one length."""
    assert rows.lengths is not None
    order = rows.lengths[:_LOOKED_AT].argsort(kind="stable")[::-1]
    chosen = order[np.linspace(0, len(order) - 1, number).round().astype(int)].tolist()
    batch = collate(as_rows(rows.table[chosen]))
    mask = batch.get("attention_mask")
    if mask is None or bool(mask.bool().all()):
        return None
    return {name: tensor.to(device) for name, tensor in batch.items() if name != "labels"}


class _Trial:
    """What a model answers to a batch with padding in its blocks, to compare what it answers without."""

    def __init__(
        self, model: nn.Module, last: nn.Module, batch: Mapping[str, Tensor], reads: Sequence[str], autocast: Any
    ):
        self.model, self.last, self.batch, self.reads, self.autocast = model, last, batch, reads, autocast
        with autocast():
            half = torch.is_autocast_enabled(batch["attention_mask"].device.type)
        ways = [(nullcontext, _CLOSE), *([(autocast, _CLOSE_HALF)] if half else [])]
        self.goals = [(way, close, self._seen(way)) for way, close in ways]

    def differs(self) -> str:
        """Why the answers are others now, in full precision or in that of the training; empty where they are not."""
        try:
            mask = self.batch["attention_mask"]
            found = (_differs(goal, self._seen(way), mask, close) for way, close, goal in self.goals)
            return next(filter(None, found), "")
        except (RuntimeError, TypeError, ValueError, LookupError, AttributeError) as error:
            # Whatever a block of any kind does with its inputs, a run must not end of it.
            return f"the blocks do not go without padding: {one_line(str(error))[:200]}"

    def seconds(self, batch: Mapping[str, Tensor], *, once: bool = False) -> tuple[float, str]:
        """What it takes to learn from a batch, dropout included, the best of three times; and why it can't be done."""
        model, device = self.model, batch["attention_mask"].device
        moving = [p for p in model.parameters() if p.requires_grad]

        def learn() -> None:
            with self.autocast():
                outputs = model(**batch)
                total = torch.stack([outputs[name].float().sum() for name in self.reads]).sum()
            torch.autograd.grad(total, moving, allow_unused=True)

        was = model.training
        model.train()
        for module in model.modules():
            if isinstance(module, UsedRows):
                module.eval()  # These are not training rows.
        try:
            with torch.random.fork_rng(devices=[] if device.type == "cpu" else [device]):
                return min(seconds(learn) for _ in range(1 if once else 3)), ""
        except RuntimeError as error:
            # A kernel may be missing; and there may be too little memory for one more batch.
            return 0.0, f"a step fails: {one_line(str(error))[:200]}"
        finally:
            model.train(was)

    def _seen(self, way: Any) -> list[Tensor]:
        """What the last block answers, (rows, length, width), and what the task reads."""
        caught: list[Any] = []
        handle = self.last.register_forward_hook(lambda _, __, output: caught.append(output))
        was = self.model.training
        self.model.eval()
        try:
            with torch.no_grad(), way():
                outputs = self.model(**self.batch)
        finally:
            handle.remove()
            self.model.train(was)
        features = caught[-1][0] if isinstance(caught[-1], tuple) else caught[-1]
        return [features, *(outputs[name] for name in self.reads)]


def _differs(goal: Sequence[Tensor], found: Sequence[Tensor], mask: Tensor, close: float) -> str:
    """Why the answers are others, features of padding aside; empty where they are not."""
    for i, (a, b) in enumerate(zip(goal, found, strict=True)):
        if a.shape != b.shape:
            return "answers come in another form"
        a, b = (a[mask.bool()], b[mask.bool()]) if i == 0 else (a, b)
        most = (close if a.dtype == torch.float32 else _CLOSE_HALF) * max(1e-3, float(a.abs().max()))
        if not torch.allclose(a.float(), b.float(), rtol=0, atol=most):
            return "answers are others without padding"
    return ""


def _on_device(hooks: _Hooks, trial: _Trial, timed: Mapping[str, Tensor] | None) -> list[Any]:
    """Whether kernels take all texts at once, how full batches may be, and why padding stays, if it does.

    timed: a batch; None where it does not matter whether it pays.
    """
    for hooks.at_once in (True, False):
        wrong = trial.differs() or trial.seconds(trial.batch, once=True)[1]
        if not wrong:
            break
    if wrong or timed is None:
        return [hooks.at_once, FULLEST["on"], wrong]
    took = []
    for hooks.fullest in (0.0, 1.0):
        best, wrong = trial.seconds(timed)
        if wrong:
            return [hooks.at_once, 0.0, wrong]
        took.append(best)
    padded, packed = took
    filled = float(timed["attention_mask"].float().mean())
    # As if the time without padding were that of the tokens alone; in tenths, as timings are not exact.
    fullest = min(FULLEST["auto"], math.floor(10 * filled * padded / packed) / 10)
    told = f"{padded * 1000:.1f} ms of a batch {filled:.0%} full, and {packed * 1000:.1f} without padding"
    return [hooks.at_once, fullest, "" if packed < padded and fullest else f"computing padding is as fast: {told}"]
