"""Low-rank adapters of bounded strength."""

from __future__ import annotations

from typing import ClassVar

from hfadapt.methods._peft import PeftAdaptation


class DeLoRA(PeftAdaptation):
    """Low-rank adapters of bounded strength (DeLoRA, Bini et al. 2025, https://arxiv.org/abs/2503.18225).

    `lora` whose product is normalised, so that a learnt scale bounds how far a weight can move.

    When to use: long trainings or large learning rates, in which `lora` would drift off. Compared with `lora`:
    direction and strength are learnt apart, so that the learning rate matters less. Keys are those of
    `peft.DeloraConfig`: `r`, `delora_lambda`, `module_dropout`, `target_modules` …
    """

    config: ClassVar[str] = "peft.tuners.delora.config:DeloraConfig"
