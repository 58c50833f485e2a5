"""Adapters of a Kronecker product."""

from __future__ import annotations

from typing import ClassVar

from hfadapt.methods._peft import PeftAdaptation


class LoKr(PeftAdaptation):
    """Adapters of a Kronecker product (LoKr, Yeh et al. 2023, https://arxiv.org/abs/2309.14859).

    The change of a weight is the Kronecker product of a small matrix and a low-rank one.

    When to use: very small adapters. Compared with `lora`: a fraction of the parameters at the same `r`, and changes of
    high rank whose blocks all look alike. Keys are those of `peft.LoKrConfig`: `r`, `alpha`, `decompose_both`,
    `decompose_factor`, `rank_dropout`, `target_modules` …
    """

    config: ClassVar[str] = "peft.tuners.lokr.config:LoKrConfig"
    convolutions: ClassVar[bool] = True
