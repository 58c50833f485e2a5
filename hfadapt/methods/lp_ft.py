"""Probe first, then train everything."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from hfadapt.methods.base import Adaptation, Stage

if TYPE_CHECKING:
    from torch import nn

    from hfadapt.backbones.base import Anatomy


class LpFt(Adaptation):
    """Linear probing, then fine-tuning (Kumar et al. 2022, https://arxiv.org/abs/2202.10054).

    When to use: data that differ from what the backbone saw, or a score that matters under shift: a
    head that already fits does not drag the body away from its features. Compared with `full`: the
    same cost or less, and gentler on the body.
    """

    probe: Annotated[float, Field(gt=0, lt=1)] = 0.3
    """The share of the training steps that the probe takes."""
    probe_speed: Annotated[float, Field(gt=0)] = 20.0
    """The probe's factor on the learning rate; a lone head bears, and needs, a larger one."""

    def stages(self, model: nn.Module, anatomy: Anatomy) -> Sequence[Stage]:
        """Two stages: the head alone, then everything."""
        return [
            Stage("probe", dict.fromkeys(anatomy.head, self.probe_speed), self.probe),
            Stage("tune", dict.fromkeys(anatomy.everything, 1.0), 1 - self.probe),
        ]
