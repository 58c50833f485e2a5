"""Rotations of pairs of outputs."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any, ClassVar

from hfadapt.methods._peft import PeftAdaptation, divisor, widths

if TYPE_CHECKING:
    from torch import nn


class RoAd(PeftAdaptation):
    """Rotations of pairs of outputs (RoAd, Liao and Monz 2024, https://arxiv.org/abs/2409.00119).

    The outputs of a layer are rotated and scaled, two and two.

    When to use: as `ia3`, with twice the freedom. Needs a learning rate of 1e-3 or more. Compared with `ia3`: rotates
    besides scaling, for as many parameters a layer as it has outputs. Keys are those of `peft.RoadConfig`: `variant`
    (`road_1`, `road_2`, `road_4`), `group_size`, `target_modules` … `group_size` is at most 64 and divides the outputs
    of every layer where it is not given.
    """

    config: ClassVar[str] = "peft.tuners.road.config:RoadConfig"
    rate: ClassVar[float | None] = 1e-3

    def derived(self, model: nn.Module, targets: Collection[str]) -> dict[str, Any]:
        """Groups that divide the outputs of every layer into pairs."""
        return {"group_size": divisor([outputs for _, outputs in widths(model, targets)], 64, multiple_of=2)}
