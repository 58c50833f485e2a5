"""Householder reflections of the inputs of a layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from hfadapt.methods._peft import PeftAdaptation


class HRA(PeftAdaptation):
    """Householder reflections of the inputs of a layer (HRA, Yuan et al. 2024, https://arxiv.org/abs/2405.17484).

    HRA, Householder reflection adaptation: each weight is multiplied by `r` reflections, an orthogonal change of low
    rank.

    When to use: as `oft`. Compared with `oft`: joins what rotations keep with the few parameters of `lora`, one vector
    of the input's width a reflection; slower, since the reflections are applied one after the other. Keys are those of
    `peft.HRAConfig`: `r` (even, to start as the backbone), `apply_GS`, `target_modules` …
    """

    config: ClassVar[str] = "peft.tuners.hra.config:HRAConfig"
    convolutions: ClassVar[bool] = True
    unfit: ClassVar[Mapping[str, str]] = {
        "efficientnet": "its convolutions name their padding, and peft awaits numbers"
    }
