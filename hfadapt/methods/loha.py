"""Two low-rank products that are multiplied."""

from __future__ import annotations

from typing import ClassVar

from hfadapt.methods._peft import PeftAdaptation


class LoHa(PeftAdaptation):
    """Two low-rank products that are multiplied (LoHa, Hyeon-Woo et al. 2021, https://arxiv.org/abs/2108.06098).

    The change of a weight is the Hadamard product of two low-rank matrices.

    When to use: where `lora` of the rank that memory allows falls short of `full`. Compared with `lora`: twice the
    parameters at the same `r`, and changes of rank up to r squared. Keys are those of `peft.LoHaConfig`: `r`, `alpha`,
    `rank_dropout`, `module_dropout`, `use_effective_conv2d`, `target_modules` …
    """

    config: ClassVar[str] = "peft.tuners.loha.config:LoHaConfig"
    convolutions: ClassVar[bool] = True
