"""Orthogonal rotations in small blocks."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from hfadapt.methods._peft import PeftAdaptation, divisor, widths

if TYPE_CHECKING:
    from torch import nn


class BOFT(PeftAdaptation):
    """Orthogonal rotations in small blocks (BOFT, Liu et al. 2023, https://arxiv.org/abs/2311.06243).

    `oft` with small blocks, and a learnt scale of every output. Of the butterfly's factors there is one, since peft
    has more only where it can build its CUDA extension.

    When to use: as `oft`. Compared with `oft`: a third of its parameters, works on convolutions too. Keys are
    those of `peft.BOFTConfig`: `boft_block_size` or `boft_block_num`, `boft_dropout`, `target_modules` …
    `boft_block_size` is at most 4 and divides the inputs of every layer where neither is given.
    """

    config: ClassVar[str] = "peft.tuners.boft.config:BOFTConfig"
    convolutions: ClassVar[bool] = True
    unserved: ClassVar[Mapping[str, str]] = {
        "boft_n_butterfly_factor": "peft makes it 1 where it cannot build its CUDA extension, and other machines could "
        "not load the adapter."
    }
    moot: ClassVar[tuple[str, ...]] = ("Failed to load the CUDA extension", "Setting boft_n_butterfly_factor to 1")
    unfit: ClassVar[Mapping[str, str]] = {
        "efficientnet": "its convolutions name their padding, and peft awaits numbers"
    }

    def derived(self, model: nn.Module, targets: Collection[str]) -> dict[str, Any]:
        """The size of the blocks, unless the recipe says their number."""
        if "boft_block_num" in (self.__pydantic_extra__ or {}):
            return {"boft_block_size": 0}
        return {"boft_block_size": divisor([inputs for inputs, _ in widths(model, targets)], 4)}
