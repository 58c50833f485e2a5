"""Embeddings of which only the rows train whose tokens occur in the training texts.

880 reviews use 3,650 of the 30,522 tokens of BERT. The other rows get no gradient; yet as one parameter with those that
do, they take a gradient of zeros, two moments, a norm and an update at every step, and are exchanged between processes.
Here they lie apart, and are no parameter. Rows that train are as they would be; those that do not stay exactly as they
are, where weight decay would shrink them a little.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from hfadapt.settings import remade

_BY_ELEMENT = ("adamw_torch", "adamw_torch_fused", "sgd", "adagrad", "rmsprop")
"""Optimizers for which a row of zeros has no part in what becomes of the others."""
MOST = 0.9
"""Where more than this part of the rows is used, the embedding stays as it is."""


class UsedRows(nn.Embedding):
    """An embedding whose parameter holds the rows that are used; its state is that of the whole one, in its order."""

    def __init__(self, whole: nn.Embedding, used: Tensor):
        """whole: stands in for itself again after `restore`; used: which of its rows train, (rows,), ascending."""
        others = torch.ones(whole.num_embeddings, dtype=torch.bool)
        others[used] = False
        order = torch.cat([used, others.nonzero()[:, 0]]).to(whole.weight.device)
        table = whole.weight.detach()
        super().__init__(len(used), whole.embedding_dim, _weight=table[order[: len(used)]])
        self.weight.requires_grad_(whole.weight.requires_grad)
        self.train(whole.training)
        # In a list, lest it became a module of this one; meanwhile it holds the other rows.
        self.kept, self.order = [whole], order
        whole.weight.data = table[order[len(used) :]]
        self.places = torch.empty_like(order)
        self.places[order] = torch.arange(len(order), device=order.device)
        # A padded place has no part in the gradient.
        self.padding = None if whole.padding_idx is None else int(self.places[whole.padding_idx])
        self.register_state_dict_post_hook(_give)
        self.register_load_state_dict_pre_hook(_take)

    @property
    def others(self) -> Tensor:
        """The rows that do not train."""
        return self.kept[0].weight.detach()

    @property
    def table(self) -> Tensor:
        """A copy of all rows, in their order."""
        return torch.cat([self.weight.detach(), self.others])[self.places]

    def forward(self, input: Tensor) -> Tensor:
        """The rows of some ids; while it trains, of such as are used."""
        places = self.places[input]
        if self.training:
            return functional.embedding(places, self.weight, self.padding)
        used = len(self.weight)
        found = functional.embedding(places.clamp(max=used - 1), self.weight)
        other = functional.embedding((places - used).clamp(min=0), self.others)
        return torch.where((places < used)[..., None], found, other)

    def restore(self) -> nn.Embedding:
        """The whole embedding again."""
        (whole,) = self.kept
        whole.weight.data = self.table
        return whole


def _give(module: UsedRows, state: dict[str, Any], prefix: str, _: Any) -> None:
    state[f"{prefix}weight"] = module.table


def _take(module: UsedRows, state: dict[str, Any], prefix: str, *_: Any) -> None:
    if (table := state.get(f"{prefix}weight")) is not None:
        used, others = table[module.order.to(table.device)].split([len(module.weight), len(module.others)])
        module.others.copy_(others)
        state[f"{prefix}weight"] = used


def used_by(rows: Any, always: Sequence[int]) -> np.ndarray:
    """The tokens of encoded rows, a `datasets.Dataset` with `input_ids`, and others; ascending."""
    parts = [np.asarray(always, np.int64)]
    for chunk in rows.with_format("arrow").iter(10_000):
        parts.append(np.unique(chunk["input_ids"].combine_chunks().flatten().to_numpy(zero_copy_only=False)))
    return np.unique(np.concatenate(parts))


def refusal(settled: Mapping[str, Any], *, watched: bool) -> str:
    """Why all rows of an embedding train, as far as the plan tells; empty where fewer may.

    settled: training arguments; watched: whether a method looks at parameters, or changes them, along the way.
    """
    if says := remade(settled):
        return says
    if str(settled.get("optim", _BY_ELEMENT[0])) not in _BY_ELEMENT:
        return "the optimizer looks at an embedding as a whole"
    return "the method looks at the parameters" if watched else ""


@contextmanager
def only_used(model: nn.Module, tokens: np.ndarray) -> Iterator[tuple[int, int]]:
    """While it lasts, of an embedding that moves only the rows of these tokens train, if any are given.

    Gives how many train, and of how many; (0, 0) where all do, or none.
    """
    replaced: list[tuple[nn.Module, str, UsedRows]] = []
    try:
        for parent, name, whole in embeddings(model):
            if 0 < len(tokens) <= MOST * whole.num_embeddings and tokens[-1] < whole.num_embeddings:
                used = torch.from_numpy(tokens)
                if whole.padding_idx is not None:
                    used = torch.unique(torch.cat([used, torch.tensor([whole.padding_idx])]))
                replaced.append((parent, name, UsedRows(whole, used)))
                setattr(*replaced[-1])
        yield (
            sum(module.num_embeddings for *_, module in replaced),
            sum(len(module.order) for *_, module in replaced),
        )
    finally:
        for parent, name, module in replaced:
            setattr(parent, name, module.restore())


def embeddings(model: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Embedding]]:
    """The token embeddings that move, are of the plain kind and belong to nothing else: parent, name, module."""
    if hasattr(model, "peft_config"):
        return
    uses = [id(p) for _, p in model.named_parameters(remove_duplicate=False)]
    wanted = {id(module) for part in model.modules() if (module := _read_by(part)) is not None}
    for parent in list(model.modules()):
        for name, module in list(parent.named_children()):
            if type(module) is not nn.Embedding or module.max_norm or module.sparse or module.scale_grad_by_freq:
                continue
            if id(module) in wanted and module.weight.requires_grad and uses.count(id(module.weight)) == 1:
                yield parent, name, module


def _read_by(part: nn.Module) -> nn.Module | None:
    """What gives a model's tokens their embeddings."""
    if not isinstance(part, PreTrainedModel) or part.main_input_name != "input_ids":
        return None
    try:
        return part.get_input_embeddings()  # type: ignore[no-any-return]
    except (AttributeError, NotImplementedError):
        return None
