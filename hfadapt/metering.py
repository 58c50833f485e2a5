"""What a model computes and holds, counted operator by operator."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

_FLASH = "_scaled_dot_product_flash_attention"
_FLOPS: dict[Any, Any] = flop_registry | {
    # torch counts the attention kernels of CUDA only.
    getattr(torch.ops.aten, f"{_FLASH}_for_cpu{end}"): flop_registry[getattr(torch.ops.aten, _FLASH + end)]
    for end in ("", "_backward")
}


@dataclass(frozen=True)
class Counts:
    """What a batch takes on any device.

    Floating-point operations: `still`, of the forward pass where no gradient is needed; `forward`, where one
    is; `backward`. Bytes besides parameters and buffers: `kept` for the backward pass; `passing`, made among
    those and let go; `peak`, alive at the worst moment, gradients included.
    """

    still: int
    forward: int
    backward: int
    kept: int
    passing: int
    peak: int


class Meter(TorchDispatchMode):
    """Counts what every operator under it computes and holds, on tensors with memory or without."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.flops, self.alive, self.peak = 0, 0, 0
        self.recorded_flops, self.recorded_bytes = 0, 0
        known = [*model.parameters(), *model.buffers()]
        self._seen: dict[int, Any] = {tensor.untyped_storage()._cdata: None for tensor in known}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operator, then look at what it made; recorded is what autograd will go back through."""
        kwargs = kwargs or {}
        out, flops = func(*args, **kwargs), _FLOPS.get(func._overloadpacket)
        recorded = any(isinstance(a, Tensor) and a.requires_grad for a in tree_leaves(args))
        done = int(flops(*args, **kwargs, out_val=out)) if flops else 0
        self.flops += done
        self.recorded_flops += done * recorded
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor) and tensor.untyped_storage()._cdata not in self._seen:
                self.recorded_bytes += self._hold(tensor.untyped_storage()) * recorded
        return out

    def _hold(self, storage: torch.UntypedStorage) -> int:
        key, size = storage._cdata, storage.nbytes()

        def gone(_: Any) -> None:
            del self._seen[key]
            self.alive -= size

        self._seen[key] = weakref.ref(storage, gone)
        self.alive += size
        self.peak = max(self.peak, self.alive)
        return size


def count(model: nn.Module, objective: Callable[[], Tensor]) -> Counts:
    """What a forward pass takes, and the backward pass where gradients are enabled; the gradients are dropped."""
    with Meter(model) as meter:
        value = objective()
        total, forward, kept = meter.flops, meter.recorded_flops, meter.alive
        passing = max(0, meter.recorded_bytes - kept)
        if value.requires_grad:
            value.backward()
    model.zero_grad()
    return Counts(total - forward, forward, meter.flops - total, kept, passing, meter.peak)
