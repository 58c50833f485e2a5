"""What a run will cost on this machine: counted on the model without weights, timed on one block of it."""

from __future__ import annotations

import copy
import math
import statistics
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
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

_MOMENTS = {"sgd": 0, "adafactor": 0, "adagrad": 1, "rmsprop": 1, "lion": 1}
"""Tensors that an optimizer keeps for each parameter, by a word of its name; Adam and its kin keep two."""

_HEAP = 1.6
"""Resident bytes for each byte of tensors that comes and goes in a step.

glibc cannot put an aligned block into a hole of exactly its size, so holes between what the backward
pass needs stay empty; measured: 1.3 to 2.0 (BERT, MiniLM; full, partial, lora).
"""
_LATER = 60_000_000
"""Bytes that a process still gains after planning: baselines' imports, encoded rows; measured."""

_PER_BATCH = 0.01
"""Seconds of the training loop around a batch: reading, padding, callbacks; measured."""

_PER_STAGE = 0.5
"""Seconds to begin a stage; measured."""

_PER_BYTE = 2.5e-9
"""Seconds to write a byte of a checkpoint and to read it again for its digest; measured, from the page cache."""

_BUDGET = 0.7
"""Seconds for each of the measurements."""

_aten = torch.ops.aten
_FLOPS: dict[Any, Any] = {
    **flop_registry,
    # torch counts the attention kernels of CUDA only.
    _aten._scaled_dot_product_flash_attention_for_cpu: flop_registry[_aten._scaled_dot_product_flash_attention],
    _aten._scaled_dot_product_flash_attention_for_cpu_backward: flop_registry[
        _aten._scaled_dot_product_flash_attention_backward
    ],
}
_DRAWS = {_aten.bernoulli_, _aten.bernoulli, _aten.native_dropout}
"""What dropout calls. On a CPU it draws its numbers one by one, however many cores there are."""


@dataclass(frozen=True)
class Estimate:
    """What a run will cost."""

    seconds: float
    """Of the training steps, evaluations and checkpoints of all stages, and of the final scores."""
    memory: int
    """Bytes at the peak: of the process on a CPU, of the device's allocations elsewhere."""
    basis: str
    """What was measured and how it was scaled; one sentence."""


@dataclass(frozen=True)
class Counts:
    """What one batch takes, whatever it is computed on."""

    forward: float
    """Floating-point operations of the forward pass."""
    backward: float
    """Floating-point operations of the backward pass."""
    drawn: float
    """Random numbers for dropout."""
    kept: int = 0
    """Bytes that the forward pass leaves for the backward pass; parameters and buffers are not among them."""
    peak: int = 0
    """Bytes alive at the worst moment of both passes, gradients included; not so parameters and buffers."""


@dataclass(frozen=True)
class Pace:
    """Seconds for a unit of each kind of work on this device."""

    forward: float
    backward: float
    drawn: float
    updated: float
    """For a parameter: its gradient's norm, the optimizer's step."""

    def seconds(self, counts: Counts) -> float:
        """What both passes over a batch take."""
        return self.forward * counts.forward + self.backward * counts.backward + self.drawn * counts.drawn


def estimate(plan: Plan, processes: int = 1) -> Estimate:
    """Measure what a run of the plan will cost; reads no weights and takes a few seconds.

    processes: how many train together on this machine. The memory is that of each. The exchange of their
    gradients is not counted, nor is what early stopping saves. On CUDA the same is computed without the
    process's own memory; that was never compared with a measurement.
    """
    device = torch.accelerator.current_accelerator() or torch.device("cpu")
    base = psutil.Process().memory_info().rss + _LATER if device.type == "cpu" else 0
    batches = Batches(plan, processes)
    stages = [(stage, Costs(plan, stage, batches, device)) for stage in plan.stages]
    pace = measure(plan, batches, device)
    seconds, memory, moved = 0.0, 0, set[str]()
    steps = steps_of(plan.stages, plan.steps)
    share = processes if device.type == "cpu" else 1  # processes share the cores
    for (stage, costs), number in zip(stages, steps, strict=True):
        moved |= stage.speeds.keys()
        seconds += share * number * costs.step(pace)
        ...
    return Estimate(seconds, base + memory, "")
