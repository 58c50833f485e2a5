"""VeRA whose middle is drawn at random."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from hfadapt.methods._peft import PeftAdaptation


class PVeRA(PeftAdaptation):
    """VeRA whose middle is drawn at random (PVeRA, https://arxiv.org/abs/2512.07703).

    `vera` in which the layers learn means and variances, and draw what passes between the two random matrices;
    evaluation takes the means.

    When to use: as `vera`, where rows are few and noise helps. Compared with `vera`: a fifth more parameters, and
    a regularisation for nothing; the loss is noisier. Keys are those of `peft.PveraConfig`: `r`, `d_initial`,
    `pvera_dropout`, `target_modules` …
    """

    config: ClassVar[str] = "peft.tuners.pvera.config:PveraConfig"
    rate: ClassVar[float | None] = 5e-3
    unserved: ClassVar[Mapping[str, str]] = {"sample_at_inference": "A merged model gives the same answer each time."}
