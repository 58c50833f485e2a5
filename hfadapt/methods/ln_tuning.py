"""Copies of the norms, as an adapter."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from hfadapt.backbones._selecting import norms
from hfadapt.errors import HfadaptError, Problem
from hfadapt.methods._peft import PeftAdaptation

if TYPE_CHECKING:
    from torch import nn

    from hfadapt.backbones.base import Anatomy


class LNTuning(PeftAdaptation):
    """Copies of the norms, as an adapter (LayerNorm tuning, Zhao et al. 2023, https://arxiv.org/abs/2312.11420).

    When to use: as `norm`, where the changes should be stored as an adapter of peft. Needs a learning rate of
    1e-3 or so. Compared with `norm`: the same training; the unchanged norms are held too. `layers` leaves the
    norms outside the blocks still. Keys are those of `peft.LNTuningConfig`: `target_modules`.
    """

    config: ClassVar[str] = "peft.tuners.ln_tuning.config:LNTuningConfig"
    rate: ClassVar[float | None] = 1e-3
    moot: ClassVar[tuple[str, ...]] = ("Unsupported layer type",)

    def targets(self, model: nn.Module, anatomy: Anatomy) -> list[str]:
        """The normalisation layers of the body.

        Raises:
            HfadaptError: it has none.
        """
        found = norms(model) & (set(anatomy.everything) - set(anatomy.head))
        if not found:
            raise HfadaptError(Problem("The backbone has no normalisation layers.", "adapt"))
        return sorted({name.rpartition(".")[0] for name in found})
