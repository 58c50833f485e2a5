"""Adapters of circular convolutions."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any, ClassVar

from hfadapt.methods._peft import PeftAdaptation, divisor, widths

if TYPE_CHECKING:
    from torch import nn


class C3A(PeftAdaptation):
    """Adapters of circular convolutions (C3A, Chen et al. 2024, https://arxiv.org/abs/2407.19342).

    C3A, circular convolution adaptation: the change of a weight consists of circulant blocks, each of one learnt row.

    When to use: changes of high rank with the parameters of a small `lora`. Needs a large learning rate, 1e-2 or more.
    Compared with `lora`: its rank is not bounded; starts a little beside the backbone, unless `init_weights: true`.
    Keys are those of `peft.C3AConfig`: `block_size`, `init_weights`, `target_modules` … `block_size` is at most 256 and
    divides the widths of every layer where it is not given.
    """

    config: ClassVar[str] = "peft.tuners.c3a.config:C3AConfig"
    rate: ClassVar[float | None] = 1e-2

    def derived(self, model: nn.Module, targets: Collection[str]) -> dict[str, Any]:
        """Blocks that divide inputs and outputs of every layer."""
        return {"block_size": divisor([n for both in widths(model, targets) for n in both], 256)}
