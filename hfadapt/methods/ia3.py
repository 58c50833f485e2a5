"""Learnt scales of activations."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any, ClassVar

from hfadapt.methods._peft import PeftAdaptation, widths

if TYPE_CHECKING:
    from torch import nn


class IA3(PeftAdaptation):
    """Learnt scales of activations ((IA)³, Liu et al. 2022, https://arxiv.org/abs/2205.05638).

    One for each output of the linear layers of the blocks, but for each input of those that lead back from the hidden
    layer of a feed-forward part.

    When to use: few rows, very small adapters. Needs a large learning rate, 3e-3 or more. Compared with `lora`: a
    tenth of its parameters, and can only weigh what the backbone computes. The paper scales keys, values and
    feed-forward parts alone; `target_modules` chooses. Keys are those of `peft.IA3Config`: `target_modules`,
    `feedforward_modules` (whose inputs are scaled; the layers with more inputs than outputs by default) …
    """

    config: ClassVar[str] = "peft.tuners.ia3.config:IA3Config"
    rate: ClassVar[float | None] = 3e-3
    convolutions: ClassVar[bool] = True

    def derived(self, model: nn.Module, targets: Collection[str]) -> dict[str, Any]:
        """The layers that narrow: those whose inputs are scaled instead of their outputs."""
        given = (self.__pydantic_extra__ or {}).get("target_modules")
        narrowing = {name for name in targets if any(i > o for i, o in widths(model, [name]))}
        if not isinstance(given, list):
            return {"feedforward_modules": sorted(narrowing)}
        # peft wants them written as in target_modules.
        meant = {end: [name for name in targets if f".{name}".endswith(f".{end}")] for end in given}
        return {"feedforward_modules": [end for end, names in meant.items() if narrowing.issuperset(names)]}
