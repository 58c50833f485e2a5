"""Rows of all processes in one tensor, with gradients: what a loss over the whole batch needs."""

from __future__ import annotations

from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import gather, reduce
from torch import Tensor


def gathered(tensor: Tensor) -> Tensor:
    """The rows of every process, in the order of the processes; all have as many.

    The gradient of a process's rows is the sum of what all processes' losses owe to them.
    """
    if PartialState().num_processes == 1:
        return tensor
    if not (tensor.requires_grad and torch.is_grad_enabled()):
        return gather(tensor)  # type: ignore[no-any-return]
    return _Gathered.apply(tensor)  # type: ignore[no-any-return,no-untyped-call]


class _Gathered(torch.autograd.Function):
    """Accelerate's gather, which has no gradient of its own."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        ctx.rows = len(tensor)
        return gather(tensor.contiguous())  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:  # type: ignore[override]
        start = ctx.rows * PartialState().process_index
        return reduce(gradients[0].contiguous(), "sum")[start : start + ctx.rows]  # type: ignore[no-any-return]
