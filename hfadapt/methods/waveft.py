"""Learnt wavelets of the change of a weight."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any, ClassVar

from hfadapt.methods._peft import PeftAdaptation, widths

if TYPE_CHECKING:
    from torch import nn


class WaveFT(PeftAdaptation):
    """Learnt wavelets of the change of a weight (WaveFT, Bilican et al. 2025, https://arxiv.org/abs/2505.12532).

    The change of a weight is the inverse wavelet transform of `n_frequency` learnt coefficients at random places, zero
    at first.

    When to use: as `fourierft`; the number of parameters is set to the single one. Compared with `fourierft`: a
    coefficient changes one corner of a weight, not all of it. Keys are those of `peft.WaveFTConfig`: `n_frequency`,
    `scaling`, `wavelet_family`, `proportional_parameters`, `target_modules` … `n_frequency` is at most 2,592 and the
    size of the smallest weight where it is not given.
    """

    config: ClassVar[str] = "peft.tuners.waveft.config:WaveFTConfig"

    def derived(self, model: nn.Module, targets: Collection[str]) -> dict[str, Any]:
        """No more coefficients than the smallest weight has entries."""
        return {"n_frequency": min([2592, *(inputs * outputs for inputs, outputs in widths(model, targets))])}
