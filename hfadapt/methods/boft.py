"""Orthogonal rotations factored into a butterfly."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any, ClassVar

from hfadapt.methods._peft import PeftAdaptation, divisor, widths

if TYPE_CHECKING:
    from torch import nn


class BOFT(PeftAdaptation):
    """Orthogonal rotations factored into a butterfly (BOFT, Liu et al. 2023, https://arxiv.org/abs/2311.06243).

    `oft` whose rotation is a product of sparse ones, so that every input can reach every output.

    When to use: as `oft`, where its separate blocks are too stiff. Compared with `oft`: fewer parameters for the same
    reach with `boft_n_butterfly_factor` above 1, slower. Keys are those of `peft.BOFTConfig`: `boft_block_size` or
    `boft_block_num`, `boft_n_butterfly_factor`, `boft_dropout`, `target_modules` … `boft_block_size` is at most 4 and
    divides the inputs of every layer where neither is given.
    """

    config: ClassVar[str] = "peft.tuners.boft.config:BOFTConfig"
    convolutions: ClassVar[bool] = True

    def derived(self, model: nn.Module, targets: Collection[str]) -> dict[str, Any]:
        """The size of the blocks, unless the recipe says their number."""
        if "boft_block_num" in (self.__pydantic_extra__ or {}):
            return {"boft_block_size": 0}
        return {"boft_block_size": divisor([inputs for inputs, _ in widths(model, targets)], 4)}
