"""Tokens of a batch one after the other, without padding, and attention among those of each text.

On a CPU texts of similar length are padded again for the attention, each group by itself, so that a block's own mask
holds, whatever it is; what is saved is all the rest of a block, which is most of it. This is the grouped attention of
Zeng et al. 2022, Boosting Distributed Training Performance of the Unpadded BERT Model,
https://arxiv.org/abs/2208.08124. On a GPU torch's kernels for texts of several lengths take all at once, where every
token looks at all of its text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers.masking_utils import bidirectional_mask_function, sdpa_mask

from hfadapt.training.rows import ends

_ALIKE = 0.6
"""Texts at least this part as long as the longest of their group are padded together inside of the attention."""
now: ContextVar[Packed | None] = ContextVar("hfadapt_packed", default=None)
"""The batch that the model is called with, where it is packed."""
_lengths: ContextVar[np.ndarray | None] = ContextVar("hfadapt_lengths", default=None)


@contextmanager
def of_lengths(lengths: np.ndarray | None) -> Iterator[None]:
    """While it lasts, the texts of a batch have these lengths, (rows,), which need not be read from a device."""
    before = _lengths.set(lengths)
    try:
        yield
    finally:
        _lengths.reset(before)


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
    order: Tensor
    """The rows, the longest first, (rows,), on the CPU."""
    sizes: list[int]
    """How long they are, in this order."""
    places: Tensor
    """Where each token is among rows * length places, (tokens,)."""
    made: dict[tuple[int, int], tuple[Tensor, Any]] = field(default_factory=dict)
    """What was made of tensors that every block is given, with these, so that their ids stay theirs."""
    at_once: bool = False
    """Whether torch's kernels take all texts in one call, where they can."""
    plain: Tensor | None = None
    """The mask that hides padding alone, of those that the blocks are given."""

    @classmethod
    def of(cls, mask: Tensor | None, fullest: float) -> Packed | None:
        """How to take the padding of a mask, (rows, length), out; None where it stays.

        fullest: batches of which tokens fill this part stay as they are; so do those that are not padded at the end.
        """
        known = _lengths.get()
        lengths = known if known is not None and mask is not None and len(known) == len(mask) else ends(mask)
        if lengths is None or mask is None or lengths.sum() >= fullest * mask.numel():
            return None
        rows, length = mask.shape
        counts = torch.from_numpy(lengths)
        order = torch.argsort(counts, descending=True, stable=True)
        kept = torch.arange(length) < counts[order][:, None]
        places = (order[:, None] * length + torch.arange(length))[kept]
        return cls(rows, length, order, counts[order].tolist(), places.to(mask.device))

    @cached_property
    def groups(self) -> list[_Group]:
        """Texts of similar length; none of those that have no token."""
        found, start, device = [], 0, self.places.device
        while start < self.rows and (longest := self.sizes[start]):
            end = next((i for i in range(start, self.rows) if self.sizes[i] < _ALIKE * longest), self.rows)
            kept = torch.arange(longest) < torch.tensor(self.sizes[start:end])[:, None]
            inside = torch.arange(kept.numel())[kept.reshape(-1)]
            found.append(_Group(self.order[start:end].to(device), longest, inside.to(device)))
            start = end
        return found

    @cached_property
    def offsets(self) -> Tensor:
        """Where each text begins among the tokens, and the last one ends, (texts + 1,); none without a token."""
        sizes = torch.tensor([0, *(size for size in self.sizes if size)])
        return sizes.cumsum(0).to(self.places.device)

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


def attend(
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
    packed = now.get()
    if packed is None or query.shape[0] != 1 or query.shape[2] != len(packed.places):
        return within(module, query, key, value, attention_mask, **options)
    if attention_mask is not None and attention_mask is packed.plain and _is_simple(module, options):
        return _at_once(packed, (query, key, value), options.get("dropout", 0.0), options.get("scaling")), None
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


def mask_of(*args: Any, **options: Any) -> Tensor | None:
    """transformers' mask for torch's kernels; a batch that is packed remembers it where it hides padding only."""
    made = sdpa_mask(*args, **options)
    packed = now.get()
    if packed and packed.at_once and options.get("mask_function") is bidirectional_mask_function:
        packed.plain = made
    return made


def _is_simple(module: nn.Module, options: Mapping[str, Any]) -> bool:
    """Whether an attention is asked for nothing but dropout and a scale."""
    more = [value for name, value in options.items() if name not in ("dropout", "scaling")]
    return getattr(module, "num_key_value_groups", 1) == 1 and all(value is None or value is False for value in more)


def _at_once(packed: Packed, parts: Sequence[Tensor], dropout: float = 0.0, scaling: float | None = None) -> Tensor:
    """All texts in one call; parts: queries, keys and values, (1, heads, tokens, width) → (1, tokens, heads, width)."""
    least, most = min(size for size in packed.sizes if size), packed.sizes[0]
    query, key, value = [
        torch.nested.nested_tensor_from_jagged(
            its[0].transpose(0, 1).contiguous(), packed.offsets, min_seqlen=least, max_seqlen=most
        ).transpose(1, 2)
        for its in parts
    ]
    answer = nn.functional.scaled_dot_product_attention(query, key, value, dropout_p=dropout, scale=scaling)
    return answer.transpose(1, 2).values()[None]
