"""The largest entries of each weight."""

from __future__ import annotations

from typing import ClassVar

from hfadapt.methods._peft import PeftAdaptation


class Supertuning(PeftAdaptation):
    """The largest entries of each weight (Supertuning, https://arxiv.org/abs/2607.09287).

    Of every weight, the entries of largest magnitude train, and perhaps a LoRA beside them.

    When to use: small adapters that touch what matters most. Compared with `shira`: chooses the entries by their size
    instead of at random. Keys are those of `peft.SupertuningConfig`: `sparsity` (the share that stays), `select_top`,
    `r` (of the LoRA), `lora_alpha`, `lora_dropout`, `target_modules` …
    """

    config: ClassVar[str] = "peft.tuners.supertuning.config:SupertuningConfig"
