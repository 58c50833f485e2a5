"""Scaled random projections that all layers share."""

from __future__ import annotations

from typing import ClassVar

from hfadapt.methods._peft import PeftAdaptation


class VeRA(PeftAdaptation):
    """Scaled random projections that all layers share (VeRA, Kopiczko et al. 2023, https://arxiv.org/abs/2310.11454).

    One pair of frozen random matrices for all layers, of which each layer learns two vectors of scales.

    When to use: very many adapters of one base, each of a few kilobytes. Needs a larger learning rate than `lora`, 1e-3
    to 1e-2. Compared with `lora`: a tenth of its parameters, slightly weaker. Keys are those of `peft.VeraConfig`: `r`,
    `d_initial`, `vera_dropout`, `projection_prng_key`, `target_modules` …
    """

    config: ClassVar[str] = "peft.tuners.vera.config:VeraConfig"
    rate: ClassVar[float | None] = 5e-3
