"""A mixture of the weights before and after fine-tuning."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from hfadapt.methods._around import Near
from hfadapt.methods.base import Companion, Surroundings

if TYPE_CHECKING:
    from torch import nn

    from hfadapt.backbones.base import Anatomy


class WiseFt(Near):
    """WiSE-FT (Wortsman et al. 2021, https://arxiv.org/abs/2109.01903): weights between those that the last stage
    began with and those that it ended with, chosen by the validation rows.

    When to use: rows to come that differ from those trained on, and a start that can do the task: CLIP with
    `head: zero-shot`, or `inner: lp-ft`, whose last stage starts from a probed head. Compared with `full`: never
    worse on the validation rows, nearer to the backbone, no slower; one evaluation for each share that is tried.
    Compared with `l2-sp`: decides afterwards, not before.

    What starts at random stays as tuned: with a new head that no earlier stage trained, small shares give the
    start's features to a head that never saw them. Of an adapter, its own weights are mixed, so that the merged
    ones follow a curve from start to end.
    """

    divisible: ClassVar[bool] = False
    copies: ClassVar[int] = 1

    mix: Annotated[list[Annotated[float, Field(ge=0, le=1)]], Field(min_length=1)] = Field(
        default=[0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]
    )
    """The shares of the tuned weights to try: 0 is the start, 1 the end. Of equal scores the greatest share wins.
    A single one, such as the paper's [0.5], is taken as it is."""

    def companions(self, model: nn.Module, anatomy: Anatomy, around: Surroundings) -> Sequence[Companion]:
        """What keeps the start and mixes."""
        from hfadapt.methods._averaging import Interpolation
        from hfadapt.methods._terms import started_at_random

        new = started_at_random(model, anatomy, around)
        return [*super().companions(model, anatomy, around), Interpolation(self.mix, new)]
