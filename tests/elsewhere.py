"""A device that is none: it computes on the CPU, and like any other it refuses tensors that lie elsewhere."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

DEVICE = torch.device("meta")
"""Under this name `Elsewhere` lends it."""
_aten = torch.ops.aten
_MOVING = {_aten._to_copy.default, _aten.copy_.default}
_INDEXING = {_aten.index.Tensor, _aten.index_put_.default, _aten.index_put.default}
"""A CPU's indices may point into any tensor."""


class There(Tensor):
    """A tensor on the device."""

    here: Tensor
    """What it holds."""

    @staticmethod
    def __new__(cls, here: Tensor) -> There:
        made = Tensor._make_wrapper_subclass(
            cls, here.shape, here.stride(), here.storage_offset(), dtype=here.dtype, device=DEVICE
        )
        made.here = here
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with Elsewhere():
            return func(*args, **(kwargs or {}))


class Elsewhere(TorchDispatchMode):
    """While it lasts, there is such a device."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        tensors = [its for its in tree_flatten((args, kwargs))[0] if isinstance(its, Tensor)]
        there = any(isinstance(its, There) for its in tensors)
        if there and func not in _MOVING | _INDEXING:
            strangers = [its for its in tensors if not isinstance(its, There) and its.ndim]
            if strangers:
                raise RuntimeError(f"{func} was given tensors of two devices")
        if "device" in kwargs and kwargs["device"] is not None:
            there = torch.device(kwargs["device"]) == DEVICE
            kwargs["device"] = torch.device("cpu")
        into = args[0] if func is _aten.copy_.default else None
        found = func(*tree_map(_held, args), **tree_map(_held, kwargs))
        if into is not None:
            return into
        if func.__name__.split(".")[0].endswith("_") and isinstance(args[0], There):
            return args[0]
        return tree_map(lambda its: There(its) if isinstance(its, Tensor) else its, found) if there else found


def _held(its: Any) -> Any:
    return its.here if isinstance(its, There) else its
