"""One small matrix, shared by shards of a weight."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any, ClassVar

from hfadapt.methods._peft import PeftAdaptation, widths

if TYPE_CHECKING:
    from torch import nn


class MiSS(PeftAdaptation):
    """One small matrix, shared by shards of a weight (MiSS, Kang and Yin 2024, https://arxiv.org/abs/2409.15371).

    MiSS, matrix shard sharing: one learnt matrix of `r` rows is added to all groups of inputs of a weight.

    When to use: as `lora`, where speed and memory count more. Compared with `lora`: one matrix instead of two, half the
    parameters at the same `r`, zero at first. Keys are those of `peft.MissConfig`: `r` (even), `init_weights` (`bat`,
    `mini`), `mini_r`, `miss_dropout`, `target_modules` … `r` is at most 64 and the inputs of the narrowest layer where
    it is not given.
    """

    config: ClassVar[str] = "peft.tuners.miss.config:MissConfig"

    def derived(self, model: nn.Module, targets: Collection[str]) -> dict[str, Any]:
        """A rank that no layer is too narrow for."""
        return {"r": min([64, *(inputs for inputs, _ in widths(model, targets))])}
