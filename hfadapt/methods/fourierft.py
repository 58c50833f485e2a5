"""Learnt frequencies of the change of a weight."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any, ClassVar

from hfadapt.methods._peft import PeftAdaptation, widths

if TYPE_CHECKING:
    from torch import nn


class FourierFT(PeftAdaptation):
    """Learnt frequencies of the change of a weight (FourierFT, Gao et al. 2024, https://arxiv.org/abs/2405.03003).

    The change of a weight is the inverse Fourier transform of `n_frequency` learnt coefficients at random places.

    When to use: tiny adapters of wide backbones. Needs a large learning rate, 1e-2 or more. Compared with `lora`: a
    twentieth of its parameters; starts from random coefficients and so a little beside the backbone, unless
    `init_weights: true`. Keys are those of `peft.FourierFTConfig`: `n_frequency`, `scaling`, `random_loc_seed`,
    `target_modules` … `n_frequency` is at most 1,000 and the size of the smallest weight where it is not given.
    """

    config: ClassVar[str] = "peft.tuners.fourierft.config:FourierFTConfig"
    rate: ClassVar[float | None] = 1e-2

    def derived(self, model: nn.Module, targets: Collection[str]) -> dict[str, Any]:
        """No more frequencies than the smallest weight has entries."""
        return {"n_frequency": min([1000, *(inputs * outputs for inputs, outputs in widths(model, targets))])}
