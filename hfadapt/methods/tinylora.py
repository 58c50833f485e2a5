"""A handful of numbers that steer all layers."""

from __future__ import annotations

from typing import ClassVar

from hfadapt.methods._peft import PeftAdaptation


class TinyLoRA(PeftAdaptation):
    """A handful of numbers that steer all layers (TinyLoRA, https://arxiv.org/abs/2602.04118).

    Frozen main directions of every weight, which random projections of one short learnt vector scale.

    When to use: to see how few numbers suffice, down to some dozens. Needs a large learning rate, 1e-2 or more.
    Compared with `vera`: fewer parameters still, and weaker; beginning takes a decomposition of every weight. Keys are
    those of `peft.TinyLoraConfig`: `r`, `u`, `weight_tying` (1 shares the vector among all layers), `tinylora_dropout`,
    `target_modules` …
    """

    config: ClassVar[str] = "peft.tuners.tinylora.config:TinyLoraConfig"
    rate: ClassVar[float | None] = 1e-2
