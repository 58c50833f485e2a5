"""Orthogonal rotations of the inputs of a layer."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from hfadapt.methods._peft import PeftAdaptation, divisor, widths

if TYPE_CHECKING:
    from torch import nn


class OFT(PeftAdaptation):
    """Orthogonal rotations of the inputs of a layer (OFT, Qiu et al. 2023, https://arxiv.org/abs/2306.07280).

    OFT, orthogonal fine-tuning: each weight is multiplied by a block-diagonal rotation, which leaves the angles among
    its neurons as they are.

    When to use: a backbone whose features must be kept, with few rows. Compared with `lora`: cannot change the length
    of a weight, so it drifts less and bears larger learning rates; slower a step. Keys are those of `peft.OFTConfig`:
    `oft_block_size` or `r` (the number of blocks), `coft`, `module_dropout`, `target_modules` … `oft_block_size` is at
    most 32 and divides the inputs of every layer where neither is given.
    """

    config: ClassVar[str] = "peft.tuners.oft.config:OFTConfig"
    unfit: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("convnext", "convnextv2", "swinv2"), "peft takes the inputs of its linear layers for pictures"
    )

    def derived(self, model: nn.Module, targets: Collection[str]) -> dict[str, Any]:
        """The size of the blocks, unless the recipe says their number."""
        if "r" in (self.__pydantic_extra__ or {}):
            return {"oft_block_size": 0}
        return {"oft_block_size": divisor([inputs for inputs, _ in widths(model, targets)], 32)}
