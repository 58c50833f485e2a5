"""The biases of the linear layers."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from hfadapt.errors import HfadaptError, Problem
from hfadapt.methods._peft import PeftAdaptation

if TYPE_CHECKING:
    from torch import nn

    from hfadapt.backbones.base import Anatomy


class BEFT(PeftAdaptation):
    """Shifts of the outputs of the linear layers, which go into their biases (BEFT, https://arxiv.org/abs/2509.15974).

    When to use: as `bitfit`, where the changes should be stored as an adapter. Needs a learning rate of 1e-3 or
    more. Compared with `bitfit`: leaves the biases of the norms alone. Keys are those of `peft.BeftConfig`:
    `target_modules`, `init_weights`.
    """

    config: ClassVar[str] = "peft.tuners.beft.config:BeftConfig"
    rate: ClassVar[float | None] = 1e-3

    def targets(self, model: nn.Module, anatomy: Anatomy) -> list[str]:
        """The linear layers of the blocks that have a bias, for a shift must go somewhere.

        Raises:
            HfadaptError: there are none.
        """
        found = [name for name in super().targets(model, anatomy) if model.get_submodule(name).bias is not None]
        if not found:
            kind = model.config.model_type  # type: ignore[union-attr]
            raise HfadaptError(Problem(f"The linear layers of '{kind}' have no biases, which beft moves.", "adapt"))
        return found
