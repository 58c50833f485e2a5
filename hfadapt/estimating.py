"""What a run will cost on this machine: counted on a model without weights, timed on one block of it."""

from __future__ import annotations

import copy
import math
import statistics
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from hfadapt import settings
from hfadapt.backbones.base import anatomy
from hfadapt.methods.base import Stage
from hfadapt.training.freezing import only
from hfadapt.training.rows import Order, Rows
from hfadapt.training.stages import steps_of

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

    from hfadapt.planning import Plan

_aten = torch.ops.aten
_FLOPS = {
    **flop_registry,
    # torch counts the attention kernels of CUDA only.
    _aten._scaled_dot_product_flash_attention_for_cpu: flop_registry[_aten._scaled_dot_product_flash_attention],
    _aten._scaled_dot_product_flash_attention_for_cpu_backward: flop_registry[
        _aten._scaled_dot_product_flash_attention_backward
    ],
}
_DRAWS = {_aten.bernoulli_, _aten.bernoulli, _aten.native_dropout}
"""What dropout calls; on a CPU it draws its numbers one by one, however many cores there are."""


@dataclass(frozen=True)
class Estimate:
    seconds: float
    memory: int
    basis: str


@dataclass(frozen=True)
class Counts:
    """What one batch costs, whatever it is computed on."""

    forward: float
    """Floating-point operations of the forward pass."""
    backward: float
    """Floating-point operations of the backward pass."""
    drawn: float
    """Random numbers drawn for dropout."""
    kept: int
    """Bytes that the forward pass leaves for the backward pass; parameters and buffers are not among them."""
    peak: int
    """Bytes alive at the worst moment of both passes, gradients included; not so parameters and buffers."""


class Meter(TorchDispatchMode):
    """Counts what every operator under it computes and holds; on tensors with or without memory."""

    def __init__(self, known: Iterable[Tensor] = ()):
        """known: tensors whose memory is not counted."""
        super().__init__()
        self.flops, self.drawn, self.alive, self.peak = 0, 0, 0, 0
        self._seen: dict[int, Any] = {t.untyped_storage()._cdata: None for t in known}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        operator = func._overloadpacket
        if operator in _FLOPS:
            self.flops += int(_FLOPS[operator](*args, **(kwargs or {}), out_val=out))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                self._hold(tensor.untyped_storage())
                if operator in _DRAWS:
                    self.drawn += tensor.numel()
        return out

    def _hold(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._seen:
            return

        def gone(_: Any) -> None:
            del self._seen[key]
            self.alive -= size

        self._seen[key] = weakref.ref(storage, gone)
        self.alive += size
        self.peak = max(self.peak, self.alive)


def count(model: nn.Module, batch: Mapping[str, Tensor], loss: Callable[[Any, Tensor], Tensor] | None) -> Counts:
    inputs = {k: v for k, v in batch.items() if k != "labels"}
    with Meter([*model.parameters(), *model.buffers()]) as meter:
        if loss is None:
            with torch.no_grad():
                model(**inputs)
            return Counts(meter.flops, 0, meter.drawn, 0, meter.peak)
        outputs = model(**inputs)
        value = loss(outputs["logits"], batch["labels"])
        forward, kept = meter.flops, meter.alive
        value.backward()
    return Counts(forward, meter.flops - forward, meter.drawn, kept, meter.peak)


def _imagined(model: nn.Module, device: torch.device) -> None:
    """Give a model on the meta device tensors that claim to be on a device, in the FakeTensorMode that is on.

    Unlike meta tensors they take the kernels of that device: attention that keeps its weights, or not.
    """
    made: dict[int, Tensor] = {}
    for module in model.modules():
        for held in (module._parameters, module._buffers):
            for name, tensor in held.items():
                if tensor is not None:
                    if id(tensor) not in made:
                        empty = torch.empty(tensor.shape, dtype=tensor.dtype, device=device)
                        made[id(tensor)] = nn.Parameter(empty, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty
                    held[name] = made[id(tensor)]  # type: ignore[index,assignment]
