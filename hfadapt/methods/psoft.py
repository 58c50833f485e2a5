"""Rotations of the main directions of a weight."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any, ClassVar

from hfadapt.methods._peft import PeftAdaptation, widths

if TYPE_CHECKING:
    from torch import nn


class PSOFT(PeftAdaptation):
    """Rotations of the main directions of a weight (PSOFT, ICLR 2026, https://openreview.net/forum?id=FSHrinMArK).

    The `r` main directions of a weight, found by its singular value decomposition, are rotated and scaled.

    When to use: as `oft`, for wide layers. Compared with `oft`: r squared parameters a layer, whatever its width;
    beginning takes a decomposition of every weight. Keys are those of `peft.PsoftConfig`: `r`, `psoft_alpha`,
    `psoft_orth`, `psoft_mag_a`, `psoft_mag_b`, `psoft_svd`, `target_modules` … `r` is at most 32 and the width of the
    narrowest layer where it is not given.
    """

    config: ClassVar[str] = "peft.tuners.psoft.config:PsoftConfig"

    def derived(self, model: nn.Module, targets: Collection[str]) -> dict[str, Any]:
        """A rank that no layer is too narrow for."""
        return {"r": min([32, *(n for both in widths(model, targets) for n in both)])}
