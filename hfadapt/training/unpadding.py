"""Blocks that compute tokens only: padding is taken out before the first of them, and put back after the last.

Heads, pooling, companions and the cache see rows of one length as ever. Inside of the attention, texts of similar
length are padded again, each group by itself, so that a block's own mask holds, whatever it is; what is saved is
all the rest of a block, which is most of it. The grouped attention is that of Zeng et al. 2022, Boosting Distributed
Training Performance of the Unpadded BERT Model, https://arxiv.org/abs/2208.08124.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from hfadapt.errors import one_line
from hfadapt.settings import remade
from hfadapt.training.rows import Rows, as_rows

NAME = "hfadapt_unpadded"
"""Of our attention, as transformers knows it while blocks are unpadded."""
_WITHIN = ("sdpa", "hfadapt_first")
"""The attentions that it may call: transformers' own for torch's kernels, and that of `leading`, made of it."""
FULLEST = {"auto": 0.9, "on": 1.0}
"""Batches of which tokens fill this part, or more, stay padded. MiniLM on a CPU, training on 16 texts of 40 tokens at
most, takes 0.51, 0.68, 0.78, 0.88 and 0.95 of the time where they are 0.47, 0.63, 0.73, 0.82 and 0.91 full."""
_TOLD = ("output_hidden_states", "output_attentions")
"""What transformers collects inside of blocks, and must not find packed."""
_ALIKE = 0.6
"""Texts at least this part as long as the longest of their group are padded together inside of the attention."""
_CLOSE = {torch.float32: 1e-4}
_CLOSE_HALF = 5e-2
"""How far, relative to the greatest, features and answers may lie from those with padding."""
_LOOKED_AT = 256
_now: ContextVar[Packed | None] = ContextVar("hfadapt_packed", default=None)


@dataclass(frozen=True)
class _Group:
    """Texts of similar length, which follow one another among the tokens."""

    rows: Tensor
    """Which rows of the batch they are."""
    length: int
    """Of the longest."""
    places: Tensor
    """Where each of their tokens is among rows * length places."""


@dataclass
class Packed:
    """A batch whose tokens follow one another, those of the longest text first."""

    rows: int
    length: int
    """That the batch is padded to."""
    places: Tensor
    """Where each token is among rows * length places, (tokens,)."""
    groups: list[_Group]
    made: dict[tuple[int, int], tuple[Tensor, Any]] = field(default_factory=dict)
    """What was made of tensors that every block is given, with these, so that their ids stay theirs."""

    @classmethod
    def of(cls, mask: Tensor | None, fullest: float) -> Packed | None:
        """How to take the padding of a mask, (rows, length), out; None where it stays.

        fullest: batches of which tokens fill this part stay as they are; so do those that are not padded at the end.
        """
        if mask is None or mask.ndim != 2:
            return None
        here = mask.detach().to("cpu", torch.bool)
        (rows, length), counts = here.shape, here.sum(1)
        if int(counts.sum()) >= fullest * here.numel() or not torch.equal(here, torch.arange(length) < counts[:, None]):
            return None
        order = torch.argsort(counts, descending=True, stable=True)
        sizes = counts[order].tolist()
        kept = torch.arange(length) < counts[order][:, None]
        places = (order[:, None] * length + torch.arange(length))[kept]
        groups, start = [], 0
        while start < rows and (longest := sizes[start]):
            end = next((i for i in range(start, rows) if sizes[i] < _ALIKE * longest), rows)
            inside = torch.arange((end - start) * longest)[kept[start:end, :longest].reshape(-1)]
            groups.append(_Group(order[start:end].to(mask.device), longest, inside.to(mask.device)))
            start = end
        return cls(rows, length, places.to(mask.device), groups)

    def pack(self, tensor: Tensor) -> Tensor:
        """(rows, length, …) → (1, tokens, …); one row stands for all."""
        wide = tensor.expand(self.rows, *tensor.shape[1:]).flatten(0, 1)
        return _Gather.apply(wide, self.places)[None]  # type: ignore[no-any-return,no-untyped-call]

    def unpack(self, tokens: Tensor) -> Tensor:
        """(1, tokens, …) → (rows, length, …), zeros in between."""
        wide = _Spread.apply(tokens[0], self.places, self.rows * self.length)  # type: ignore[no-untyped-call]
        return wide.unflatten(0, (self.rows, self.length))  # type: ignore[no-any-return]

    def once(self, tensor: Tensor, which: int, make: Callable[[], Any]) -> Any:
        """What is made of a tensor, kept for the blocks to come."""
        key = (id(tensor), which)
        if key not in self.made:
            self.made[key] = tensor, make()
        return self.made[key][1]


class _Spread(torch.autograd.Function):
    """Tokens to their places among zeros. The indexing of torch would add gradients up one by one."""

    @staticmethod
    def forward(ctx: Any, tokens: Tensor, places: Tensor, size: int) -> Tensor:
        ctx.save_for_backward(places)
        return tokens.new_zeros(size, *tokens.shape[1:]).index_copy_(0, places, tokens)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return gradients[0].index_select(0, ctx.saved_tensors[0]), None, None


class _Gather(torch.autograd.Function):
    """The tokens at some places, each of them once."""

    @staticmethod
    def forward(ctx: Any, wide: Tensor, places: Tensor) -> Tensor:
        ctx.save_for_backward(places)
        ctx.size = len(wide)
        return wide.index_select(0, places)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        found = gradients[0]
        return found.new_zeros(ctx.size, *found.shape[1:]).index_copy_(0, ctx.saved_tensors[0], found), None


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    within: Callable[..., tuple[Tensor, Any]],
    **options: Any,
) -> tuple[Tensor, Any]:
    """The attention `within`, group by group where tokens are packed: (1, heads, tokens, width) each."""
    packed = _now.get()
    if packed is None or query.shape[0] != 1 or query.shape[2] != len(packed.places):
        return within(module, query, key, value, attention_mask, **options)
    sizes = [len(group.places) for group in packed.groups]
    parts = zip(*(tensor.transpose(1, 2)[0].split(sizes) for tensor in (query, key, value)), strict=True)
    answers = []
    for i, (group, part) in enumerate(zip(packed.groups, parts, strict=True)):
        form = (len(group.rows), group.length)
        size = form[0] * form[1]
        padded = [
            _Spread.apply(tokens, group.places, size).unflatten(0, form).transpose(1, 2)  # type: ignore[no-untyped-call]
            for tokens in part
        ]
        mask = attention_mask
        if mask is not None:
            mask = packed.once(mask, i, partial(_cut, mask, group))
        answer, _ = within(module, *padded, mask, **options)
        answers.append(_Gather.apply(answer.flatten(0, 1), group.places))  # type: ignore[no-untyped-call]
    return torch.cat(answers)[None], None


def _cut(mask: Tensor, group: _Group) -> Tensor:
    """What of a mask, (rows, 1, length, length) or less, concerns a group."""
    return (mask[group.rows] if len(mask) > 1 else mask)[..., : group.length, : group.length]


class _Hooks:
    """Takes padding out before blocks, and puts it back after the last and wherever somebody looks."""

    def __init__(self, model: nn.Module, blocks: Sequence[nn.Module], fullest: float):
        self.last, self.fullest = blocks[-1], fullest
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
        _now.set(None if told else Packed.of(kwargs.get("attention_mask"), self.fullest))

    def end(self, model: nn.Module, args: Any, output: Any) -> None:
        """The model has answered."""
        _now.set(None)

    def before(self, block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A block is called: with padded rows if it is the first, or after somebody looked."""
        packed = _now.get()
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
        packed = _now.get()
        if packed is None or not (block is self.last or len(block._forward_hooks) > 1):
            return None
        first, *rest = output if isinstance(output, tuple) else (output,)
        if not isinstance(first, Tensor) or first.shape[:2] != (1, len(packed.places)):
            return None
        padded = packed.unpack(first)
        return (padded, *rest) if isinstance(output, tuple) else padded

    def remove(self) -> None:
        """The model pads as ever."""
        _now.set(None)
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
) -> Iterator[tuple[bool, str]]:
    """While it lasts, the model's blocks compute tokens only, if that changes no answer; gives whether, and why.

    names: of the blocks' modules, before an adapter wrapped the model; rows: some to try it on; reads: the outputs
    that the task reads; use: `auto` or `on`.
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
    batch = _uneven(rows, collate, next(model.parameters()).device)
    if batch is None:
        yield False, "all texts are of one length"
        return
    goal = _seen(model, blocks[-1], batch, reads)
    with _hooked(model, blocks, list(configs.values()), within) as hooks:
        try:
            wrong = _differs(goal, _seen(model, blocks[-1], batch, reads), batch["attention_mask"])
        except (RuntimeError, TypeError, ValueError, LookupError, AttributeError) as error:
            # Whatever a block of any kind does with its inputs, a run must not end of it.
            wrong = f"the blocks do not go without padding: {one_line(str(error))[:200]}"
        if not wrong:
            hooks.fullest = FULLEST[use]
            yield True, f"batches of which tokens fill less than {FULLEST[use]:.0%} are computed without padding"
            return
    yield False, wrong


@contextmanager
def _hooked(model: nn.Module, blocks: Sequence[nn.Module], configs: Sequence[Any], within: str) -> Iterator[_Hooks]:
    """While it lasts, the blocks compute tokens only; configs: of the model's parts; within: their attention."""
    AttentionInterface.register(NAME, partial(_attend, within=ALL_ATTENTION_FUNCTIONS[within]))
    AttentionMaskInterface.register(NAME, sdpa_mask)
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


def _uneven(rows: Rows, collate: Any, device: torch.device) -> dict[str, Tensor] | None:
    """The longest, a middling and the shortest of some rows; None where they are of one length."""
    assert rows.lengths is not None
    order = rows.lengths[:_LOOKED_AT].argsort(kind="stable")[::-1]
    chosen = [int(order[0]), int(order[len(order) // 2]), int(order[-1])]
    batch = collate(as_rows(rows.table[chosen]))
    mask = batch.get("attention_mask")
    if mask is None or bool(mask.bool().all()):
        return None
    return {name: tensor.to(device) for name, tensor in batch.items() if name != "labels"}


def _seen(model: nn.Module, last: nn.Module, batch: Mapping[str, Tensor], reads: Sequence[str]) -> list[Tensor]:
    """What the last block answers, (rows, length, width), and what the task reads."""
    caught: list[Any] = []
    handle = last.register_forward_hook(lambda _, __, output: caught.append(output))
    was = model.training
    model.eval()
    try:
        with torch.no_grad():
            outputs = model(**batch)
    finally:
        handle.remove()
        model.train(was)
    features = caught[-1][0] if isinstance(caught[-1], tuple) else caught[-1]
    return [features, *(outputs[name] for name in reads)]


def _differs(goal: Sequence[Tensor], found: Sequence[Tensor], mask: Tensor) -> str:
    """Why the answers are others, features of padding aside; empty where they are not."""
    for i, (a, b) in enumerate(zip(goal, found, strict=True)):
        if a.shape != b.shape:
            return "answers come in another form"
        a, b = (a[mask.bool()], b[mask.bool()]) if i == 0 else (a, b)
        close = _CLOSE.get(a.dtype, _CLOSE_HALF) * max(1e-3, float(a.abs().max()))
        if not torch.allclose(a.float(), b.float(), rtol=0, atol=close):
            return "answers are others without padding"
    return ""
