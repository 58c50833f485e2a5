"""The last block of a tower, computed where it is read: at the first position.

BERT, ViT and their kin classify by the first token that leaves the last block. All positions must enter it, for the
first one looks at their keys and values; queries, what attention makes of them, and the feed-forward layers of all
others are read by nobody. Left out, they save ten of the twelve matrix products of a position of that block, forward
and back. Which modules make keys and values is found out on a few rows, and so is whether the answers stay the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

_OURS, _THEIRS = "hfadapt_first", "sdpa"
_CLOSE = 1e-4
"""How far an answer may be from that of the whole block, as a part of the greatest."""


@dataclass(frozen=True)
class _Block:
    """A block that can be computed at its first position alone."""

    module: nn.Module
    attention: nn.Module
    heads: int
    sources: tuple[nn.Module, ...]
    """What makes the keys and the values, and queries that need no gradient: the cache may keep these, of all
    positions."""
    norm: nn.Module | None
    """What they are given the block's input through, if not as it is."""


@contextmanager
def leading(
    model: nn.Module, blocks: Sequence[str], batch: Mapping[str, Tensor], reads: Sequence[str]
) -> Iterator[list[str]]:
    """While it lasts, the named blocks of the model are computed at their first position alone, where that is exact.

    batch: some rows to try it on; reads: the outputs that the task reads. Yields the names of the blocks that are.
    """
    inside = [its for its in model.modules() if isinstance(its, PreTrainedModel)]
    with ExitStack() as stack:
        found: dict[str, _Block] = {}
        if inside and blocks and all(its.config._attn_implementation == _THEIRS for its in inside):
            stack.enter_context(_attending(inside[0], found))
            found |= _tried(model, blocks, batch, reads, found)
            if not found:
                stack.close()  # Attention need not ask for what is not there.
            for block in found.values():
                stack.enter_context(_cut(block))
        yield list(found)


def named_modules(model: nn.Module, names: Sequence[str]) -> list[str]:
    """The names that modules have now that an adapter may have wrapped the model."""
    known = dict(model.named_modules())
    both = [(name, f"base_model.model.{name}") for name in names]
    return [next(its for its in pair if its in known) for pair in both if not known.keys().isdisjoint(pair)]


def _tried(
    model: nn.Module, blocks: Sequence[str], batch: Mapping[str, Tensor], reads: Sequence[str], found: dict[str, _Block]
) -> dict[str, _Block]:
    """Those of the blocks that can be cut without changing an answer; `found` is what attention looks at meanwhile."""
    was = model.training
    model.eval()
    good: dict[str, _Block] = {}
    try:
        for name in blocks:
            with _outputs(model.get_submodule(name)) as whole:
                block, goal = _seen(model, name, batch)
            if not block or not _first_only(model, block, batch, goal, reads):
                continue
            found[name] = block
            with torch.no_grad(), _outputs(block.module) as cut, _cut(block):
                answers = model(**batch)
            found.clear()
            pairs = [(cut[0], whole[0][:, :1]), *((answers[its], goal[its]) for its in reads)]
            if all(_close(one, other.detach()) for one, other in pairs):
                good[name] = block
    except (RuntimeError, TypeError, ValueError, LookupError, AttributeError):
        # Some model reads another position, or shapes its tensors in another way.
        pass
    finally:
        model.train(was)
        found.clear()
    return good


def _first_only(model: nn.Module, block: _Block, batch: Mapping[str, Tensor], goal: Any, reads: Sequence[str]) -> bool:
    """Whether nothing changes when all other positions that leave the block are no numbers; goal: the answers.

    A head that starts at zero answers the same whatever it reads, but zero times no number is no number.
    """

    def spoil(module: nn.Module, args: Any, output: Tensor) -> Tensor:
        spoilt = torch.full_like(output, torch.nan)
        spoilt[:, :1] = output[:, :1]
        return spoilt

    handle = block.module.register_forward_hook(spoil)
    try:
        # With gradients, as the answers to be met: attention may take another kernel without.
        with torch.enable_grad():
            answers = model(**batch)
    finally:
        handle.remove()
    return all(torch.equal(answers[name], goal[name]) for name in reads)


@contextmanager
def _outputs(module: nn.Module) -> Iterator[list[Tensor]]:
    """Collects what a module answers."""
    found: list[Tensor] = []
    handle = module.register_forward_hook(lambda module, args, output: found.append(output))
    try:
        yield found
    finally:
        handle.remove()


def _close(one: Tensor, other: Tensor) -> bool:
    close = _CLOSE * max(1e-3, float(other.abs().max()))
    return one.shape == other.shape and torch.allclose(one, other, rtol=0, atol=close)


@contextmanager
def _attending(root: PreTrainedModel, blocks: Mapping[str, _Block]) -> Iterator[None]:
    """Attention as it was, which in the blocks takes the keys and values of all positions apart."""
    AttentionInterface.register(_OURS, partial(_attend, blocks=blocks))
    AttentionMaskInterface.register(_OURS, ALL_MASK_ATTENTION_FUNCTIONS[_THEIRS])
    root.set_attn_implementation(_OURS)
    try:
        yield
    finally:
        root.set_attn_implementation(_THEIRS)


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    blocks: Mapping[str, _Block],
    **rest: Any,
) -> Any:
    """Keys of all positions come in the shape of one from the blocks, (rows, length x heads, 1, width)."""
    heads = next((block.heads for block in blocks.values() if block.attention is module), 0)
    if heads:
        query, key, value = (
            t.transpose(1, 2).reshape(len(t), -1, heads, t.shape[-1]).transpose(1, 2) for t in (query, key, value)
        )
        query = query[:, :, :1]
        if attention_mask is not None:
            attention_mask = attention_mask[..., :1, :]
    return ALL_ATTENTION_FUNCTIONS[_THEIRS](module, query, key, value, attention_mask, **rest)


@contextmanager
def _cut(block: _Block) -> Iterator[None]:
    """Let the block see its first position alone, and its keys and values all of them.

    Every module is called once, as ever, since the cache may answer in its place.
    """
    whole: list[Tensor] = []
    replaced: list[Any] = []

    def enter(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if module is not block.module:
            return None  # A copy of the model, which a companion may make, computes all of it.
        states = args[0]
        whole[:] = [block.norm(states) if block.norm else states]
        if block.norm:
            replaced[:] = [vars(block.norm).get("forward")]
            block.norm.forward = lambda *_: whole[0][:, :1]
        return (states[:, :1], *args[1:]), kwargs

    def leave(module: nn.Module, args: Any, output: Any) -> None:
        if block.norm and replaced and module is block.module:
            (own,) = replaced
            replaced.clear()
            if own is None:
                del block.norm.forward
            else:
                block.norm.forward = own

    def all_positions(module: nn.Module, args: tuple[Any, ...]) -> Any:
        return (whole[0], *args[1:]) if module in block.sources else None

    handles = [
        block.module.register_forward_pre_hook(enter, with_kwargs=True),
        block.module.register_forward_hook(leave, always_call=True),
        *(source.register_forward_pre_hook(all_positions) for source in block.sources),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _seen(model: nn.Module, name: str, batch: Mapping[str, Tensor]) -> tuple[_Block | None, Any]:
    """The block, if its attention is of the usual form; and what the model answers."""
    block = model.get_submodule(name)
    inside = [its for its in block.modules() if its is not block]
    given: dict[nn.Module, Tensor] = {}
    made: dict[nn.Module, Tensor] = {}
    entered: list[Tensor] = []
    attended: list[tuple[nn.Module, list[Tensor]]] = []

    def enter(module: nn.Module, args: Any) -> None:
        entered.append(args[0])

    def leave(module: nn.Module, args: Any, output: Any) -> None:
        if args and isinstance(args[0], Tensor) and isinstance(output, Tensor):
            given[module], made[module] = args[0], output

    def look(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *rest: Any, **more: Any) -> Any:
        if module in inside:
            attended.append((module, [query, key, value]))
        return _attend(module, query, key, value, *rest, blocks={}, **more)

    handles = [block.register_forward_pre_hook(enter), *(its.register_forward_hook(leave) for its in inside)]
    ours = ALL_ATTENTION_FUNCTIONS[_OURS]
    AttentionInterface.register(_OURS, look)
    try:
        with torch.enable_grad():
            answers = model(**batch)
    finally:
        AttentionInterface.register(_OURS, ours)
        for handle in handles:
            handle.remove()
    if len(entered) != 1 or len(attended) != 1:
        return None, answers
    attention, tensors = attended[0]
    queries, keys, values = (_maker(tensor, inside, made) for tensor in tensors)
    if queries is None or keys is None or values is None or len({queries, keys, values}) < 3:
        return None, answers
    norm = next((its for its in inside if made.get(its) is given[keys] and given[its] is entered[0]), None)
    if given[keys] is not given[values] or (norm is None and given[keys] is not entered[0]):
        return None, answers
    moves = [tensor.requires_grad for tensor in tensors]
    if not any(moves):
        return None, answers  # The cache may keep what attention gives, of all positions.
    sources = (keys, values) if moves[0] else (queries, keys, values)
    return _Block(block, attention, tensors[0].shape[1], sources, norm), answers


def _maker(tensor: Tensor, inside: Sequence[nn.Module], made: Mapping[nn.Module, Tensor]) -> nn.Module | None:
    """The outermost module whose output a tensor is a view of."""
    memory = tensor.untyped_storage().data_ptr()
    return next((its for its in inside if its in made and made[its].untyped_storage().data_ptr() == memory), None)
