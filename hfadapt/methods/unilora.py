"""Low-rank adapters that are projections of one vector."""

from __future__ import annotations

from typing import ClassVar

from hfadapt.methods._peft import PeftAdaptation


class UniLoRA(PeftAdaptation):
    """Low-rank adapters that are projections of one vector (UniLoRA, https://arxiv.org/abs/2506.00799).

    The matrices of all LoRAs are a fixed random projection of one learnt vector of `theta_d_length` numbers.

    When to use: very small adapters of a size that one number sets. Needs a larger learning rate than `lora`, 1e-3 or
    more. Compared with `vblora`: simpler and smaller; starts a little beside the backbone too. Keys are those of
    `peft.UniLoraConfig`: `r`, `theta_d_length`, `unilora_dropout`, `target_modules` …
    """

    config: ClassVar[str] = "peft.tuners.unilora.config:UniLoraConfig"
    rate: ClassVar[float | None] = 5e-3
